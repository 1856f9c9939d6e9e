"""What a judge's reply means: a score from 1 to 10, a preference between two answers, or nothing.

Judges are asked for `[[7]]` and say `Bewertung: 7/10`, `Gesamtnote: 7,5`, `sieben von zehn Punkten` or `{"score": 7}`
as well. They also restate the scale, quote the answer, give marks for single aspects, think aloud of a mark that they
do not give, refuse, or stop in mid-sentence. So each form is looked for in the order of how surely it *is* the verdict,
what is quoted is left out, and where two verdicts of one form contradict each other there is none. A score that was not
given would move the mean without a trace (openai/evals #1712); a missing one is counted.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

LEAST, MOST = 1.0, 10.0
# Of a reply longer than this only the beginning and the end are read, where verdicts stand.
LONGEST = 8000
# A sentence is read back so far from the mark in it; without a limit a reply of nothing but marks takes minutes.
SENTENCE = 500


@dataclass(frozen=True)
class Verdict:
    """What a reply means: `score` from 1 to 10 or None, and the form in which it was found ("" if in none)."""

    score: float | None
    form: str = ""


_ONES = {
    **{word: value for value, word in enumerate("null eins zwei drei vier fünf sechs sieben acht neun zehn".split())},
    **{word: value for value, word in enumerate("zero one two three four five six seven eight nine ten".split())},
}
_WORDS = {
    **_ONES,
    **{f"{word}einhalb": value + 0.5 for word, value in _ONES.items()},
    **{f"{word} and a half": value + 0.5 for word, value in _ONES.items()},
    "ein punkt": 1,
    "einen punkt": 1,
    "one point": 1,
}
_ONE = "|".join(_ONES)
_WORD = rf"(?:{_ONE})\s(?:komma|point)\s(?:{_ONE})\b|" + "|".join(sorted(_WORDS, key=len, reverse=True))
_NUMBER = rf"(?<![\w.,/])(?P<number>[-−]?\d{{1,3}}(?:[.,]\d+)?|{_WORD})(?![\w%]|[.,]\d|\s?%|\s*(?:prozent|percent))"
# A number that begins a range ("6 bis 7") is no score, nor is one on another scale ("4/5").
_RANGE = rf"(?P<range>\s*(?:[-–—]|bis|to|oder|or|und|and)\s*(?:(?:eine?|an?)\s+)?(?:\d|(?:{_WORD})\b))?"
_SCALE = r"(?:\s*\(?(?:/|von(?: möglichen)?|out of|of|aus)\s*(?P<scale>\d+|zehn|ten|fünf|five|vier|four|hundert)\b)?"
_MARK = _NUMBER + _RANGE + _SCALE
_ARTICLE = (
    r"(?:(?:nur|just|only|eine?|einer|an?|bei|auf|at|on|insgesamt|overall)\s+){0,4}"
    r"(?:(?:glatt|solide|gute|knapp|schwach|starke|runde|ordentlich|verdient|faire|klare|saubere|"
    r"solid|strong|weak|clear|generous|charitable|good|bare|firm|flat)\w*\s+)?"
)

_WHOLE = (
    r"(?:gesamt|end|schluss|abschluss)(?:bewertung|note|punktzahl|wertung|urteil|ergebnis|punkte|score|eindruck)|"
    r"(?:endgültige|abschließende|finale) (?:bewertung|note|wertung|punktzahl)|gesamt|insgesamt|urteil|fazit|"
    r"(?:overall|final|total)(?:[ _](?:rating|score|grade|mark|verdict|evaluation|assessment))?|verdict|sum total"
)
_PLAIN = (
    r"bewertung|note|punktzahl|wertung|punkte|ergebnis(?: meiner prüfung)?|rating|score|grade|mark|evaluation|"
    r"points(?: awarded)?|assessment|einschätzung|beurteilung|einstufung|benotung|appraisal"
)
_LINK = (
    r"(?:\s*\([^()\n]*\))?(?:[ \t]+(?:für|for|of|des|der|dieser)[ \t]+[^\n:.,\d]{1,40}?)?"
    r"[ \t|]{0,40}(?:(?:[:=→|]|[-–](?=\s)|\bist\b|\bis\b|\blautet\b|\bbeträgt\b|\bliegt bei\b)[ \t|]{0,40}|"
    r"(?=\d+(?:[.,]\d+)?\s*/\s*10\b)|(?=\d{1,2}(?:[.,]\d)?[.!]?\s*(?:\n|\Z)))"
)
_VERB = (
    r"vergebe|gebe|gibt es|bewerte|benote|komme|lande|bleibe|bleiben|bleibt|entscheide|verdient|wird|macht|wähle|"
    r"korrigiere|setze|lege mich|reicht|stehe|give|rate|award|scores?|assign|settle|land|earns?|gets?|deserves?|"
    r"makes it|i'm|i am|i'd say|put|sits|choose|pick|go with|correct|revise|arrive|end up|leaves|call it|"
    r"von mir|from me"
)

_BRACKETS = re.compile(
    rf"(?:\[\[?|\\boxed\{{)\s*(?:(?:{_WHOLE}|{_PLAIN})\s*:\s*)?{_MARK}\s*(?:punkte?|points?)?\s*(?:\]\]?|\}})", re.I
)
_LABELLED = {
    "whole": re.compile(rf"(?<!\w)(?:{_WHOLE}){_LINK}{_ARTICLE}{_MARK}", re.I),
    "label": re.compile(rf"(?<!\w)(?:{_PLAIN}){_LINK}{_ARTICLE}{_MARK}", re.I),
}
_NAMED_AFTER = re.compile(rf"{_MARK}\s+(?:ist|is)\b[^.!?\n\d]{{0,40}}\b(?:{_WHOLE}|{_PLAIN})\b", re.I)
_ON_TEN = re.compile(
    rf"{_NUMBER}{_RANGE}\s*(?:/\s*(?P<scale>10)\b|(?:von(?: möglichen)?|out of|of|aus)\s*(?:10|zehn|ten)\b"
    r"(?!\s+(?!Punkt|Stern|Zähler)(?-i:[A-ZÄÖÜ])\w|\s+(?!points|stars|marks|as|is|this|because)\w+s\b))",
    re.I,
)
_GIVEN = re.compile(
    rf"\b(?:{_VERB})\b(?:[^.!?\n\d]{{0,70}}?\s)?{_ARTICLE}{_MARK}(?!\s+\w+(?:s|n)\b(?<!points)(?<!punkten)(?<!geben)"
    rf"(?<!vergeben)(?<!an))"
    rf"|{_NUMBER.replace('number', 'early')}\s+(?:punkten?\s+)?(?:\w+\s+){{0,2}}(?:vergeben|geben|bewertet|benotet)\b",
    re.I,
)
_POINTS = re.compile(rf"{_NUMBER}{_RANGE}\s*(?:punkte?n?|points?)\b(?! Abzug| off| less| weniger| (?:{_WORD})\b)", re.I)
# A number that nothing is counted with, behind a word that leads up to it: "sondern 6", "the 9", "at 5: …".
_CLOSING = re.compile(
    rf"\b(?:die|der|eine?|an?|the|bei|at|auf|to|on|sondern|but|with|mit|für|also|daher|so|insgesamt|overall)\s+"
    rf"{_ARTICLE}{_MARK}"
    r"(?=\s*(?:[.!:;,–—]|$|\b(?:weil|denn|da|because|since|from me|von mir|fest|punkte?n?|points?)\b))",
    re.I | re.M,
)
_NO_MORE = re.compile(
    rf"\b(?:mehr als|more than|higher than|über)\s+(?:eine?\s+|an?\s+)?{_MARK}"
    r"(?=\s+(?:ist|geht|gebe|kann|is|isn't|cannot|can't|i)\b[^.!?\n\d]{0,40}\b(?:nicht|not|cannot|can't|isn't|kaum)\b)|"
    r"\b(?:nicht|kaum|not|no)\s+(?:mehr|higher|more)\s+(?:als|than)\s+(?:eine?\s+|an?\s+)?"
    rf"{_NUMBER.replace('number', 'early')}(?=\s*(?:[.,;!]|$))",
    re.I | re.M,
)
_LAST = re.compile(
    rf"(?:^|[.!?]\s+){_MARK}\s+(?:from me|von mir)\b|"
    r"\b(?:punkten?|points|noten?|marks?|score|wertung)\b[^.!?\n:\d]{0,40}:\s*"
    rf"{_NUMBER.replace('number', 'early')}\W*\Z",
    re.I | re.M,
)
_NOUN = re.compile(rf"^\W*(?:(?:eine?|an?)\s+(?:\w+\s+)?)?{_MARK}(?=\W*(?:[.!]|$))", re.I)
_ALONE = re.compile(rf"^[^\w\n]*?{_ARTICLE}{_MARK}\s*(?:punkte?n?|points?)?[^\w\n]*$", re.I | re.M)

# Marks that are thought of and not given: in a sentence of conditions, or in a clause that denies or takes off.
_CONDITION = re.compile(
    r"\b(hätten?|wäre|gäbe|müssten?|bräuchte|if|unless|falls|would (?:need|have|be)|could have|might have|first|zuerst|"
    r"zunächst|wollte|erst dachte|auf den ersten blick|instinct|schwanke|torn|between|zwischen|beispielsweise|"
    r"for example|e\.g\.|z\. ?b\.)\b",
    re.I,
)
# What comes after a decision is given, whatever was weighed before it.
_DECIDED = re.compile(
    r"\b(entscheide|entschieden|letztlich|letztendlich|am ende|schließlich|decide|settle|settling|ultimately|"
    r"in the end|go with|went with|landing|lande|bleibe|komme auf|come down)\b",
    re.I,
)
# "My score would be 6": a mark given politely, as long as no condition stands before it.
_MODEST = re.compile(rf"\b(?:{_WHOLE}|{_PLAIN})\b[^.,;:!?\d]{{0,40}}\b(?:would be|wäre)\s+(?:an?\s+|eine?\s+)?$", re.I)
_EXAMPLE = re.compile(
    r"(?:for example|e\.g\.|such as|zum beispiel|z\. ?b\.|beispielsweise|etwa)[:\s]*\S{0,12}\s*$", re.I
)
_DENIED = re.compile(
    r"\b(nicht|kein\w*|ohne|not|never|no|without|statt|instead of|höchstens|mindestens|at (?:most|least)|ziehe|abzug|"
    r"deduct\w*|hold back|take off|taking off|verlangt\w*|erlaubt\w*|mehr als|more than|scale|skala)\b"
    r"(?:(?! (?:und|and|but|sondern) )[^,;:→⇒])*$",
    re.I,
)
_TAKEN_BACK = re.compile(r"\s*(?:nicht|not)\b|\s+(?:Punkte )?Abzug|\s+(?:would|wäre|hätte|müsste|could|might)\b", re.I)
_REVISED = re.compile(
    r"korrektur|korrigier|revidier|änder|nachgezählt|überdenk|doch (?:eher|nur|lieber)|genauerem|nochmal|erneut|"
    r"correct(?:ion|ed|ing)|revis|on reflection|second (?:look|thought|reading)|actually|changed? (?:my|this|it)|"
    r"lower (?:it|this|my)|raise (?:it|this|my)|strike that|instead",
    re.I,
)
_SCALE_NAMED = re.compile(
    r"\(?(?:auf |on )?(?:(?:einer|der|a|the) )?(?:skala|scale)?\s{0,9}(?:(?:von|of|from|between|zwischen)\s{0,9})?"
    r"\b(?:0|1|eins|one)(?:\s*\([^()\n]*\))?\s*(?:bis|to|and|und|[-–])\s*(?:10|zehn|ten)\b(?:\s*\([^()\n]*\))?\)?",
    re.I,
)
_QUOTED = re.compile(r"„[^“”\"]{0,2000}[“”\"]|“[^”]{0,2000}”|»[^«]*«|«[^»]*»|(?<!\w)\"[^\"\n]*\"|^\s*>.*$", re.M)
# Quotation marks around nothing but a mark, behind the label of a verdict, quote nobody.
_QUOTED_MARK = re.compile(
    rf"(?P<label>(?<!\w)(?:{_WHOLE}|{_PLAIN})[ \t]*[:=][ \t]*)[„“\"'»«]"
    r"(?P<mark>\d{1,2}(?:[.,]\d)?(?:\s*/\s*10)?)[“”\"'»«]",
    re.I,
)
_JSON_NUMBER = re.compile(r'[{,]\s{0,99}"([^"\n]{0,99})"\s{0,99}:\s{0,99}"?(-?\d+(?:\.\d+)?)"?(?=\s*[,}]|\s*\Z)')
_KEYS = re.compile(rf"(?:{_WHOLE})|(?:{_PLAIN})", re.I)


def score(reply: str, lenient: bool = True) -> Verdict:
    """The score that the reply of a judge of one answer gives.

    Strict reading knows one `[[7]]`, or else one line `Bewertung: 7/10`, and nothing else. Lenient reading goes on to
    JSON, tables, labels in running text, "7 von 10", "eine 7 vergeben", points, words, and a number alone in its line.
    A form in which several different scores, a range, another scale or a number outside 1 to 10 stand gives none.
    """
    text = _plain(reply)
    for form, candidates in _lenient(reply, text) if lenient else _strict(text):
        marks = list(candidates)
        if marks:
            return Verdict(_agreed(marks, text), form)
    return Verdict(None)


def preference(reply: str) -> Verdict:
    """Which of two answers a pairwise judge prefers: score 1.0 for A, 0.0 for B, 0.5 for a tie, None if unclear."""
    text = _plain(reply)
    found = re.findall(r"\[\[\s*(a|b|c|tie|unentschieden|gleichstand)\s*\]\]", text, re.I)
    if not found:
        label = r"(?:urteil|fazit|verdict|gewinner|sieger|winner|besser(?:e antwort)?|better(?: answer)?|final)"
        found = re.findall(
            rf"\b{label}\b[ \t]*(?:[:=]|ist|is)[ \t]*(?:die |the )?(?:antwort |answer |assistent |assistant )?"
            r"(a|b|c|tie|unentschieden|gleichstand)\b",
            text,
            re.I,
        )
    if not found:
        found = re.findall(
            r"\b(?:antwort|answer|assistent|assistant)\s+(a|b)\s+(?:ist|is|wins|gewinnt)\b(?!\s+(?:nicht|not))"
            r"(?:\s+(?:insgesamt|deutlich|etwas|overall|clearly|slightly|the))?\s*(?:besser|better|vorzuziehen|.?)\b",
            text,
            re.I,
        )
    values = {{"a": 1.0, "b": 0.0}.get(word.casefold(), 0.5) for word in found}
    return Verdict(values.pop(), "preference") if len(values) == 1 else Verdict(None)


def _strict(text: str) -> Iterator[tuple[str, list]]:
    yield "brackets", [_Mark(m) for m in re.finditer(rf"\[\[{_NUMBER.replace('|' + _WORD, '')}\]\]", text)]
    label = rf"(?:(?:\w+ )?(?:{_WHOLE}|{_PLAIN})\s*:\s*)"
    number = _NUMBER.replace("|" + _WORD, "")
    yield (
        "line",
        [_Mark(m) for m in re.finditer(rf"(?mi)^[ \t*]*{label}[\s*]{{0,40}}{number}(?:\s*/\s*10)?[\s*.]*$", text)],
    )


def _lenient(reply: str, text: str) -> Iterator[tuple[str, list]]:
    yield "json", _json_marks(reply)
    brackets = [
        _Mark(m) for m in _BRACKETS.finditer(text) if not _EXAMPLE.search(text, max(0, m.start() - 40), m.start())
    ]
    whole = [_Mark(found) for found in _LABELLED["whole"].finditer(text) if not _thought_of(text, found)]
    yield "brackets", brackets + ([] if not brackets else [m for m in whole if m.value is not None])
    yield "whole", whole
    yield "table", _table_marks(text)
    for form, pattern in (
        ("label", _LABELLED["label"]),
        ("named after", _NAMED_AFTER),
        ("of ten", _ON_TEN),
        ("given", _GIVEN),
        ("points", _POINTS),
        ("word", _NOUN),
        ("alone", _ALONE),
        ("last", _LAST),
        ("closing", _CLOSING),
    ):
        found = [m for m in pattern.finditer(text) if not _thought_of(text, m)]
        yield form, [_Mark(m) for m in found if form != "of ten" or not _of_an_aspect(text, m)]
    yield "no more", [_Mark(found) for found in _NO_MORE.finditer(text)]


class _Mark:
    """A number found: its `value`, None where it is a range or on another scale, and where it stands."""

    def __init__(self, found: re.Match):
        groups = found.groupdict()
        self.start, self.end = found.span()
        scale = groups.get("scale")
        usable = not groups.get("range") and (scale is None or scale.casefold() in ("10", "zehn", "ten"))
        self.value = _value(groups.get("number") or groups.get("early") or "") if usable else None


def _agreed(marks: list, text: str) -> float | None:
    """The one value of all marks, or the last one where the judge says that it corrects itself."""
    values = {mark.value for mark in marks}
    if len(values) > 1 and _REVISED.search(text[marks[-2].start : marks[-1].end]):
        values = {marks[-1].value}
    value = values.pop() if len(values) == 1 else None
    return value if value is not None and LEAST <= value <= MOST else None


def _value(number: str) -> float | None:
    word = " ".join(number.casefold().split())
    if word in _WORDS:
        return float(_WORDS[word])
    if found := re.fullmatch(r"(\w+) (?:komma|point) (\w+)", word):
        return _ONES[found[1]] + _ONES[found[2]] / 10
    return float(word.replace(",", ".").replace("−", "-")) if word else None


def _thought_of(text: str, found: re.Match) -> bool:
    """Whether a mark stands in a sentence with a condition, or in a clause that denies it or takes points off."""
    number = found.start("number") if found["number"] else found.start("early")
    earliest = max(0, found.start() - SENTENCE)
    ends = (text.rfind(end, earliest, found.start()) for end in (". ", "! ", "? ", "; ", "\n"))
    start = max(earliest, max(ends) + 1)
    decided = [match.end() for match in _DECIDED.finditer(text, start, number)]
    weighed = _MODEST.sub(" ", text[decided[-1] if decided else start : number])
    if _CONDITION.search(weighed) or _DENIED.search(text[start:number]):
        return True
    return bool(_TAKEN_BACK.match(text, found.end()))


def _of_an_aspect(text: str, found: re.Match) -> bool:
    """Whether "8/10" follows the name of an aspect: "Genauigkeit: 8/10", not "Kurz und falsch: 2/10"."""
    earliest = max(0, found.start() - SENTENCE)
    line = text[max(earliest, text.rfind("\n", earliest, found.start())) : found.start()]
    name = re.search(r"([^\W\d][\w ()–-]*):\s*$", line)
    words = re.findall(r"\w+", name[1]) if name else []
    return bool(words) and (len(words) < 3 or words[-1][0].isupper())


def _plain(reply: str) -> str:
    """A reply without thoughts, quotations, struck text, comments, emphasis and mentions of the scale itself."""
    text = re.sub(r"<think>.*?(?:</think>|\Z)|<!--.{0,5000}?-->|~~.{0,5000}?~~", " ", reply, flags=re.S | re.I)
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]}\n{text[-LONGEST // 2 :]}"
    for start, end, _ in [*_json_objects(text)][::-1]:  # which are read by their keys, or not at all
        text = f"{text[:start]} {text[end:]}"
    # Of one that is cut off or damaged, what stands under a key that means a score is left, and no other number.
    text = _JSON_NUMBER.sub(lambda m: f"\n{m[1]}: {m[2]}\n" if re.fullmatch(_KEYS, m[1]) else " ", text)
    text = re.sub(r"\\(?=[\[\]])", "", text)
    text = re.sub(r"</t[hd]>\s*<td>", ": ", text)
    text = re.sub(rf"<({_WHOLE}|{_PLAIN})>", r"\n\1: ", text, flags=re.I)
    text = html.unescape(re.sub(r"</?[a-z][^<>]*>", " ", text, flags=re.I))
    text = re.sub(r"(?<=\d)\s?½", ",5", re.sub(r"[*`#]|__", "", text))
    return _SCALE_NAMED.sub(" ", _QUOTED.sub(" ", _QUOTED_MARK.sub(r"\g<label>\g<mark>", text)))


def _json_marks(reply: str) -> list:
    """Scores in JSON objects: under a key for the whole at any depth, or else under one that means a score."""
    text = re.sub(r"<think>.*?(?:</think>|\Z)", " ", reply, flags=re.S | re.I)
    named: dict[str, list] = {_WHOLE: [], _PLAIN: []}
    for _, _, value in _json_objects(text[-LONGEST:]):
        for key, field in _fields(value):
            for kind, marks in named.items():
                if re.fullmatch(kind, key, re.I) and (mark := re.fullmatch(_MARK, f"{field}", re.I)):
                    marks.append(_Mark(mark))
    return named[_WHOLE] or named[_PLAIN]


def _json_objects(text: str) -> Iterator[tuple[int, int, object]]:
    """Start, end and value of each JSON object in a text."""
    decoder, place = json.JSONDecoder(), 0
    while (place := text.find("{", place)) >= 0:
        try:
            value, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            place += 1
            continue
        yield place, end, value
        place = end


def _fields(value: object, above: str = "") -> Iterator[tuple[str, object]]:
    """Keys and plain values of nested JSON; what is in a list has the list's key."""
    items = value.items() if isinstance(value, dict) else [(above, item) for item in value]
    for key, item in items:
        if isinstance(item, dict | list):
            yield from _fields(item, key)
        elif not isinstance(item, bool):
            yield key, item


def _table_marks(text: str) -> list:
    """Scores in a column of a table (Markdown or CSV) that is headed as one, of its only row or that of the whole."""
    lines = [line.strip().strip("|") for line in text.splitlines()]
    rows = [line.split(next(mark for mark in "|;," if mark in line)) for line in lines if re.search("[|;,]", line)]
    for place, header in enumerate(rows):
        columns = [at for at, cell in enumerate(header) if re.fullmatch(_KEYS, cell.strip())]
        body = [
            row for row in rows[place + 1 :] if columns and len(row) >= len(header) and re.search(r"\d", "".join(row))
        ]
        if len(columns) == 1 and len(body) == 1:
            mark = re.fullmatch(_MARK, body[0][columns[0]].strip(), re.I)
            return [_Mark(mark)] if mark else []
    return []
