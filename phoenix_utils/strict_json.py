"""JSON that somebody else wrote: whatever is wrong with it is a JSONDecodeError, and no half characters come in."""

from __future__ import annotations

import json
import re
from typing import Any

_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


def loads(text: str) -> Any:
    """The value of a JSON text, with half of a surrogate pair (left by a cut-off emoji) as U+FFFD.

    No file and no tokenizer can hold such a half; the replacement keeps the rest of the row. Raises JSONDecodeError
    also for what Python's own reader gives up on: very deep nesting, and numbers of thousands of digits.
    """
    try:
        value = json.loads(text)
        return _without_surrogates(value) if _SURROGATE_ESCAPE.search(text) else value
    except json.JSONDecodeError:
        raise
    except (RecursionError, ValueError) as error:
        what = "Nested too deeply" if isinstance(error, RecursionError) else "A number is too long"
        raise json.JSONDecodeError(what, text, 0) from None


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(item) for key, item in value.items()}
    return value
