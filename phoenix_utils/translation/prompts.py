"""Prompts that make a language model translate: ALMA's own, the same with examples, and a chat model's.

ALMA (Xu et al. 2023, arXiv 2309.11674) fine-tunes on `Translate this from English to German:` followed by the
labelled source and an open target label, without any chat template. A base model that was never tuned for
translation needs a few examples before it; they are written for this project and used in no measurement.
"""

from __future__ import annotations

import functools

import langcodes

from phoenix_utils.errors import PhoenixError

# English source, then the same in each language: a question, an instruction, an answer, numbers and units.
EXAMPLES: dict[str, list[tuple[str, str]]] = {
    "de": [
        ("How long should I let the paint dry?", "Wie lange soll ich die Farbe trocknen lassen?"),
        (
            "Write a short note to my neighbour about the parcel.",
            "Schreib eine kurze Nachricht an meinen Nachbarn wegen des Pakets.",
        ),
        (
            "Yes, but only if both values are positive; otherwise the result is undefined.",
            "Ja, aber nur, wenn beide Werte positiv sind; sonst ist das Ergebnis nicht definiert.",
        ),
        (
            "The ferry leaves Rostock at 6:45 and needs about two hours.",
            "Die Fähre verlässt Rostock um 6:45 Uhr und braucht etwa zwei Stunden.",
        ),
    ],
}
# Other examples for a second try: what a small model copies after one set, it often translates after another.
SECOND_EXAMPLES: dict[str, list[tuple[str, str]]] = {
    "de": [
        ("How much flour do I need for two?", "Wie viel Mehl brauche ich für zwei Personen?"),
        (
            "Then the two brothers looked at each other and laughed, because neither of them had locked the door.",
            "Da sahen sich die beiden Brüder an und lachten, denn keiner von ihnen hatte die Tür abgeschlossen.",
        ),
        (
            "**Price:** most shops charge more at the weekend, so go on a weekday.",
            "**Preis:** Die meisten Läden verlangen am Wochenende mehr, also geh an einem Werktag.",
        ),
        (
            "write a friendly note to the neighbours about the noise",
            "schreib den Nachbarn eine freundliche Nachricht wegen des Lärms",
        ),
        (
            "No, that is wrong. A kilogram of feathers weighs exactly as much as a kilogram of stones.",
            "Nein, das ist falsch. Ein Kilogramm Federn wiegt genauso viel wie ein Kilogramm Steine.",
        ),
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


def flat(text: str) -> str:
    """The text in one line: a line break would end a prompt's line."""
    return " ".join(text.split())


def alma(text: str, source: str, target: str) -> str:
    """ALMA's prompt, to the letter."""
    names = language_name(source), language_name(target)
    return f"Translate this from {names[0]} to {names[1]}:\n{names[0]}: {text}\n{names[1]}:"


def few_shot(text: str, source: str, target: str, examples: dict[str, list[tuple[str, str]]] = EXAMPLES) -> str:
    """ALMA's prompt behind worked examples; without examples where none are written for this pair."""
    if source != "en" or target not in examples:
        return alma(text, source, target)
    shots = (f"{alma(english, source, target)} {other}\n\n" for english, other in examples[target])
    return "".join(shots) + alma(text, source, target)


def chat(text: str, source: str, target: str) -> str:
    """The request put to an instruction-tuned model, without its chat template."""
    names = language_name(source), language_name(target)
    return f"Translate the following text from {names[0]} to {names[1]}. Answer with the translation only.\n\n{text}"


STYLES = {"few_shot": few_shot, "alma": alma, "chat": chat}
