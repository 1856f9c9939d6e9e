"""Corpora: the two row schemas of this project, and readers that bring any source into them.

Chat rows and preference rows look the same in every stage:

    chat        prompt_id, messages [{role, content}], source, license
    preference  prompt_id, prompt, chosen [{role, content}], rejected [...], score_chosen, score_rejected,
                source, license

``read_chat`` and ``read_preferences`` take a file, a folder, a hub id or ``package:NAME`` and stream rows, so
that a corpus of any size needs the memory of one batch. The shapes they recognise are in
:mod:`phoenix_utils.layouts`.

    >>> next(read_chat("package:conversations"))["messages"][0]["role"]
    'user'
"""

import hashlib
import json
import os.path
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import pyarrow as pa

from phoenix_utils import layouts
from phoenix_utils.errors import PhoenixError
from phoenix_utils.sources import json_lines, name_and_split, packaged, raw_rows

Row = TypeVar("Row")

MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
SEGMENTS = pa.list_(
    pa.struct(
        [
            ("part", pa.string()),
            ("text", pa.string()),
            ("translation", pa.string()),
            ("finish_reason", pa.string()),
            ("mean_logprob", pa.float64()),
            ("attempt", pa.string()),
            ("fault", pa.string()),
        ]
    )
)
_ORIGIN = [("source", pa.string()), ("license", pa.string())]
_PAIR = [
    ("prompt", pa.string()),
    ("chosen", MESSAGES),
    ("rejected", MESSAGES),
    ("score_chosen", pa.float64()),
    ("score_rejected", pa.float64()),
]

CHAT = pa.schema([("prompt_id", pa.string()), ("messages", MESSAGES), *_ORIGIN])
"""Plain chat rows."""

PREFERENCES = pa.schema([("prompt_id", pa.string()), *_PAIR, *_ORIGIN])
"""Plain preference rows; ``chosen`` and ``rejected`` repeat the prompt as their first message."""

TRANSLATED_CHAT = pa.schema([*CHAT, ("messages_source", MESSAGES), ("segments", SEGMENTS), ("good", pa.bool_())])
"""Translated chat rows: ``messages_source`` is the original; a segment's ``part`` is its message's index, its
``fault`` says why it failed, "" where it did not; a row is ``good`` when none of its segments failed."""

TRANSLATED_PREFERENCES = pa.schema(
    [
        *PREFERENCES,
        ("prompt_source", pa.string()),
        ("chosen_source", MESSAGES),
        ("rejected_source", MESSAGES),
        ("segments", SEGMENTS),
        ("good", pa.bool_()),
    ]
)
"""Translated preference rows; a segment's ``part`` is "prompt", "chosen" or "rejected"."""

TRANSLATED_QUESTIONS = pa.schema(
    [
        ("question_id", pa.int64()),
        ("category", pa.string()),
        ("turns", pa.list_(pa.string())),
        ("reference", pa.list_(pa.string())),
        *_ORIGIN,
        ("segments", SEGMENTS),
        ("good", pa.bool_()),
    ]
)
"""Translated two-turn questions; a segment's ``part`` is "turns0", "turns1", "reference0" or "reference1"."""

CHAT_HELD_OUT = 2
"""Eighths of the packaged conversations that no training ever sees."""
PREFERENCE_HELD_OUT = 3
"""Eighths of the packaged preference pairs that no training ever sees."""

_HUB_LICENSES = {
    "HuggingFaceH4/ultrachat_200k": "mit",
    "HuggingFaceH4/ultrafeedback_binarized": "mit",
    "argilla/ultrafeedback-binarized-preferences": "mit",
    "argilla/ultrafeedback-binarized-preferences-cleaned": "mit",
}


def held_out(prompt_id: str, eighths: int) -> bool:
    """Whether a row belongs to the held-out part: a fixed hash of its id, so no run can move the border."""
    return int(hashlib.sha256(prompt_id.encode()).hexdigest(), 16) % 8 < eighths


def read_chat(source: str, max_rows: int | None = None, skipped: Counter | None = None) -> Iterator[dict]:
    """Stream conversations as rows of the ``CHAT`` schema.

    Args:
        source: "package:conversations" (its training part), a hub id "owner/name" or "owner/name:split",
            a folder, or a .json, .jsonl, .csv or .parquet file.
        max_rows: stop after so many usable rows.
        skipped: counts rows that cannot be used (no answer, unknown role), by reason.

    Raises:
        PhoenixError: missing or empty source, unknown layout, broken row, or no usable row at all.
    """
    yield from _read(source, "chat", CHAT_HELD_OUT, max_rows, skipped)


def read_preferences(source: str, max_rows: int | None = None, skipped: Counter | None = None) -> Iterator[dict]:
    """Stream preference pairs as rows of the ``PREFERENCES`` schema; scores may be None.

    Arguments and errors are those of :func:`read_chat`; the packaged corpus is "package:preferences".
    """
    yield from _read(source, "preferences", PREFERENCE_HELD_OUT, max_rows, skipped)


def spread(rows: Sequence[Row], count: int | None) -> list[Row]:
    """`count` rows at even steps, so that a few still come from everywhere; all of them for None or too many."""
    if count is None or count >= len(rows):
        return list(rows)
    return [rows[int(step * len(rows) / count)] for step in range(count)]


def has_held_out(language: str) -> bool:
    """Whether the held-out conversations and pairs, and the questions, are there in `language`."""
    names = ("conversations", "preferences", "questions")
    folder = Path(__file__).parent / "data"
    return language == "en" or all((folder / f"{name}.{language}.jsonl").is_file() for name in names)


def held_out_chat(language: str) -> list[dict]:
    """The held-out packaged conversations, in English ("en") or in a language with a version of its own."""
    return _held_out("conversations", "chat", CHAT_HELD_OUT, language)


def held_out_preferences(language: str) -> list[dict]:
    """The held-out packaged preference pairs, in English ("en") or in a language with a version of its own."""
    return _held_out("preferences", "preferences", PREFERENCE_HELD_OUT, language)


def questions(language: str) -> list[dict]:
    """Two-turn questions in MT-Bench's eight categories: question_id, category, turns, reference."""
    return [row for _, row in json_lines(_in_language("questions", language))]


def has_sentence_pairs(source: str, target: str) -> bool:
    """Whether there are :func:`sentence_pairs` of these two languages."""
    folder = Path(__file__).parent / "data"
    return any((folder / f"pairs.{one}-{other}.jsonl").is_file() for one, other in ((source, target), (target, source)))


def sentence_pairs(source: str, target: str) -> list[dict]:
    """Sentence pairs for measuring a translator: pair_id, source_text, target_text, register, kind.

    Pairs written in the other direction serve too: their sides are swapped.
    """
    folder = Path(__file__).parent / "data"
    if (
        not (folder / f"pairs.{source}-{target}.jsonl").is_file()
        and (folder / f"pairs.{target}-{source}.jsonl").is_file()
    ):
        return [
            {**row, "source_text": row["target_text"], "target_text": row["source_text"]}
            for row in sentence_pairs(target, source)
        ]
    return [row for _, row in json_lines(packaged(f"pairs.{source}-{target}.jsonl"))]


def training_pairs(source: str, target: str) -> list[dict]:
    """Sentence pairs to train a translator on; none of them is among :func:`sentence_pairs`."""
    return [row for _, row in json_lines(packaged(f"pairs_train.{source}-{target}.jsonl"))]


def _in_language(name: str, language: str) -> Path:
    folder = Path(__file__).parent / "data"
    path = folder / f"{name}.{language}.jsonl"
    if not path.is_file():
        known = sorted(found.name.split(".")[1] for found in folder.glob(f"{name}.*.jsonl"))
        raise PhoenixError(f"the package has no {name} in language {language!r}; it has: {', '.join(known)}")
    return path


def _held_out(name: str, kind: str, eighths: int, language: str) -> list[dict]:
    if language == "en":
        rows = _convert(json_lines(packaged(f"{name}.jsonl")), kind, f"package:{name}", None)
        return [row for row in rows if held_out(row["prompt_id"], eighths)]
    return list(_convert(json_lines(_in_language(name, language)), kind, f"package:{name}", None))


def _read(source: str, kind: str, eighths: int, max_rows: int | None, skipped: Counter | None) -> Iterator[dict]:
    if max_rows is not None and max_rows < 1:
        raise PhoenixError(f"max_rows is {max_rows}: give at least 1, or null for all rows")
    skipped = Counter() if skipped is None else skipped
    raw = raw_rows(source, kind)
    count = 0
    for row in _convert(raw, kind, source, skipped):
        if source.startswith("package:") and held_out(row["prompt_id"], eighths):
            continue
        yield row
        count += 1
        if count == max_rows:
            return
    if not count:
        why = "; ".join(f"{reason}: {n}" for reason, n in skipped.most_common()) or "it is empty"
        raise PhoenixError(f"{source} has no usable {kind} row ({why}): mend its rows or name another source")


def _convert(raw: Iterator[tuple[str, dict]], kind: str, source: str, skipped: Counter | None) -> Iterator[dict]:
    """Raw rows (with the place each came from) to schema rows; unusable ones are counted, not passed on."""
    convert = layouts.chat_rows if kind == "chat" else layouts.preference_rows
    name, _ = name_and_split(source)
    origin, license_ = _origin(name), _HUB_LICENSES.get(name, "unknown")
    for index, (place, row) in enumerate(raw):
        try:
            converted = list(convert(row))
        except layouts.UnknownLayout as error:
            raise PhoenixError(
                f"{place} is in no layout that is known for {kind} ({error}): rename its columns"
            ) from None
        except layouts.Unusable as error:
            if skipped is not None:
                skipped[str(error)] += 1
            continue
        for part, content in enumerate(converted):
            yield {
                "prompt_id": _row_id(row, content, index, part if len(converted) > 1 else None),
                **content,
                "source": _text(row.get("source")) or origin,
                "license": _text(row.get("license")) or license_,
            }


def _text(value: object) -> str:
    return value.strip() if isinstance(value, str) else ""


def _origin(source: str) -> str:
    """A source's name in a row: paths lose their folders, which say more about a machine than about data."""
    return Path(source).name if os.path.exists(source) else source


def _row_id(row: dict, content: dict, index: int, part: int | None) -> str:
    """The row's own id, or one made of its content and its place (so equal rows stay apart)."""
    for name in ("prompt_id", "id", "conversation_id"):
        if isinstance(row.get(name), str | int) and not isinstance(row[name], bool) and str(row[name]).strip():
            return str(row[name]) if part is None else f"{row[name]}-{part}"
    text = json.dumps([content, index, part], ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
