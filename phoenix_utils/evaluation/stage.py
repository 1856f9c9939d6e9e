"""The whole evaluation stage: answer, score, compare, report.

05_evaluation/
    answers.parquet     every answer of every model (grows by one model at a time)
    logprobs.parquet    log-probabilities of references and preference pairs (likewise)
    scores.json         {"base"|"sft"|"dpo": {metric: {"value", "low", "high", "n"}}}
    differences.json    paired differences between the models, and how the numbers were made
    report.html         all of it on one page that needs nothing else
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from phoenix_utils import hardware, training
from phoenix_utils.artifacts import StageRun, open_stage, read_json, stage_path, write_atomic, write_json
from phoenix_utils.engines import GenerationParams
from phoenix_utils.errors import PhoenixError
from phoenix_utils.evaluation import answers, likelihood, report, scores
from phoenix_utils.evaluation.contenders import CONTENDERS, Contenders
from phoenix_utils.evaluation.prompts import (
    Pair,
    Prompt,
    held_out_pairs,
    held_out_prompts,
    held_out_references,
    stage_inputs,
)
from phoenix_utils.evaluation.settings import EvaluationSettings
from phoenix_utils.tables import read_rows, write_rows


def run(settings: EvaluationSettings) -> Path:
    """Evaluate base, SFT and DPO of a run; returns the stage's folder.

    A finished evaluation is left as it is; an interrupted one continues with the first model that is not
    done. Raises PhoenixError where the SFT or DPO stage has not been run, was run on another model, or the
    package has no held-out data in the language.
    """
    prompts = held_out_prompts(settings.language, settings.max_prompts)
    pairs = held_out_pairs(settings.language)
    inputs = stage_inputs(settings)
    with open_stage("evaluation", settings, inputs) as stage, training.quiet():
        if stage.is_complete:
            return stage.folder
        check_same_base(settings)
        trained = {name: inputs[name] for name in ("sft", "dpo")}
        collect(stage, settings, prompts, held_out_references(settings.language), pairs, trained)
        found, differences = scores.evaluate(
            read_rows(stage.folder / "answers.parquet"),
            read_rows(stage.folder / "logprobs.parquet"),
            settings.bootstrap_samples,
            settings.seed,
        )
        differences["not_run"] = settings.not_run()
        write_json(stage.folder / "scores.json", found)
        write_json(stage.folder / "differences.json", differences)
        with write_atomic(stage.folder / "report.html") as partial:
            partial.write_text(report.render(stage.folder, settings), encoding="utf-8")
        stage.count("prompts", len(prompts))
        stage.count("references", len(held_out_references(settings.language)))
        stage.count("pairs", len(pairs))
        return stage.folder


def collect(
    stage: StageRun,
    settings: EvaluationSettings,
    prompts: list[Prompt],
    references: list[Prompt],
    pairs: list[Pair],
    trained: dict[str, Path],
) -> None:
    """Fill answers.parquet and logprobs.parquet, one model after the other; models in both files are done."""
    answered = _Growing(stage.folder / "answers.parquet", answers.ANSWERS)
    scored = _Growing(stage.folder / "logprobs.parquet", likelihood.LOGPROBS)
    missing = [name for name in CONTENDERS if name not in answered.models or name not in scored.models]
    if not missing:
        return
    languages = (settings.source_language, settings.language)
    contenders = Contenders(settings.model, languages, **trained, quantize=trained_in_4_bit(settings))
    stage.note("dtype_reason", hardware.choose_dtype(hardware.describe()).reason)
    params = GenerationParams(
        max_new_tokens=settings.max_new_tokens,
        temperature=settings.temperature,
        repetition_penalty=settings.repetition_penalty,
        seed=settings.seed,
    )
    progress = stage.progress(len(CONTENDERS) * len(prompts), "answers")
    done = (len(CONTENDERS) - len(missing)) * len(prompts)
    for name in missing:
        with contenders.playing(name) as engine:
            stage.note("dtype", str(engine.model.dtype).removeprefix("torch."))
            if name not in answered.models:
                count = _Counter(progress, done, name)
                answered.add(
                    answers.answer_prompts(
                        engine, name, prompts, params, settings.language, settings.source_language, count
                    )
                )
            done += len(prompts)
            progress.update(done, model=name, now="scoring")
            if name not in scored.models:
                # Only the base chooses between two prompts: SFT and DPO were trained on the chat template.
                templates = ("chat", "plain") if name == "base" else ("chat",)
                scorer = likelihood.scorer(engine)
                scored.add(
                    likelihood.score_references(scorer, name, references, settings.language, templates)
                    + likelihood.score_pairs(scorer, name, pairs, settings.language)
                )
    progress.close(f"{len(CONTENDERS)} models answered {len(prompts)} prompts each")


def check_same_base(settings: EvaluationSettings) -> None:
    """Raise PhoenixError where this run's adapters were trained on another base than `settings.model`."""
    for name in ("sft", "dpo"):
        trained = _trained_with(settings, name).get("model")
        if trained not in (None, settings.model):
            raise PhoenixError(
                f"evaluation.model is {settings.model!r}, but the {name} stage of this run trained "
                f"{trained!r}: use the same model"
            )


def trained_in_4_bit(settings: EvaluationSettings) -> bool:
    """Whether SFT trained its adapter on a 4-bit base: the adapter is then measured on that same base."""
    return _trained_with(settings, "sft").get("method") == "qlora"


def _trained_with(settings: EvaluationSettings, stage: str) -> dict:
    manifest = stage_path(settings.run_dir, stage) / "manifest.json"
    return read_json(manifest)["settings"] if manifest.is_file() else {}


class _Growing:
    """A Parquet file that grows by one model's rows at a time; each time it is written anew, as a whole."""

    def __init__(self, path: Path, schema: pa.Schema):
        self.path, self.schema = path, schema
        self.rows = list(read_rows(path)) if path.is_file() else []

    @property
    def models(self) -> set[str]:
        return {row["model"] for row in self.rows}

    def add(self, rows: list[dict]) -> None:
        self.rows += rows
        write_rows(self.path, self.rows, self.schema)


class _Counter:
    """Counts answers of one model into the stage's progress line."""

    def __init__(self, progress, done: int, model: str):
        self.progress, self.done, self.model = progress, done, model

    def __call__(self, fresh: int) -> None:
        self.done += fresh
        self.progress.update(self.done, model=self.model)
