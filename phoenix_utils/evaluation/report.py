"""One HTML page with everything about an evaluation, and the tables that the notebook shares with it.

The page needs no other file and no network. Whatever a model or a corpus wrote is escaped by Jinja2, and a
content policy in the page's head forbids scripts and outside addresses on top of that.
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from phoenix_utils import plots
from phoenix_utils.artifacts import read_json
from phoenix_utils.evaluation.scores import COMPARISONS, METRICS, Metric
from phoenix_utils.evaluation.settings import EvaluationSettings
from phoenix_utils.statistics import Interval
from phoenix_utils.tables import read_rows

MODELS = {"base": "Base", "sft": "SFT", "dpo": "DPO"}
BETTER = {"high": "higher is better", "low": "lower is better", "": "neither way is better"}


def render(folder: Path, settings: EvaluationSettings) -> str:
    """The report of the evaluation whose products lie in `folder`."""
    scores, differences = load_scores(folder)
    stored = read_json(folder / "differences.json")
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            settings=settings,
            scores=scores,
            differences=differences,
            stored=stored,
            metrics=METRICS,
            models=MODELS,
            pictures={name: picture(name, scores) for name in METRICS},
            answers=answers_by_prompt(folder),
            findings=findings(scores, differences, settings.language),
        )
    )


def load_scores(folder: Path) -> tuple[dict[str, dict[str, Interval]], dict[str, dict[str, Interval]]]:
    """scores.json and the paired part of differences.json, as intervals: {model or comparison: {metric:
    ...}}."""

    def revive(stored: dict) -> dict[str, dict[str, Interval]]:
        return {
            outer: {name: Interval.from_dict(value) for name, value in inner.items()} for outer, inner in stored.items()
        }

    return revive(read_json(folder / "scores.json")), revive(read_json(folder / "differences.json")["paired"])


def answers_by_prompt(folder: Path) -> list[dict]:
    """One entry a prompt: its row's fields, and "answers" {model: row}, in the order they were asked."""
    grouped: dict[tuple[str, int], dict[str, dict]] = defaultdict(dict)
    for row in read_rows(folder / "answers.parquet"):
        grouped[row["prompt_id"], row["turn"]][row["model"]] = row
    return [{**next(iter(rows.values())), "answers": rows} for rows in grouped.values()]


def picture(name: str, scores: Mapping[str, Mapping[str, Interval]]) -> str:
    """Bars with intervals of one metric for all models, as a data address for an <img>."""
    figure = plots.detached_figure(4.4, 2.0)
    draw(name, scores, figure.add_subplot())
    return plots.data_uri(figure)


def draw(name: str, scores: Mapping[str, Mapping[str, Interval]], ax) -> None:
    """Bars with intervals of one metric for all models, drawn on `ax`."""
    metric = METRICS[name]
    plots.bars(
        {MODELS[model]: scores[model][name] for model in scores},
        share=metric.share,
        digits=metric.digits,
        title=metric.title,
        label=BETTER[metric.better],
        ax=ax,
    )


def findings(scores: dict, differences: dict, language: str) -> list[str]:
    """The main results as sentences; each says whether the interval settles it."""

    def shares(name: str) -> str:
        return ", ".join(f"{MODELS[model]} {written(found[name], METRICS[name])}" for model, found in scores.items())

    sentences = [
        f"Answers in {language}: {shares('target_language_share')}.",
        f"Answers that stop by themselves: {shares('stop_share')}.",
    ]
    for (earlier, later), name in zip(COMPARISONS, ("nll_per_token", "preference_accuracy"), strict=True):
        change, metric = differences[f"{later}-{earlier}"][name], METRICS[name]
        sentences.append(
            f"{metric.title}: {MODELS[later]} minus {MODELS[earlier]} {written(change, metric, change=True)} "
            f"({span(change, metric, change=True)}): {verdict(change, metric)}."
        )
    return sentences


def written(found: Interval, metric: Metric, change: bool = False) -> str:
    """The value as text, in the metric's unit: "97 %", "2.41", "n/a"; a change with its sign, "+12
    points"."""
    if not math.isfinite(found.value):
        return "n/a"
    return _number(found.value, metric, "+" if change else "") + _unit(metric, change)


def span(found: Interval, metric: Metric, change: bool = False) -> str:
    """The interval as text: "91 to 100 %"."""
    if not math.isfinite(found.low):
        return "no interval"
    sign = "+" if change else ""
    return f"{_number(found.low, metric, sign)} to {_number(found.high, metric, sign)}{_unit(metric, change)}"


def verdict(change: Interval, metric: Metric) -> str:
    """What a difference's interval allows to say, in a word or two."""
    if not math.isfinite(change.low):
        return "too few units to say"
    if not change.excludes_zero:
        return "no difference shown"
    if not metric.better:
        return "higher" if change.value > 0 else "lower"
    return "better" if (change.value > 0) == (metric.better == "high") else "worse"


def _number(value: float, metric: Metric, sign: str) -> str:
    scaled, digits = (100 * value, 0) if metric.share else (value, metric.digits)
    return f"{round(scaled, digits) + 0.0:{sign},.{digits}f}".replace("-", "−")  # + 0.0 makes -0.0 plain


def _unit(metric: Metric, change: bool) -> str:
    return "" if not metric.share else " points" if change else " %"


@functools.cache
def environment() -> Environment:
    """Jinja2 with escaping on for everything; a forgotten variable is an error, not an empty place."""
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals.update(
        written=written,
        span=span,
        verdict=verdict,
        better=BETTER,
        model_names=MODELS,
        catalogue=METRICS,
        colours=plots.MODEL_COLOURS,
    )
    return made
