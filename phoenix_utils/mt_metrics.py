"""chrF and BLEU as statistics over units, so that one bootstrap serves both and any grouping.

The numbers are sacreBLEU's (tests hold them against each other, the signatures are kept beside them); only the
resampling is ours, since sacreBLEU's own cannot draw whole conversations or pages.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from phoenix_utils.statistics import Statistic

CHRF_ORDER, CHRF_BETA = 6, 2


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


def bleu_counts(hypotheses: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """What BLEU sums over sentences, shape (sentences, 10): matches and n-grams of orders 1 to 4, both lengths."""
    from sacrebleu.metrics import BLEU

    metric = BLEU(effective_order=True)  # changes a sentence's own score only, which is not used
    found = [metric.sentence_score(text, [wanted]) for text, wanted in zip(hypotheses, references, strict=True)]
    return np.array([[*score.counts, *score.totals, score.sys_len, score.ref_len] for score in found], float)


def bleu(counts: np.ndarray) -> Statistic:
    """Corpus BLEU (0 to 100; Papineni et al. 2002) of the units drawn, from counts of shape (units, 10).

    Smoothed as sacreBLEU does by default: the k-th order without a match counts 1 / 2^k matches.
    """

    def statistic(weights: np.ndarray) -> np.ndarray:
        sums = weights @ counts
        matches, totals, lengths, wanted = sums[:, :4], sums[:, 4:8], sums[:, 8], sums[:, 9]
        missed = np.cumsum((matches == 0) & (totals > 0), axis=1)
        matches = np.where(matches == 0, 1 / 2.0**missed, matches)
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.log(matches / totals).mean(axis=1)
            brevity = np.minimum(0.0, 1 - wanted / lengths)
        usable = (totals > 0).all(axis=1) & (sums[:, 0] > 0)
        return np.where(usable, 100 * np.exp(np.where(usable, logs + brevity, 0.0)), 0.0)

    return statistic


def bleu_signature() -> str:
    """sacreBLEU's signature of the BLEU that `bleu` computes."""
    from sacrebleu.metrics import BLEU

    metric = BLEU()
    metric.corpus_score(["a"], [["a"]])
    return str(metric.get_signature())
