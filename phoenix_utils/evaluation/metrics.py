"""Measures of one answer, and how the answers of one model become a number.

Everything here is a pure function of texts. What draws units and gives intervals is in `scores.py`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from phoenix_utils import pairs
from phoenix_utils.statistics import Statistic

CHRF_ORDER = 6
CHRF_BETA = 2
# A phrase or sentence said this often or more is a loop: held-out references never reach it.
MAX_REPEATS = 3
_WORD = re.compile(r"\w+")


def in_target_language(answer: str, language: str, source_language: str) -> bool:
    """Whether an answer's prose is in `language`, by the rule that the filters use.

    The identifier chooses between target, source and the languages they are confused with; up to 30 % of the
    letters may stand in foreign lines (a quotation). An answer without prose (empty, only code, only numbers)
    is in no language and counts as not. Very short ones are judged too, the target winning where it is close.
    """
    text = pairs.prose(answer)
    count = pairs.letters(text)
    if not count:
        return False
    if count < 20:  # the identifier abstains below 20 letters; said several times, a short text has them
        flat = " ".join(text.split())
        return pairs.detect_language(" ".join([flat] * (20 // count + 1)), language, source_language) in (
            None,
            language,
        )
    return pairs.wrong_language(answer, language, source_language) is None


def is_loop(answer: str) -> bool:
    """Whether an answer is stuck: a phrase in a row, a sentence anywhere, or letters in a word, again and
    again.

    It is the filters' repetition rule with nothing to compare with; code and formulas are left out.
    """
    return pairs.repeated("", answer, MAX_REPEATS) is not None


def word_pairs(answer: str) -> list[tuple[str, str]]:
    """Neighbouring words in small letters: the bigrams that distinct-2 counts (Li et al. 2016)."""
    words = [word.casefold() for word in _WORD.findall(answer)]
    return list(zip(words, words[1:], strict=False))


def chrf_counts(answer: str, reference: str) -> np.ndarray:
    """n-gram counts behind chrF, shape (6, 3): for each order those of answer, reference, and both.

    White space is left out, as in sacreBLEU's default. An order for which the reference has no n-gram counts
    no n-gram of the answer either.
    """
    texts = ["".join(text.split()) for text in (answer, reference)]
    counts = np.zeros((CHRF_ORDER, 3))
    for order in range(1, CHRF_ORDER + 1):
        found, wanted = (
            Counter(text[place : place + order] for place in range(len(text) - order + 1)) for text in texts
        )
        if wanted:
            counts[order - 1] = found.total(), wanted.total(), (found & wanted).total()
    return counts


def chrf(counts: np.ndarray) -> Statistic:
    """chrF (0 to 100; Popović 2015) of the units drawn, from counts of shape (units, 6, 3).

    The numbers are sacreBLEU's `corpus_chrf` (a test holds them against each other); computing it from summed
    counts gives all draws at once, and lets whole conversations be drawn, which sacreBLEU's own bootstrap
    cannot.
    """

    def statistic(weights: np.ndarray) -> np.ndarray:
        answers, references, both = np.moveaxis(np.tensordot(weights, counts, axes=1), -1, 0)
        usable = (answers > 0) & (references > 0)
        orders = np.maximum(usable.sum(axis=1), 1)
        precision = np.divide(both, answers, out=np.zeros_like(both), where=usable).sum(axis=1) / orders
        recall = np.divide(both, references, out=np.zeros_like(both), where=usable).sum(axis=1) / orders
        below = CHRF_BETA**2 * precision + recall
        top = 100 * (1 + CHRF_BETA**2) * precision * recall
        return np.divide(top, below, out=np.zeros_like(top), where=below > 0)

    return statistic


def chrf_signature() -> str:
    """sacreBLEU's signature of the chrF that `chrf` computes, for comparing numbers across papers."""
    from sacrebleu.metrics import CHRF

    metric = CHRF(char_order=CHRF_ORDER, word_order=0, beta=CHRF_BETA)
    metric.corpus_score(["a"], [["a"]])  # the signature knows the number of references after a first score
    return str(metric.get_signature())


def preferred(chosen: Sequence[float], rejected: Sequence[float]) -> list[float]:
    """1 where the chosen answer scores higher, 0 where the rejected one does, 0.5 where they are equal."""
    return [float(np.sign(a - b) / 2 + 0.5) for a, b in zip(chosen, rejected, strict=True)]
