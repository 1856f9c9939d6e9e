"""From answers and log-probabilities to `scores.json` and `differences.json`.

A unit is what the bootstrap draws: a conversation with all its turns, a question, a preference pair. All
models share the units, so the difference between two models is computed within each draw ("paired").
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from phoenix_utils import mt_metrics
from phoenix_utils.evaluation import metrics
from phoenix_utils.evaluation.contenders import comparisons
from phoenix_utils.statistics import (
    Interval,
    Statistic,
    bootstrap,
    bound_share,
    difference,
    distinct_share,
    median,
    ratio,
)


@dataclass(frozen=True)
class Metric:
    """How a metric is named, written and read. `better`: "high", "low", or "" where neither is."""

    title: str
    better: str
    meaning: str
    share: bool = False
    digits: int = 2


METRICS = {
    "target_language_share": Metric(
        "Answers in the target language",
        "high",
        "share of answers whose prose is in the target language; an empty answer counts as not",
        share=True,
    ),
    "stop_share": Metric(
        "Answers that stop by themselves",
        "high",
        "share of answers that end with the stop token before the limit",
        share=True,
    ),
    "repetition_share": Metric(
        "Answers caught in a loop",
        "low",
        "share of answers that say a phrase or sentence again and again",
        share=True,
    ),
    "nll_per_token": Metric(
        "Surprise at reference answers",
        "low",
        "negative log-likelihood (nats) of all answers in the held-out conversations for each "
        "content token; the base is given the better of two prompts",
        digits=3,
    ),
    "chrf": Metric(
        "chrF against references",
        "high",
        "overlap of character n-grams with the held-out reference answers, 0 to 100; good free answers score low too",
        digits=1,
    ),
    "similarity": Metric(
        "Embedding similarity to references",
        "high",
        "cosine of sentence embeddings of answer and held-out reference answer; unrelated texts have about 0.83 "
        "already, so only differences say something",
        digits=3,
    ),
    "form_share": Metric(
        "Keeps the form asked for",
        "high",
        "share of answers that keep to the JSON, table, number of words or sentences, or forbidden word that the "
        "prompt names; of prompts that name one",
        share=True,
    ),
    "median_length": Metric("Median length", "", "characters of the middle answer", digits=0),
    "distinct_2": Metric(
        "Different word pairs (distinct-2)",
        "",
        "different neighbouring words by all neighbouring words, over all answers; falls with length and with loops",
        digits=3,
    ),
    "preference_accuracy": Metric(
        "Prefers the better answer",
        "high",
        "share of held-out pairs whose chosen answer has the higher summed log-probability; guessing gives 50 %",
        share=True,
    ),
}


@dataclass(frozen=True)
class Measure:
    """A statistic over the units of one model, and how its interval is to be made."""

    statistic: Statistic
    units: int
    share: bool = False
    centred: bool = False
    least: float = 0.0


def evaluate(answers: Iterable[dict], logprobs: Iterable[dict], samples: int, seed: int) -> tuple[dict, dict]:
    """All scores and differences.

    Returns:
        scores: {model: {metric: {"value", "low", "high", "n"}}}; n counts units.
        differences: {"paired": {"sft-base": {metric: interval}, "dpo-sft": ...}, "base_prompt",
        "base_prompts", "preference", "chrf_signature"}; a difference is the later model minus the earlier.
    """
    answered, scored = _by_model(answers), _by_model(logprobs)
    base_prompt, tried = choose_base_prompt(scored.get("base", []))
    measures = {
        model: {
            **answer_measures(answered[model]),
            **likelihood_measures(scored[model], base_prompt if model == "base" else "chat"),
        }
        for model in answered
    }
    scores = {
        model: {name: _interval(measures[model][name], samples, seed).as_dict() for name in METRICS}
        for model in measures
    }
    differences = {
        f"{later}-{earlier}": {
            name: paired(measures[earlier][name], measures[later][name], samples, seed).as_dict() for name in METRICS
        }
        for earlier, later in comparisons(list(measures))
    }
    return scores, {
        "paired": differences,
        "base_prompt": base_prompt,
        "base_prompts": tried,
        "preference": preference_views(scored, samples, seed),
        "chrf_signature": mt_metrics.chrf_signature(),
    }


def answer_measures(rows: list[dict]) -> dict[str, Measure]:
    """Measures of what a model wrote."""
    units = _by_unit(rows)
    sizes = [len(unit) for unit in units]

    def share(hit) -> Measure:
        return Measure(ratio([sum(map(hit, unit)) for unit in units], sizes), len(units), share=True)

    with_reference = _by_unit(row for row in rows if row["reference"])
    counts = np.array(
        [sum(mt_metrics.chrf_counts(row["answer"], row["reference"]) for row in unit) for unit in with_reference]
    )
    formed = _by_unit(row for row in rows if row["keeps_form"] is not None)
    kept_form = [sum(row["keeps_form"] for row in unit) for unit in formed]
    near = [sum(row["similarity"] or 0.0 for row in unit) for unit in with_reference]
    owners = [place for place, unit in enumerate(units) for _ in unit]
    lengths = [len(row["answer"]) for unit in units for row in unit]
    bigrams = [[pair for row in unit for pair in metrics.word_pairs(row["answer"])] for unit in units]
    return {
        "target_language_share": share(lambda row: row["in_target_language"]),
        "stop_share": share(lambda row: row["finish_reason"] == "stop"),
        "repetition_share": share(lambda row: row["is_loop"]),
        "chrf": Measure(mt_metrics.chrf(counts), len(with_reference)),
        "similarity": Measure(ratio(near, [len(unit) for unit in with_reference]), len(with_reference)),
        "form_share": Measure(ratio(kept_form, [len(unit) for unit in formed]), len(formed), share=True),
        "median_length": Measure(median(lengths, owners), len(units)),
        "distinct_2": Measure(distinct_share(bigrams), len(units), centred=True),
    }


def likelihood_measures(rows: list[dict], template: str) -> dict[str, Measure]:
    """Measures of what a model finds likely, its references behind `template`.

    Preference accuracy compares *summed* log-probabilities, as DPO's own reward does and as RewardBench does
    for models without a reference model. A sum favours short answers; `preference_views` shows the mean
    beside it.
    """
    units = _by_unit(row for row in rows if row["kind"] == "reference" and row["template"] == template)
    surprise = [-sum(row["logprob"] for row in unit) for unit in units]
    tokens = [sum(row["tokens"] for row in unit) for unit in units]
    chosen, rejected = (_column(rows, side) for side in ("chosen", "rejected"))
    wins = metrics.preferred(chosen, rejected)
    return {
        "nll_per_token": Measure(ratio(surprise, tokens), len(units)),
        "preference_accuracy": Measure(ratio(wins, np.ones(len(wins))), len(wins), share=True),
    }


def choose_base_prompt(rows: list[dict]) -> tuple[str, dict[str, float | None]]:
    """Which prompt the base predicts references better behind ("chat" or "plain"), and its nats for each on the
    conversations that were tried with both."""
    references = [row for row in rows if row["kind"] == "reference"]
    units = [{row["prompt_id"] for row in references if row["template"] == t} for t in ("chat", "plain")]
    tried = {}
    for template in ("chat", "plain"):
        both = units[0] & units[1] or units[0] | units[1]
        found = [row for row in references if row["template"] == template and row["prompt_id"] in both]
        tokens = sum(row["tokens"] for row in found)
        tried[template] = -sum(row["logprob"] for row in found) / tokens if tokens else None
    known = {template: value for template, value in tried.items() if value is not None}
    return min(known, key=known.get) if known else "chat", tried


def preference_views(scored: dict[str, list[dict]], samples: int, seed: int) -> dict[str, Any]:
    """Other ways to count the same pairs, because the choice matters.

    `by_mean`: accuracy by log-probability per token, for each model. `dpo_reward`: share of pairs where DPO
    raised the chosen answer more than the rejected one above the SFT model (TRL's `rewards/accuracies`).
    `shorter_chosen`: share of pairs whose chosen answer has fewer tokens, which a sum favours.
    """

    def accuracy(chosen, rejected) -> dict:
        wins = metrics.preferred(chosen, rejected)
        measure = Measure(ratio(wins, np.ones(len(wins))), len(wins), share=True)
        return _interval(measure, samples, seed).as_dict()

    means = {
        model: accuracy(*(_column(rows, side, mean=True) for side in ("chosen", "rejected")))
        for model, rows in scored.items()
    }
    reward = None
    if {"sft", "dpo"} <= scored.keys():
        change = [np.subtract(_column(scored["dpo"], s), _column(scored["sft"], s)) for s in ("chosen", "rejected")]
        reward = accuracy(*change)
    some = scored.get("sft") or next(iter(scored.values()))
    chosen, rejected = (_column(some, side, key="tokens") for side in ("chosen", "rejected"))
    shorter = statistics.mean(metrics.preferred(rejected, chosen)) if chosen else None
    return {"by_mean": means, "dpo_reward": reward, "shorter_chosen": shorter}


def _column(rows: list[dict], kind: str, key: str = "logprob", mean: bool = False) -> list[float]:
    """One number for each pair, in the order of the pairs' ids."""
    found = sorted((row for row in rows if row["kind"] == kind), key=lambda row: row["prompt_id"])
    return [row[key] / (max(row["tokens"], 1) if mean else 1) for row in found]


def paired(earlier: Measure, later: Measure, samples: int, seed: int) -> Interval:
    """The later measure minus the earlier one, both on the same draws of the same units."""
    minus = Measure(difference(earlier.statistic, later.statistic), later.units, later.share, later.centred, least=-1.0)
    return _interval(minus, samples, seed)


def _interval(measure: Measure, samples: int, seed: int) -> Interval:
    found = bootstrap(measure.statistic, measure.units, n=samples, seed=seed, centred=measure.centred)
    if measure.centred:  # moving the draws can push a limit past what a share can be
        found = replace(found, low=max(found.low, measure.least), high=min(found.high, 1.0))
    return bound_share(found, least=measure.least) if measure.share else found


def _by_model(rows: Iterable[dict]) -> dict[str, list[dict]]:
    grouped: dict[str, list[dict]] = defaultdict(list)
    for row in rows:
        grouped[row["model"]].append(row)
    return grouped


def _by_unit(rows: Iterable[dict]) -> list[list[dict]]:
    """Rows by conversation, question or pair; sorted, so that every model's units stand in the same order."""
    grouped: dict[str, list[dict]] = defaultdict(list)
    for row in rows:
        grouped[row["prompt_id"]].append(row)
    return [grouped[key] for key in sorted(grouped)]
