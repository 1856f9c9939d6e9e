"""Which words and texts a language needs: the input of vocabulary trimming.

Words come from wordfreq's lists (about 45 languages, offline), texts from the package's own corpora. What is
kept in a converted model follows from them, so `fingerprint` is part of the name it is cached under.
"""

import hashlib
import importlib.util
import json
import re
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from phoenix_utils.errors import PhoenixError

WORDS = 50_000
"""How many words of each language's frequency list are looked at. Twice as many changed nothing
measurable."""

RULES = 1
"""Version of the rules in this module; raise it when the same lists would give other forms than before."""

_CODE_WORDS = """
abs args array assert async await bash bool boolean break byte case catch char class cls const continue cout
cpp css csv data def default del delete dict div do double elif else end endl enum except exec export
extends false final finally float fn for foreach from func function git global goto grep href html http
https if impl implements import in include init input insert int interface is isinstance java javascript
join json kwargs lambda len let list long main map match math matplotlib mkdir mod module mut namespace new
nil none not np npm null num numpy obj object order os out override package pandas param parse pass path pd
pip plt print printf println private protected pub public py pytest python raise range re read regex repr
req require res return rust select self set short signed sizeof sort split sql sqrt src static std str
string strip struct sudo sum super switch sys table test then this throw throws to torch true try tuple type
typedef typeof union unsigned update url use using utf val values var vector void where while with xml yaml
yield zip
"""
"""Words of programs, in the usual spellings, so that code in a conversation stays as short as it was."""

_LANGUAGE = re.compile(r"[a-z]{2,3}(-[a-z0-9]+)*")
# languages that share the list of another code
_SAME_LIST = {"no": "nb", "hr": "sh", "bs": "sh"}


def language_code(language: str) -> str:
    """An ISO code in lower case with hyphens: "pt-br" for "pt_BR". Raises PhoenixError for anything else."""
    code = language.strip().lower().replace("_", "-") if isinstance(language, str) else ""
    if not _LANGUAGE.fullmatch(code):
        raise PhoenixError(f"language {language!r} is not a language code: write it as in 'de' or 'pt-BR'")
    return code


def word_list(language: str) -> Path | None:
    """The file of wordfreq's list for an ISO code ("de", "pt-BR"), or None where wordfreq has none.

    Only the path is looked up: wordfreq is not imported. Raises PhoenixError when `language` is no language
    code.
    """
    code = language_code(language)
    spec = importlib.util.find_spec("wordfreq")
    if spec is None or not spec.submodule_search_locations:
        raise PhoenixError("the package 'wordfreq' is not installed: run `pip install wordfreq`")
    code = code.split("-")[0]
    code = _SAME_LIST.get(code, code)
    folder = Path(spec.submodule_search_locations[0]) / "data"
    return next((f for size in ("large", "small") if (f := folder / f"{size}_{code}.msgpack.gz").is_file()), None)


def corpora_files() -> list[Path]:
    """The package's own corpora, whose texts count as covered."""
    return sorted((Path(__file__).parent / "data").glob("*.jsonl"))


def fingerprint(languages: Iterable[str]) -> str:
    """Twelve hex digits that change whenever what `word_forms` or `covered_texts` return could.

    Reads the files as bytes, so it takes milliseconds and imports nothing heavy.
    """
    digest = hashlib.sha256(f"{RULES} {WORDS} {_CODE_WORDS}".encode())
    for file in [*filter(None, map(word_list, sorted(set(languages)))), *corpora_files()]:
        digest.update(file.name.encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:12]


def covered_texts() -> list[str]:
    """Texts whose tokenisation must not change: every text of the package's corpora, and words of
    programs."""
    texts = [space + form for word in _CODE_WORDS.split() for form in _cased(word) for space in ("", " ")]
    for file in corpora_files():
        for line in file.read_text(encoding="utf-8").splitlines():
            texts.extend(_strings(json.loads(line)) if line.strip() else ())
    return texts


def word_forms(languages: Iterable[str]) -> dict[str, float]:
    """Words as they stand in text, each with the share of a text that it is expected to make up.

    From the `WORDS` most frequent words of each language: lower case, Title and UPPER, with and without the
    space before, since a tokenizer has different tokens for them. Each language weighs the same; the shares
    are relative. Raises PhoenixError for a language that wordfreq has no list of.
    """
    import wordfreq

    forms: dict[str, float] = {}
    for language in sorted(set(languages)):
        file = word_list(language)
        if file is None:
            raise PhoenixError(f"wordfreq has no word list for {language!r}: keep the full vocabulary")
        code = file.name.split("_")[1].split(".")[0]
        words = list(islice(wordfreq.get_frequency_dict(code).items(), WORDS))  # in order of frequency
        total = sum(frequency for _, frequency in words)
        for folded, frequency in words:
            for word in _unfolded(folded, code):
                lower, title, upper = _cased(word, code)
                for form, inside, bare in ((lower, 0.5, 0.1), (title, 0.3, 0.1), (upper, 0.02, 0.02)):
                    forms[" " + form] = forms.get(" " + form, 0.0) + inside * frequency / total
                    forms[form] = forms.get(form, 0.0) + bare * frequency / total
    return forms


def _unfolded(word: str, code: str) -> list[str]:
    """Undo what wordfreq's case folding did to the spelling: it turned German ß into ss, Greek ς into σ."""
    if code == "de" and "ss" in word:
        return [word, word.replace("ss", "ß")]  # which of the two is right, only a dictionary knows
    return [word[:-1] + "ς" if code == "el" and word.endswith("σ") else word]


def _cased(word: str, code: str = "") -> tuple[str, str, str]:
    """A word in lower case, Title and UPPER."""
    large = word.replace("i", "İ") if code == "tr" else word
    return word, large[:1].upper() + word[1:], large.upper()


def _strings(value) -> list[str]:
    """Every string inside a JSON value."""
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for item in inner for text in _strings(item)]
