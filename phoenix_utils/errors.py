"""The one exception for what a user can mend: a mistake, or a machine without disk, permission or memory.

Its message, and whatever else a terminal is shown of foreign texts, goes through `printable`.
"""

from __future__ import annotations

import errno
import re
import ssl
from pathlib import Path

from phoenix_utils import secrecy

# The end of a sentence about work that was cut off.
RESUMES = "what was finished is kept, and the same command resumes"
# Characters of an error message; a longer one keeps its beginning and its end.
LONGEST = 2000
# What a terminal obeys instead of showing it: control characters beside tab and newline, and directional overrides.
_COMMANDS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""A model's or a corpus's text for a terminal: what would move the cursor or hide words is written as `\x1b`."""
    return _COMMANDS.sub(lambda found: ascii(found[0])[1:-1], text)


class PhoenixError(Exception):
    """What was given, what is wrong with it, what to do: one clear sentence or two.

    The command line prints the message without a traceback and exits with code 2; the runner shows it beside
    the cell that raised it. Anything that is our own defect stays an ordinary exception with its traceback. Since
    messages repeat what was given, they are made harmless here: secrets hidden, one line, no control characters.
    """

    def __init__(self, message: str = ""):
        # Shortened roughly before, for what follows reads every letter, and exactly after: a secret that the first cut
        # goes through is gone with the second.
        whole = secrecy.hide(_shortened(message, 10 * LONGEST))
        super().__init__(_shortened(re.sub(r"\s+|[\u200b\ufeff]", " ", printable(whole)), LONGEST))


def _shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest // 2]} … {text[-longest // 2 :]}"


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CLOSED = (errno.EACCES, errno.EROFS, errno.EPERM)
# A file where a folder has to be, or the reverse: the user's doing in the run directory, our defect elsewhere.
_IN_THE_WAY = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR)
# Libraries in C and Rust say the same in words of their own: SQLite, PyTorch's writers and allocators, safetensors.
_FULL_WORDS = (
    *("no space left", "disk is full", "disk i/o error", "file too large", "os error 28"),
    *("unexpected pos", "iostream error"),  # PyTorch's writer, by where it is caught
)
_CLOSED_WORDS = ("readonly database", "permission denied")
# oneDNN says no more than this where it finds no memory for the weights that it orders anew.
_MEMORY_WORDS = (
    *("out of memory", "not enough memory", "allocate memory", "cannot allocate", "malloc of size"),
    *("could not create a primitive", "can't start new thread"),
)


def machine_trouble(error: BaseException, place: Path) -> str | None:
    """The sentence for an error behind which the machine stands, in work on `place`; None for any other error."""
    told: BaseException | None = error
    while told is not None:
        number, words = getattr(told, "errno", None), str(told).lower()
        number = None if isinstance(told, ssl.SSLError) else number  # counts its errors by itself
        if number in _FULL or any(each in words for each in _FULL_WORDS):
            return f"no space left for {place}: free some disk and run the same command again"
        about = Path(getattr(told, "filename", None) or place)
        if number == errno.ENAMETOOLONG:
            return f"{about} is a longer name than the disk takes: give a shorter one"
        if number in _CLOSED or any(each in words for each in _CLOSED_WORDS):
            return f"{about} cannot be read or written: mend its permissions or choose another folder with --out"
        if number in _IN_THE_WAY and about.is_relative_to(place):
            return f"{about} is in the way: move it away or choose another folder with --out"
        if isinstance(told, MemoryError) or number == errno.ENOMEM or any(each in words for each in _MEMORY_WORDS):
            return f"memory ran out in work on {place}: free some or lower the batch size, then run again; {RESUMES}"
        told = told.__cause__ or (None if told.__suppress_context__ else told.__context__)
    return None
