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

import csv
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from phoenix_utils import layouts
from phoenix_utils.errors import PhoenixError

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

CHAT_HELD_OUT = 2
"""Eighths of the packaged conversations that no training ever sees."""
PREFERENCE_HELD_OUT = 3
"""Eighths of the packaged preference pairs that no training ever sees."""

_SUFFIXES = (".json", ".jsonl", ".csv", ".parquet")
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_HUB_LICENSES = {
    "HuggingFaceH4/ultrachat_200k": "mit",
    "HuggingFaceH4/ultrafeedback_binarized": "mit",
    "argilla/ultrafeedback-binarized-preferences": "mit",
    "argilla/ultrafeedback-binarized-preferences-cleaned": "mit",
}


def held_out(prompt_id: str, eighths: int) -> bool:
    """Whether a row belongs to the held-out part: a fixed hash of its id, so no run can move the border."""
    return int(hashlib.sha256(prompt_id.encode()).hexdigest(), 16) % 8 < eighths


def packaged(name: str) -> Path:
    """Path of a file in ``phoenix_utils/data``.

    Raises:
        PhoenixError: there is no such file.
    """
    folder = Path(__file__).parent / "data"
    path = folder / name
    if not path.is_file():
        names = ", ".join(sorted(found.name for found in folder.glob("*.jsonl")))
        raise PhoenixError(f"The package has no corpus {name!r}; it has: {names}.")
    return path


def is_hub_name(source: str) -> bool:
    """Whether a source names a hub dataset (owner/name or owner/name:split) and no file or folder here."""
    name, _ = _name_and_split(source)
    local = source.startswith("package:") or Path(name).exists()
    return not local and bool(_HUB_ID.fullmatch(name)) and Path(name).suffix.lower() not in _SUFFIXES


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


def held_out_chat(language: str) -> list[dict]:
    """The held-out packaged conversations, in English ("en") or in a language with a human version."""
    return _held_out("conversations", "chat", CHAT_HELD_OUT, language)


def held_out_preferences(language: str) -> list[dict]:
    """The held-out packaged preference pairs, in English ("en") or in a language with a human version."""
    return _held_out("preferences", "preferences", PREFERENCE_HELD_OUT, language)


def questions(language: str) -> list[dict]:
    """Two-turn questions in MT-Bench's eight categories: question_id, category, turns, reference."""
    return [row for _, row in _json_lines(_in_language("questions", language))]


def sentence_pairs(source: str, target: str) -> list[dict]:
    """Human sentence pairs for measuring a translator: pair_id, source_text, target_text, register, kind.

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
    return [row for _, row in _json_lines(packaged(f"pairs.{source}-{target}.jsonl"))]


def training_pairs(source: str, target: str) -> list[dict]:
    """Human sentence pairs to train a translator on; none of them is among :func:`sentence_pairs`."""
    return [row for _, row in _json_lines(packaged(f"pairs_train.{source}-{target}.jsonl"))]


def _in_language(name: str, language: str) -> Path:
    folder = Path(__file__).parent / "data"
    path = folder / f"{name}.{language}.jsonl"
    if not path.is_file():
        known = sorted(found.name.split(".")[1] for found in folder.glob(f"{name}.*.jsonl"))
        raise PhoenixError(f"The package has no {name} in language {language!r}; it has: {', '.join(known)}.")
    return path


def _held_out(name: str, kind: str, eighths: int, language: str) -> list[dict]:
    if language == "en":
        rows = _convert(_json_lines(packaged(f"{name}.jsonl")), kind, f"package:{name}", None)
        return [row for row in rows if held_out(row["prompt_id"], eighths)]
    return list(_convert(_json_lines(_in_language(name, language)), kind, f"package:{name}", None))


def _read(source: str, kind: str, eighths: int, max_rows: int | None, skipped: Counter | None) -> Iterator[dict]:
    if max_rows is not None and max_rows < 1:
        raise PhoenixError(f"max_rows is {max_rows}: it must be at least 1, or null for all rows.")
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
        raise PhoenixError(f"{source} has no usable {kind} row ({why}).")


def _convert(raw: Iterator[tuple[str, dict]], kind: str, source: str, skipped: Counter | None) -> Iterator[dict]:
    """Raw rows (with the place each came from) to schema rows; unusable ones are counted, not passed on."""
    convert = layouts.chat_rows if kind == "chat" else layouts.preference_rows
    name, _ = _name_and_split(source)
    origin, license_ = _origin(name), _HUB_LICENSES.get(name, "unknown")
    for index, (place, row) in enumerate(raw):
        try:
            converted = list(convert(row))
        except layouts.UnknownLayout as error:
            raise PhoenixError(f"{place} is in no layout that is known for {kind}. {error}") from None
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
    return Path(source).name if Path(source).exists() else source


def _row_id(row: dict, content: dict, index: int, part: int | None) -> str:
    """The row's own id, or one made of its content and its place (so equal rows stay apart)."""
    for name in ("prompt_id", "id", "conversation_id"):
        if isinstance(row.get(name), str | int) and str(row[name]).strip():
            return str(row[name]) if part is None else f"{row[name]}-{part}"
    text = json.dumps([content, index, part], ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def raw_rows(source: str, kind: str) -> Iterator[tuple[str, dict]]:
    """Yield (place, row as it stands) of any source; the place is what an error message calls the row.

    `kind` ("chat", "preferences", "parallel") decides which split of a dataset is taken if none is named.
    """
    if source.startswith("package:"):
        return _json_lines(packaged(f"{source.removeprefix('package:')}.jsonl"))
    name, split = _name_and_split(source)
    if Path(name).is_dir():
        return _folder_rows(Path(name), split, kind)
    if Path(name).is_file() and split is None:
        return _file_rows(Path(name))
    if is_hub_name(source):
        return _hub_rows(name, split, kind)
    raise PhoenixError(
        f"There is no file or folder {source!r}, and it is no hub id (owner/name) or packaged corpus "
        "(package:conversations, package:preferences)."
    )


def _name_and_split(source: str) -> tuple[str, str | None]:
    """A source and its split, as in owner/name:split; what exists under its whole name has none."""
    if Path(source).exists() or ":" not in source or source.startswith("package:"):
        return source, None
    name, _, split = source.rpartition(":")
    return name, split


def _file_rows(path: Path) -> Iterator[tuple[str, dict]]:
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise PhoenixError(f"{path} ends in {suffix!r}; files of these kinds are read: {', '.join(_SUFFIXES)}.")
    if path.stat().st_size == 0:
        raise PhoenixError(f"{path} is empty (0 bytes).")
    reader = {".json": _json_rows, ".jsonl": _json_lines, ".csv": _csv_rows, ".parquet": _parquet_rows}[suffix]
    try:
        yield from reader(path)
    except UnicodeDecodeError as error:
        raise PhoenixError(f"{path} is not UTF-8 text (byte {error.start}): convert it first.") from None
    except (csv.Error, pa.ArrowInvalid) as error:
        raise PhoenixError(f"{path} cannot be read as {suffix[1:]}: {str(error).splitlines()[0]}") from None


def _json_lines(path: Path) -> Iterator[tuple[str, dict]]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            place = f"{path}, line {number},"
            try:
                row = _loads(line)
            except json.JSONDecodeError as error:
                raise PhoenixError(f"{place} is not valid JSON: {error.msg} at column {error.colno}.") from None
            yield place, _object(row, place)


def _json_rows(path: Path) -> Iterator[tuple[str, dict]]:
    """A .json file: one array of objects; or, as some exporters write it, one object a line."""
    with path.open(encoding="utf-8-sig") as file:
        if not file.read(4096).lstrip().startswith("["):
            yield from _json_lines(path)
            return
        file.seek(0)
        try:
            rows = _loads(file.read().removeprefix("\ufeff"))
        except json.JSONDecodeError as error:
            raise PhoenixError(
                f"{path} is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}."
            ) from None
    for number, row in enumerate(rows, 1):
        place = f"{path}, row {number},"
        yield place, _object(row, place)


def _loads(text: str) -> object:
    """JSON, with half of a surrogate pair (an escape that names no character, left by a cut-off emoji) as U+FFFD.

    No file and no tokenizer can hold such a half; the replacement keeps the rest of the row.
    """
    value = json.loads(text)
    return _without_surrogates(value) if _SURROGATE_ESCAPE.search(text) else value


def _without_surrogates(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(item) for key, item in value.items()}
    return value


def _object(row: object, place: str) -> dict:
    if not isinstance(row, dict):
        raise PhoenixError(f"{place} is a JSON {type(row).__name__}; each row must be an object with named columns.")
    return row


def _csv_rows(path: Path) -> Iterator[tuple[str, dict]]:
    csv.field_size_limit(2**24)  # the default of 128 KB is shorter than a long conversation
    with path.open(encoding="utf-8-sig", newline="") as file:
        for number, row in enumerate(csv.DictReader(file, strict=True), 1):
            row.pop(None, None)  # cells beyond the header's columns
            yield f"{path}, row {number},", row


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict]]:
    number = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=500):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}, row {number},", row


def _folder_rows(folder: Path, split: str | None, kind: str) -> Iterator[tuple[str, dict]]:
    """All files of a folder, or those of one split where the names tell splits apart (train-00000-of-...)."""
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in _SUFFIXES and not path.name.startswith((".", "dataset_", "state."))
    )
    if not files:
        raise PhoenixError(f"The folder {folder} holds no file of these kinds: {', '.join(_SUFFIXES)}.")
    splits = {path: re.sub(r"-\d+-of-\d+.*$", "", path.stem) for path in files}
    if split or any(name.startswith("train") for name in splits.values()):
        split = _choose_split(str(folder), list(splits.values()), split, kind)
        files = [path for path in files if splits[path] == split]
    for path in files:
        yield from _file_rows(path)


def _choose_split(source: str, names: list[str], wanted: str | None, kind: str) -> str:
    """The wanted split, or else the training split for this kind of rows."""
    best = ("train_sft", "train") if kind == "chat" else ("train_prefs", "train")
    for name in (wanted,) if wanted else (*best, *(name for name in names if name.startswith("train"))):
        if name in names:
            return name
    known = ", ".join(sorted(set(names)))
    raise PhoenixError(f"{source} has no split {wanted or 'train'!r}; it has: {known}. Name one as {source}:SPLIT.")


def _hub_rows(name: str, split: str | None, kind: str) -> Iterator[tuple[str, dict]]:
    from datasets import load_dataset  # seconds to import, and only a hub id needs it

    try:
        streams = load_dataset(name, streaming=True)
        split = _choose_split(name, list(streams), split, kind)
        for number, row in enumerate(streams[split], 1):
            yield f"{name}:{split}, row {number},", row
    except (OSError, ValueError, RuntimeError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise PhoenixError(
            f"The dataset {name!r} is no local file, and the hub could not give it ({first}). Check the name "
            "and the network (HF_HUB_OFFLINE), or download it and name the folder."
        ) from None
