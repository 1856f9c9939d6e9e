"""A sweep's file and what comes of it before anything runs: arms, seeds, and a validated plan for each cell."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field

from phoenix_utils import artifacts, pipeline
from phoenix_utils.errors import PhoenixError
from phoenix_utils.profile import Plan, Strict, build_settings, choose, read_yaml

MODELS = ("base", "sft", "dpo")
METRICS = ["preference_accuracy", "nll_per_token", "chrf", "target_language_share", "stop_share", "median_length"]


class Sweep(Strict):
    """A sweep's file: the profile, what all cells have in common, and what varies."""

    name: str = Field(pattern=r"^\w[\w.-]*$", description="names the folder below runs/sweeps")
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
    plan: Plan
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
    if empty := next((key for key, values in sweep.grid.items() if not values), None):
        raise PhoenixError(
            f"{path}: grid.{empty} has no value, so there would be no arm: give it some, or leave it out"
        )
    for arm, changes in sweep.arms.items():
        if not isinstance(seeds := changes.get("seeds", []), list) or not all(type(seed) is int for seed in seeds):
            raise PhoenixError(f"{path}: arm {arm!r} has seeds {seeds!r}: give a list of whole numbers, such as [1, 2]")
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
        choose("model", str(model), MODELS)
        for seed in seeds:
            values = {**sweep.shared, **changes}
            if seed is not None:
                values |= {f"{stage}.seed": seed for stage in sweep.seeded}
            name = f"{len(cells) + 1:02}_{arm}" + (f"_seed_{seed}" if seed is not None else "")
            run_dir = folder / "cells" / re.sub(r"[^\w.=-]+", "_", name)
            try:
                plan = pipeline.make_plan(sweep.profile, [f"{k}={_text(v)}" for k, v in values.items()], str(run_dir))
                plan.refuse_problems()
            except PhoenixError as error:
                raise PhoenixError(f"arm {arm!r}: {error}") from None
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


def _stage_keys(plan: Plan) -> dict[str, str]:
    """For each stage a hash of its settings and of all stages before it: equal hashes make equal products."""
    keys, before = {}, ""
    for stage in plan.stages:
        before = artifacts.fingerprint([stage, plan.settings(stage).fingerprint_values(), before])
        keys[stage] = before
    return keys


def seconds_run(cells: list[Cell]) -> float:
    """What the stages took that the cells ran themselves, whenever that was."""
    return sum(_stage_seconds(cell, stage) for cell in cells for stage in cell.plan.stages if stage not in cell.shared)


def seconds_saved(cells: list[Cell]) -> float:
    """What the shared stages took where they ran, summed over the cells that did not run them."""
    return sum(_stage_seconds(cell, stage) for cell in cells for stage in cell.plan.stages if stage in cell.shared)


def _stage_seconds(cell: Cell, stage: str) -> float:
    manifest = artifacts.stage_path(str(cell.plan.run_dir), stage) / "manifest.json"
    return artifacts.read_manifest(manifest).get("seconds", 0.0) if manifest.is_file() else 0.0
