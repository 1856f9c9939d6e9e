"""Whose trouble an error is: the machine's, which gets a sentence, or ours, which keeps its traceback."""

import errno
import sqlite3
import ssl
from pathlib import Path

import pytest

from phoenix_utils.errors import PhoenixError, machine_trouble
from phoenix_utils.translation.store import SegmentStore

PLACE = Path("runs/mini/03_sft")


@pytest.mark.parametrize(
    "error, words",
    [
        (OSError(errno.ENOSPC, "No space left on device"), "no space left for runs/mini/03_sft"),
        (PermissionError(errno.EACCES, "Permission denied", "corpus.jsonl"), "corpus.jsonl cannot be read or written"),
        (FileExistsError(errno.EEXIST, "File exists", str(PLACE / "adapter")), "03_sft/adapter is in the way"),
        (MemoryError(), "memory ran out in work on runs/mini/03_sft"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "memory ran out"),
    ],
)
def test_trouble_of_the_machine_has_its_sentence(error, words):
    assert words in machine_trouble(error, PLACE)


@pytest.mark.parametrize(
    "error",
    [
        ssl.SSLError(1, "certificate verify failed"),  # its numbers are not the system's: 1 is not EPERM
        NotADirectoryError(errno.ENOTDIR, "Not a directory", "/elsewhere/file"),
        KeyError("adapter"),
    ],
)
def test_other_errors_are_not_called_so(error):
    assert machine_trouble(error, PLACE) is None


def test_a_cause_is_found_behind_the_error_it_raised():
    try:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise RuntimeError("writer stopped") from error
    except RuntimeError as error:
        assert "no space left" in machine_trouble(error, PLACE)


def test_a_store_in_use_is_not_called_damaged(tmp_path):
    path = tmp_path / "segments.sqlite"
    with SegmentStore(path) as store:
        with pytest.raises(PhoenixError, match="is in use by another process"), SegmentStore(path) as second:
            second.connection.execute("PRAGMA busy_timeout = 10")
            store.connection.execute("BEGIN IMMEDIATE")
            second.add(["another text"])
        store.connection.rollback()


def test_a_store_of_another_version_is_named_so(tmp_path):
    path = tmp_path / "segments.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE done (id INTEGER PRIMARY KEY, translation TEXT)")
    with pytest.raises(PhoenixError, match="of another version of this project"):
        SegmentStore(path)
