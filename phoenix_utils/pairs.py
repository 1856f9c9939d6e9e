"""Rules about a text and its translation: pure functions that return a reason, or None if all is well.

The filters judge whole messages with them, and whoever trains a translator judges its sentence pairs: a pair
that is rejected in one place is rejected in the other for the same reason. A rule compares the translation
with its source wherever it can: a poem that repeats a line may do so in German too.

    >>> repeated("Yes, of course.", "Ja, ja, ja, ja, ja, ja, natürlich.")
    "says 'ja' 6 times in a row"
"""

import functools
import re
from collections import Counter
from dataclasses import dataclass

CONFUSABLE = (
    ("de", "en", "nl", "af", "da", "sv", "nb"),
    ("es", "pt", "ca", "it", "fr", "ro"),
    ("ru", "uk", "be", "bg", "mk", "sr"),
    ("cs", "sk", "pl", "sl", "hr", "bs"),
    ("fi", "et"), ("lt", "lv"), ("tr", "az"), ("id", "ms"), ("zh", "ja", "ko"), ("hi", "mr"),
    ("ar", "fa", "ur"),
)  # fmt: skip
"""Groups of languages (ISO 639-1) that short texts are mistaken for each other in."""

# Characters that a text needs, relative to an alphabetic language; sentences of parallel corpora, rounded.
_DENSITY = {"zh": 0.33, "ja": 0.45, "ko": 0.52}

_NOT_PROSE = re.compile(
    r"^[ \t]*(?P<fence>```+|~~~+).*?(?:^[ \t]*(?P=fence)[ \t]*$|\Z)"  # fenced code, closed or not
    r"|`[^`\n]+`"
    r"|\$\$.{1,2000}?\$\$|\$[^\s$](?:[^$\n]*[^\s$])?\$|\\\[.{1,2000}?\\\]|\\\(.{1,1000}?\\\)"  # formulas
    r"|(?:https?://|www\.)\S+|\S{1,64}@\S{1,255}\.\w+|\b[^\W\d]\w*(?:[._/\\]\w+)+\b"  # addresses, names.of.things
    r"|</?\w[^>\n]{0,200}>|\{\w+\}",
    re.MULTILINE | re.DOTALL,
)
_WORD = re.compile(r"[^\W\d_]+")
# Four letters on each side: shorter ones are names (WhatsApp, YouTube) more often than faults.
_RUN_TOGETHER = re.compile(r"\b[^\W\d_]*[^\W\d_]{3}[a-zäöüß][A-ZÄÖÜ][a-zäöüß]{3}[^\W\d_]*")
_SENTENCES_MEET = re.compile(r"\b[^\W\d_]{3,}[.!?:;,][A-ZÄÖÜ][a-zäöüß]+\b(?![.(_/])")
_LETTERS_LOOP = re.compile(r"(.{1,12}?)\1{9,}")
_SENTENCE_END = re.compile(r"[.!?…。！？][\"'”’“»«)\]*_]*$")


@dataclass(frozen=True)
class PairLimits:
    """Where each rule draws its line; the filters' settings and the translator's training fill it."""

    max_foreign_share: float = 0.3
    min_length_ratio: float = 0.5
    max_length_ratio: float = 2.0
    max_copied_share: float = 0.3
    max_repeats: int = 4


def pair_reasons(
    source: str, translation: str, language: str, source_language: str, limits: PairLimits | None = None
) -> dict[str, str]:
    """Judge a pair by every rule; returns {rule: reason}, empty for a good pair.

    Rules: "empty", "language", "copied", "length", "repetition", "truncation", "run_together".
    """
    limits = limits or PairLimits()
    if not translation.strip():
        return {"empty": "the translation is empty"}
    reasons = {
        "language": wrong_language(translation, language, source_language, limits.max_foreign_share),
        "copied": copied(source, translation, limits.max_copied_share),
        "length": length_out_of_range(
            source, translation, limits.min_length_ratio, limits.max_length_ratio, language, source_language
        ),
        "repetition": repeated(source, translation, limits.max_repeats),
        "truncation": truncated(source, translation),
        "run_together": run_together(source, translation),
    }
    return {rule: reason for rule, reason in reasons.items() if reason}


@functools.lru_cache(maxsize=64)  # a text is asked for by a dozen rules in a row
def prose(text: str) -> str:
    """The text without code, formulas, addresses, markup and placeholders: what a translator changes."""
    return _NOT_PROSE.sub(" ", text)


def letters(text: str) -> int:
    """Number of letters in a text."""
    return sum(map(str.isalpha, text))


def known_language(code: str) -> bool:
    """Whether the language identifier knows this ISO 639-1 code; if not, the language rule abstains."""
    return _lingua_code(code) is not None


def detect_language(text: str, language: str, source_language: str) -> str | None:
    """ISO code of a text's language among the two and their confusables, or None if the text is too short.

    The text should be prose. It needs 20 letters, 12 of them in words without a capital, since names tell
    nothing; and up to 60 letters another language must be clearly ahead of ``language``.
    """
    count = letters(text)
    if count < 20 or _letters_beside_names(text) < 12 or not known_language(language):
        return None
    best, second, lead = None, 0.0, 0.3 if count < 60 else 0.1
    for value in _detector(language, source_language).compute_language_confidence_values(text):
        code = value.language.iso_code_639_1.name.lower()
        best = best or (code, value.value)
        if code == _lingua_code(language):
            second = value.value
    return language if best[1] - second < lead else best[0]


def foreign_share(text: str, language: str, source_language: str) -> float | None:
    """Share (0 to 1) of a text's prose, in letters, that stands in lines of another language.

    Lines too short to tell count with the whole text's verdict; None where the whole is too short to tell.
    """
    text = prose(text)
    whole = _language(" ".join(text.split())[:400], language, source_language)  # enough to be sure
    total = foreign = 0
    for line in text.splitlines():
        count = letters(line)
        verdict = (_language(line[:250], language, source_language) if count >= 40 else None) or whole
        if verdict:
            total += count
            foreign += count if verdict != language else 0
    return foreign / total if total else None


def _language(text: str, language: str, source_language: str) -> str | None:
    """As `detect_language`; the identifier, which takes most of a filter's time, is asked where words leave doubt."""
    leanings = [_leaning(word, language, source_language) for word in _WORD.findall(text.casefold())]
    ours = leanings.count(1)
    if ours >= 3 and ours * 4 >= len(leanings) and ours >= 8 * leanings.count(-1) and known_language(language):
        return language
    return detect_language(text, language, source_language)


@functools.lru_cache(maxsize=200_000)
def _leaning(word: str, language: str, source_language: str) -> int:
    """1 for a common word that is ten times rarer in every language that this one is mistaken for; -1 for one of
    theirs that is as rare in this one; 0 for all others."""
    ours = _frequencies(language).get(word, 0.0)
    theirs = max(_frequencies(code).get(word, 0.0) for code in _candidates(language, source_language) - {language})
    if max(ours, theirs) < 3e-6:  # three in a million words
        return 0
    return (ours >= 10 * theirs) - (theirs >= 10 * ours)


@functools.cache
def _frequencies(language: str) -> dict[str, float]:
    """Share of each common word in a language's texts; {} for one that wordfreq has no list of."""
    import wordfreq

    known = language in wordfreq.available_languages("small")
    return wordfreq.get_frequency_dict(language, "small") if known else {}


def wrong_language(translation: str, language: str, source_language: str, max_share: float = 0.3) -> str | None:
    """Reason if more than ``max_share`` of the translation's prose is not in the target language."""
    share = foreign_share(translation, language, source_language)
    if share is None or share <= max_share:
        return None
    found = detect_language(" ".join(prose(translation).split())[:1000], language, source_language)
    if share < 1 or found in (None, language):
        return f"{share:.0%} of the text is not in {language!r}"
    return f"reads as {found!r} instead of {language!r}"


def copied(source: str, translation: str, max_share: float = 0.3) -> str | None:
    """Reason if the translation repeats the source's own words instead of translating them.

    Compared are runs of five words (fewer in shorter texts). Runs of names, which begin with capitals, may be
    equal in both languages and do not count; neither does a quotation of up to eight words.
    """
    if not _may_share_a_run(source, translation):
        return None
    runs = _word_runs(translation)
    if not runs:
        return None
    shared = len(runs & _word_runs(source))
    if shared < min(5, len(runs)) or shared <= max_share * len(runs):
        return None
    return f"{shared / len(runs):.0%} of it is copied from the source"


def length_out_of_range(
    source: str,
    translation: str,
    low: float = 0.5,
    high: float = 2.0,
    language: str = "de",
    source_language: str = "en",
) -> str | None:
    """Reason if the translation's prose is much shorter or longer than its source's.

    The ratio counts characters, allows for scripts that need fewer of them, and adds 20 on both sides, so
    that "Hi" may become "Guten Tag".
    """
    ratio = length_ratio(source, translation, language, source_language)
    if low <= ratio <= high:
        return None
    return f"{ratio:.2f} times the source's length (allowed: {low:g} to {high:g})"


def length_ratio(source: str, translation: str, language: str = "de", source_language: str = "en") -> float:
    """Smoothed ratio of prose characters, translation to source, where 1 is what the scripts let expect."""
    counts = [len(" ".join(prose(text).split())) for text in (translation, source)]
    expected = counts[1] * _DENSITY.get(language, 1.0) / _DENSITY.get(source_language, 1.0)
    return (counts[0] + 20) / (expected + 20)


def repeated(source: str, translation: str, max_repeats: int = 4) -> str | None:
    """Reason if the translation says a phrase over ``max_repeats`` times and the source not half as often.

    Looked for are a phrase in a row, a sentence anywhere, and letters that loop inside one word.
    """
    text, original = prose(translation), prose(source)
    phrase, times = longest_loop(text)
    if times > max_repeats and longest_loop(original)[1] * 2 < times:
        return f"says {phrase[:80]!r} {times} times in a row"
    sentence, times = _most_common_sentence(text)
    if times > max_repeats and _most_common_sentence(original)[1] * 2 < times:
        return f"says {sentence[:80]!r} {times} times"
    if (stuck := _stuck_word(translation)) and not _stuck_word(source):
        return f"a word is stuck: {stuck[:40]!r}"
    return None


def _stuck_word(text: str) -> str:
    """The first run of letters that says the same ten times within one word, "" if there is none."""
    for word in _words(text)[0]:
        if len(word) >= 10 and max(map(word.count, set(word))) >= 10 and (found := _LETTERS_LOOP.search(word)):
            return found[0]
    return ""


def longest_loop(text: str, max_period: int = 30) -> tuple[str, int]:
    """The phrase of up to ``max_period`` words said most often in a row, and how often; ("", 1) without."""
    words = re.findall(r"\w+", text.casefold())
    best, matches, places = ("", 1), Counter(), {}
    for index, word in enumerate(words):  # how often a word returns at each distance
        before = places.setdefault(word, [])
        for place in reversed(before[-max_period:]):
            if index - place > max_period:
                break
            matches[index - place] += 1
        before.append(index)
    for period in sorted(distance for distance, count in matches.items() if count >= distance):
        run = 0
        for index in range(len(words) - period):
            run = run + 1 if words[index] == words[index + period] else 0
            if run and run % period == 0 and run // period + 1 > best[1]:
                best = (" ".join(words[index + 1 : index + 1 + period]), run // period + 1)
    return best


def truncated(source: str, translation: str) -> str | None:
    """Reason if the translation breaks off: a code block stays open, or the last sentence has no end.

    The second holds only where the source does end its last sentence.
    """
    if _open_fence(translation) and not _open_fence(source):
        return "a code block is never closed"
    end = translation.rstrip()
    if letters(source) >= 20 and _SENTENCE_END.search(source.rstrip()) and re.search(r"[\w,;–-]$", end):
        return f"ends in the middle of a sentence: {end[-40:]!r}"
    return None


def run_together(source: str, translation: str) -> str | None:
    """Reason if the translation joins what belongs apart: "BefehlStrg", "Absatz.Wählen".

    Texts taken from web pages lose the space between two elements, and a model that reads them learns to drop
    it. Names that are written so (LibreOffice) stand in the source too.
    """
    for found in (*_RUN_TOGETHER.finditer(prose(translation)), *_SENTENCES_MEET.finditer(translation)):
        if not any(found[0][:end] in source for end in (None, -1, -2)):  # an ending may have been added
            return f"{found[0]!r} looks like two words run together"
    return None


def _open_fence(text: str) -> bool:
    return len(re.findall(r"^[ \t]*(?:```|~~~)", text, re.MULTILINE)) % 2 == 1


@functools.lru_cache(maxsize=64)
def _words(text: str) -> tuple[list[str], list[str]]:
    """The words of a text's prose, as they stand and without case."""
    words = _WORD.findall(prose(text))
    return words, [word.casefold() for word in words]


def _may_share_a_run(source: str, translation: str) -> bool:
    """Whether so many of the translation's words in a row as make a run all stand somewhere in the source."""
    known, lower = set(_words(source)[1]), _words(translation)[1]
    streak, size = 0, min(5, len(lower))
    for word in lower:
        streak = streak + 1 if word in known else 0
        if streak == size:
            return True
    return False


def _word_runs(text: str) -> set[tuple[str, ...]]:
    words, lower = _words(text)
    size = min(5, len(words))
    if size < 3:
        return set()
    plain = [len(word) > 1 and not word[0].isupper() for word in words]
    runs, count = set(), sum(plain[:size])  # how many words of the run are no names, kept while the run moves on
    for start in range(len(words) - size + 1):
        if count * 2 > size:
            runs.add(tuple(lower[start : start + size]))
        count += (plain[start + size] if start + size < len(words) else 0) - plain[start]
    return runs


def _most_common_sentence(text: str) -> tuple[str, int]:
    """The sentence or line of at least four words that comes most often; numbers in it do not matter."""
    sentences = (" ".join(_WORD.findall(piece)).casefold() for piece in re.split(r"[.!?…\n|]+", text))
    counts = Counter(sentence for sentence in sentences if sentence.count(" ") >= 3)
    return counts.most_common(1)[0] if counts else ("", 0)


def _letters_beside_names(text: str) -> int:
    return sum(len(word) for word in _WORD.findall(text) if not word[0].isupper())


@functools.cache
def _lingua_code(code: str) -> str | None:
    from lingua import IsoCode639_1  # its first use loads the models: seconds and about 200 MB

    code = {"no": "nb"}.get(code, code)
    return code if hasattr(IsoCode639_1, code.upper()) else None


@functools.cache
def _candidates(language: str, source_language: str) -> frozenset[str]:
    """Two languages and what they are confused with, those that the identifier knows."""
    codes = {_lingua_code(language), _lingua_code(source_language)} - {None}
    for group in CONFUSABLE:
        if codes & set(group):
            codes |= set(group)
    return frozenset(codes if len(codes) > 1 else codes | {"en", "de"})


@functools.cache
def _detector(language: str, source_language: str):
    """The language identifier for two languages and what they are confused with; made once for each pair."""
    from lingua import IsoCode639_1, LanguageDetectorBuilder

    codes = _candidates(language, source_language)
    known = [getattr(IsoCode639_1, code.upper()) for code in sorted(codes) if _lingua_code(code)]
    return LanguageDetectorBuilder.from_iso_codes_639_1(*known).build()
