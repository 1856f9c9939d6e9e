"""Tokens as a reader should see them: which of them a model is trained on, and which it only reads."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TRAINED = ("#BFE3F5", "#93CFEE")
_READ = ("#F2F2F2", "#E4E4E4")


def tokens_html(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], mask: Sequence[int | bool]) -> str:
    """Every token in a box: blue where `mask` says that it is trained on, grey where it is only read.

    Neighbours differ in shade, so that the borders between tokens show; ⏎ is a line break. The text is
    escaped.
    """
    boxes = []
    for place, (token, bit) in enumerate(zip(ids, mask, strict=True)):
        text = _token_text(tokenizer, token)
        colour = (_TRAINED if bit else _READ)[place % 2]
        style = f"background:{colour};color:#222;padding:1px 0;white-space:pre-wrap"
        boxes.append(
            f"<span style='{style}'>{html.escape(text).replace(chr(10), '⏎')}</span>" + "<br>" * text.count("\n")
        )
    legend = "".join(
        f"<span style='background:{colour};color:#222;padding:1px 6px;margin-right:8px'>{label}</span>"
        for colour, label in (
            (_TRAINED[0], f"trained: {sum(mask)} tokens"),
            (_READ[0], f"read: {len(mask) - sum(mask)}"),
        )
    )
    return f"<div style='font-family:monospace;line-height:1.7'>{''.join(boxes)}<br><br>{legend}</div>"


def _token_text(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    text = tokenizer.decode([token])
    if "\ufffd" in text:  # a piece of a character
        return tokenizer.convert_ids_to_tokens(token)
    # Decoded alone, a token that begins a word loses its space in some tokenizers.
    starts_word = tokenizer.convert_ids_to_tokens(token).startswith(("▁", "Ġ"))
    return f" {text}" if starts_word and not text.startswith(" ") else text
