"""Tables 3 and 4 of the Phoenix paper (arXiv 2401.10580v1) as printed, beside a run's own numbers.

Each printed cell carries its warnings: a number without a judge's name or a number of shots cannot be set against
another one, and a table that does so in silence says more than anybody knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from phoenix_utils.artifacts import read_json
from phoenix_utils.evaluation.benchmarks import CARDS
from phoenix_utils.tables import read_lines

WARNINGS = {
    "judge": "judge not stated; the German FastEval checkout of that month judged with gpt-3.5-turbo by default",
    "settings": "shots, metric, template and seed are not stated",
    "alone": "no base, no SFT-only row and no interval beside it: what a step of training brought cannot be seen",
    "other judge": "published with GPT-4 as judge, which scores otherwise than gpt-3.5-turbo",
    "contradicts": "others report this model at {other} with {shots} shots, so the paper measured with other settings",
    "ten": "a category is ten questions in two turns: differences under about two points settle nothing",
}

# Table 3: MT-Bench-DE, Phoenix only. What others published of other models (LAION's blog) has no such categories.
TABLE_3 = {
    "turn 1": 6.39375,
    "turn 2": 5.1625,
    "writing": 7.45,
    "roleplay": 7.9,
    "reasoning": 4.3,
    "math": 3.25,
    "coding": 2.5,
    "extraction": 5.9,
    "stem": 7.125,
    "humanities": 7.8,
    "average": 5.778125,
}
OTHERS_3 = {
    "leo-7b-chat": {"turn 1": 5.75, "turn 2": 4.45, "average": 5.10},
    "leo-13b-chat": {"turn 1": 6.53, "turn 2": 5.15, "average": 5.84},
    "gpt-3.5-turbo": {"turn 1": 8.42, "turn 2": 7.33, "average": 7.87},
}
# Table 4, and what others report of the same LeoLM chat model with the shots they used.
TABLE_4 = {
    "LeoLM-Mistral-7B-Chat": {"hellaswag_de": 0.47639912, "arc_de": 0.38310580, "m_mmlu_de": 0.38944},
    "Phoenix": {"hellaswag_de": 0.5281, "arc_de": 0.4428, "m_mmlu_de": 0.3952},
}
CONTRADICTIONS = {"hellaswag_de": (0.617, 10), "arc_de": (0.465, 24), "m_mmlu_de": (0.458, 5)}


@dataclass(frozen=True)
class Cell:
    """A number as text, whether it is `printed` in a paper or this run's own, what is to be known about it, and its
    interval as text where there is one."""

    text: str
    printed: bool
    warnings: tuple[str, ...] = ()
    span: str = ""


def table_3(folder: Path | None) -> tuple[list[str], list[tuple[str, list[Cell]]]]:
    """(column heads, rows of a name and cells): MT-Bench, turns, categories and average.

    The run's own columns need `judged.json` in the evaluation stage's `folder`; without it only print is shown.
    """
    own = {}
    judge = ""
    if folder and (folder / "judged.json").is_file():
        stored = read_json(folder / "judged.json")
        own, judge = stored["scores"], stored["judge"]
    rows = []
    for name, value in TABLE_3.items():
        about = ("judge", "alone") + (() if name in ("turn 1", "turn 2", "average") else ("ten",))
        cells = [Cell(f"{value:.2f}", True, tuple(WARNINGS[key] for key in about))]
        for published in OTHERS_3.values():
            shown = f"{published[name]:.2f}" if name in published else "–"
            cells.append(Cell(shown, True, (WARNINGS["other judge"],) if name in published else ()))
        cells += [_own_score(scores.get(name), judge) for scores in own.values()]
        rows.append((name, cells))
    return ["Phoenix (paper)", *(f"{name} (LAION)" for name in OTHERS_3), *own], rows


def table_4(folder: Path | None) -> tuple[list[str], list[tuple[str, list[Cell]]]]:
    """(column heads, rows of a name and cells), models in rows as printed: the paper's tasks, then the run's others."""
    found = read_lines(folder / "harness.jsonl") if folder and (folder / "harness.jsonl").is_file() else []
    columns = sorted(dict.fromkeys((row["model"], row["chat_template"]) for row in found), key=lambda item: item[1])
    by = {(row["task"], row["model"], row["chat_template"]): row for row in found}
    tasks = [*CONTRADICTIONS, *(task for task in dict.fromkeys(r["task"] for r in found) if task not in CONTRADICTIONS)]
    rows = [(f"{model} (paper)", [_printed_share(model, task) for task in tasks]) for model in TABLE_4]
    for model, chat in columns:
        name = f"{model}, {'chat template' if chat else 'plain'}"
        rows.append((name, [_own_share(by.get((task, model, chat))) for task in tasks]))
    return [CARDS[task].title if task in CARDS else task for task in tasks], rows


def notes(rows: Sequence[tuple[str, Sequence[Cell]]]) -> list[str]:
    """The different warnings of a table in order; a cell's footnote is a warning's place in this list, from 1."""
    return list(dict.fromkeys(warning for _, cells in rows for cell in cells for warning in cell.warnings))


def _printed_share(model: str, task: str) -> Cell:
    if task not in TABLE_4[model]:
        return Cell("–", True)
    about = [WARNINGS["settings"], WARNINGS["alone"]]
    if model.startswith("LeoLM"):
        other, shots = CONTRADICTIONS[task]
        about.append(WARNINGS["contradicts"].format(other=other, shots=shots))
    return Cell(f"{TABLE_4[model][task]:.1%}", True, tuple(about))


def _own_score(cell: dict | None, judge: str) -> Cell:
    if cell is None or cell["value"] is None:
        return Cell("–", False)
    span = f"{cell['low']:.2f} to {cell['high']:.2f}" if cell["low"] is not None else ""
    about = [f"judged by {judge}, which is not the paper's judge"]
    if cell["missing"]:
        about.append("some answers got no verdict; the judge's own table counts them and bounds the mean")
    return Cell(f"{cell['value']:.2f}", False, tuple(about), span)


def _own_share(row: dict | None) -> Cell:
    if row is None:
        return Cell("–", False)
    about = [f"{row['shots']} shots, {row['metric']}, {row['n']} of {row['rows']} rows, {row['version']}"]
    return Cell(f"{row['value']:.1%}", False, tuple(about), f"{row['low']:.1%} to {row['high']:.1%}")
