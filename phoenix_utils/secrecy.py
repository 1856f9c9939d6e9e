"""What looks like a secret: found before a release, refused in settings, hidden in whatever is written or shown."""

import os
import re
from typing import Any

# No letter or digit stands before a secret, unless it belongs to a code: a colour's, or a character's escaped in words.
_START = r"(?:(?<![A-Za-z0-9])|(?<=[\[;\d]m)|(?<=\\[a-z])|(?<=\\x[0-9a-fA-F]{2})|(?<=\\u[0-9a-fA-F]{4}))"
_KINDS = {
    "a Hugging Face token": _START + r"hf_[A-Za-z0-9]{30,}",
    "an API key (sk-…)": _START + r"sk-(?=[A-Za-z_-]{0,99}\d)[A-Za-z0-9_-]{20,}",
    "an AWS access key": _START + r"(?:AKIA|ASIA)[0-9A-Z]{16}(?![A-Za-z0-9])",
    "a GitHub token": _START + r"(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{50,})",
    "a Google API key": _START + r"AIza[0-9A-Za-z_-]{35}",
    "a Slack token": _START + r"xox[abprs]-[A-Za-z0-9-]{20,}",
    "a private key": r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----",
}
_SECRET = re.compile("|".join(f"({pattern})" for pattern in _KINDS.values()))
# One of these begins each of them. Looking for words first takes a hundredth of the time on a long text without any.
_MARKS = (
    *("hf_", "sk-", "AKIA", "ASIA", "github_pat_", "AIza", "xox", "-----BEGIN"),
    *(f"gh{letter}_" for letter in "pousr"),
)
# Not among the kinds: rows of data speak of such addresses, in examples that are nobody's password.
# It reaches to the last @ before the path, or, where what follows the colon is no port, before the text's next gap.
_PASSWORD = re.compile(r"(?<=://)(?:[^\s/?#'\"\\]+(?=@)|[^\s/?#@:'\"\\\[]{1,256}:(?!\d*[/?#])[^\s'\"\\<>]{1,256}(?=@))")
_VARIABLE = re.compile(r"(?:TOKEN|API_KEY|ACCESS_KEY|SECRET|PASSWORD)$")
# A shorter value ("EMPTY", for a local server that asks for any) is no secret, and stands in ordinary text.
_LEAST = 8


def kind(text: str) -> str | None:
    """What a text holds that looks like a token or a private key, in words; None for nothing."""
    found = _SECRET.search(text) if _may_hold_one(text) else None
    return list(_KINDS)[found.lastindex - 1] if found else None


def hide(text: str) -> str:
    """The text with `***` for tokens, passwords in addresses and what the environment's tokens and keys hold."""
    for value in _environment():
        text = text.replace(value, "***")
    if _may_hold_one(text):
        text = _SECRET.sub("***", text)
    return _PASSWORD.sub("***", text) if "://" in text else text


def hide_all(value: Any) -> Any:
    """The value of a JSON text with `hide` applied to each string in it."""
    if isinstance(value, str):
        return hide(value)
    if isinstance(value, list):
        return [hide_all(item) for item in value]
    if isinstance(value, dict):
        return {hide(key): hide_all(item) for key, item in value.items()}
    return value


def _may_hold_one(text: str) -> bool:
    return any(mark in text for mark in _MARKS)


def _environment() -> list[str]:
    """Values of variables such as HF_TOKEN and OPENAI_API_KEY, the longest first."""
    found = {value.strip() for name, value in os.environ.items() if _VARIABLE.search(name)}
    return sorted((value for value in found if len(value) >= _LEAST), key=len, reverse=True)
