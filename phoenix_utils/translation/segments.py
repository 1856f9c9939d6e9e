"""Cut a text into what is translated and what is kept byte for byte, and put it together again.

The paper splits at newlines, translates the chunks and joins them at the newlines (§3.1). Here, in addition,
fenced code stays as it is, the mark of a list item, heading or quotation stays in front, a table is translated
cell by cell, and a long line goes sentence by sentence, since sentence-level translators cut paragraphs short.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})")
# Indentation, then any mixture of quotation, heading, list and task marks.
LINE_MARK = re.compile(r"^\s*(?:(?:>|#{1,6}|[-*+•]|\d{1,3}[.)]|\[[ xX]\])\s+)*")


@dataclass
class Document:
    """A text as alternating kept and translatable pieces; made by `split`.

    `pieces` holds (text, is_translatable); `texts` are the translatable ones in order.
    """

    pieces: list[tuple[str, bool]] = field(default_factory=list)

    @property
    def texts(self) -> list[str]:
        """The segments to translate, in order."""
        return [text for text, translatable in self.pieces if translatable]

    def join(self, translations: list[str]) -> str:
        """The whole text with each segment replaced by its translation; raises ValueError on a wrong count."""
        if len(translations) != len(self.texts):
            raise ValueError(f"{len(translations)} translations for {len(self.texts)} segments")
        fresh = iter(translations)
        return "".join(next(fresh) if translatable else text for text, translatable in self.pieces)


def split(text: str, language: str = "en", max_chars: int = 200) -> Document:
    """Split `text` into a Document. Joining `document.texts` again gives `text` back, byte for byte.

    `language` chooses the sentence splitter's rules, `max_chars` is the length from which a line is split into
    sentences, which are then packed together up to that length.
    """
    document, fence = Document(), None
    for line in text.splitlines(keepends=True):
        mark = FENCE.match(line)
        if fence is not None:
            document.pieces.append((line, False))
            # A fence closes with the same character, at least as long, and nothing behind it (CommonMark 4.5).
            closing = mark and mark.group(1)[0] == fence[0] and len(mark.group(1)) >= len(fence)
            if closing and not line[mark.end() :].strip():
                fence = None
        elif mark:
            fence = mark.group(1)
            document.pieces.append((line, False))
        else:
            _split_line(document, line, language, max_chars)
    return document


def _split_line(document: Document, line: str, language: str, max_chars: int) -> None:
    start = LINE_MARK.match(line).end()
    document.pieces.append((line[:start], False))
    rest = line[start:]
    if rest.lstrip().startswith("|") and rest.rstrip().endswith("|"):
        for part in re.split(r"(\|)", rest):
            _add_prose(document, part)
    elif len(rest) > max_chars:
        for part in _sentences(rest, language, max_chars):
            _add_prose(document, part)
    else:
        _add_prose(document, rest)


def _add_prose(document: Document, text: str) -> None:
    """Keep the white space around `text` and whatever has no letter to translate."""
    core = text.strip()
    if not any(character.isalpha() for character in core):
        document.pieces.append((text, False))
        return
    at = text.index(core)
    document.pieces += [(text[:at], False), (core, True), (text[at + len(core) :], False)]


def _sentences(text: str, language: str, max_chars: int) -> list[str]:
    """Consecutive runs of whole sentences up to `max_chars` each, white space included."""
    from sentencex import segment

    runs: list[str] = []
    for sentence in segment(language, text):
        if runs and len(runs[-1]) + len(sentence) <= max_chars:
            runs[-1] += sentence
        else:
            runs.append(sentence)
    # The splitter is a dependency; a text that it would change is left in one piece.
    return runs if "".join(runs) == text else [text]
