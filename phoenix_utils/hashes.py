"""What a file or a value is known again by: SHA-256, each file read once in a process while it stays the same."""

from __future__ import annotations

import functools
import hashlib
import json
import time
from pathlib import Path
from typing import Any

from phoenix_utils.errors import PhoenixError

# Ticks of a file system's clock are at most 2 s apart (FAT): a file may change once more within one.
_TICK = 2 * 10**9


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex. Raises PhoenixError where this user may not read it.

    Checks before, inside and after a stage ask for the same products, gigabytes of weights among them.
    """
    found = Path(path).stat()
    # The time of the last change cannot be set back as that of the last writing can; Windows has only the latter.
    changed = max(found.st_mtime_ns, found.st_ctime_ns)
    state = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return _read(path) if time.time_ns() - changed < _TICK else _read_once(path, state)


def _read(path: Path) -> str:
    try:
        with open(path, "rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except PermissionError:
        raise PhoenixError(f"{path} cannot be read: mend its permissions and run the same command again") from None


@functools.lru_cache(maxsize=4096)
def _read_once(path: Path, state: tuple[int, ...]) -> str:
    return _read(path)


def sha256_path(path: Path) -> str:
    """SHA-256 of a file, or of a folder's file names and contents."""
    if path.is_file():
        return sha256_file(path)
    parts = [f"{item.relative_to(path)}:{sha256_file(item)}" for item in sorted(path.rglob("*")) if item.is_file()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def fingerprint(value: Any) -> str:
    """Short stable hash of anything JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]
