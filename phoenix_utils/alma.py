"""ALMA's prompt (Xu et al. 2023, arXiv 2309.11674), under which translation asks a model and filtering scores one."""

from __future__ import annotations

import functools

import langcodes

from phoenix_utils.errors import PhoenixError


@functools.cache
def language_name(code: str) -> str:
    """English name of an ISO 639 code, `German` for `de`; raises PhoenixError for a code that does not exist."""
    try:
        language = langcodes.Language.get(code)
        if language.is_valid():
            return language.language_name()
    except (langcodes.LanguageTagError, LookupError):
        pass
    raise PhoenixError(f"{code!r} is not a language code: give an ISO 639 code such as de, nl or sw")


def flat(text: str) -> str:
    """The text in one line: a line break would end a prompt's line."""
    return " ".join(text.split())


def alma(text: str, source: str, target: str) -> str:
    """ALMA's prompt, to the letter."""
    names = language_name(source), language_name(target)
    return f"Translate this from {names[0]} to {names[1]}:\n{names[0]}: {text}\n{names[1]}:"
