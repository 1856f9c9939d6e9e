"""How good is a translator? chrF, BLEU and the share of plain failures on pairs it has not seen, with intervals."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from phoenix_utils import mt_metrics, pairs
from phoenix_utils.statistics import Interval, bootstrap, bootstrap_share, difference
from phoenix_utils.translation.translate import translate_documents
from phoenix_utils.translation.translator import Translator

Pairs = list[tuple[str, str]]


class Hypothesis(NamedTuple):
    """A translation, and whether every segment of it ended by itself."""

    text: str
    finished: bool


def translate_sets(translator: Translator, sets: dict[str, Pairs], on_batch=None) -> dict[str, list[Hypothesis]]:
    """Translate the source side of each set, all in one go, the way the translation stage would.

    `on_batch(done, of)` hears how many segments are finished.
    """
    sources = [source for rows in sets.values() for source, _ in rows]
    done = iter(translate_documents(sources, translator, on_batch))
    return {name: [Hypothesis(*next(done)) for _ in rows] for name, rows in sets.items()}


def faults(source: str, hypothesis: Hypothesis, language: str, source_language: str) -> dict[str, bool]:
    """Plain failures of one translation: copied from the source, a loop, cut off, in the wrong language."""
    text = hypothesis.text
    return {
        "copied": bool(pairs.copied(source, text)) or (pairs.letters(pairs.prose(source)) >= 20 and text == source),
        "loop": bool(pairs.repeated(source, text)),
        "truncated": not hypothesis.finished,
        "wrong_language": bool(pairs.wrong_language(text, language, source_language)),
    }


def scores(rows: Pairs, hypotheses: list[Hypothesis], language: str, source_language: str) -> dict[str, Any]:
    """chrF, BLEU (0 to 100) and each fault's share (0 to 1) over one set, each as {"value", "low", "high", "n"}."""
    texts, references = [h.text for h in hypotheses], [reference for _, reference in rows]
    found = {"chrf": bootstrap(mt_metrics.chrf(_chrf_counts(texts, references)), len(rows))}
    found["bleu"] = bootstrap(mt_metrics.bleu(mt_metrics.bleu_counts(texts, references)), len(rows))
    judged = [faults(source, h, language, source_language) for (source, _), h in zip(rows, hypotheses, strict=True)]
    for name in judged[0]:
        found[name] = bootstrap_share([float(row[name]) for row in judged])
    return {name: interval.as_dict() for name, interval in found.items()}


def chrf_gain(rows: Pairs, before: list[Hypothesis], after: list[Hypothesis]) -> Interval:
    """chrF after minus before, both on the same draws of the same pairs."""
    references = [reference for _, reference in rows]
    first, second = (mt_metrics.chrf(_chrf_counts([h.text for h in each], references)) for each in (before, after))
    return bootstrap(difference(first, second), len(rows))


def _chrf_counts(texts: list[str], references: list[str]) -> np.ndarray:
    return np.array([mt_metrics.chrf_counts(*both) for both in zip(texts, references, strict=True)])


def compare(
    sets: dict[str, Pairs],
    before: dict[str, list[Hypothesis]],
    after: dict[str, list[Hypothesis]],
    language: str,
    source_language: str,
) -> dict[str, Any]:
    """{set: {"before", "after": scores, "chrf_gain": interval}} and the signatures of both metrics."""
    result: dict[str, Any] = {}
    for name, rows in sets.items():
        result[name] = {
            "before": scores(rows, before[name], language, source_language),
            "after": scores(rows, after[name], language, source_language),
            "chrf_gain": chrf_gain(rows, before[name], after[name]).as_dict(),
        }
    result["signatures"] = {"chrf": mt_metrics.chrf_signature(), "bleu": mt_metrics.bleu_signature()}
    return result


def rows(
    sets: dict[str, Pairs], before: dict[str, list[Hypothesis]], after: dict[str, list[Hypothesis]]
) -> list[dict[str, Any]]:
    """One row a measured pair, with each side's own chrF: what got better and what got worse."""
    found = []
    for name, measured in sets.items():
        for (source, reference), first, second in zip(measured, before[name], after[name], strict=True):
            one, other = (sentence_chrf(h.text, reference) for h in (first, second))
            found.append(
                {
                    "set": name,
                    "source": source,
                    "reference": reference,
                    "before": first.text,
                    "after": second.text,
                    "chrf_before": one,
                    "chrf_after": other,
                }
            )
    return found


def sentence_chrf(text: str, reference: str) -> float:
    """chrF of one translation, 0 to 100: good for sorting, too noisy to judge a translator by."""
    return float(mt_metrics.chrf(_chrf_counts([text], [reference]))(np.ones((1, 1)))[0])
