"""Tables of texts, as a notebook shows them."""

from collections.abc import Iterable, Sequence

_LEFT = "text-align:left;vertical-align:top;white-space:pre-wrap;max-width:28em"


def html_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """An HTML table; headings and cells are HTML already, so whoever gives a text from outside escapes it."""
    lines = ["".join(f"<th style='text-align:left'>{name}</th>" for name in head)]
    lines += ["".join(f"<td style='{_LEFT}'>{cell}</td>" for cell in row) for row in rows]
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"
