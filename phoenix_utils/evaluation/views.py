"""What the notebook looks at: tables, pictures and answers of a finished evaluation.

Each function takes the stage's folder as `run` returned it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from phoenix_utils import plots
from phoenix_utils.evaluation import report
from phoenix_utils.evaluation.benchmarks import CARDS
from phoenix_utils.evaluation.scores import METRICS

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Fragment(str):
    """A piece of HTML that a notebook shows rendered."""

    def _repr_html_(self) -> str:
        return str(self)


def scores_table(folder: Path) -> Fragment:
    """All metrics of all models, each with its interval."""
    return _fragment("scores_table", report.load_scores(folder)[0])


def share_text(cell: dict) -> str:
    """A share with its interval as text: "87 % (77 to 95)"; "n/a" where nothing was counted."""
    if cell["value"] is None:
        return "n/a"
    value = f"{cell['value']:.0%}".replace("%", " %")
    return value if cell["low"] is None else f"{value} ({100 * cell['low']:.0f} to {100 * cell['high']:.0f})"


def differences_table(folder: Path) -> Fragment:
    """Paired differences SFT - base and DPO - SFT with intervals and what they allow to say."""
    scores, differences = report.load_scores(folder)
    return _fragment("differences_table", differences, list(scores))


def judged_table(folder: Path) -> Fragment:
    """What the judge said of each model, with intervals, missing verdicts and biases; or that none was asked."""
    parts = report.judged_parts(folder)
    if not parts or not parts["stored"]:
        return Fragment("<p>No judge was asked in this run.</p>")
    return _fragment("judged_table", parts["stored"])


def judge_and_votes(folder: Path, earlier: str = "sft", later: str = "dpo", voter: str = "reader") -> Fragment:
    """How far the judge and a voter agree on two models; or that one of them is missing."""
    from phoenix_utils.evaluation.vote import Ballot, judge_against_votes

    found = judge_against_votes(folder, Ballot(folder, earlier, later, voter).rows())
    if found is None:
        return Fragment("<p>Nothing to compare: it takes a judge's scores and votes on the same answers.</p>")
    return _fragment("agreement_table", found, voter)


def harness_table(folder: Path) -> Fragment:
    """The harness' results of all models with and without chat template, and paired differences."""
    found = report.harness_table(folder)
    return _fragment("harness_table", found) if found else Fragment("<p>No benchmarks were run.</p>")


def task_cards(tasks: Sequence[str]) -> Fragment:
    """What tasks of the harness are worth, as far as this project has a card for them."""
    return _fragment("cards", [(name, CARDS[name]) for name in tasks if name in CARDS])


def paper_table(folder: Path, number: int) -> Fragment:
    """Table 3 or 4 of the paper as printed, beside this run, with notes to the cells."""
    heads, rows = dict(report.paper_tables(folder))[number]
    return _fragment("paper_table", number, heads, rows, report.paper.notes(rows))


def answers_side_by_side(
    folder: Path, count: int = 4, kind: str | None = None, category: str | None = None
) -> Fragment:
    """The first `count` prompts with the answers of all models next to each other, everything escaped.

    `kind` ("conversation" or "question") and `category` (for example "writing") choose among the prompts.
    """
    entries = [
        entry
        for entry in report.answers_by_prompt(folder)
        if kind in (None, entry["kind"]) and category in (None, entry["category"])
    ]
    return Fragment("".join(_fragment("side_by_side", entry) for entry in entries[:count]))


def plot_scores(folder: Path) -> None:
    """Bars with intervals: one small picture for each metric, every model in its own colour."""
    import matplotlib.pyplot as plt

    plots.use_style()
    scores, _ = report.load_scores(folder)
    rows = (len(METRICS) + 1) // 2
    _, places = plt.subplots(rows, 2, figsize=(10.5, 2.0 * rows))
    for name, ax in zip(METRICS, places.flat, strict=False):
        report.draw(name, scores, ax)


def plot_differences(folder: Path, metric: str) -> Axes | None:
    """The paired differences of one metric as points with intervals around zero; nothing where there is one model."""
    scores, differences = report.load_scores(folder)
    named = {report.pair_title(pair, scores): found[metric] for pair, found in differences.items()}
    if not named:
        print("One model alone: there is no difference to show.")
        return None
    about = METRICS[metric]
    unit = "percentage points" if about.share else "difference"
    label = f"{unit}, {report.BETTER[about.better]}"
    return plots.intervals(named, title=about.title, label=label, share=about.share)


def _fragment(macro: str, *arguments: object) -> Fragment:
    parts = report.environment().get_template("parts.html.j2").module
    return Fragment(f'{parts.style()}<div class="ph">{getattr(parts, macro)(*arguments)}</div>')
