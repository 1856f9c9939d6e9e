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

import itertools
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field

from phoenix_utils import artifacts, pipeline
from phoenix_utils.errors import PhoenixError
from phoenix_utils.profile import Strict, build_settings, choose, read_yaml

MODELS = ("base", "sft", "dpo")
METRICS = ["preference_accuracy", "nll_per_token", "chrf", "target_language_share", "stop_share", "median_length"]


class Sweep(Strict):
    """A sweep's file: the profile, what all cells have in common, and what varies."""

    name: str = Field(pattern=r"^[\w.-]+$", description="names the folder below runs/sweeps")
    description: str = Field("", description="what the sweep is to find out")
    profile: str = Field("mini", description="a shipped profile, or a path to one")
    shared: dict[str, Any] = Field(default_factory=dict, description="stage.key: value, in every cell")
    arms: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="arm: {stage.key: value}; `model` and `seeds` may stand there too"
    )
    grid: dict[str, list[Any]] = Field(default_factory=dict, description="stage.key: values; every combination")
    seeds: list[int] = Field(default_factory=list, description="each arm runs once with each; empty: the profile's")
    seeded: list[str] = Field(
        default_factory=lambda: ["sft", "dpo"], description="stages that a seed changes; the others are shared"
    )
    until: str = Field("evaluation", description="last stage to run")
    metrics: list[str] = Field(default_factory=lambda: list(METRICS), description="columns of the table, in order")


@dataclass
class Cell:
    """One run of a sweep."""

    arm: str
    seed: int | None
    model: str
    plan: pipeline.Plan
    keys: dict[str, str]
    shared: list[str] = field(default_factory=list)
    failure: str | None = None


def load_sweep(path: Path) -> Sweep:
    """Read a sweep's file. Raises PhoenixError for what is missing, unknown or of the wrong type in it."""
    if not path.is_file():
        raise PhoenixError(f"the sweep file {str(path)!r} does not exist; give the path of a .yaml file")
    sweep = build_settings(Sweep, {str(key): value for key, value in read_yaml(path).items()})
    if not sweep.arms and not sweep.grid:
        raise PhoenixError(f"{path} varies nothing: give it arms or a grid")
    choose("stage", sweep.until, pipeline.RUN_STAGES)
    for stage in sweep.seeded:
        choose("stage", stage, pipeline.RUN_STAGES)
    return sweep


def sweep_folder(sweep: Sweep, out: str | None = None) -> Path:
    """Where a sweep's cells and results lie."""
    return Path(out).absolute() if out else artifacts.resolve_run_dir(f"runs/sweeps/{sweep.name}")


def make_cells(sweep: Sweep, folder: Path) -> list[Cell]:
    """Every cell with its validated plan, before anything runs.

    Raises PhoenixError for the first setting that is unknown or wrong, with its arm, and where the machine cannot run
    the profile.
    """
    cells = []
    for arm, changes in _arms(sweep).items():
        changes = dict(changes)
        model, seeds = changes.pop("model", "dpo"), changes.pop("seeds", sweep.seeds) or [None]
        choose("model", model, MODELS)
        for seed in seeds:
            values = {**sweep.shared, **changes}
            if seed is not None:
                values |= {f"{stage}.seed": seed for stage in sweep.seeded}
            name = f"{len(cells) + 1:02}_{arm}" + (f"_seed_{seed}" if seed is not None else "")
            run_dir = folder / "cells" / re.sub(r"[^\w.=-]+", "_", name)
            try:
                plan = pipeline.make_plan(sweep.profile, [f"{k}={_text(v)}" for k, v in values.items()], str(run_dir))
            except PhoenixError as error:
                raise PhoenixError(f"arm {arm!r}: {error}") from None
            if plan.problems:
                raise PhoenixError(f"arm {arm!r} cannot run here: it " + "; it ".join(plan.problems))
            plan.stages = plan.stages[: plan.stages.index(sweep.until) + 1]
            cells.append(Cell(arm, seed, model, plan, _stage_keys(plan)))
    return cells


def _arms(sweep: Sweep) -> dict[str, dict[str, Any]]:
    arms = dict(sweep.arms)
    for values in itertools.product(*sweep.grid.values()) if sweep.grid else ():
        chosen = dict(zip(sweep.grid, values, strict=True))
        arms[", ".join(f"{key} {value}" for key, value in chosen.items())] = chosen
    return arms


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return "null" if value is None else str(value)


def _stage_keys(plan: pipeline.Plan) -> dict[str, str]:
    """For each stage a hash of its settings and of all stages before it: equal hashes make equal products."""
    keys, before = {}, ""
    for stage in plan.stages:
        before = artifacts.fingerprint([stage, plan.settings(stage).fingerprint_values(), before])
        keys[stage] = before
    return keys


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
    from phoenix_utils import sweep_table

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
            raise PhoenixError(f"{stage} is the same as in {other.plan.run_dir.name}, where it failed")
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


def seconds_run(cells: list[Cell]) -> float:
    """What the stages took that the cells ran themselves, whenever that was."""
    return sum(_stage_seconds(cell, stage) for cell in cells for stage in cell.plan.stages if stage not in cell.shared)


def seconds_saved(cells: list[Cell]) -> float:
    """What the shared stages took where they ran, summed over the cells that did not run them."""
    return sum(_stage_seconds(cell, stage) for cell in cells for stage in cell.plan.stages if stage in cell.shared)


def _stage_seconds(cell: Cell, stage: str) -> float:
    manifest = artifacts.stage_path(str(cell.plan.run_dir), stage) / "manifest.json"
    return artifacts.read_json(manifest)["seconds"] if manifest.is_file() else 0.0
