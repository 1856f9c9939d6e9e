"""Parallel text in: from the package, a file, Moses pairs, the hub, or the help packages of a Debian system.

Every reader yields `ParallelRow`s in the file's order; `clean` judges them by the rules of `pairs.py`, which the
filters use too. What is rejected keeps its reason and its place.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from itertools import zip_longest
from pathlib import Path

from phoenix_utils import corpora, pairs, sources
from phoenix_utils.errors import PhoenixError
from phoenix_utils.paths import expanded

DEBIAN_HELP = "debian:libreoffice-help"
HELP_FOLDER = Path("/usr/share/libreoffice/help")
# Longer than any paragraph that a sentence-level translator should learn from.
MOST_CHARACTERS = 5000
# Names that columns of parallel files have, beside the language codes themselves.
_SOURCE_NAMES = ("source_text", "source", "src", "source_sentence")
_TARGET_NAMES = ("target_text", "target", "tgt", "trg", "target_sentence")
_DOCUMENT_NAMES = ("document", "page", "doc_id", "document_id", "url")
# So many rows tell whether columns are swapped or the same; the language of the first ones decides.
_LOOKED_AT = 200


@dataclass(frozen=True)
class ParallelRow:
    """One pair: both texts, the document it belongs to ("" where unknown), and where it was found."""

    source_text: str
    target_text: str
    document: str
    place: str


def held_out_page(page: str) -> bool:
    """Whether a page of the help text is only measured with: a tenth of all pages, by a hash of their names."""
    return int(hashlib.sha256(page.encode()).hexdigest(), 16) % 10 == 0


def read_parallel(name: str, source: str, target: str) -> Iterator[ParallelRow]:
    """Stream the pairs of one source.

    Args:
        name: "package:pairs" (the project's own training pairs), "debian:libreoffice-help" (where the packages
            libreoffice-help-en-us and libreoffice-help-de are installed), a .tsv, .tsv.gz, .jsonl, .json, .csv or
            .parquet file, a Moses prefix (`corpus` for `corpus.en` and `corpus.de`), or a hub id.
        source, target: ISO 639-1 codes of the two sides.

    Raises PhoenixError for a source that does not exist or cannot be read as parallel text.
    """
    path = expanded(name)
    if name.startswith("package:"):
        return _package(name, source, target)
    if name == DEBIAN_HELP:
        return _debian_help(source, target)
    sides = path.with_name(f"{path.name}.{source}"), path.with_name(f"{path.name}.{target}")
    if any(side.is_file() for side in sides):
        return _moses(*sides)
    if path.name.endswith((".tsv", ".tsv.gz")):
        return _tsv(path, source, target)
    return _records(name, source, target)


def _package(name: str, source: str, target: str) -> Iterator[ParallelRow]:
    if name != "package:pairs":
        raise PhoenixError(f"{name!r} is no packaged parallel text: there is package:pairs")
    for row in corpora.training_pairs(source, target):
        yield ParallelRow(row["source_text"], row["target_text"], row["pair_id"], row["pair_id"])


def _moses(source_file: Path, target_file: Path) -> Iterator[ParallelRow]:
    for file in (source_file, target_file):
        if not file.is_file():
            raise PhoenixError(f"Moses pairs need two files, and {file} does not exist: lay it beside its partner")
    with (
        source_file.open(encoding="utf-8") as first,
        target_file.open(encoding="utf-8") as second,
        _as_text(f"{source_file} or {target_file.name}"),
    ):
        for number, (one, other) in enumerate(zip_longest(first, second), 1):
            if one is None or other is None:
                shorter = source_file if one is None else target_file
                raise PhoenixError(
                    f"{shorter} ends before line {number} of its partner: the two files are not line by line the same"
                    " text; align them again"
                )
            yield ParallelRow(one.strip(), other.strip(), "", f"{source_file.stem} line {number}")


@contextlib.contextmanager
def _as_text(path: Path | str) -> Iterator[None]:
    """Raise PhoenixError where what is read inside is not UTF-8, or not compressed though its name says so."""
    try:
        yield
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise PhoenixError(f"{path} cannot be read as text ({error}): convert it to UTF-8 first") from None


def _tsv(path: Path, source: str, target: str) -> Iterator[ParallelRow]:
    """Tab-separated: a header with known names, or the last two columns, the first of more being the document."""
    if not path.is_file():
        raise PhoenixError(f"the file {path} does not exist: name one that holds parallel text")
    opened = gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8")
    columns = None
    with opened as lines, _as_text(path):
        for number, line in enumerate(lines, 1):
            cells = line.rstrip("\r\n").split("\t")
            if number == 1:
                columns = _columns(cells, source, target)
                if columns:
                    continue
            if len(cells) < 2 or (columns and len(cells) <= max(columns[:2])):
                raise PhoenixError(
                    f"{path}, line {number}, has {len(cells)} column(s); a source and a target column, separated by a"
                    " tab, are needed"
                )
            first, second, document = columns or (-2, -1, 0 if len(cells) > 2 else None)
            name = cells[document] if document is not None else ""
            yield ParallelRow(cells[first].strip(), cells[second].strip(), name, f"{path.name} line {number}")


def _columns(names: list[str], source: str, target: str) -> tuple[int, int, int | None] | None:
    """Places of source, target and document among column names; None where there is no such header."""
    lower = [name.strip().lower() for name in names]

    def find(known: tuple[str, ...]) -> int | None:
        return next((lower.index(name) for name in known if name in lower), None)

    first, second = find((source, *_SOURCE_NAMES)), find((target, *_TARGET_NAMES))
    return None if first is None or second is None else (first, second, find(_DOCUMENT_NAMES))


def _records(name: str, source: str, target: str) -> Iterator[ParallelRow]:
    for place, row in sources.raw_rows(name, "parallel"):
        values = row["translation"] if isinstance(row.get("translation"), dict) else row
        names = list(values)
        columns = _columns(names, source, target)
        if columns is None:
            raise PhoenixError(
                f"{place} has the columns {', '.join(names)}; two of them must be named {source} and {target}, or "
                "source_text and target_text"
            )
        texts = [values[names[column]] for column in columns[:2]]
        if not all(isinstance(text, str) for text in texts):
            kinds = " and ".join(type(text).__name__ for text in texts)
            raise PhoenixError(f"{place} holds {kinds}, not two texts: mend or drop the row")
        document = next((str(row[key]) for key in _DOCUMENT_NAMES if row.get(key) is not None), "")
        yield ParallelRow(texts[0].strip(), texts[1].strip(), document, place.strip(" ,"))


# ---------------------------------------------------------------- the help of LibreOffice, from Debian's packages


class _Paragraphs(HTMLParser):
    """Text of each element that carries an id of its own, in order."""

    TAGS = ("p", "h1", "h2", "h3", "h4", "h5", "h6")

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.found: dict[str, tuple[str, list[str]]] = {}
        self.current: str | None = None

    def handle_starttag(self, tag, attributes):
        identity = dict(attributes).get("id")
        if tag in self.TAGS:
            self.current = identity
            if identity:
                self.found.setdefault(identity, (tag, []))

    def handle_endtag(self, tag):
        if tag in self.TAGS:
            self.current = None

    def handle_data(self, data):
        if self.current:
            self.found[self.current][1].append(data)


def html_paragraphs(text: str) -> dict[str, tuple[str, str]]:
    """{id: (tag, text)} of the paragraphs and headings of a help page."""
    parser = _Paragraphs()
    parser.feed(text)
    return {key: (tag, " ".join("".join(parts).split())) for key, (tag, parts) in parser.found.items()}


def _debian_help(source: str, target: str) -> Iterator[ParallelRow]:
    folders = [_help_folder(language) for language in (source, target)]
    for path in sorted(folders[0].rglob("*.html")):
        page = str(path.relative_to(folders[0]))
        other = folders[1] / page
        if not other.is_file():
            continue
        first, second = (html_paragraphs(file.read_text(encoding="utf-8")) for file in (path, other))
        for key, (tag, text) in first.items():
            if tag == "p" and key in second and text and second[key][1]:
                yield ParallelRow(text, second[key][1], page, f"{page} {key}")


def _help_folder(language: str) -> Path:
    """Where a language's help pages lie: `en-US` for English, else the code itself."""
    folder = HELP_FOLDER / {"en": "en-US"}.get(language, language) / "text"
    if not folder.is_dir():
        package = f"libreoffice-help-{ {'en': 'en-us'}.get(language, language) }"
        raise PhoenixError(f"{DEBIAN_HELP} needs the Debian package {package}: run apt-get install {package}")
    return folder


# ---------------------------------------------------------------- judging


@dataclass(frozen=True)
class Rejected:
    """A pair that is not used: where it stood, by which rule, and what the rule found."""

    row: ParallelRow
    rule: str
    reason: str


def clean(
    rows: Iterable[ParallelRow], source: str, target: str, limits: pairs.PairLimits | None = None
) -> Iterator[ParallelRow | Rejected]:
    """Judge pairs by the rules of `pairs.py` and drop repeated sources; yields each row or its rejection.

    Raises PhoenixError, naming a row, where the rows as a whole cannot be parallel text of these languages:
    sides swapped, or both the same.
    """
    seen: set[str] = set()
    rows = iter(rows)
    head = [row for _, row in zip(range(_LOOKED_AT), rows, strict=False)]
    _check_sides(head, source, target)
    for part in (head, rows):
        for row in part:
            found = _fault(row, source, target, limits, seen)
            yield Rejected(row, *found) if found else row


def _fault(
    row: ParallelRow, source: str, target: str, limits: pairs.PairLimits | None, seen: set[str]
) -> tuple[str, str] | None:
    for side, text in (("source", row.source_text), ("target", row.target_text)):
        if not text:
            return "empty", f"{row.place}: the {side} side is empty"
        if len(text) > MOST_CHARACTERS:
            return "long", f"{row.place}: the {side} side has {len(text):,} characters; split it into sentences"
    if row.source_text == row.target_text:
        return "identical", f"{row.place}: both sides are the same text"
    reasons = pairs.pair_reasons(row.source_text, row.target_text, target, source, limits)
    if joined := pairs.run_together(row.target_text, row.source_text):
        reasons.setdefault("run_together", joined)
    if reasons:
        rule, reason = next(iter(reasons.items()))
        return rule, f"{row.place}: {reason}"
    key = hashlib.sha256(re.sub(r"\W+", " ", row.source_text).casefold().encode()).hexdigest()[:16]
    if key in seen:
        return "duplicate", f"{row.place}: this source has come before"
    seen.add(key)
    return None


def _check_sides(rows: list[ParallelRow], source: str, target: str) -> None:
    if not rows:
        return
    same = [row for row in rows if row.source_text and row.source_text == row.target_text]
    if len(same) * 2 > len(rows):
        raise PhoenixError(
            f"{same[0].place}: both sides are the same text, as in {len(same)} of the first {len(rows)} rows; name a "
            "source with a translation"
        )
    swapped = [
        row
        for row in rows
        if pairs.detect_language(row.source_text, target, source) == target
        and pairs.detect_language(row.target_text, target, source) == source
    ]
    if swapped and len(swapped) * 2 > len(rows) - len(same):
        raise PhoenixError(
            f"{swapped[0].place}: the source side reads as {target!r} and the target side as {source!r}, as in "
            f"{len(swapped)} of the first {len(rows)} rows; swap the columns, or source_language and language"
        )
