"""Make a translator of a base model, ALMA's way: a little target-language text, then a little clean parallel text.

Reads   parallel text (see `parallel.read_parallel`), split by document: a page whose hash says so is only measured
Writes  00_own_translator/adapter/        LoRA adapter in half precision, tokenizer, lineage
        00_own_translator/rejected.jsonl  pairs that are not used, each with its rule and reason
        00_own_translator/log.jsonl       one line a logged step
        00_own_translator/samples.jsonl   the same sentences translated as training goes on
        00_own_translator/scores.json     chrF, BLEU and faults before and after
        00_own_translator/measured.jsonl  every measured translation, before and after
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from phoenix_utils import artifacts, checkpoints, corpora, hardware, lm_head, models, tables, training
from phoenix_utils.batches import BatchPlan
from phoenix_utils.engine_transformers import TransformersEngine
from phoenix_utils.translation import measure
from phoenix_utils.translation.adapt_data import ChosenPairs, TokenBatches, choose_pairs, training_rows
from phoenix_utils.translation.adapt_settings import AdaptSettings, stage_inputs
from phoenix_utils.translation.parallel import ParallelRow
from phoenix_utils.translation.settings import TranslationSettings
from phoenix_utils.translation.translator import Translator

# Fractions of the training after which the set-aside sentences are translated.
SAMPLED_AT = (0.1, 0.25, 0.5, 0.75, 1.0)
# What a trained translator consists of at least; the manifest names all of it (note `trained`).
TRAINED = ("metrics.json", "adapter/adapter_model.safetensors")


class Trainer(SFTTrainer):
    """TRL's SFT trainer on batches under a token budget."""

    token_batches: TokenBatches

    def get_train_dataloader(self) -> DataLoader:
        """The batches of `TokenBatches`, in its order."""
        loader = DataLoader(self.train_dataset, batch_sampler=self.token_batches, collate_fn=self.data_collator)
        return self.accelerator.prepare(loader)


class Samples(TrainerCallback):
    """Translates the same sentences again and again as training goes on: what a loss curve does not show."""

    def __init__(self, settings: AdaptSettings, tokenizer: Any, rows: list[ParallelRow], path: Path):
        self.settings, self.tokenizer, self.rows, self.path = settings, tokenizer, rows, path

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        """The untrained model first; after a resume, drop what came after the checkpoint."""
        kept = [row for row in read_samples(self.path.parent) if row["step"] <= state.global_step]
        tables.write_lines(self.path, kept)
        self.steps = {max(1, round(share * state.max_steps)) for share in SAMPLED_AT}
        if not kept:
            self._sample(model, 0)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        """Translate at the fractions of `SAMPLED_AT`."""
        if state.global_step in self.steps:
            self._sample(model, state.global_step)

    def _sample(self, model: Any, step: int) -> None:
        attention = model.config._attn_implementation
        with models.merged(model), torch.autocast("cpu", enabled=False):
            engine = TransformersEngine(model, self.tokenizer)
            translator = Translator(_translation_settings(self.settings, "alma"), engine)
            done = translator.translate_segments([row.source_text for row in self.rows])
        model.set_attn_implementation(attention)
        model.train()
        shown = [
            {"step": step, "source": row.source_text, "reference": row.target_text, "translation": completion.text}
            for row, completion in zip(self.rows, done, strict=True)
        ]
        tables.write_lines(self.path, [*read_samples(self.path.parent), *shown])


def read_samples(folder: Path) -> list[dict[str, Any]]:
    """The lines of `samples.jsonl`: step, source, reference, translation."""
    path = folder / "samples.jsonl"
    return tables.read_lines(path) if path.is_file() else []


def adapt_and_measure(
    settings: AdaptSettings, chosen: ChosenPairs | None = None, before: Path | None = None
) -> dict[str, Any]:
    """Choose pairs, measure the base, train, measure again; returns what `scores.json` holds.

    Give `chosen` where `choose_pairs(settings)` has been called already, and `before` (another run's `before.json`)
    where the base has been measured on the same sets. Resumes after a kill, skips when done.
    Raises PhoenixError for unusable pairs (see `parallel`), an unknown model, and a loss that is no number any more.
    """
    with (
        artifacts.open_stage("adapt", settings, stage_inputs(settings)) as stage,
        training.quiet(),
        lm_head.fast_on_cpu(),
    ):
        if stage.is_complete:
            return artifacts.read_json(stage.folder / "scores.json")
        chosen = chosen or choose_pairs(settings)
        for name, number in chosen.counts().items():
            stage.count(name, number)
        stage.note("rejected", dict(Counter(row.rule for row in chosen.rejected)))
        sets = measured_sets(settings, chosen)
        base = _measured_before(settings, stage, sets, before)
        metrics = _train(settings, stage, chosen)
        after = _measured(_adapted(settings, stage.folder / "adapter"), stage, sets, "after training")
        scores = measure.compare(sets, base, after, settings.language, settings.source_language)
        scores = {"training": metrics, **scores}
        artifacts.write_json(stage.folder / "scores.json", scores)
        tables.write_lines(stage.folder / "measured.jsonl", measure.rows(sets, base, after))
        tables.write_lines(
            stage.folder / "rejected.jsonl",
            [
                {
                    "rule": r.rule,
                    "reason": r.reason,
                    "source": r.row.source_text[:500],
                    "target": r.row.target_text[:500],
                }
                for r in chosen.rejected
            ],
        )
        checkpoints.remove(stage.folder)
        stage.count("steps", metrics["steps"])
    return scores


def measured_sets(settings: AdaptSettings, chosen: ChosenPairs) -> dict[str, list[tuple[str, str]]]:
    """What is measured: `held_out` paragraphs of unseen pages, and the package's measuring pairs as `project`."""
    sets = {"held_out": [(row.source_text, row.target_text) for row in chosen.held_out]}
    languages = settings.languages
    project = corpora.sentence_pairs(*languages) if corpora.has_sentence_pairs(*languages) else []
    sets["project"] = [(row["source_text"], row["target_text"]) for row in project]
    return {name: rows[: settings.measure_rows] for name, rows in sets.items() if rows}


def _measured_before(
    settings: AdaptSettings,
    stage: artifacts.StageRun,
    sets: dict[str, list[tuple[str, str]]],
    known: Path | None,
) -> dict[str, list[measure.Hypothesis]]:
    """The base model under the better prompt it has, kept in a file so that a resumed run need not do it again."""
    path = stage.folder / "before.json"
    if not path.is_file():
        if known:
            artifacts.write_json(path, artifacts.read_json(known))
        else:
            base = Translator(_translation_settings(settings, "few_shot"))
            done = _measured(base, stage, sets, "before training")
            artifacts.write_json(path, {name: [list(row) for row in rows] for name, rows in done.items()})
        stage.keep(path)
    return {name: [measure.Hypothesis(*row) for row in rows] for name, rows in artifacts.read_json(path).items()}


def _measured(
    translator: Translator, stage: artifacts.StageRun, sets: dict[str, list[tuple[str, str]]], when: str
) -> dict[str, list[measure.Hypothesis]]:
    """The sets translated, with a progress line that says which of the two times it is."""
    segments = sum(map(len, sets.values()))
    progress = stage.progress(segments, f"texts measured {when}")
    done = measure.translate_sets(
        translator, sets, lambda finished, total: progress.update(finished * segments // total)
    )
    progress.close(f"{segments} texts measured {when}")
    return done


def _translation_settings(settings: AdaptSettings, prompt: str, adapter: str = "none") -> TranslationSettings:
    shared = {name: getattr(settings, name) for name in ("language", "source_language", "model", "seed")}
    return TranslationSettings(**shared, prompt=prompt, adapter=adapter)


def _adapted(settings: AdaptSettings, adapter: Path) -> Translator:
    return Translator(_translation_settings(settings, "alma", str(adapter)))


def _train(settings: AdaptSettings, stage: artifacts.StageRun, chosen: ChosenPairs) -> dict[str, Any]:
    if set(stage.manifest["notes"].get("trained", TRAINED)) <= stage.manifest["outputs"].keys():
        return artifacts.read_json(stage.folder / "metrics.json")  # cut off while measuring, and all of it is whole
    languages = settings.languages
    tokenizer = models.load_tokenizer(settings.model, languages)
    dataset, monolingual, too_long = training_rows(chosen, tokenizer, settings)
    stage.count("rows_too_long", too_long)
    trainer = build_trainer(settings, stage, tokenizer, dataset, monolingual, chosen.samples)
    metrics = {"rows": len(dataset), "rows_too_long": too_long, **training.train(trainer, stage)}
    artifacts.write_json(stage.folder / "metrics.json", metrics)
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:  # half the size, and far finer than what training it leaves uncertain
            parameter.data = parameter.data.half()
    adapter = training.save_trained(
        trainer,
        tokenizer,
        stage,
        settings.model,
        languages=list(languages),
        prompt="alma",
        data=stage.manifest["inputs"],
        seed=settings.seed,
        training={name: metrics[name] for name in ("rows", "steps", "tokens", "seconds")},
    )
    files = [stage.folder / "metrics.json", *sorted(adapter.iterdir())]
    stage.note("trained", [str(path.relative_to(stage.folder)) for path in files])
    stage.keep(*files)
    return metrics


def build_trainer(
    settings: AdaptSettings,
    stage: artifacts.StageRun,
    tokenizer: Any,
    dataset: Dataset,
    monolingual: int,
    samples: list[ParallelRow],
) -> Trainer:
    """TRL's trainer with a fresh adapter on the base model."""
    machine = hardware.describe()
    dtype = training.noted_dtype(settings, stage, machine)
    # The adapter's start is random: without the seed here, two runs of the same settings would differ.
    torch.manual_seed(settings.seed)
    languages = settings.languages
    weights = training.weights_dtype("lora", dtype.name, machine.device)
    model = models.load_model(settings.model, languages, dtype=weights)
    arguments = training.trainer_arguments(settings, stage.folder, BatchPlan(1, 1), dtype, machine)
    arguments["num_train_epochs"] = 1  # TokenBatches holds all epochs
    trainer = Trainer(
        model=model,
        args=SFTConfig(**arguments, max_length=None),
        train_dataset=dataset,
        processing_class=tokenizer,
        peft_config=training.lora_config(
            model, lora_r=settings.lora_r, lora_alpha=settings.lora_alpha, lora_dropout=settings.lora_dropout
        ),
        callbacks=[
            *training.callbacks(settings, stage),
            Samples(settings, tokenizer, samples, stage.folder / "samples.jsonl"),
        ],
    )
    trainer.token_batches = TokenBatches(
        [len(ids) for ids in dataset["input_ids"]],
        settings.batch_tokens,
        epochs=settings.num_train_epochs,
        seed=settings.seed,
        monolingual=monolingual,
    )
    training.keep_trainable_float32(trainer.model, dtype)
    return trainer
