"""The segments of one run, on disk: what is to translate, what is done, with the audit of each.

SQLite keeps the index on disk, so memory stays flat as the data grows, and commits make a kill harmless: what a
batch has written is there, what it had not is asked for again. What a run beside this one has translated in the same
way is taken over (`reuse`).
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from phoenix_utils.errors import PhoenixError, machine_trouble
from phoenix_utils.translation.translator import Translation

# `translator` is a fingerprint of everything that decides a translation; stores of the same one can share. Rows stand
# in the order of the corpus in both tables: whoever goes through the corpus again reads the file from front to back.
SCHEMA = """
CREATE TABLE IF NOT EXISTS segments (
    id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, text TEXT NOT NULL, length INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS done (
    id INTEGER PRIMARY KEY,
    translation TEXT NOT NULL, finish_reason TEXT, mean_logprob REAL, attempt TEXT, fault TEXT,
    checksum INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS about (translator TEXT PRIMARY KEY);
"""
_COLUMNS = "translation, finish_reason, mean_logprob, attempt, fault"
_STORED = f"{_COLUMNS}, checksum"
_TAKE_OVER = f"""
INSERT OR IGNORE INTO done (id, {_STORED})
SELECT mine.id, {_STORED}
FROM segments AS mine
JOIN other.segments AS theirs ON theirs.key = mine.key
JOIN other.done AS found ON found.id = theirs.id
"""
# SQLite takes at most 32,766 values in one statement; a row's segments are far fewer, a long document's may not be.
_AT_ONCE = 10_000


def segment_key(text: str) -> bytes:
    """The identity of a segment: equal texts are translated once."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16]


def _columns(done: Translation) -> tuple[str, str, float, str, str]:
    return done.text, done.finish_reason, float(done.mean_logprob), done.attempt, done.fault


def _is_sound(key: bytes, text: object, length: int) -> bool:
    """Whether a segment is what was written under its key; a damaged file may hold bytes or a number for the text."""
    return isinstance(text, str) and key == segment_key(text) and length == len(text)


def _checksum(columns: Sequence[object]) -> int:
    return zlib.crc32(repr(tuple(columns)).encode("utf-8", "surrogatepass"))


def _trouble(error: sqlite3.DatabaseError, path: Path) -> str:
    """What SQLite's error about the store at `path` means to its user."""
    if trouble := machine_trouble(error, path):
        return trouble
    if "locked" in str(error):
        return f"{path} is in use by another process: wait for it, or stop it, and run again"
    if "no such column" in str(error):
        return f"{path} is of another version of this project: finish the run with that, or give another --out"
    return f"{path} is damaged ({error}): move it away and run again"


class SegmentStore:
    """All distinct segments of a run; `path` is made where it does not exist. Use it as a context manager."""

    def __init__(self, path: Path, translator: str = ""):
        self.path, self.translator = path, translator
        try:
            self.connection = sqlite3.connect(path)
            self.connection.execute("PRAGMA journal_mode = WAL")
            self.connection.execute("PRAGMA synchronous = NORMAL")
            self.connection.executescript(SCHEMA)
            for table, columns in (("segments", "id, key, text, length"), ("done", f"id, {_STORED}")):
                self.connection.execute(f"SELECT {columns} FROM {table} LIMIT 0")  # of this version
            self.connection.execute("INSERT OR IGNORE INTO about VALUES (?)", (translator,))
            self.connection.commit()
        except sqlite3.DatabaseError as error:
            raise PhoenixError(_trouble(error, path)) from None

    def __enter__(self) -> SegmentStore:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        with contextlib.suppress(sqlite3.Error) if error else contextlib.nullcontext():
            # One file is easier to copy than a file and its log.
            self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.connection.close()
        if isinstance(error, sqlite3.DatabaseError):
            raise PhoenixError(_trouble(error, self.path)) from error

    def drop_damaged(self) -> None:
        """Forget each segment and each translation that is not what was written, so that it is asked for again."""
        execute = self.connection.execute
        texts = execute("SELECT id, key, text, length FROM segments")
        spoilt = [(id,) for id, key, text, length in texts if not _is_sound(key, text, length)]
        found = execute(f"SELECT id, {_STORED} FROM done")
        wrong = [(id,) for id, *columns, checksum in found if checksum != _checksum(columns)]
        with self.connection:
            self.connection.executemany("DELETE FROM segments WHERE id = ?", spoilt)
            self.connection.executemany("DELETE FROM done WHERE id = ?", spoilt + wrong)
            self.connection.execute("REINDEX")  # a damaged index hides texts, which would then be added once more

    def add(self, texts: Iterable[str]) -> None:
        """Ask for translations of `texts`; those known already are left alone. One commit: give many at once."""
        with self.connection:
            self.connection.executemany(
                "INSERT OR IGNORE INTO segments (key, text, length) VALUES (?, ?, ?)",
                ((segment_key(text), text, len(text)) for text in texts),
            )

    def reuse(self, others: Iterable[Path]) -> int:
        """Take over what the stores in `others` have translated with the same translator; returns how many segments.

        A store that cannot be read, or was made by another version of this program, is passed over.
        """
        before = self.totals()["done"]
        for path in others:
            with contextlib.suppress(sqlite3.DatabaseError):
                self._take_over(path)
        return self.totals()["done"] - before

    def _take_over(self, path: Path) -> None:
        self.connection.execute("ATTACH DATABASE ? AS other", (str(path),))
        try:
            about = self.connection.execute("SELECT 1 FROM other.about WHERE translator = ?", (self.translator,))
            if about.fetchone():
                with self.connection:
                    self.connection.execute(_TAKE_OVER)
        finally:
            self.connection.execute("DETACH DATABASE other")

    def pending(self, limit: int) -> Iterator[list[str]]:
        """Windows of at most `limit` segments without a translation, in the order of the corpus.

        Each window is asked for when the one before has been put; nothing is given twice.
        """
        last = -1
        while rows := self.connection.execute(
            "SELECT id, text FROM segments WHERE id > ? AND id NOT IN (SELECT id FROM done) ORDER BY id LIMIT ?",
            (last, limit),
        ).fetchall():
            last = rows[-1][0]
            yield [text for _, text in rows]

    def put(self, texts: Iterable[str], translations: Iterable[Translation]) -> None:
        """Keep the translations of `texts`; committed when this returns."""
        with self.connection:
            self.connection.executemany(
                f"INSERT OR REPLACE INTO done (id, {_STORED}) SELECT id, ?, ?, ?, ?, ?, ? FROM segments WHERE key = ?",
                (
                    (*columns, _checksum(columns), segment_key(text))
                    for text, columns in zip(texts, map(_columns, translations), strict=True)
                ),
            )

    def get(self, texts: Sequence[str]) -> list[Translation]:
        """The translations of `texts` in order; raises KeyError with the first that has none yet."""
        keys = [segment_key(text) for text in texts]
        found: dict[bytes, Translation] = {}
        for start in range(0, len(keys), _AT_ONCE):
            wanted = keys[start : start + _AT_ONCE]
            marks = ", ".join("?" * len(wanted))
            rows = self.connection.execute(
                f"SELECT key, {_COLUMNS} FROM segments JOIN done USING (id) WHERE key IN ({marks})", wanted
            )
            found.update((key, Translation(*columns)) for key, *columns in rows)
        for text, key in zip(texts, keys, strict=True):
            if key not in found:
                raise KeyError(text)
        return [found[key] for key in keys]

    def totals(self) -> dict[str, int]:
        """Counts and source characters: segments, done, characters, characters_done."""
        row = self.connection.execute(
            "SELECT count(*), count(done.id), coalesce(sum(length), 0), "
            "coalesce(sum(CASE WHEN done.id IS NOT NULL THEN length END), 0) FROM segments LEFT JOIN done USING (id)"
        ).fetchone()
        return dict(zip(("segments", "done", "characters", "characters_done"), row, strict=True))
