"""What is known of a server before it is asked: an address where one can be, and the key from the environment."""

import os
import re

from phoenix_utils.errors import PhoenixError

KEY_VARIABLE = "OPENAI_API_KEY"
EXAMPLE = "for example http://localhost:8000/v1"


def is_address(text: str) -> bool:
    """Whether `text` is an address over HTTP, without a password, that a request can be sent to."""
    import httpx  # reading settings that name no server should not load it

    if not re.fullmatch(r"https?://[^\s@]+", text):
        return False
    try:
        url = httpx.URL(text)
        url.raw_host.decode("ascii").encode("idna")  # as a name is looked up
        return bool(url.host) and (url.port or 0) < 2**16
    except (httpx.InvalidURL, UnicodeError):
        return False


def checked_address(address: str | None) -> str | None:
    """The address that a setting holds; raises ValueError, as pydantic's validators do, for one that is none."""
    if address is not None and not is_address(address):
        raise ValueError(f"it should be an address, {EXAMPLE}")
    return address


def key() -> str:
    """The key that OPENAI_API_KEY holds, "" for none.

    Raises PhoenixError, which does not repeat it, for one that no header can carry.
    """
    value = os.environ.get(KEY_VARIABLE, "").strip()
    if not re.fullmatch(r"[!-~]*", value):
        raise PhoenixError(
            f"the environment variable {KEY_VARIABLE} holds spaces, line breaks or letters outside ASCII, which no key "
            "has: set it to the key alone"
        )
    return value
