"""Cut a text into what is translated and what is kept byte for byte, and put it together again.

The paper splits at newlines, translates the chunks and joins them at the newlines (§3.1). Here, in addition, Markdown
is parsed: code, formulas and definitions of links stay as they are, the mark of a list item, heading or quotation
stays in front, a table is translated cell by cell, and a long line goes sentence by sentence, since sentence-level
translators cut paragraphs short. What must not change inside a sentence is hidden from the translator (`protect.py`).

    text ─split→ Document: pieces kept | Segment | kept | Segment …     Document.texts ─translator→ Document.join
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from phoenix_utils.translation.protect import Masked, mask, protected_spans, restore

_LINES = re.compile(r"[^\r\n]*(?:\r\n|\r|\n|\Z)")
# Only these begin a block that is kept whole or a table; without one, Markdown's block parser need not be asked.
_BLOCK = re.compile(
    r"```|~~~|\$\$|\\begin\{|\\\[|^(?:>[ \t]?)*(?: {4}|\t| {1,3}\t)|\|"
    r"|<(?:script|style|pre|textarea|svg|!--|[?!])",
    re.MULTILINE | re.IGNORECASE,
)
_KEPT_BLOCKS = {"fence", "code_block", "math_block", "math_block_label", "amsmath"}
# HTML whose text is not prose; in other HTML only the tags are kept.
_KEPT_HTML = re.compile(r"\s*<(?:script|style|pre|textarea|svg|!--|[?!])", re.IGNORECASE)
_DEFINITION = re.compile(r"^ {0,3}\[(?!\^)[^\]\n]{1,200}\]:\s*\S+")
# Indentation, then any mixture of quotation, heading, list and task marks.
_LINE_MARK = re.compile(r"^\s*(?:(?:>|#{1,6}|[-*+•]|\d{1,9}[.)]|\[[ xX]\]|\[\^[^\]\s]{1,50}\]:)\s+)*")
# What sets columns or pages apart: a translator would read a space.
_SEPARATORS = re.compile(r"[\t\x0b\x0c\x1c-\x1f\x85\u2028\u2029]+")
_CELL_EDGE = re.compile(r"(?<!\\)\|")
# Emphasis around a whole segment belongs to its place, not to its words.
_WRAPPED = re.compile(r"^(\*{1,3}|_{1,3}|~~)(?=[^\s*_~])(.+)(?<=[^\s*_~])\1([.:!?]?)$", re.DOTALL)
# A word longer than this is a blob (base64, a hash, a drawn line), in any language with spaces between words.
_LONGEST_WORD = 200
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
# Where a sentence that is too long may be cut, best place first.
_CUTS = (re.compile(r"[;:—–]\s+|[；：]"), re.compile(r",\s+|[，、]"), re.compile(r"\s+"))


@dataclass
class Document:
    """A text as kept pieces (str) and segments (Masked) in order; made by `split`."""

    pieces: list[str | Masked] = field(default_factory=list)

    @property
    def segments(self) -> list[Masked]:
        """What is to be translated, in order; `.source` is its text, `.text` the same behind masks."""
        return [piece for piece in self.pieces if isinstance(piece, Masked)]

    @property
    def texts(self) -> list[str]:
        """The segments as a translator gets them, protected text hidden behind masks."""
        return [segment.text for segment in self.segments]

    def join(self, translations: Sequence[str]) -> str:
        """The whole text with each segment replaced by the translation of its entry in `texts`.

        A translation that lost, doubled or invented protected text is not used: its source stands there instead, so
        that code, formulas and addresses are right whatever the translator does. Raises ValueError on a wrong count.
        """
        self._check(len(translations))
        restored = (restore(segment, text)[0] for segment, text in zip(self.segments, translations, strict=True))
        return self.assemble([text or s.source for text, s in zip(restored, self.segments, strict=True)])

    def assemble(self, texts: Sequence[str]) -> str:
        """The whole text with each segment replaced by a finished text, its protected spans in place already."""
        self._check(len(texts))
        fresh = iter(texts)
        return "".join(next(fresh) if isinstance(piece, Masked) else piece for piece in self.pieces)

    def _check(self, count: int) -> None:
        wanted = len(self.segments)
        if count != wanted:
            raise ValueError(f"{count} translations for {wanted} segments")


def split(text: str, language: str = "en", max_chars: int = 200) -> Document:
    """Split `text` into a Document. Joining `document.texts` again gives `text` back, byte for byte.

    `language` (ISO 639) chooses the sentence splitter's rules; `max_chars` is the length from which a line is split
    into sentences, which are then packed together up to that length. A sentence half as long again is cut at a
    semicolon, comma or space.
    """
    document = Document()
    kept, tables = _blocks(text) if _BLOCK.search(text) else (set(), set())
    for number, match in enumerate(_LINES.finditer(text)):
        line = match[0]
        if not line:
            break
        if number in kept or _DEFINITION.match(line):
            document.pieces.append(line)
        else:
            _split_line(document, line, language, max_chars, number in tables)
    return document


@functools.cache
def _parser():
    """Markdown's block structure as chat models write it: CommonMark, tables, formulas; inline text is not parsed."""
    from markdown_it import MarkdownIt
    from mdit_py_plugins.amsmath import amsmath_plugin
    from mdit_py_plugins.dollarmath import dollarmath_plugin

    parser = MarkdownIt("commonmark").enable("table").use(dollarmath_plugin).use(amsmath_plugin)
    return parser.disable("inline")


def _blocks(text: str) -> tuple[set[int], set[int]]:
    """Numbers of the lines that are kept whole, and of those that are rows of tables."""
    kept, tables = set(), set()
    for token in _parser().parse(text):
        if token.map is None:
            continue
        if token.type in _KEPT_BLOCKS or (token.type == "html_block" and _KEPT_HTML.match(token.content)):
            first, last = token.map
            kept.update(range(first, last + (token.type == "amsmath")))  # that plugin's map ends a line early
        elif token.type == "table_open":
            tables.update(range(*token.map))
    return kept | _bracketed_formulas(text), tables


def _bracketed_formulas(text: str) -> set[int]:
    r"""Lines of formulas between `\[` and `\]`, which Markdown does not know."""
    if "\\[" not in text:
        return set()
    found, inside, candidate = set(), False, set()
    for number, match in enumerate(_LINES.finditer(text)):
        line = match[0].strip(" \t\r\n>")
        inside = inside or (line.startswith("\\[") and "\\]" not in line)
        if inside:
            candidate.add(number)
            if line.endswith("\\]"):
                found |= candidate
                inside, candidate = False, set()
    return found  # a formula that never closes is text


def _split_line(document: Document, line: str, language: str, max_chars: int, is_row: bool) -> None:
    start = _LINE_MARK.match(line).end()
    rest = line[start:]
    if start:
        document.pieces.append(line[:start])
    is_row = is_row or (rest.startswith("|") and rest.rstrip().endswith("|"))
    for part, edge in _cut_at(_CELL_EDGE if is_row else _SEPARATORS, rest):
        if len(part) > max_chars and not is_row:
            for run in _sentences(part, language, max_chars):
                _add(document, run)
        else:
            _add(document, part)
        if edge:
            document.pieces.append(edge)


def _cut_at(edges: re.Pattern, text: str) -> Iterator[tuple[str, str]]:
    """The text between `edges`, each with the edge behind it; those inside protected text are none."""
    at = 0
    if edges.search(text):
        spans = protected_spans(text)
        for edge in edges.finditer(text):
            if not any(first <= edge.start() < last for first, last in spans):
                yield text[at : edge.start()], edge[0]
                at = edge.end()
    yield text[at:], ""


def _add(document: Document, text: str) -> None:
    """Add a segment; white space and emphasis around it, and whatever has no letter to translate, is kept."""
    core = text.strip()
    if len(core) > _LONGEST_WORD and not _UNSPACED.search(core) and not re.search(r"\s", core):
        core = ""
    before, after = "", ""
    if (wrapped := _WRAPPED.match(core)) and wrapped[1] not in wrapped[2]:
        before, core, after = wrapped[1], wrapped[2], wrapped[1] + wrapped[3]
    segment = mask(core)
    if not any(character.isalpha() for character in _beside_masks(segment)):
        document.pieces.append(text)
        return
    at = text.index(before + core + after)
    end = at + len(before) + len(core)
    document.pieces += [piece for piece in (text[:at] + before, segment, text[end:]) if piece]


def _beside_masks(segment: Masked) -> str:
    text = segment.text
    for name in segment.masks:
        text = text.replace(name, " ")
    return text


def _sentences(text: str, language: str, max_chars: int) -> list[str]:
    """Consecutive runs of whole sentences up to `max_chars` each, white space included."""
    from sentencex import segment

    # Behind a shadow of the same length, the full stops of an address or of code end no sentence.
    shadow = list(text)
    for start, end in protected_spans(text):
        shadow[start:end] = "x" * (end - start)
    shadow_text = "".join(shadow)
    found = list(segment(language, shadow_text))
    if "".join(found) != shadow_text:  # the splitter is a dependency; what it would change is left in one piece
        found = [shadow_text]
    runs: list[str] = []
    for sentence in found:
        for piece in _chop(sentence, max_chars):
            if runs and len(runs[-1]) + len(piece.rstrip()) <= max_chars:
                runs[-1] += piece
            else:
                runs.append(piece)
    ends = [0]
    for run in runs:
        ends.append(ends[-1] + len(run))
    return [text[start:end] for start, end in zip(ends, ends[1:], strict=False)]


def _chop(sentence: str, max_chars: int) -> list[str]:
    """A sentence of more than one and a half times `max_chars` in pieces that are no longer than that."""
    pieces = []
    while len(sentence) > 1.5 * max_chars:
        head = sentence[:max_chars]
        cuts = (list(pattern.finditer(head)) for pattern in _CUTS)
        place = next((found[-1].end() for found in cuts if found and found[-1].end() > max_chars // 3), 0)
        if not place and _UNSPACED.search(head):
            place = max_chars
        if not place:  # one enormous word: up to its end
            space = re.search(r"\s+", sentence)
            place = space.end() if space else len(sentence)
        pieces.append(sentence[:place])
        sentence = sentence[place:]
    return [*pieces, sentence] if sentence else pieces
