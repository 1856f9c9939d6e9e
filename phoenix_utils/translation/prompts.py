"""Prompts that make a language model translate: ALMA's own, the same with examples, and a chat model's.

ALMA (Xu et al. 2023, arXiv 2309.11674) fine-tunes on `Translate this from English to German:` followed by the
labelled source and an open target label, without any chat template. A base model that was never tuned for
translation needs a few examples before it; they are written for this project and used in no measurement.
"""

from __future__ import annotations

import functools

import langcodes

from phoenix_utils.errors import PhoenixError

# English source, then the same in each language. They show what tempts a small model to copy: marks of
# emphasis, quotations, names and code, besides a plain question and an instruction.
EXAMPLES: dict[str, list[tuple[str, str]]] = {
    "de": [
        ("How long should I let the paint dry?", "Wie lange soll ich die Farbe trocknen lassen?"),
        ("**Budget.** Who pays for it, and until when?", "**Budget.** Wer bezahlt das, und bis wann?"),
        ("write a short note to my neighbour: \"Your parcel is here.\"",
         "schreib meinem Nachbarn eine kurze Nachricht: „Ihr Paket ist hier.“"),
        ("Anna Berg: the ferry leaves at 6:45, so `wait()` is not needed.",
         "Anna Berg: Die Fähre fährt um 6:45 Uhr ab, also ist `wait()` nicht nötig."),
    ],
}


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


def alma(text: str, source: str, target: str) -> str:
    """ALMA's prompt, to the letter."""
    names = language_name(source), language_name(target)
    return f"Translate this from {names[0]} to {names[1]}:\n{names[0]}: {text}\n{names[1]}:"


def few_shot(text: str, source: str, target: str) -> str:
    """ALMA's prompt behind worked examples; without examples where none are written for this pair."""
    if source != "en" or target not in EXAMPLES:
        return alma(text, source, target)
    shots = (f"{alma(english, source, target)} {other}\n\n" for english, other in EXAMPLES[target])
    return "".join(shots) + alma(text, source, target)


def chat(text: str, source: str, target: str) -> str:
    """The request put to an instruction-tuned model, without its chat template."""
    names = language_name(source), language_name(target)
    return (
        f"Translate the following text from {names[0]} to {names[1]}. "
        f"Answer with the translation only.\n\n{text}"
    )


STYLES = {"few_shot": few_shot, "alma": alma, "chat": chat}
