"""Sweeps: a grid of settings run through the runner, equal stages shared, one table at the end.

    sweep = load_sweep(Path("profiles/sweeps/ablations.yaml"))
    run_sweep(sweep, print)

A sweep is a profile and what varies in it. Each arm with each of its seeds is a cell: a run directory of its own, made
by the same runner as `phoenix run`. A stage whose settings and inputs equal those of an earlier cell's is not run
again: its files are hard-linked into the cell. A cell that fails is noted, and the others go on.

    runs/sweeps/NAME/
        cells/01_beta_0.01_seed_42/    a run directory
        cells.json     each cell: arm, seed, what was shared, seconds, and its failure if there was one
        table.md       one row an arm, with intervals      METRIC.svg    the same as pictures
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from phoenix_utils import artifacts, pipeline, sweep_table
from phoenix_utils.errors import PhoenixError
from phoenix_utils.sweep_cells import Cell, Sweep, make_cells, sweep_folder


def run_sweep(
    sweep: Sweep,
    say: Callable[[str], None],
    show_line: Callable[[str], None] = lambda line: None,
    out: str | None = None,
) -> list[Cell]:
    """Run every cell that is not done, share what is equal, and write table and plots.

    Run again after a kill, it goes on where it was. A failing cell does not stop the others; it is named in what is
    returned (`Cell.failure`), and cells that need the stage that failed are not tried.
    """
    folder = sweep_folder(sweep, out)
    cells = make_cells(sweep, folder)
    with artifacts.only_one(folder / ".sweep.lock", folder):
        _run_cells(sweep, folder, cells, say, show_line)
    return cells


def _run_cells(sweep: Sweep, folder: Path, cells: list[Cell], say: Callable, show_line: Callable) -> None:
    made: dict[str, Cell] = {}
    for number, cell in enumerate(cells, 1):
        name = cell.plan.run_dir.name
        say(f"cell {number} of {len(cells)}: {name}")
        try:
            for stage in cell.plan.stages:
                _run_or_share(cell, stage, made, say, show_line)
        except (PhoenixError, pipeline.StageFailed) as error:
            cell.failure = str(error).splitlines()[0]
            say(f"  failed: {cell.failure}")
        sweep_table.write_results(sweep, folder, cells[:number])


def _run_or_share(cell: Cell, stage: str, made: dict[str, Cell], say: Callable, show_line: Callable) -> None:
    key, settings = cell.keys[stage], cell.plan.settings(stage)
    other = made.setdefault(key, cell)
    if other is not cell:
        if other.failure and not pipeline.is_done(stage, other.plan.settings(stage)):
            raise PhoenixError(f"{stage} is the same as in {other.plan.run_dir.name}, where it failed: mend that one")
        cell.shared.append(stage)
        # What has been begun here is the runner's: it resumes it, or refuses where it is of other settings.
        if not (artifacts.stage_path(settings.run_dir, stage) / "manifest.json").is_file():
            link_stage(other.plan.run_dir, cell.plan.run_dir, stage)
    elif stage == "evaluation":
        _take_over_answers(cell, made)
    pipeline.execute_stage(stage, settings, lambda line: say(f"  {line}"), show_line)


def _take_over_answers(cell: Cell, made: dict[str, Cell]) -> None:
    """What base and SFT model answered in an earlier cell with the same SFT stage and the same evaluation settings."""
    target = cell.plan.settings("evaluation")
    for earlier in made.values():
        if earlier is cell or earlier.failure or earlier.keys["sft"] != cell.keys["sft"]:
            continue
        source = earlier.plan.settings("evaluation")
        if source.fingerprint_values() == target.fingerprint_values() and pipeline.is_done("evaluation", source):
            folders = (artifacts.stage_path(item.run_dir, "evaluation") for item in (source, target))
            pipeline.STAGES["evaluation"].module.take_over(*folders, ("base", "sft"))
            cell.shared.append("base and SFT answers")
            return


def link_stage(source: Path, target: Path, stage: str) -> None:
    """Hard-link a finished stage and its executed notebook into another run directory (copies across file systems)."""
    name = artifacts.STAGE_FOLDERS[stage]
    partial = target / f".{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(target / name, ignore_errors=True)
    target.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source / name, partial, copy_function=_link)
    notebook = target / "notebooks" / f"{name}.ipynb"
    notebook.parent.mkdir(exist_ok=True)
    notebook.unlink(missing_ok=True)
    _link(source / "notebooks" / notebook.name, notebook)
    partial.rename(target / name)


def _link(source: Path | str, target: Path | str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
