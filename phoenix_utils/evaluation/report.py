"""One HTML page with everything about an evaluation, and the tables that the notebook shares with it.

The page needs no other file and no network. Whatever a model or a corpus wrote is escaped by Jinja2, and a
content policy in the page's head forbids scripts and outside addresses on top of that.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from phoenix_utils import plots
from phoenix_utils.artifacts import read_json
from phoenix_utils.evaluation import benchmarks, paper
from phoenix_utils.evaluation.contenders import comparisons
from phoenix_utils.evaluation.scores import METRICS, Metric
from phoenix_utils.evaluation.settings import EvaluationSettings
from phoenix_utils.statistics import Interval, bootstrap_share
from phoenix_utils.tables import read_lines, read_rows

MODELS = {"base": "Base", "sft": "SFT", "dpo": "DPO"}
BETTER = {"high": "higher is better", "low": "lower is better", "": "neither way is better"}


def title(model: str) -> str:
    """How a model is called in tables: Base, SFT, DPO, or the last part of its name."""
    return MODELS.get(model, model.rstrip("/").rpartition("/")[2])


def pair_title(pair: str, models: Iterable[str]) -> str:
    """ "SFT − Base" for the key "sft-base" of a difference between two of `models` (whose names may hold a "-")."""
    return next(
        f"{title(later)} − {title(earlier)}"
        for earlier, later in itertools.permutations(models, 2)
        if pair == f"{later}-{earlier}"
    )


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
            pictures={name: picture(name, scores) for name in METRICS},
            categories={name: category_picture(name, found) for name, found in by_category(folder).items()},
            answers=answers_by_prompt(folder),
            judged=judged_parts(folder),
            harness=harness_table(folder),
            cards=[(name, benchmarks.CARDS[name]) for name in settings.tasks() if name in benchmarks.CARDS],
            paper=[(number, *table, paper.notes(table[1])) for number, table in paper_tables(folder)],
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


def by_category(folder: Path) -> dict[str, dict[str, Interval]]:
    """{category: {model: interval}}: the judge's scores where there is a judge, else the share of answers in form: in
    the target language, ended by themselves, without a loop."""
    if (folder / "judged.json").is_file():
        tables = read_json(folder / "judged.json")["scores"]
        names = [name for name in next(iter(tables.values()), {}) if name != "average" and not name.startswith("turn ")]
        keys = ("value", "low", "high", "n")
        return {
            name: {m: Interval.from_dict({k: t[name][k] for k in keys}) for m, t in tables.items()} for name in names
        }
    hits: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    path = folder / "mt_bench.jsonl"
    for row in read_lines(path) if path.is_file() else read_rows(folder / "answers.parquet"):
        if row["category"]:
            in_form = row["in_target_language"] and row["finish_reason"] == "stop" and not row["is_loop"]
            hits[row["category"]][row["model"]].append(float(in_form))
    return {name: {m: bootstrap_share(found) for m, found in own.items()} for name, own in hits.items()}


def category_picture(name: str, found: Mapping[str, Interval]) -> str:
    """Bars of one category as a data address for an <img>."""
    share = all(not math.isfinite(item.value) or item.value <= 1 for item in found.values())
    figure = plots.detached_figure(3.4, 1.5)
    heading = f"{name} ({next(iter(found.values())).n})"
    named = {title(model): item for model, item in found.items()}
    plots.bars(named, title=heading, share=share, ax=figure.add_subplot())
    return plots.data_uri(figure)


def judged_parts(folder: Path) -> dict | None:
    """What the page shows of a judge: its tables, and each question with answers, replies and scores."""
    path = folder / "mt_bench.jsonl"
    if not path.is_file():
        return None
    stored = read_json(folder / "judged.json") if (folder / "judged.json").is_file() else None
    rows = read_lines(folder / "judgements.jsonl") if stored else []
    said = {(r["model"], r["question_id"], r["turn"]): r for r in rows if r["kind"] == "score"}
    grouped: dict[str, list[dict]] = defaultdict(list)
    for row in read_lines(path):
        verdict = said.get((row["model"], row["question_id"], row["turn"]))
        grouped[row["question_id"]].append({**row, "verdict": verdict})
    questions = []
    for question, own in grouped.items():
        turns: dict[int, list[dict]] = defaultdict(list)
        for row in own:
            turns[row["turn"]].append(row)
        questions.append({"id": question, "category": own[0]["category"], "turns": list(turns.values())})
    return {"stored": stored, "questions": questions}


def harness_table(folder: Path) -> dict | None:
    """{"rows": the harness' results, "differences": paired ones}, or None where no benchmark was run."""
    path = folder / "harness.jsonl"
    if not path.is_file():
        return None
    rows = read_lines(path)
    pairs = comparisons(list(dict.fromkeys(row["model"] for row in rows)))
    return {"rows": rows, "differences": benchmarks.compare(rows, pairs)}


def paper_tables(folder: Path) -> list[tuple[int, tuple]]:
    """Tables 3 and 4 of the paper beside this run."""
    return [(3, paper.table_3(folder)), (4, paper.table_4(folder))]


def draw(name: str, scores: Mapping[str, Mapping[str, Interval]], ax) -> None:
    """Bars with intervals of one metric for all models, drawn on `ax`."""
    metric = METRICS[name]
    plots.bars(
        {title(model): scores[model][name] for model in scores},
        share=metric.share,
        digits=metric.digits,
        title=metric.title,
        label=BETTER[metric.better],
        ax=ax,
    )


def findings(scores: dict, differences: dict, language: str) -> list[str]:
    """The main results as sentences; each says whether the interval settles it."""
    import langcodes

    def shares(name: str) -> str:
        return ", ".join(f"{title(model)} {written(found[name], METRICS[name])}" for model, found in scores.items())

    sentences = [
        f"Answers in {langcodes.Language.get(language).display_name()}: {shares('target_language_share')}.",
        f"Answers that stop by themselves: {shares('stop_share')}.",
    ]
    for earlier, later in comparisons(list(scores)):
        name = "preference_accuracy" if later == "dpo" else "nll_per_token"
        change, metric = differences[f"{later}-{earlier}"][name], METRICS[name]
        sentences.append(
            f"{metric.title}: {title(later)} minus {title(earlier)} {written(change, metric, change=True)} "
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
        title=title,
        pair_title=pair_title,
        catalogue=METRICS,
        colours=plots.MODEL_COLOURS,
    )
    return made
