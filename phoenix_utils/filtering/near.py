"""Rows that say what another text says already: earlier rows, and questions of the evaluation.

Both look at the row as it came in, whether or not another rule rejects it, so that no verdict depends on another.
"""

import re
import zlib
from collections import defaultdict
from collections.abc import Iterable

from phoenix_utils import corpora
from phoenix_utils.errors import PhoenixError
from phoenix_utils.filtering.settings import FilteringSettings

SHINGLE = 5
"""Words in a shingle; texts in scripts without spaces are cut into characters instead."""
GRAM = 8
"""Words of a run that counts as overlap with a question, as in Tulu 3 (Lambert et al. 2024, arXiv 2411.15124)."""
_PERMUTATIONS = 64
_WORD = re.compile(r"\w+")
_SPACELESS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\u0e00-\u0e7f]")


class NearDuplicates:
    """MinHash signatures of the rows so far (Broder 1997), banded for look-up (LSH).

    Two texts whose sets of shingles share `similarity` of their members (Jaccard) are the same row to a student, who
    would learn it by heart. A row costs 64 hash values of 4 bytes and a key for each band: about 1 KB, so 200,000 rows
    stay within a few hundred MB, and a group of equal rows is remembered once.
    """

    def __init__(self, similarity: float):
        from datasketch import MinHash, MinHashLSH

        self.similarity = similarity
        lsh = MinHashLSH(threshold=similarity, num_perm=_PERMUTATIONS)
        self.bands, self.rows = lsh.b, lsh.r
        self.empty = MinHash(num_perm=_PERMUTATIONS, hashfunc=zlib.crc32)
        self.places: list[dict[int, int]] = [{} for _ in range(self.bands)]
        self.signatures: list[bytes] = []
        self.names: list[str] = []

    def seen(self, name: str, text: str) -> str | None:
        """Reason if a row of nearly this text came before; otherwise remembers it under `name`."""
        import numpy as np

        shingles = _shingles(text)
        if not shingles:
            return None
        made = self.empty.copy()
        made.update_batch(shingles)
        values = made.hashvalues.astype(np.uint32)
        keys = [hash(values[at * self.rows : (at + 1) * self.rows].tobytes()) for at in range(self.bands)]
        candidates = {
            found for band, key in zip(self.places, keys, strict=True) if (found := band.get(key)) is not None
        }
        for place in candidates:
            share = float((np.frombuffer(self.signatures[place], np.uint32) == values).mean())
            if share >= self.similarity:
                return f"{share:.0%} like {self.names[place]}"
        for band, key in zip(self.places, keys, strict=True):
            band.setdefault(key, len(self.names))
        self.signatures.append(values.tobytes())
        self.names.append(name)
        return None


def _shingles(text: str) -> list[bytes]:
    words = list(text) if _SPACELESS.search(text) else _WORD.findall(text.casefold())
    size = min(SHINGLE, len(words))
    return [" ".join(words[start : start + size]).encode() for start in range(len(words) - size + 1)] if words else []


class Contamination:
    """Runs of eight words of every text that the evaluation asks about, and which text each belongs to."""

    def __init__(self, texts: Iterable[tuple[str, str]], most: float):
        self.most = most
        self.grams: dict[tuple[str, ...], list[str]] = defaultdict(list)
        self.sizes: dict[str, int] = {}
        for name, text in texts:
            grams = set(_grams(text))
            if grams:
                self.sizes[name] = len(grams)
                for gram in grams:
                    self.grams[gram].append(name)

    def question_in(self, texts: Iterable[str]) -> str | None:
        """Reason if one question's runs of eight words stand in these texts, more than the share `most` of them."""
        hits: dict[str, set] = defaultdict(set)
        for text in texts:
            for gram in _grams(text):
                for name in self.grams.get(gram, ()):
                    hits[name].add(gram)
        for name, found in hits.items():
            share = len(found) / self.sizes[name]
            if share > self.most:
                return f"{share:.0%} of {name} stands in it"
        return None


def _grams(text: str) -> Iterable[tuple[str, ...]]:
    words = _WORD.findall(text.casefold())
    return zip(*(words[at:] for at in range(GRAM)), strict=False)


def evaluation_texts(settings: FilteringSettings) -> list[tuple[str, str]]:
    """(name, text) of what the evaluation asks: the two-turn questions, and the held-out conversations' prompts.

    In the target and the source language; a language without questions or a human version has none of its own.
    """
    found = []
    for language in (settings.language, settings.source_language):
        try:
            for row in corpora.questions(language):
                found += [
                    (f"question {row['question_id']} turn {turn}", text) for turn, text in enumerate(row["turns"], 1)
                ]
        except PhoenixError:
            pass  # the package has no questions in this language
        try:
            for row in corpora.held_out_chat(language):
                found.append((f"held-out {row['prompt_id']} ({language})", row["messages"][0]["content"]))
        except PhoenixError:
            pass  # nor a human version
    return found
