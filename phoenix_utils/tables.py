"""Tables of a run on disk: Parquet for rows of a fixed schema, JSON lines for small logs; streamed both ways.

A large table is a folder of shards, each written whole or not at all, so that an interrupted writer goes on behind
the last one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

from phoenix_utils import strict_json
from phoenix_utils.artifacts import write_atomic
from phoenix_utils.errors import PhoenixError

if TYPE_CHECKING:
    import pyarrow as pa


def write_lines(path: Path, rows: Iterable[dict]) -> None:
    """Write one JSON object a line, atomically."""
    with write_atomic(path) as partial:
        with partial.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def read_lines(path: Path) -> list[dict]:
    """The rows that `write_lines` wrote; raises PhoenixError where the file is damaged."""
    # splitlines would also cut at U+2028 and its like, which JSON leaves as they are.
    try:
        return [strict_json.loads(line) for line in Path(path).read_text(encoding="utf-8").split("\n") if line]
    except ValueError as error:
        raise _damaged(path, error) from None


def write_rows(path: Path, rows: Iterable[dict], schema: pa.Schema, batch: int = 1000) -> int:
    """Stream `rows` into one Parquet file, `batch` rows in memory at a time; returns how many there were."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    total, pending = 0, []
    with write_atomic(path) as partial:
        with pq.ParquetWriter(partial, schema, compression="zstd") as writer:
            for row in rows:
                pending.append(row)
                if len(pending) == batch:
                    writer.write_table(pa.Table.from_pylist(pending, schema=schema))
                    total, pending = total + len(pending), []
            writer.write_table(pa.Table.from_pylist(pending, schema=schema))
            total += len(pending)
    return total


def read_rows(path: Path, batch: int = 1000) -> Iterator[dict]:
    """Stream the rows of a Parquet file or a folder of shards; raises PhoenixError where it is missing or damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for file in _files(path):
        try:
            with pq.ParquetFile(file) as opened:
                for part in opened.iter_batches(batch_size=batch):
                    yield from part.to_pylist()
        except (pa.ArrowInvalid, OSError) as error:
            raise _damaged(file, error) from None


class Shards:
    """A folder of Parquet files `00000.parquet`, `00001.parquet`, … of one schema, which rows are appended to.

    A full shard has `size` rows, which is what an interruption can lose. Only whole shards are ever seen. What comes
    after a damaged or missing one is removed, since it would stand in the wrong place; `rows` counts what is there.
    """

    def __init__(self, folder: Path, schema: pa.Schema, size: int):
        self.folder, self.schema, self.size = folder, schema, size
        folder.mkdir(parents=True, exist_ok=True)
        self.rows = self.shards = 0
        while self._is_whole(self._path(self.shards)):
            self.rows += row_count(self._path(self.shards))
            self.shards += 1
        for path in _shard_files(folder)[self.shards :]:
            path.unlink()

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:05}.parquet"

    def _is_whole(self, path: Path) -> bool:
        try:
            return path.is_file() and row_count(path) >= 0
        except PhoenixError:
            return False

    def append(self, rows: Iterable[dict], on_shard: Callable[[Path], None] = lambda path: None) -> None:
        """Write `rows` behind those that are there, a full shard at a time; a table without rows gets one empty shard.

        `on_shard` hears of each that is whole. Raises PhoenixError where the disk is full; those written before stay.
        """
        rows = iter(rows)
        for first in rows:
            self.rows += write_rows(self._path(self.shards), chain([first], islice(rows, self.size - 1)), self.schema)
            on_shard(self._path(self.shards))
            self.shards += 1
        if not self.shards:
            write_rows(self._path(0), [], self.schema)

    def total(self, column: str) -> int:
        """Sum of a column of numbers or truth values over all shards; no other column is read."""
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        columns = (pq.read_table(self._path(number), columns=[column])[column] for number in range(self.shards))
        return sum(pc.sum(values).as_py() or 0 for values in columns)


def row_count(path: Path) -> int:
    """How many rows a Parquet file or a folder of shards holds, by their footers only; raises as `read_rows`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    total = 0
    for file in _files(path):
        try:
            total += pq.read_metadata(file).num_rows
        except (pa.ArrowInvalid, OSError) as error:
            raise _damaged(file, error) from None
    return total


def _files(path: Path) -> list[Path]:
    """The Parquet files of a table; raises PhoenixError where there is none."""
    files = _shard_files(path) if Path(path).is_dir() else [Path(path)]
    if not files or not files[0].is_file():
        raise PhoenixError(f"{path} does not exist: run the stage that makes it first")
    return files


def _shard_files(folder: Path) -> list[Path]:
    return sorted(path for path in Path(folder).glob("*.parquet") if not path.name.startswith("."))


def _damaged(path: Path, error: Exception) -> PhoenixError:
    return PhoenixError(f"{path} is damaged ({error}): move that stage's folder away and run again")
