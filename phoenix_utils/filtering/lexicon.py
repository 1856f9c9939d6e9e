"""The few words that rules need to know of a language; for a language that is missing here, its rules abstain.

Which words belong to which language comes from wordfreq, so for about 45 languages; negations, forms of address and
number words are written down for those that somebody has checked on human translations.
"""

import functools
import re

SPACELESS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\u0e00-\u0e7f]")
"""A letter of a script that writes no spaces between words: Japanese, Chinese, Thai."""

# What negates beyond doubt, and what can stand for it in the other language ("statt", "fehlt", "avoid"): a human
# translator turns one into the other freely, so the second list is long.
NEGATIONS = {
    "en": (
        r"\b(?:not(?! only| necessarily| to mention| until| need to| have to)|cannot|never(?!theless)|nobody|without|"
        r"nothing(?! wrong)|none|neither|no(?!\.|\?| matter| sooner| more than| less than| later than))\b|"
        r"\b(?:cant|dont)\b(?! forget| worry)|n['’]t\b(?! forget| worry| (?:it|they|you|he|she|we|I|that)\?)"
    ),
    "de": r"\b(?:nicht(?! nur)|nichts|nich|nix|kein(?:e[nmrs]?|erlei)?|nie|niemals|niemand\w*|weder|ohne)\b",
}
INSTEAD = {
    "en": (
        r"\b(?:un|in|im|ir|dis|non|mis|de)[- ]?\w{4,}|\w+less(?:ly)?\b|-free\b|\b(?:isnt|wont|doesnt|didnt|without|nor|"
        r"fail\w*|lack\w*|miss\w*|only|except|instead|rather|hardly|barely|few|little|unless|until|avoid\w*|prevent\w*|"
        r"ignor\w*|hid\w*|exclud\w*|remov\w*|delet\w*|clear\w*|empty|blank|off|stop\w*|skip\w*|against|too|"
        r"far|"
        r"different\w*|other\w*|but|whether|either|any|free|keep|kept|leave|left|beyond|apart|out of|"
        r"reject\w*|refus\w*|"
        r"lose|lost|alone|wrong\w*|bad\w*|zero|false|optional\w*|remain\w*|forget\w*|still|read-only|unlike|just|fine|forgot\w*|out\w*|yes|away|mind|difficult|hard)\b"
    ),
    "de": (
        r"\bun(?!d\b|ter|te[nrs]|s\b|ser|i[vo]|gefähr)\w{3,}|\bmiss\w{3,}|\bnicht\w{3,}|\w+los(?:e[nmrs]?)?\b|"
        r"\w+frei(?:e[nmrs]?)?\b|\b(?:ohne|sonst|statt|anstatt|anstelle|außer|außerhalb|ausgenommen|nur|lediglich|"
        r"ausschließ\w*|kaum|selten|fehl\w*|verhinder\w*|vermeid\w*|unterlass\w*|ignorier\w*|verbirg\w*|"
        r"verb[eo]rg\w*|ausgeblendet\w*|deaktivier\w*|entf[aä]ll\w*|abgelehnt\w*|verbot\w*|"
        r"verbiete\w*|verweiger\w*|erspar\w*|sondern|trotz\w*|Gegen\w*|höchstens|keinesfalls|keineswegs|"
        r"ausgeschlossen|nein|aus(?:bleib\w*)?|ab(?:zu)?lehn\w*|egal|nee)\b"
    ),
}
# How the reader is addressed. German Sie is only certain where it does not begin a sentence.
FORMAL = {"de": r"(?<=[\wäöüß,;] )(?:Sie|Ihnen|Ihre[nmrs]?|Ihr)\b", "nl": r"\b(?:u|uw)\b"}
FAMILIAR = {"de": r"\b(?:du|dich|dir|dein(?:e[nmrs]?)?)\b", "nl": r"\b(?:je|jij|jou|jouw)\b"}

_UNITS = {
    "en": "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
          "seventeen eighteen nineteen",
    "de": "null ein zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn sechzehn "
          "siebzehn achtzehn neunzehn",
}  # fmt: skip
_TENS = {
    "en": "twenty thirty forty fifty sixty seventy eighty ninety",
    "de": "zwanzig dreißig vierzig fünfzig sechzig siebzig achtzig neunzig",
}
_OTHER_NUMBERS = {
    "en": {"1": "first once single|an?", "2": "second twice both double pair couple half", "3": "third triple",
           "4": "quarter", "5": "fifth", "8": "eighth", "9": "ninth", "12": "dozen noon twelfth", "15": "quarter",
           "24": "midnight", "30": "half", "50": "half", "100": "hundred", "1000": "thousand"},
    "de": {"1": "erste eins einmal einzige", "2": "zweite beide doppel paar halb", "3": "dritte dreifach",
           "4": "viertel", "7": "siebte siebt", "12": "dutzend mittag", "15": "viertel", "24": "mitternacht",
           "30": "halb", "50": "halb hälfte", "100": "hundert", "1000": "tausend"},
}  # fmt: skip


@functools.cache
def _number_words(language: str) -> dict[str, re.Pattern]:
    """For each number up to 100 (and 1000) the beginnings of words that say it; {} for an unknown language."""
    if language not in _UNITS:
        return {}
    units, tens = _UNITS[language].split(), _TENS[language].split()
    words = {str(value): [word] for value, word in enumerate(units)}
    for ten, word in enumerate(tens, 2):
        words[str(ten * 10)] = [word]
        for unit in range(1, 10):
            both = f"{word}-?{units[unit]}" if language == "en" else f"{units[unit]}und{word}"
            words[str(ten * 10 + unit)] = [both]
    for value, more in _OTHER_NUMBERS[language].items():
        words.setdefault(value, []).extend(more.replace("|", " ").split())
    whole = r"(?:e[nmrs]?)?\b"  # "ein" begins too many other words
    return {
        value: re.compile(rf"\b(?:{'|'.join(found)}){whole if value == '1' else ''}", re.IGNORECASE)
        for value, found in words.items()
    }


def says_number(text: str, number: str, language: str) -> bool:
    """Whether a text says a number ("12") in words; True for a language whose words are not known and small ones."""
    words = _number_words(language)
    if not words:
        return len(number) <= 2
    return number in words and bool(words[number].search(text))


@functools.lru_cache(maxsize=100_000)
def is_foreign(word: str, source_language: str, language: str) -> bool:
    """Whether a word is common in the source language and over ten times rarer in the target language (wordfreq).

    False for every word where wordfreq does not know both languages, or cannot cut their words (Japanese, Chinese and
    Korean need packages of their own for that).
    """
    import wordfreq

    try:
        here, there = (wordfreq.zipf_frequency(word, code) for code in (source_language, language))
    except (LookupError, ImportError):
        return False
    return here >= 3.5 and here - there >= 1.1


# Median ratio of lengths (smoothed, `pairs.length_ratio`) in 4,400 human pairs: German is longer than English.
_CENTRES = {("en", "de"): 1.15, ("de", "en"): 0.88}


def length_centre(source_language: str, language: str) -> float | None:
    """The usual ratio of lengths, translation to source; None where nobody has measured it."""
    return _CENTRES.get((source_language, language))


@functools.cache
def language_names(source_language: str, language: str) -> tuple[str, ...]:
    """Both languages' names, in English and in themselves, as a prompt may have them: "German", "Deutsch", …"""
    import langcodes

    names = []
    for code in (language, source_language):
        found = langcodes.Language.get(code)
        names += [found.display_name(), found.autonym(), found.display_name(language)]
    return tuple(dict.fromkeys(names))
