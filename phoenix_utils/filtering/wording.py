"""What a translation says that it should not, or no longer says: leftovers, chatter, polarity, address, lost sentences.

Each rule takes a source and its translation and returns a reason, or None if all is well; rules that know only some
languages (`lexicon.py`) abstain for the others.

    >>> negation("Do not open the door.", "Öffnen Sie die Tür.")
    "the source negates (not) more often than the translation"
"""

import functools
import re
from collections import Counter
from itertools import groupby

from phoenix_utils import pairs
from phoenix_utils.filtering import lexicon

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_QUOTED = re.compile(
    r"\"[^\"\n]{1,400}\"|“[^”\n]{1,400}”|„[^“”\n]{1,400}[“”]|«[^»\n]{1,400}»|»[^«\n]{1,400}«|\*[^*\n]{1,200}\*"
)
# Two capitals or digits before the mark are an abbreviation more often than an end.
_SENTENCES = re.compile(r"(?<=[^\W\d_]{3}[.!?…])[\"”“»)\]]*\s+|(?<=[\d)][.!?])\s+(?=[A-ZÄÖÜ\"„“])|(?<=[。！？])|\n+")
_END = re.compile(r"[.!?:…。！？][\"'”’“»«)\]*_]*$")
_REQUEST = re.compile(
    r"\btranslate (?:this|the following|it)\b|\bhere(?: is|['’]s) (?:the|your|a) (?:\w+ )?translation\b|"
    r"\btranslation (?:of the text|into|to)\b|\b(?:answer|reply) with the translation only\b|"
    r"\bhier ist (?:die|eine) (?:\w+ )?Übersetzung\b|^\W*(?:translation|Übersetzung)\s*:|"
    r"\bübersetze? (?:dies|den folgenden)",
    re.IGNORECASE | re.MULTILINE,
)
_REFUSAL = re.compile(
    r"\bas an ai\b|\bas a language model\b|\bals (?:ein )?(?:KI|Sprachmodell)|\bI(?:['’]m| am) (?:sorry|unable)|"
    r"\bI can(?:['’]t|not) "
    r"(?:help|translate|assist|fulfil)|\b(?:kann ich|ich kann|darf ich|ich darf)\b.{0,40}\bnicht "
    r"(?:übersetzen|helfen)|\btut mir leid\b",
    re.IGNORECASE,
)
_LINKS = frozenset(
    "a after all an and are as at be before between by can for from has have i if in into is it no not of on or per "
    "that the then this to was when which will with you your".split()
)
_TWICE = re.compile(r"\b(no|kein\w*)\b([^.!?;]{1,40}?\b(?:and|or|und|oder|,) )\1\b", re.IGNORECASE)
_TRANSLATE = re.compile(r"\btranslat\w*\b", re.IGNORECASE)


def remainder(source: str, text: str, language: str = "de", source_language: str = "en") -> str | None:
    """Reason if a passage of three words or more was left in the source's language.

    `pairs.copied` measures how much of a text is copied; one clause in a long answer is too little for it, and enough
    for the student to learn switching languages. Such a passage holds two words in small letters that only the
    source's language uses (the, figures) and stands outside quotation marks. A text that is its source over again is
    judged by words with capitals too.
    """
    words = _WORD.findall(_QUOTED.sub(" ", pairs.prose(text)))
    foreign = [lexicon.is_foreign(word.lower(), source_language, language) for word in words]
    if sum(foreign) < 2:
        return None
    original = [word.lower() for word in _WORD.findall(pairs.prose(source))]
    if len(words) > 2 and [word.lower() for word in words] == original and pairs.letters(text) >= 20:
        return f"it is the source over again, in {source_language!r}"
    runs = set(zip(original, original[1:], original[2:], strict=False))
    shared = [tuple(word.lower() for word in run) in runs for run in zip(words, words[1:], words[2:], strict=False)]
    start = 0
    for run, group in groupby(shared):
        end = start + len(list(group))
        if run and (passage := _left_over(words[start : end + 2], foreign[start : end + 2])):
            return f"{passage[:80]!r} is left in {source_language!r}"
        start = end
    return None


def _left_over(words: list[str], foreign: list[bool]) -> str:
    """The passage, if it is prose of the source's language; titles and names have capitals in all longer words."""
    plain = [word for word, is_foreign in zip(words, foreign, strict=True) if is_foreign and word[0].islower()]
    is_prose = len(words) >= 6 or any(word.lower() in _LINKS for word in words)  # not a list of names of columns
    return " ".join(words) if is_prose and sum(foreign) >= 2 and any(len(word) >= 4 for word in plain) else ""


@functools.lru_cache(maxsize=64)
def sentences(text: str) -> list[str]:
    """The sentences of a text's prose that have three words or more; a shorter one belongs to the one before."""
    found: list[str] = []
    for piece in _SENTENCES.split(pairs.prose(text)):
        if piece and piece.strip():
            if found and len(_WORD.findall(piece)) < 3 and not lexicon.SPACELESS.search(piece):
                found[-1] += " " + piece.strip()
            else:
                found.append(piece.strip())
    return found


def lost_sentence(
    source: str, text: str, language: str = "de", source_language: str = "en", centre: float = 1.0, least: float = 0.85
) -> str | None:
    """Reason if the translation has fewer sentences than its source and is shorter than that many would be.

    Sentence-level translators skip sentences in long segments (ALMA, issues 20, 23 and 24), and the rest reads well.
    Translators may join sentences, so fewer of them is no fault by itself: the text must be short as well, below
    `least` of what the source's length lets expect; `centre` is the usual ratio of these languages.
    """
    counts = len(sentences(source)), len(sentences(text))
    if counts[1] >= counts[0]:
        return None
    ratio = pairs.length_ratio(source, text, language, source_language) / centre
    if ratio >= least:
        return None
    return f"{counts[0]} sentences became {counts[1]}, at {ratio:.2f} times the expected length"


def broken_off(
    source: str, text: str, language: str = "de", source_language: str = "en", centre: float = 1.0, least: float = 2 / 3
) -> str | None:
    """Reason if a bracket or a colon of the source was lost, or a text without an end mark is short for its source.

    `pairs.truncated` looks at the end of a sentence; headings, list items and hurried questions have none, and a
    translation that stops inside a bracket may end in a full stop.
    """
    for opened, closed in ("()", "[]", "{}", "„“"):
        if text.count(opened) > text.count(closed) and source.count(opened) <= source.count(closed):
            return f"{opened!r} is never closed"
    ends = source.rstrip()[-1:], text.rstrip()[-1:]
    if ends[0] == ":" and (ends[1].isalnum() or ends[1] in ",-"):
        return "the colon at the end is lost"
    if _END.search(source.rstrip()):
        return "it ends on an opening sign" if ends[1] in set("([{„“/&=<+") - {source.rstrip()[-1:]} - {"“"} else None
    ratio = pairs.length_ratio(source, text, language, source_language) / centre
    return f"it stops at {ratio:.2f} times the expected length" if ratio < least and not _END.search(text) else None


def repeated_sentence(source: str, text: str) -> str | None:
    """Reason if a sentence of four words or more is said twice and the source does not repeat itself so.

    A greedy decoder that meets two similar sentences writes the first one twice; `pairs.repeated` looks for loops and
    lets a single repetition pass. Found are sentences that return anywhere, and passages that follow on themselves.
    """
    twice, before = (
        Counter(key for each in sentences(side) if len(key := tuple(_WORD.findall(each.lower()))) >= 4)
        for side in (text, source)
    )
    if sum(count - 1 for count in twice.values()) > sum(count - 1 for count in before.values()):
        return f"{' '.join(twice.most_common(1)[0][0])[:80]!r} is said twice"
    passage = _said_again(text)
    return f"{passage[:80]!r} is said twice in a row" if passage and not _said_again(source) else None


def _said_again(text: str, least: int = 4) -> str:
    """The first passage of `least` words or more (with at least as many letters as words) that follows on itself."""
    words = re.findall(r"\w+", text.lower())
    last: dict[tuple[str, ...], int] = {}
    for place, start in enumerate(zip(*(words[at:] for at in range(least)), strict=False)):
        before = last.get(start)
        if before is not None and place - before >= least and words[before:place] == words[place : 2 * place - before]:
            passage = " ".join(words[before:place])
            if pairs.letters(passage) >= 4 * least:
                return passage
        last[start] = place
    return ""


@functools.cache
def _labels(language: str, source_language: str) -> re.Pattern:
    names = "|".join(re.escape(name) for name in lexicon.language_names(source_language, language))
    return re.compile(rf"^\W{{0,4}}(?:{names})\s?:", re.MULTILINE | re.IGNORECASE)


def chatter(source: str, text: str, language: str = "de", source_language: str = "en") -> str | None:
    """Reason if words of the prompt are left ("German:"), or the translator speaks for itself or refuses.

    Chat models announce their translation, and base models write on with the prompt's next label; both end up as
    words that the student believes to be part of every answer. What the source says itself is no chatter.
    """
    patterns = {"prompt": _labels(language, source_language)}
    if re.search("translat|bersetz", text, re.IGNORECASE):  # each announcement holds one of them
        patterns["announcement"] = _REQUEST
    for name, pattern in patterns.items():
        found = pattern.search(text)
        if found and not pattern.search(source) and not _TRANSLATE.search(source):
            return f"{found[0].strip()!r} looks like a leftover {name}"
    found = _REFUSAL.search(text)
    apology = re.search(
        r"\b(?:sorry|apolog\w+|afraid|regret|can['’]?t|cannot|unable|not able)\b", source, re.IGNORECASE
    )
    if found and not apology and not _REFUSAL.search(source):
        return f"{found[0]!r} refuses where the source does not"
    return None


def negation(source: str, text: str, language: str = "de", source_language: str = "en") -> str | None:
    """Reason if a negation was lost or gained, sentence by sentence where both sides have as many.

    A lost "not" turns advice into its opposite and reads perfectly well (mozilla/translations, issue 1452). Compared
    are clear negations (not, never, kein) with anything on the other side that can stand for one (without, un-,
    statt), since human translators change one into the other all the time.
    """
    if source_language not in lexicon.NEGATIONS or language not in lexicon.NEGATIONS:
        return None
    clear, instead = _negatives(source_language)
    target_clear, target_instead = _negatives(language)
    sides = sentences(source), sentences(text)
    total, target_total = (len(_negated(pattern, " ".join(side))) for pattern, side in zip(
        (clear, target_clear), sides, strict=True))  # fmt: skip
    aligned = zip(*sides, strict=True) if len(sides[0]) == len(sides[1]) else [tuple(map(" ".join, sides))]
    for one, other in aligned if total != target_total else ():
        negated, target_negated = _negated(clear, one), _negated(target_clear, other)
        if total > target_total and len(negated) > len(target_negated) + len(target_instead.findall(other)):
            return f"the source negates ({', '.join(negated)}) more often than the translation"
        if not total and len(target_negated) > len(negated) + len(instead.findall(one)):
            return f"the translation negates ({', '.join(target_negated)}) more often than the source"
    return None


def _negated(pattern: re.Pattern, text: str) -> list[str]:
    """The negations of a text; "no silver and no bronze" is one."""
    return pattern.findall(_TWICE.sub(r"\1\2", text))


@functools.cache
def _negatives(language: str) -> tuple[re.Pattern, re.Pattern]:
    return tuple(re.compile(table[language], re.IGNORECASE) for table in (lexicon.NEGATIONS, lexicon.INSTEAD))


def address_forms(text: str, language: str) -> tuple[str, str]:
    """A formal and a familiar form of address in a text, outside quotation marks; "" for one that it does not use."""
    if language not in lexicon.FORMAL:
        return "", ""
    plain = _QUOTED.sub(" ", pairs.prose(text))
    formal = re.search(lexicon.FORMAL[language], plain)
    familiar = re.search(lexicon.FAMILIAR[language], plain, 0 if language == "de" else re.IGNORECASE)
    return formal[0] if formal else "", familiar[0] if familiar else ""


def mixed_address(text: str, language: str) -> str | None:
    """Reason if one text addresses its reader both formally and familiarly, as Sie and as du.

    Translated sentence by sentence, a text changes its mind from one to the next (home-llm, issue 120), which no
    German writer does. Quoted speech may differ.
    """
    formal, familiar = address_forms(text, language)
    return f"{formal!r} and {familiar!r} in one text" if formal and familiar else None


def task_undone(
    asked_source: str, answered_source: str, asked: str, answered: str, language: str, source_language: str
) -> str | None:
    """Reason if an exchange lost its point: the answer now stands in the question, or the task was to translate.

    "Correct my sentence" comes out corrected, and "translate into German" asks for German of a German text
    (alpaca-lora, issue 180: rows whose input equals their output).
    """
    given, expected = (" ".join(_WORD.findall(text.lower())) for text in (asked, answered))
    original, solution = (" ".join(_WORD.findall(text.lower())) for text in (asked_source, answered_source))
    if len(expected) >= 20 and expected in given and solution not in original:
        return "the answer stands in the question already"
    names = lexicon.language_names(source_language, language)
    if re.search(rf"\btranslat\w*\b.{{0,60}}\b(?:{'|'.join(map(re.escape, names))})\b", asked_source, re.I | re.S):
        return "the task was to translate between these two languages"
    return None
