"""What a translator must not touch inside a line: found, hidden behind masks, put back, and verified.

Code, formulas, addresses, HTML tags and placeholders of templates go in front of the translator as short masks
(`X1`), since a model translates `print("hello")` as gladly as any other words. Emphasis marks and the brackets of a
link stay where they are, because they belong to the words around them; whether they came back is only counted. None
of it is taken on trust: `restore` says what is missing.

    >>> hidden = mask("Run `ls -l` in {folder}, **please**.")
    >>> hidden.text
    'Run X1 in X2, **please**.'
    >>> restore(hidden, "Führe X1 in X2 aus, **bitte**.")
    ('Führe `ls -l` in {folder} aus, **bitte**.', '')
    >>> restore(hidden, "Führe X1 aus, **bitte**.")[1]
    'lost {folder}'
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

# Every repetition is bounded or excludes its own end, so a line of 200,000 characters costs linear time.
_PROTECTED = re.compile(
    r"""
      \\\(.{1,1000}?\\\) | \\\[.{1,2000}?\\\]                     # LaTeX
    | (?P<escape>\\[\\`*_{}\[\]<>#+.!|~-])                       # a backslash before punctuation: text, but no mark
    | \$\$[^$]{1,2000}\$\$
    | \$(?![\s$])(?:[^$\n\\]|\\.){0,500}?(?<![\s\\])\$(?![\d\w])  # $x$, but neither $5 nor "$5 and $6"
    | <(?:https?|ftp|mailto):[^\s<>]{1,2000}> | <[\w.+-]{1,64}@[\w.-]{1,255}>
    | <!--.{0,2000}?--> | </?[A-Za-z][\w:.-]{0,50}(?:\s[^<>]{0,1000})?/?>   # HTML
    | &(?:\#\d{1,7}|\#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,30});
    | (?<=\])\((?:[^()\s]|\([^()\s]{0,500}\)){0,2000}            # ](address "title")
      (?:\s+(?:"[^"\n]{0,300}"|'[^'\n]{0,300}'))?\s{0,9}\)
    | (?<=\])\[[^\[\]\n]{0,200}\] | \[\^[^\[\]\s]{1,50}\]         # ][label], [^note]
    | (?:https?|ftp)://[^\s<>"'`|\[\]{}]{1,2000} | (?<![\w@./-])www\.[\w-]{1,63}\.[^\s<>"'`|\[\]{}]{1,2000}
    | (?<![\w.+-])[\w.+-]{1,64}@(?:[\w-]{1,63}\.){1,8}[A-Za-z]{2,24}\b
    | \{\{.{0,300}?\}\} | \{%.{0,300}?%\} | \$\{[^{}\n]{1,100}\}      # placeholders of templates and formats
    | \{[A-Za-z_]\w{0,60}(?:[.!:\[][^{}\n]{0,60})?\} | \{\d{0,3}\}
    | %\([A-Za-z_]\w{0,60}\)[#0+-]{0,3}\d{0,3}(?:\.\d{1,3})?[diouxXeEfFgGcrsa]
    | (?<![\w%])%[#0+-]{0,3}\d{0,3}(?:\.\d{1,3})?[diouxXeEfFgGcrsa](?![A-Za-z])
    | (?<![\w$])\$[A-Za-z_]\w{0,60}
    | (?<![\w%])%[A-Za-z_]\w{0,60}%
    """,
    re.VERBOSE,
)
# Sentences go on behind an address: its last full stop or comma belongs to them.
_ADDRESS = re.compile(r"(?:https?|ftp)://|www\.")
_AFTER_ADDRESS = re.compile(r"[.,;:!?*_~]+$|(?<=[^(])\)[.,;:!?*_~]*$")
_BACKTICKS = re.compile(r"(?<!\\)`+")
# Without one of these there is nothing to protect, which is most lines.
_SUSPECT = re.compile(r"[`$\\<&\[\]{}|%@*_~]|://|www\.")
# Delimiter runs that open or close emphasis: next to a letter, not between spaces or digits (CommonMark 6.2).
_EMPHASIS = re.compile(
    r"(?<![\\*_~])(\*{1,3}|~~)(?![*~])(?=\S)|(?<=\S)(?<![\\*~])(\*{1,3}|~~)(?![*~])|(?<!\w)_{1,3}(?=\w)|(?<=[\w.!?:])_{1,3}(?!\w)"
)
_SIGNS = re.compile(r"[\[\]|`{}]")
# Signs of Markdown that prose has no other use for: there must be as many after as before.
_COUNTED = (("`",), ("[", "]"), ("{", "}"), ("|",), ("**",), ("~~",))
_MASK_LIKE = re.compile(r"\b[A-Z]\d+\b")


@dataclass(frozen=True)
class Masked:
    """A text for the translator: `text` with a mask for each of `spans`; `source` is what it was made of.

    `padded` says on which sides of a mask a space was added that the source does not have.
    """

    source: str
    text: str
    spans: tuple[str, ...] = ()
    masks: tuple[str, ...] = ()
    padded: tuple[tuple[bool, bool], ...] = ()


def protected_spans(text: str) -> list[tuple[int, int]]:
    """Where in a line the protected text stands: (start, end) in order, not overlapping.

    Protected are inline code, LaTeX, HTML tags and entities, addresses (web, e-mail, the target of a link), labels of
    notes, and placeholders (`{name}`, `{{x}}`, `%s`, `%(name)s`, `$VAR`, `${VAR}`, `%VAR%`).
    """
    if not _SUSPECT.search(text):
        return []
    spans, start = [], 0
    for code in _code_spans(text):
        spans += _beside_code(text, start, code[0])
        spans.append(code)
        start = code[1]
    return spans + _beside_code(text, start, len(text))


def _beside_code(text: str, start: int, end: int) -> list[tuple[int, int]]:
    found = []
    for match in _PROTECTED.finditer(text, start, end):
        if match["escape"]:
            continue
        stop = match.end()
        if _ADDRESS.match(match[0]):
            tail = _AFTER_ADDRESS.search(match[0])
            if tail:  # a bracket that was opened inside belongs to the address, what follows it does not
                stop = match.start() + tail.start() + (")" in tail[0] and match[0].count("(") >= match[0].count(")"))
        found.append((match.start(), stop))
    return found


def _code_spans(text: str) -> list[tuple[int, int]]:
    """Inline code: a run of backticks and the next run of the same length (CommonMark 6.1)."""
    runs = [(match.start(), match.end()) for match in _BACKTICKS.finditer(text)] if "`" in text else []
    later: dict[int, list[int]] = {}
    for place, (start, end) in enumerate(runs):
        later.setdefault(end - start, []).append(place)
    spans, place = [], 0
    while place < len(runs):
        start, end = runs[place]
        same = later[end - start]
        while same and same[0] <= place:
            same.pop(0)
        if same:
            place = same[0]
            spans.append((start, runs[place][1]))
        place += 1
    return spans


def mask(text: str) -> Masked:
    """Hide the protected spans of a line behind masks; a text without any comes back as it is."""
    places = protected_spans(text)
    if not places:
        return Masked(text, text)
    letter = next((letter for letter in "XZQKVWYABCDEFGHIJLMNOPRSTU" if not re.search(rf"{letter}\d", text)), "X")
    masks = tuple(f"{letter}{number}" for number in range(1, len(places) + 1))
    hidden, padded, at = "", [], 0
    for name, (start, end) in zip(masks, places, strict=True):
        hidden += text[at:start]
        # A mask that touches a word, or the mask before it, would be read as part of it.
        before, after = _is_word(hidden[-1:]), _is_word(text[end : end + 1])
        hidden += " " * before + name + " " * after
        padded.append((before, after))
        at = end
    spans = tuple(text[start:end] for start, end in places)
    return Masked(text, hidden + text[at:], spans, masks, tuple(padded))


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"


def restore(masked: Masked, translation: str) -> tuple[str, str]:
    """Put the spans back into a translation of `masked.text`; returns (text, fault), one of them empty.

    The fault says in words what was lost, doubled or invented.
    """
    if fault := (_masks_fault(masked, translation) if masked.masks else "") or _marks_fault(masked.text, translation):
        return "", fault
    return _filled(masked, translation) if masked.masks else translation, ""


def _masks_fault(masked: Masked, translation: str) -> str:
    """Whether every mask stands in the translation once, and no other."""
    found = Counter(_MASK_LIKE.findall(translation))
    for hidden, span in zip(masked.masks, masked.spans, strict=True):
        if found[hidden] != 1:
            return f"lost {span}" if not found[hidden] else f"{span} stands there {found[hidden]} times"
    known, letter = set(masked.masks), masked.masks[0][0]
    invented = next((name for name in found if name[0] == letter and name not in known), None)
    return f"{invented} stands for nothing" if invented else ""


def _filled(masked: Masked, translation: str) -> str:
    """The translation with every mask replaced by its span, without the spaces that only kept the mask apart."""
    inside = {name: hidden for name, *hidden in zip(masked.masks, masked.spans, masked.padded, strict=True)}
    pieces, at = [], 0
    for match in _MASK_LIKE.finditer(translation):
        if match[0] not in inside:
            continue
        span, (before, after) = inside[match[0]]
        text = translation[at : match.start()]
        pieces += [text[:-1] if before and text.endswith(" ") else text, span]
        at = match.end() + (after and translation.startswith(" ", match.end()))
    return "".join([*pieces, translation[at:]])


def verify(source: str, translation: str) -> str:
    """What is wrong with the protected text of an unmasked translation, in words; "" if it is all there."""
    wanted, got = (Counter(text[start:end] for start, end in protected_spans(text)) for text in (source, translation))
    if missing := wanted - got:
        return f"lost {next(iter(missing))}"
    if extra := got - wanted:
        return f"{next(iter(extra))} was not in the source"
    return _marks_fault(mask(source).text, mask(translation).text)


def _marks_fault(source: str, translation: str) -> str:
    """Emphasis and link brackets of two masked texts compared."""
    if not _SUSPECT.search(source) and not _SUSPECT.search(translation):
        return ""
    marks = [Counter(emphasis_marks(text)) for text in (source, translation)]
    for mark in marks[0] | marks[1]:
        if marks[0][mark] != marks[1][mark]:
            return f"{marks[0][mark]} marks {mark} became {marks[1][mark]}"
    for signs in _COUNTED:
        counts = [sum(text.count(sign) for sign in signs) for text in (source, translation)]
        if counts[0] != counts[1]:
            return f"{counts[0]} of {' '.join(signs)} became {counts[1]}"
    links = [len(re.findall(r"\][A-Z]\d", text)) for text in (source, translation)]
    return "" if links[0] == links[1] else "a link lost its brackets"


def emphasis_marks(text: str) -> list[str]:
    """The emphasis marks of a text in order: `**`, `*`, `_`, `~~` and so on."""
    return [match[0] for match in _EMPHASIS.finditer(text)]


def parts(text: str) -> list[tuple[str, bool]]:
    """The text as (piece, is_prose): cut at everything protected and at every mark, so that nothing can be lost."""
    places = protected_spans(text)
    for pattern in (_EMPHASIS, _SIGNS):
        places += [match.span() for match in pattern.finditer(text)]
    pieces, at = [], 0
    for start, end in sorted(places, key=lambda place: (place[0], -place[1])):
        if start >= at:  # what begins inside a protected span belongs to it
            pieces += [(text[at:start], True), (text[start:end], False)]
            at = end
    pieces.append((text[at:], True))
    return [(piece, prose) for piece, prose in pieces if piece]
