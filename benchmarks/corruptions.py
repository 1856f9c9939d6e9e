"""Clean human pairs, and fourteen ways to spoil a translation: what benchmarks/filtering.py measures the rules with.

Each corruption takes a pair and a seeded random source and returns the spoiled pair, or None where the pair has
nothing to spoil (no number, one sentence only). Where a corruption needs code or an address that the pair lacks,
both sides get it and the translation's copy is spoiled.
"""

import gzip
import hashlib
import random
import re
from collections.abc import Callable
from pathlib import Path

from phoenix_utils import corpora, pairs
from phoenix_utils.translation import parallel

HELP = Path(__file__).resolve().parents[2] / "shared" / "data" / "libreoffice_help" / "en_de_pairs.tsv.gz"
Pair = tuple[str, str]

_SENTENCE = re.compile(r"(?<=[^\d\s][.!?])\s+(?=[A-ZÄÖÜ\"„])")
_NEGATION = re.compile(r"\b(nicht|kein(?:e[nmrs]?)?|niemals|nie)\b ?")
_DUTCH = (
    "Dit is een hele andere tekst, die in het Nederlands geschreven is en niets met de vraag te maken heeft.",
    "Je kunt het venster met de muis verplaatsen, maar dan moet je eerst op de titelbalk klikken.",
    "Wanneer de regen ophoudt, gaan de kinderen weer naar buiten om op straat te spelen.",
    "Vergeet niet om het bestand op te slaan voordat je het programma afsluit.",
)
_CODE = (
    ("for word in words:\n    print(word.lower())", "für wort in wörter:\n    drucke(wort.klein())"),
    ("if (total > limit) {\n  return total;\n}", "wenn (summe > grenze) {\n  zurück summe;\n}"),
    ("SELECT name FROM people WHERE age > 30;", "WÄHLE name AUS leute WO alter > 30;"),
)
_ADDRESSES = ("https://example.org/guide/start.html", "https://docs.example.com/a/b?page=2", "www.example.net/faq")
_LEFTOVERS = (
    "Translate this from English to German:\nEnglish: {source}\nGerman: {text}",
    "German: {text}",
    "Here is the German translation: {text}",
    "{text}\nEnglish: {source}",
    "Übersetzung: {text}",
    "{text}\n\nTranslate this from English to German:",
    "Translate the following text from English to German.\n{text}",
)


def help_pairs(held_out: bool, count: int) -> list[Pair]:
    """Paragraphs of 40 characters or more, in an order fixed by a hash; run-together and untranslated ones dropped."""
    with gzip.open(HELP, "rt", encoding="utf-8") as file:
        cells = [line.rstrip("\n").split("\t") for line in file]
    rows = {
        (source, text)
        for page, _, _, source, text in cells
        if parallel.held_out_page(page) is held_out
        and min(len(source), len(text)) >= 40
        and source != text
        and not pairs.run_together(source, text)
        and not pairs.run_together(text, source)
    }
    return sorted(rows, key=lambda row: hashlib.sha256(row[0].encode()).digest())[:count]


def project_pairs(held_out: bool) -> list[Pair]:
    """The project's measuring pairs, or its training pairs."""
    rows = corpora.sentence_pairs("en", "de") if held_out else corpora.training_pairs("en", "de")
    return [(row["source_text"], row["target_text"]) for row in rows]


def sentences(text: str) -> list[str]:
    """The sentences of a text with 20 letters or more; shorter ones stay with the one before."""
    found: list[str] = []
    for piece in _SENTENCE.split(text):
        if found and pairs.letters(piece) < 20:
            found[-1] += " " + piece
        else:
            found.append(piece)
    return found


def other_language(pair: Pair, draw: random.Random) -> Pair | None:
    """A Dutch text instead of the German one, as long."""
    source, text = pair
    dutch = " ".join(draw.sample(_DUTCH, len(_DUTCH)))
    return source, (dutch * (len(text) // len(dutch) + 1))[: max(len(text), 60)]


def copied(pair: Pair, draw: random.Random) -> Pair | None:
    """The source itself, where its human translation changed three words or more: formulas are rightly copied."""
    words = [set(re.findall(r"[^\W\d_]{2,}", side.lower())) for side in pair]
    return (pair[0], pair[0]) if len(words[0] - words[1]) >= 3 else None


def untranslated_half(pair: Pair, draw: random.Random) -> Pair | None:
    """The second half of the words comes from the source, where the human translation changed three of them or more."""
    source, text = pair[0].split(), pair[1].split()
    half, human = (
        re.findall(r"[^\W\d_]{2,}", side.lower()) for side in (" ".join(source[len(source) // 2 :]), pair[1])
    )
    if len(set(half) - set(human)) < 3:
        return None
    return pair[0], " ".join(text[: len(text) // 2] + source[len(source) // 2 :])


def truncated(pair: Pair, draw: random.Random) -> Pair | None:
    """The first 60 % of the characters."""
    return pair[0], pair[1][: int(len(pair[1]) * 0.6)]


def sentence_dropped(pair: Pair, draw: random.Random) -> Pair | None:
    """One sentence of several is missing."""
    found = sentences(pair[1])
    if len(found) < 2 or len(sentences(pair[0])) < 2:
        return None
    found.pop(draw.randrange(len(found)))
    return pair[0], " ".join(found)


def sentence_repeated(pair: Pair, draw: random.Random) -> Pair | None:
    """One sentence is said twice."""
    found = sentences(pair[1])
    place = draw.randrange(len(found))
    return pair[0], " ".join([*found[: place + 1], *found[place:]])


def looped_phrase(pair: Pair, draw: random.Random) -> Pair | None:
    """The last words again and again."""
    words = pair[1].rstrip(".").split()
    return pair[0], " ".join([*words, *words[-draw.randint(1, 4) :] * draw.randint(6, 20)])


def number_changed(pair: Pair, draw: random.Random) -> Pair | None:
    """Another number in place of one that both sides have."""
    shared = [found for found in re.finditer(r"(?<![\w.,])\d+(?![\w]|[.,]\d)", pair[1]) if found[0] in
              re.findall(r"(?<![\w.,])\d+(?![\w]|[.,]\d)", pair[0])]  # fmt: skip
    if not shared:
        return None
    found = draw.choice(shared)
    other = str(int(found[0]) + draw.choice((1, 2, 7, 30)))
    return pair[0], pair[1][: found.start()] + other + pair[1][found.end() :]


def url_changed(pair: Pair, draw: random.Random) -> Pair | None:
    """One character of an address is another, or its end is lost."""
    address = draw.choice(_ADDRESSES)
    spoiled = draw.choice((address[:-2], address.replace("example", "beispiel"), address.replace("/", " / ", 3)))
    return f"{pair[0]} See {address} for more.", f"{pair[1]} Mehr dazu unter {spoiled} im Netz."


def code_translated(pair: Pair, draw: random.Random) -> Pair | None:
    """The words of a program are translated."""
    code, spoiled = draw.choice(_CODE)
    return f"{pair[0]}\n\n```\n{code}\n```", f"{pair[1]}\n\n```\n{spoiled}\n```"


def negation_removed(pair: Pair, draw: random.Random) -> Pair | None:
    """One "nicht", "nie" or "kein" is gone, where the source negates too."""
    found = list(_NEGATION.finditer(pair[1]))
    if not found or not re.search(r"\b(?:not|no|never|none|cannot)\b|n['’]t\b", pair[0], re.IGNORECASE):
        return None
    chosen = draw.choice(found)
    instead = re.sub("^kein", "ein", chosen[1]) + " " if chosen[1].startswith("kein") else ""
    return pair[0], pair[1][: chosen.start()] + instead + pair[1][chosen.end() :]


def prompt_left(pair: Pair, draw: random.Random) -> Pair | None:
    """Words of the translator's own prompt, or its announcement, stand around the translation."""
    return pair[0], draw.choice(_LEFTOVERS).format(source=pair[0], text=pair[1])


def register_mixed(pair: Pair, draw: random.Random) -> Pair | None:
    """A text that says Sie more than once says du in its last place."""
    found = [m for m in re.finditer(r"(?<=[a-zäöüß,] )(Sie|Ihnen|Ihre[nmrs]?|Ihr)\b", pair[1])]
    if len(found) < 2:
        return None
    last = found[-1]
    informal = {"Sie": "du", "Ihnen": "dir"}.get(last[0]) or last[0].replace("Ihr", "dein")
    return pair[0], pair[1][: last.start()] + informal + pair[1][last.end() :]


CORRUPTIONS: dict[str, Callable[[Pair, random.Random], Pair | None]] = {
    "other_language": other_language,
    "copied": copied,
    "untranslated_half": untranslated_half,
    "truncated": truncated,
    "sentence_dropped": sentence_dropped,
    "sentence_repeated": sentence_repeated,
    "looped_phrase": looped_phrase,
    "number_changed": number_changed,
    "url_changed": url_changed,
    "code_translated": code_translated,
    "negation_removed": negation_removed,
    "prompt_left": prompt_left,
    "register_mixed": register_mixed,
}


def spoil(pairs_in: list[Pair], name: str, seed: int = 42) -> list[Pair]:
    """The pairs that a corruption can spoil, spoiled; "swapped" gives each pair its neighbour's translation."""
    if name == "swapped":
        others = [*pairs_in[1:], pairs_in[0]]
        return [(source, text) for (source, _), (_, text) in zip(pairs_in, others, strict=True)]
    draw = random.Random(seed)
    spoiled = (CORRUPTIONS[name](pair, draw) for pair in pairs_in)
    return [pair for pair in spoiled if pair is not None]
