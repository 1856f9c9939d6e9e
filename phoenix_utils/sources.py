"""Where rows come from: files, folders, hub datasets and the package's own corpora, read as they stand.

Every reader streams (place, row); the place is what an error message calls the row. What the rows mean is the business
of :mod:`phoenix_utils.corpora`.
"""

import csv
import json
import os.path
import re
from collections.abc import Iterator
from pathlib import Path

from phoenix_utils import strict_json
from phoenix_utils.errors import PhoenixError

_SUFFIXES = (".json", ".jsonl", ".csv", ".parquet")
_DESCRIPTIONS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def packaged(name: str) -> Path:
    """Path of a file in ``phoenix_utils/data``.

    Raises:
        PhoenixError: there is no such file.
    """
    folder = Path(__file__).parent / "data"
    path = folder / name
    if not path.is_file():
        names = ", ".join(sorted(found.name for found in folder.glob("*.jsonl")))
        raise PhoenixError(f"the package has no corpus {name!r}; it has: {names}")
    return path


def is_hub_name(source: str) -> bool:
    """Whether a source names a hub dataset (owner/name or owner/name:split) and no file or folder here."""
    name, _ = name_and_split(source)
    local = source.startswith("package:") or os.path.exists(name)
    return not local and bool(_HUB_ID.fullmatch(name)) and Path(name).suffix.lower() not in _SUFFIXES


def raw_rows(source: str, kind: str) -> Iterator[tuple[str, dict]]:
    """Yield (place, row as it stands) of any source; the place is what an error message calls the row.

    `kind` ("chat", "preferences", "parallel") decides which split of a dataset is taken if none is named.
    """
    if source.startswith("package:"):
        return json_lines(packaged(f"{source.removeprefix('package:')}.jsonl"))
    name, split = name_and_split(source)
    if os.path.isdir(name):
        return _folder_rows(Path(name), split, kind)
    if os.path.isfile(name) and split is None:
        return _file_rows(Path(name))
    if is_hub_name(source):
        return _hub_rows(name, split, kind)
    raise PhoenixError(
        f"there is no file or folder {source!r}, and it is no hub id (owner/name) or packaged corpus: name one, or "
        "package:conversations or package:preferences"
    )


def name_and_split(source: str) -> tuple[str, str | None]:
    """A source and its split, as in owner/name:split; what exists under its whole name has none."""
    if os.path.exists(source) or ":" not in source or source.startswith("package:"):
        return source, None
    name, _, split = source.rpartition(":")
    return name, split


def _file_rows(path: Path) -> Iterator[tuple[str, dict]]:
    import pyarrow as pa  # slow to import, and most who ask where rows come from read none

    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise PhoenixError(f"{path} ends in {suffix!r}; give a file of one of these kinds: {', '.join(_SUFFIXES)}")
    if path.stat().st_size == 0:
        raise PhoenixError(f"{path} is empty (0 bytes): give a file with rows")
    reader = {".json": _json_rows, ".jsonl": json_lines, ".csv": _csv_rows, ".parquet": _parquet_rows}[suffix]
    try:
        yield from reader(path)
    except UnicodeDecodeError as error:
        raise PhoenixError(f"{path} is not UTF-8 text (byte {error.start}): convert it first") from None
    except (csv.Error, pa.ArrowInvalid) as error:
        raise PhoenixError(
            f"{path} cannot be read as {suffix[1:]} ({str(error).splitlines()[0]}): mend it or give its right ending"
        ) from None


def json_lines(path: Path) -> Iterator[tuple[str, dict]]:
    """The objects of a .jsonl file; empty lines are passed over. Raises PhoenixError, naming the line."""
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            place = f"{path}, line {number},"
            try:
                row = strict_json.loads(line)
            except json.JSONDecodeError as error:
                raise PhoenixError(
                    f"{place} is not valid JSON ({error.msg} at column {error.colno}): mend the line"
                ) from None
            yield place, _object(row, place)


def _json_rows(path: Path) -> Iterator[tuple[str, dict]]:
    """A .json file: one array of objects; or, as some exporters write it, one object a line."""
    with path.open(encoding="utf-8-sig") as file:
        if not file.read(4096).lstrip().startswith("["):
            yield from json_lines(path)
            return
        file.seek(0)
        try:
            rows = strict_json.loads(file.read().removeprefix("\ufeff"))
        except json.JSONDecodeError as error:
            raise PhoenixError(
                f"{path} is not valid JSON ({error.msg} at line {error.lineno}, column {error.colno}): mend the file"
            ) from None
    for number, row in enumerate(rows, 1):
        place = f"{path}, row {number},"
        yield place, _object(row, place)


def _object(row: object, place: str) -> dict:
    if not isinstance(row, dict):
        raise PhoenixError(f"{place} is a JSON {type(row).__name__}; each row must be an object with named columns")
    return row


def _csv_rows(path: Path) -> Iterator[tuple[str, dict]]:
    csv.field_size_limit(2**24)  # the default of 128 KB is shorter than a long conversation
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        names = list(reader.fieldnames or [])
        while names and not names[-1].strip():  # a spreadsheet widens the header to its longest row
            names.pop()
        reader.fieldnames = names
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise PhoenixError(f"{path} has two columns named {twice!r}: rename one")
        for number, row in enumerate(reader, 1):
            if any(cell.strip() for cell in row.pop(None, ())):
                raise PhoenixError(
                    f"{path}, row {number}, has more cells than the header: put quotes around texts that hold commas"
                )
            yield f"{path}, row {number},", row


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict]]:
    import pyarrow.parquet as pq

    number = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=500):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}, row {number},", row


def _folder_rows(folder: Path, split: str | None, kind: str) -> Iterator[tuple[str, dict]]:
    """All files of a folder, or those of one split where the names tell splits apart (train-00000-of-...)."""
    try:
        files = sorted(
            path
            for path in folder.rglob("*")
            if path.suffix.lower() in _SUFFIXES
            and path.name not in _DESCRIPTIONS
            and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        )
    except OSError as error:  # changed while it was looked through, or no business of this user
        raise PhoenixError(f"{folder} cannot be read whole ({error}): give a folder of your data alone") from None
    if not files:
        raise PhoenixError(
            f"the folder {folder} holds no file to read; give one with files of these kinds: {', '.join(_SUFFIXES)}"
        )
    splits = {path: re.sub(r"-\d+(-of-\d+.*)?$", "", path.stem) for path in files}
    if split or any(name.startswith("train") for name in splits.values()):
        split = _choose_split(str(folder), list(splits.values()), split, kind)
        files = [path for path in files if splits[path] == split]
    for path in files:
        yield from _file_rows(path)


def _choose_split(source: str, names: list[str], wanted: str | None, kind: str) -> str:
    """The wanted split, or else the training split for this kind of rows; which of several is not for us to guess."""
    best = ("train_sft", "train") if kind == "chat" else ("train_prefs", "train")
    training = {name for name in names if name.startswith("train")}
    for name in (wanted,) if wanted else (*best, *(training if len(training) == 1 else ())):
        if name in names:
            return name
    known = ", ".join(sorted(set(names)))
    raise PhoenixError(f"{source} has no split {wanted or 'train'!r}; it has: {known}; name one as {source}:SPLIT")


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
            f"the dataset {name!r} is no local file, and the hub could not give it ({first}): check the name "
            "and the network (HF_HUB_OFFLINE), or download it and name the folder"
        ) from None
