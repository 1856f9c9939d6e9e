"""What a sweep found: one table and a picture for each measure, an arm a row, with intervals over seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from phoenix_utils import artifacts
from phoenix_utils.statistics import Interval, mean_of_runs
from phoenix_utils.sweep_cells import Cell, Sweep, seconds_run, seconds_saved

# Of differences.json: how DPO's reward orders the held-out pairs, and each measure's paired difference to SFT.
REWARD, MINUS_SFT = "reward_accuracy", "_minus_sft"
SHARES = (
    REWARD,
    "preference_accuracy",
    "target_language_share",
    "stop_share",
    "repetition_share",
    "rewards/accuracies",
)


def cell_values(cell: Cell) -> dict[str, Interval]:
    """The measures of a finished cell's model; those of the training log where the sweep ends before evaluation."""
    run_dir = str(cell.plan.run_dir)
    scores = artifacts.stage_path(run_dir, "evaluation") / "scores.json"
    training = artifacts.stage_path(run_dir, "dpo") / "metrics.json"
    found: dict[str, Interval] = {}
    if training.is_file() and cell.model == "dpo":
        numbers = artifacts.read_json(training)
        found |= {
            name: Interval(float(value), float("nan"), float("nan"), 1)
            for name, value in numbers.items()
            if isinstance(value, int | float)
        }
    if scores.is_file():
        found |= {name: Interval.from_dict(value) for name, value in artifacts.read_json(scores)[cell.model].items()}
        found |= _against_sft(artifacts.read_json(scores.with_name("differences.json"))) if cell.model == "dpo" else {}
    return found


def _against_sft(differences: dict[str, Any]) -> dict[str, Interval]:
    paired = differences["paired"].get("dpo-sft", {})
    found = {f"{name}{MINUS_SFT}": Interval.from_dict(value) for name, value in paired.items()}
    reward = differences["preference"]["dpo_reward"]
    return {**found, REWARD: Interval.from_dict(reward)} if reward else found


def arm_values(sweep: Sweep, cells: list[Cell]) -> dict[str, dict[str, Interval]]:
    """For each arm the value of each measure: over its seeds, or of its one run with that run's own interval."""
    table: dict[str, dict[str, Interval]] = {}
    for arm in dict.fromkeys(cell.arm for cell in cells):
        runs = [cell_values(cell) for cell in cells if cell.arm == arm and not cell.failure]
        table[arm] = {}
        for metric in sweep.metrics:
            values = [run[metric] for run in runs if metric in run]
            if values:
                table[arm][metric] = values[0] if len(values) == 1 else mean_of_runs([item.value for item in values])
    return table


def table_lines(sweep: Sweep, cells: list[Cell]) -> list[str]:
    """The table in Markdown; an arm without a finished run has dashes."""
    values = arm_values(sweep, cells)
    lines = [
        "| arm | runs | " + " | ".join(sweep.metrics) + " |",
        "|---|---|" + "---|" * len(sweep.metrics),
    ]
    for arm, found in values.items():
        runs = [cell for cell in cells if cell.arm == arm]
        whole = sum(not cell.failure for cell in runs)
        count = str(whole) if whole == len(runs) else f"{whole} of {len(runs)}"
        shown = (_shown(found[metric], metric) if metric in found else "–" for metric in sweep.metrics)
        lines.append(f"| {arm} | {count} | " + " | ".join(shown) + " |")
    return lines


def _shown(item: Interval, metric: str) -> str:
    scale, digits = (100, 0) if metric in SHARES else (1, 0 if item.value >= 100 else 1 if item.value >= 10 else 3)
    unit = " %" if metric in SHARES else ""
    # Student's t knows nothing of shares and may reach beyond them.
    ends = (min(max(number, 0.0), 1.0) if metric in SHARES else number for number in (item.low, item.high))
    value, low, high = (f"{scale * number:.{digits}f}" for number in (item.value, *ends))
    return f"{value}{unit}" if low == "nan" else f"{value}{unit} [{low}, {high}]"


NOTE = (
    "Brackets: 95 % intervals. Of an arm with several runs over its seeds (Student's t: with two runs 6.4 times as "
    "far to each side as they lie apart, and of no width where they agree to the digit, which proves nothing), of an "
    "arm with one run over the evaluation's rows (bootstrap)."
)


def write_results(sweep: Sweep, folder: Path, cells: list[Cell]) -> None:
    """Write cells.json, table.md and a picture of each measure into a sweep's folder."""
    from phoenix_utils import plots

    rows: list[dict[str, Any]] = [
        {
            "cell": cell.plan.run_dir.name,
            "arm": cell.arm,
            "seed": cell.seed,
            "model": cell.model,
            "shared": cell.shared,
            "seconds": seconds_run([cell]),
            "failure": cell.failure,
        }
        for cell in cells
    ]
    artifacts.write_json(folder / "cells.json", {"cells": rows, "seconds_saved": seconds_saved(cells)})
    failed = [f"{cell.plan.run_dir.name} failed: {cell.failure}" for cell in cells if cell.failure]
    lines = [sweep.description, "", *table_lines(sweep, cells), "", NOTE, *[f"\n{line}" for line in failed]]
    with artifacts.write_atomic(folder / "table.md") as partial:
        partial.write_text("\n".join(lines).strip() + "\n", encoding="utf-8")
    values = arm_values(sweep, cells)
    for metric in sweep.metrics:
        shown = {arm: found[metric] for arm, found in values.items() if metric in found}
        if not shown:
            continue
        figure = plots.detached_figure(height=0.9 + 0.5 * len(shown))
        plots.bars(shown, title=metric.replace("_", " "), share=metric in SHARES, ax=figure.subplots())
        with artifacts.write_atomic(folder / f"{metric.replace('/', '_')}.svg") as partial:
            figure.savefig(partial, format="svg", bbox_inches="tight")
