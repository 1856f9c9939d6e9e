"""The segments of one run, on disk: what is to translate, what is done, with the audit of each.

SQLite keeps the index on disk, so memory stays flat as the data grows, and commits make a kill harmless: what a
batch has written is there, what it had not is asked for again.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable
from pathlib import Path

from phoenix_utils.engines import Completion
from phoenix_utils.errors import PhoenixError

SCHEMA = """
CREATE TABLE IF NOT EXISTS segments (
    key BLOB PRIMARY KEY, text TEXT NOT NULL, length INTEGER NOT NULL,
    translation TEXT, finish_reason TEXT, mean_logprob REAL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS pending ON segments (length DESC, key) WHERE translation IS NULL;
"""


def segment_key(text: str) -> bytes:
    """The identity of a segment: equal texts are translated once."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16]


class SegmentStore:
    """All distinct segments of a run; `path` is made where it does not exist. Use it as a context manager."""

    def __init__(self, path: Path):
        self.path = path
        try:
            self.connection = sqlite3.connect(path)
            self.connection.execute("PRAGMA journal_mode = WAL")
            self.connection.execute("PRAGMA synchronous = NORMAL")
            self.connection.executescript(SCHEMA)
        except sqlite3.DatabaseError as error:
            raise PhoenixError(
                f"{path} cannot be used ({error}): if it is damaged, move it away and run again"
            ) from None

    def __enter__(self) -> SegmentStore:
        return self

    def __exit__(self, *_: object) -> None:
        # One file is easier to copy than a file and its log.
        self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.connection.close()

    def add(self, texts: Iterable[str]) -> None:
        """Ask for translations of `texts`; those known already are left alone."""
        with self.connection:
            self.connection.executemany(
                "INSERT OR IGNORE INTO segments (key, text, length) VALUES (?, ?, ?)",
                ((segment_key(text), text, len(text)) for text in texts),
            )

    def pending(self, limit: int = 4096) -> list[str]:
        """Segments without a translation, longest first, at most `limit`."""
        rows = self.connection.execute(
            "SELECT text FROM segments WHERE translation IS NULL ORDER BY length DESC, key LIMIT ?", (limit,)
        )
        return [text for (text,) in rows]

    def put(self, texts: Iterable[str], completions: Iterable[Completion]) -> None:
        """Keep the translations of `texts`; committed when this returns."""
        with self.connection:
            self.connection.executemany(
                "UPDATE segments SET translation = ?, finish_reason = ?, mean_logprob = ? WHERE key = ?",
                (
                    (done.text, done.finish_reason, done.mean_logprob, segment_key(text))
                    for text, done in zip(texts, completions, strict=True)
                ),
            )

    def get(self, text: str) -> Completion:
        """The translation of `text`; raises KeyError where there is none yet."""
        row = self.connection.execute(
            "SELECT translation, finish_reason, mean_logprob FROM segments WHERE key = ?",
            (segment_key(text),),
        ).fetchone()
        if row is None or row[0] is None:
            raise KeyError(text)
        return Completion(*row)

    def totals(self) -> dict[str, int]:
        """Counts and source characters: segments, done, characters, characters_done."""
        row = self.connection.execute(
            "SELECT count(*), count(translation), coalesce(sum(length), 0), "
            "coalesce(sum(CASE WHEN translation IS NOT NULL THEN length END), 0) FROM segments"
        ).fetchone()
        return dict(zip(("segments", "done", "characters", "characters_done"), row, strict=True))
