"""What a translation has to carry over unchanged: numbers, addresses, code, formulas, the shape of lists and tables.

Each rule takes a source and its translation and returns a reason, or None if all is well. They compare what both
sides hold, so a text without a source cannot be judged.

    >>> numbers("Bake it for 40 minutes.", "Backen Sie es 30 Minuten lang.")
    '40 is missing, 30 is not in the source'
"""

import re
from collections import Counter
from difflib import SequenceMatcher

from phoenix_utils.filtering import lexicon

_NUMBER = re.compile(r"(?<![\w.,%#&])[0-9]+(?:[.,'’][0-9]+)*")
_DIGITS = re.compile(r"[0-9]+")
_ADDRESS = re.compile(
    r"(?:https?|ftp)://[^\s<>\"'`|\[\]{}]+|\bwww\.[^\s<>\"'`|\[\]{}]+|[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]+)+"
)
_LOCALE = re.compile(r"(?<=[/.])[a-z]{2}(?:-[A-Za-z]{2})?(?=[/.])")  # a page in another language: /en/, /de/
_FENCE = re.compile(r"^[ \t]*(?P<fence>```+|~~~+)[^\n]*\n(?P<code>.*?)(?:^[ \t]*(?P=fence)[ \t]*$|\Z)", re.M | re.S)
_INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_FORMULA = re.compile(
    r"\$\$.{1,2000}?\$\$|\$[^\s$](?:[^$\n]*[^\s$])?\$(?!\d)|\\\[.{1,2000}?\\\]|\\\(.{1,1000}?\\\)", re.DOTALL
)
# Comments and texts in a program may well be translated; the program must not.
_FREE_IN_CODE = re.compile(
    r"#[^\n]*|//[^\n]*|--[^\n]*|/\*.{0,5000}?\*/|<!--.{0,5000}?-->|\"[^\"\n]*\"|'[^'\n]*'", re.DOTALL
)
_LIST_ITEM = re.compile(r"^[ \t]*(?:[-*+•]|[0-9]{1,3}[.)])[ \t]+\S", re.MULTILINE)
_TABLE_ROW = re.compile(r"^[ \t]*\|.*\|[ \t]*$", re.MULTILINE)
_HEADING = re.compile(r"^#{1,6}[ \t]+\S", re.MULTILINE)


def numbers(source: str, text: str, language: str = "de", source_language: str = "en") -> str | None:
    """Reason if a number was changed, or one of two digits and more was lost or invented.

    Without it a student learns wrong prices, doses and dates, since small translators copy digits badly. Marks between
    digits do not count (1,000.5 is 1.000,5 in German), nor the order of a date's parts, nor numbers that the other
    side has in words, nor the hours of an afternoon (5 pm, 17 Uhr).
    """
    wanted, got = (
        _NUMBER.findall(_ADDRESS.sub(" ", side) if _may_hold_address(side) else side) for side in (source, text)
    )
    before, after = Counter(map(_plain, wanted)), Counter(map(_plain, got))
    if before == after:
        return None
    lost, new = (list(found.elements()) for found in (before - after, after - before))
    if len(lost) == len(new) == 1:  # one took another's place, and words that might say it are no excuse
        raw = [
            next(number for number in side if _plain(number) == one) for side, (one,) in ((wanted, lost), (got, new))
        ]
        missing, extra = (set(), set()) if _same_time(*raw) else ({raw[0]}, {raw[1]})
    else:
        missing = _absent(wanted, text, after, language)
        extra = _absent(got, source, before, source_language)
        if not (missing and extra):
            missing, extra = ({number for number in found if len(number) > 1} for found in (missing, extra))
    parts = [f"{' and '.join(sorted(missing))} is missing"] * bool(missing)
    parts += [f"{' and '.join(sorted(extra))} is not in the source"] * bool(extra)
    return ", ".join(parts) or None


def _plain(number: str) -> str:
    return re.sub(r"\D", "", number).lstrip("0") or "0"


def _pieces(text: str) -> set[str]:
    return {piece.lstrip("0") or "0" for piece in _DIGITS.findall(text)}


def _same_time(one: str, other: str) -> bool:
    """Whether two numbers are the same date in another order, or hours of which one is counted from noon."""
    pieces = _pieces(one), _pieces(other)
    left, right = pieces[0] - pieces[1], pieces[1] - pieces[0]
    if not left and not right:
        return True
    return len(left) == len(right) == 1 and abs(int(*left) - int(*right)) == 12 and min(map(int, left | right)) <= 12


def _absent(found: list[str], other: str, plain: Counter, language: str) -> set[str]:
    """Those of the numbers found that the other side has in no form: as digits, inside a word (F11), or in words."""
    absent, pieces = set(), _pieces(other)
    for number in found:
        own = _pieces(number)
        hours = {piece for piece in own if len(piece) < 3 and {str(int(piece) + 12), str(int(piece) - 12)} & pieces}
        if _plain(number) in plain or own <= pieces | hours or lexicon.says_number(other, _plain(number), language):
            continue
        absent.add(_plain(number))
    return absent


def _may_hold_address(text: str) -> bool:
    return "://" in text or "www." in text or "@" in text


def addresses(source: str, text: str) -> str | None:
    """Reason if a web or mail address was lost or changed.

    A model that learns from broken addresses invents them; translators put spaces into them or translate their words
    (alpaca-chinese-dataset, pull request 5, shows the same for HTML).
    """
    if not _may_hold_address(source):
        return None
    wanted, got = (Counter(found.rstrip(".,;:!?)*_") for found in _ADDRESS.findall(side)) for side in (source, text))
    if lost := {_LOCALE.sub("", found) for found in wanted} - {_LOCALE.sub("", found) for found in got}:
        return f"the address {sorted(lost)[0]} is lost or changed"
    return None


def code(source: str, text: str, most_changed: float = 0.15) -> str | None:
    """Reason if a program was changed: a block lost or added, its text other than in the source, or a span lost.

    Comments and quoted texts in a block may be translated; names and keywords may not. Without it the student learns
    `drucke("hallo")` as Python, which is what translated Alpaca sets hold (alpaca-chinese-dataset, pull request 5).
    """
    if "`" not in source and "~~~" not in source and "`" not in text:
        return None
    before, after = ([found["code"] for found in _FENCE.finditer(side)] for side in (source, text))
    if len(before) != len(after):
        return f"{len(before)} code blocks became {len(after)}"
    for one, other in zip(before, after, strict=True):
        if one != other and (share := _changed(one, other)) > most_changed:
            return f"{share:.0%} of a code block is changed"
    spans, kept = (set(_INLINE.findall(_FENCE.sub(" ", side))) for side in (source, text))
    # A plain word may be a key of data in a block above, which may be in the reader's language.
    if lost := {span for span in spans - kept if not (span.isalpha() and any(f'"{span}"' in one for one in before))}:
        return f"the code {sorted(lost)[0]!r} is lost or changed"
    return None


def _changed(one: str, other: str) -> float:
    """Share of a program's tokens, beside comments and quoted texts, that differ."""
    tokens = [re.findall(r"\w+|[^\w\s]", _FREE_IN_CODE.sub(" ", side)) for side in (one, other)]
    if tokens[0] == tokens[1]:
        return 0.0
    return 1 - SequenceMatcher(None, *tokens, autojunk=False).ratio() if max(map(len, tokens)) < 2000 else 1.0


def formulas(source: str, text: str) -> str | None:
    """Reason if a LaTeX formula was lost or changed, spaces aside.

    A lost minus sign in a formula is a wrong lesson in mathematics, and the paper's model is weakest there.
    """
    if "$" not in source and "\\" not in source:
        return None
    wanted, got = (Counter(map(_bare, _FORMULA.findall(side))) for side in (source, text))
    lost = {found for found in wanted - got if re.search(r"[\\^_=+]", found)}  # "$5 and $" is money
    return f"the formula {sorted(lost)[0]} is lost or changed" if lost else None


def _bare(formula: str) -> str:
    """A formula without spaces, with one sign for the decimal mark (42.1, 42{,}1)."""
    return re.sub(r"(?<=\d)(?:\{,\}|,)(?=\d)", ".", re.sub(r"\\[,;: ]|\s+", "", formula))


def shape(source: str, text: str) -> str | None:
    """Reason if a list lost or gained items, a table rows, or headings went.

    A list that became a paragraph still reads well, so nobody notices; the student learns to answer "five points"
    with one. One item more or less is allowed in lists of ten and more.
    """
    for name, pattern in (("list items", _LIST_ITEM), ("table rows", _TABLE_ROW), ("headings", _HEADING)):
        before, after = len(pattern.findall(source)), len(pattern.findall(text))
        if abs(before - after) > max(before, after) // 10 and max(before, after) > 1:
            return f"{before} {name} became {after}"
    return None
