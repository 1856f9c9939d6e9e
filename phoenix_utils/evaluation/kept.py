"""Answers that were paid for once: a file of JSON lines, one appended for each request as soon as it is answered.

The key of a line is a hash of everything that the answer depends on, so that an interrupted run asks only for what is
missing, and no answer is ever taken for that of another prompt, model or setting. A line that is not what was written,
by its checksum, does not count.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from phoenix_utils import strict_json
from phoenix_utils.artifacts import fingerprint


class Kept:
    """The answers in the file `path`; what a killed process left half-written at its end is cut off."""

    def __init__(self, path: Path):
        self.path, self.rows = path, {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file():
            return
        content = path.read_bytes()
        end = content.rfind(b"\n") + 1
        if end < len(content):
            os.truncate(path, end)
        for line in content[:end].decode("utf-8", "replace").split("\n")[:-1]:  # splitlines would cut at U+2028 too
            with contextlib.suppress(ValueError, KeyError, TypeError):
                row = strict_json.loads(line)
                whole = fingerprint([row["key"], row["value"]])
                if row.get("checksum", whole) == whole:  # lines of an earlier version have none
                    self.rows[row["key"]] = row["value"]

    @staticmethod
    def key(**about: Any) -> str:
        """A key for what an answer depends on."""
        return fingerprint(about)

    def get(self, key: str) -> Any | None:
        """The answer kept under `key`, or None."""
        return self.rows.get(key)

    def add(self, values: Mapping[str, Any]) -> None:
        """Keep answers by their keys; they are on the disk when this returns."""
        rows = [{"key": key, "value": value, "checksum": fingerprint([key, value])} for key, value in values.items()]
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        with self.path.open("ab") as file:
            file.write("".join(lines).encode("utf-8"))
            file.flush()
            os.fsync(file.fileno())
        self.rows.update(values)
