"""The one exception for what a user can mend: a mistake, or a machine without disk, permission or memory."""

from __future__ import annotations

import errno
from pathlib import Path

# The end of a sentence about work that was cut off.
RESUMES = "what was finished is kept, and the same command resumes"


class PhoenixError(Exception):
    """What was given, what is wrong with it, what to do: one clear sentence or two.

    The command line prints the message without a traceback and exits with code 2; the runner shows it beside
    the cell that raised it. Anything that is our own defect stays an ordinary exception with its traceback.
    """


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CLOSED = (errno.EACCES, errno.EROFS, errno.EPERM, errno.EEXIST, errno.ENOTDIR)
# Libraries in C and Rust say the same in words of their own: SQLite, PyTorch's writers and allocators, safetensors.
_FULL_WORDS = ("no space left", "disk is full", "disk i/o error", "file too large", "os error 28", "unexpected pos")
_CLOSED_WORDS = ("readonly database", "permission denied")
_MEMORY_WORDS = ("out of memory", "not enough memory", "allocate memory", "cannot allocate", "malloc of size")


def machine_trouble(error: BaseException, place: Path) -> str | None:
    """The sentence for an error behind which the machine stands, in work on `place`; None for any other error."""
    told: BaseException | None = error
    while told is not None:
        number, words = getattr(told, "errno", None), str(told).lower()
        if number in _FULL or any(each in words for each in _FULL_WORDS):
            return f"no space left for {place}: free some disk and run the same command again"
        if number in _CLOSED or any(each in words for each in _CLOSED_WORDS):
            return f"{getattr(told, 'filename', None) or place} cannot be written: choose another folder with --out"
        if isinstance(told, MemoryError) or number == errno.ENOMEM or any(each in words for each in _MEMORY_WORDS):
            return f"memory ran out in work on {place}: free some or lower the batch size, then run again; {RESUMES}"
        told = told.__cause__ or (None if told.__suppress_context__ else told.__context__)
    return None
