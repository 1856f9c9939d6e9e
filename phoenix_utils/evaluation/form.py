"""Did an answer keep to the form that was asked for? JSON, a table, so many words or sentences: no judge is needed.

Only what a prompt says in so many words is looked for, in German and English; of a prompt that asks for no such form
nothing is known. Every held-out reference obeys (tested), so a miss is the model's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator

_COUNTS = "zwei drei vier fünf sechs sieben acht neun zehn elf zwölf".split()
_ENGLISH = "two three four five six seven eight nine ten eleven twelve".split()
_NUMBERS = {word: value for words in (_COUNTS, _ENGLISH) for value, word in enumerate(words, 2)}
_NUMBER = rf"(?P<number>\d{{1,4}}|{'|'.join(_NUMBERS)})"
_MOST = r"höchstens|maximal|nicht mehr als|bis zu|at most|no more than|up to"
_ABOUT = r"etwa|ungefähr|circa|ca\.|rund|knapp|about|around|roughly"
_SIZE = re.compile(
    rf"\b(?:(?P<most>{_MOST})|(?P<about>{_ABOUT})|in|genau|exactly)\s+(?:in\s+|den\s+)?{_NUMBER}\s+"
    r"(?:\w+e[nrs]?\s+)?(?P<unit>Wörtern?|words|Sätzen?|sentences)\b|"
    r"(?P<plain>\d)\s+(?:Sätze|sentences)\b",
    re.I,
)
_JSON = re.compile(r"\b(?:als|as|im|in|ein|eine|gib\b[^.:]*)\s+JSON\b", re.I)
_TABLE = re.compile(r"\b(?:als|in einer|eine|ne|as a|in a) (?:tabelle|table)\b|\btabelle\?", re.I)
_WITHOUT = re.compile(
    r"\b(?:ohne|without) (?:das Wort|die Wörter|the words?) ((?:[„“\"][^“”\"]+[“”\"](?: und | and |, )?)+)", re.I
)
# A size named with "about" may be missed by so much.
TOLERANCE = 0.3


def obeyed(prompt: str, answer: str, language: str) -> bool | None:
    """Whether `answer` keeps to every form that `prompt` asks for; None where it asks for none of those known here.

    What is quoted in a prompt asks for nothing: „schreib es als Tabelle“ may stand in a text that is to be translated.
    """
    verdicts = [rule(answer) for rule in _rules(prompt, language)]
    return all(verdicts) if verdicts else None


def _rules(prompt: str, language: str) -> Iterator[Callable[[str], bool]]:
    for found in _WITHOUT.finditer(prompt):
        words = re.findall(r"[„“\"]([^“”\"]+)[“”\"]", found[1])
        yield lambda answer, words=words: not any(re.search(rf"\b{re.escape(w)}\b", answer, re.I) for w in words)
    asked = re.sub(r"„[^“”]{0,2000}[“”]|\"[^\"\n]*\"|```.*?```", " ", prompt, flags=re.S)
    if _JSON.search(asked):
        yield _is_json
    if _TABLE.search(asked):
        yield lambda answer: sum(line.count("|") > 0 for line in answer.splitlines()) >= 2
    for found in {found[0]: found for found in _SIZE.finditer(asked)}.values():  # each size once
        unit = (found["unit"] or "Sätze").casefold()
        yield _sized(found, "words" if unit.startswith(("w", "wö")) else "sentences", language)


def _sized(found: re.Match, unit: str, language: str) -> Callable[[str], bool]:
    word = (found["number"] or found["plain"]).casefold()
    wanted = _NUMBERS.get(word) or int(word)

    def fits(answer: str) -> bool:
        count = len(re.findall(r"\w[\w'’-]*", answer)) if unit == "words" else _sentences(answer, language)
        if found["most"]:
            return 0 < count <= wanted
        slack = TOLERANCE * wanted if found["about"] else 0
        return abs(count - wanted) <= slack

    return fits


def _sentences(answer: str, language: str) -> int:
    import sentencex

    lines = [line for line in answer.splitlines() if line.strip()]
    return sum(bool(re.search(r"\w", part)) for line in lines for part in sentencex.segment(language, line))


def _is_json(answer: str) -> bool:
    """Whether an object or list of JSON begins at the beginning of some line, fenced or not, and is whole."""
    for found in re.finditer(r"^[ \t]*(?=[\[{])", answer, re.M):
        try:
            json.JSONDecoder().raw_decode(answer, found.end())
            return True
        except (ValueError, RecursionError):
            continue
    return False
