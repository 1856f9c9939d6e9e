"""Rows that say what another text says already: earlier rows, and questions of the evaluation.

Both look at the row as it came in, whether or not another rule rejects it, so that no verdict depends on another.
"""

import re
import zlib
from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING

from phoenix_utils import corpora, sources
from phoenix_utils.errors import PhoenixError
from phoenix_utils.filtering import lexicon
from phoenix_utils.filtering.settings import FilteringSettings

if TYPE_CHECKING:
    import numpy as np

SHINGLE = 5
"""Words in a shingle; texts in scripts without spaces are cut into characters instead."""
GRAM = 8
"""Words of a run that counts as overlap with a question, as in Tulu 3 (Lambert et al. 2024, arXiv 2411.15124)."""
_PERMUTATIONS = 64
_WORD = re.compile(r"\w+")


class NearDuplicates:
    """MinHash signatures of the rows so far (Broder 1997), banded for look-up (LSH).

    Two texts whose sets of shingles share `similarity` of their members (Jaccard) are the same row to a student, who
    would learn it by heart. A row costs 64 hash values of 4 bytes and a key for each band: about 1 KB, so 200,000 rows
    stay within a few hundred MB, and a group of equal rows is remembered once. A permutation is a multiplication and
    an addition modulo 2**64 whose upper half is kept (multiply-shift, Dietzfelbinger et al. 1997), for all shingles
    and all permutations at once; `datasketch` says how many bands of how many values suit the similarity.
    """

    def __init__(self, similarity: float):
        import numpy as np
        from datasketch import MinHashLSH

        self.similarity = similarity
        # Candidates are compared anyway, so a missed pair weighs more than a candidate too many.
        lsh = MinHashLSH(threshold=similarity, num_perm=_PERMUTATIONS, weights=(0.2, 0.8))
        self.bands, self.rows = lsh.b, lsh.r
        draw = np.random.default_rng(0)
        numbers = draw.integers(0, 2**64, size=(SHINGLE + 2 * _PERMUTATIONS, 1), dtype=np.uint64)
        self.places_in_shingle = numbers[:SHINGLE] | np.uint64(1)
        self.factors = numbers[SHINGLE : SHINGLE + _PERMUTATIONS] | np.uint64(1)
        self.shifts = numbers[SHINGLE + _PERMUTATIONS :]
        self.places: list[dict[int, int]] = [{} for _ in range(self.bands)]
        self.signatures: list[bytes] = []
        self.names: list[str] = []

    def seen(self, name: str, text: str) -> str | None:
        """Reason if a row of nearly this text came before; otherwise remembers it under `name`."""
        import numpy as np

        words = list(text) if lexicon.SPACELESS.search(text) else _WORD.findall(text.casefold())
        if not words:
            return None
        values = self._signature(words)
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

    def _signature(self, words: list[str]) -> "np.ndarray":
        """Smallest value of each permutation over the shingles, uint32 of shape (permutations,)."""
        import numpy as np

        size = min(SHINGLE, len(words))
        ids = np.fromiter((zlib.crc32(word.encode()) for word in words), np.uint64, len(words))
        runs = np.lib.stride_tricks.sliding_window_view(ids, size)
        shingles = (runs @ self.places_in_shingle[:size]).ravel()
        shingles ^= shingles >> np.uint64(31)
        return (((shingles * self.factors + self.shifts) >> np.uint64(32)).min(axis=1)).astype(np.uint32)


class Contamination:
    """Runs of eight words of every text that the evaluation asks about, and which text each belongs to."""

    def __init__(self, texts: Iterable[tuple[str, str]], most: float):
        self.most = most
        self.grams: dict[tuple[str, ...], list[str]] = defaultdict(list)
        self.sizes: dict[str, int] = {}
        self.starts: set[tuple[str, str]] = set()  # most runs of a row fail this cheaper question
        for name, text in texts:
            grams = set(_grams(text))
            if grams:
                self.sizes[name] = len(grams)
                for gram in grams:
                    self.grams[gram].append(name)
                    self.starts.add(gram[:2])

    def question_in(self, texts: Iterable[str]) -> str | None:
        """Reason if one question's runs of eight words stand in these texts, more than the share `most` of them."""
        hits: dict[str, set] = defaultdict(set)
        for text in texts:
            words = _WORD.findall(text.casefold())
            for place, start in enumerate(zip(words, words[1:], strict=False)):
                if start in self.starts:
                    gram = tuple(words[place : place + GRAM])
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

    In the target and the source language; a language without questions or conversations has none of its own, and what
    the run has translated for its evaluation stands here as its English original. Then
    those of `evaluation_questions`; raises PhoenixError where a row of it holds no `turns` (or `prompt`).
    """
    found = _questions_of(settings.evaluation_questions) if settings.evaluation_questions else []
    for language in (settings.language, settings.source_language):
        try:
            for row in corpora.questions(language):
                found += [
                    (f"question {row['question_id']} turn {turn} ({language})", text)
                    for turn, text in enumerate(row["turns"], 1)
                ]
        except PhoenixError:
            pass  # the package has no questions in this language
        try:
            for row in corpora.held_out_chat(language):
                found.append((f"held-out {row['prompt_id']} ({language})", row["messages"][0]["content"]))
        except PhoenixError:
            pass  # nor conversations
    return found


def _questions_of(source: str) -> list[tuple[str, str]]:
    found = []
    for place, row in sources.raw_rows(source, "chat"):
        turns = row.get("turns") or row.get("prompt")
        turns = [turns] if isinstance(turns, str) else turns
        if not isinstance(turns, list) or not all(isinstance(turn, str) for turn in turns):
            raise PhoenixError(f"{place} is no question: filtering.evaluation_questions needs turns, a list of texts")
        name = row.get("question_id", row.get("prompt_id", place))
        found += [(f"{source} question {name} turn {turn}", text) for turn, text in enumerate(turns, 1)]
    return found
