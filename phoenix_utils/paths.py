"""Names that users give and that may be paths."""

import os
from pathlib import Path

from phoenix_utils.errors import PhoenixError


def expanded(name: str | Path) -> Path:
    """The path with `~` put out, which takes any text: `~nobody` stays as it is, where pathlib raises RuntimeError.

    Raises PhoenixError for a name with a NUL character, which no path holds.
    """
    if "\0" in str(name):
        raise PhoenixError(f"the name {str(name)!r} holds a NUL character (\\0), which no path can: take it out")
    return Path(os.path.expanduser(name))
