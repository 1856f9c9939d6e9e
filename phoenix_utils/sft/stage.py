"""Fine-tune the student on a run's kept conversations.

Reads   02_filtering/chat.parquet
Writes  03_sft/adapter/      LoRA adapter, tokenizer with chat template, generation config, lineage
        (03_sft/model/       the whole model instead, with method full)
        03_sft/log.jsonl     one line a logged step      03_sft/metrics.json    the run in numbers
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from datasets import Dataset
from transformers import EarlyStoppingCallback
from trl import SFTConfig, SFTTrainer

from phoenix_utils import artifacts, batches, chat, hardware, lm_head, models, processes, training
from phoenix_utils.errors import PhoenixError
from phoenix_utils.sft.data import read_conversations, tokenize
from phoenix_utils.sft.settings import SftSettings, stage_inputs


class Trainer(batches.GlobalBatches, SFTTrainer):
    """TRL's SFT trainer with batches of rows of similar length."""


def run(settings: SftSettings, watch: Callable[[], None] | None = None) -> dict[str, Any]:
    """Train, save and measure; returns what metrics.json holds. Resumes after a kill, skips when done.

    `watch` is called after each line of the log, so that a notebook can draw the curve as it grows.
    Raises PhoenixError for missing or unusable rows, an unknown model, and a loss that is no number any more.
    """
    inputs = stage_inputs(settings)
    with (
        processes.open_stage("sft", settings, inputs) as stage,
        training.quiet(),
        lm_head.fast_on_cpu(),
    ):
        if stage.is_complete:
            return artifacts.read_json(stage.folder / "metrics.json")
        languages = settings.languages
        tokenizer = chat.apply_template(models.load_tokenizer(settings.model, languages), settings.chat_template)
        dataset, too_long = tokenize(
            read_conversations(inputs["chat"]),
            tokenizer,
            settings.max_length,
            stage.folder / "checkpoints" / f"tokens_{processes.rank()}.arrow",
        )
        stage.count("rows", len(dataset))
        stage.count("rows_too_long", too_long)
        trainer = build_trainer(settings, stage, tokenizer, *set_aside(dataset, settings), watch=watch)
        metrics = training.train(trainer, stage)
        metrics = {"rows": len(dataset), "rows_too_long": too_long, **metrics}
        training.save_trained(
            trainer,
            tokenizer,
            stage,
            settings.model,
            method=settings.method,
            languages=list(languages),
            data=stage.manifest["inputs"]["chat"],
        )
        if processes.rank() > 0:
            return metrics
        training.finish(stage, metrics)
    return metrics


def set_aside(dataset: Dataset, settings: SftSettings) -> tuple[Dataset, Dataset | None]:
    """The rows to train on, and those that only the loss is measured on (none without `eval_share`).

    Raises PhoenixError where that leaves nothing on one side, or `early_stopping_patience` has nothing to go by.
    """
    if not settings.eval_share:
        if settings.early_stopping_patience:
            raise PhoenixError("early_stopping_patience needs rows to measure on; set eval_share, say to 0.1")
        return dataset, None
    held_out = batches.held_out_count(len(dataset), settings.eval_share, "rows")
    parts = dataset.train_test_split(held_out, seed=settings.seed)
    return parts["train"], parts["test"]


def build_trainer(
    settings: SftSettings,
    stage: artifacts.StageRun,
    tokenizer: Any,
    dataset: Any,
    held_out: Any = None,
    watch: Callable[[], None] | None = None,
) -> Trainer:
    """TRL's trainer for these settings on this machine, its adapter already on the model."""
    machine = hardware.describe()
    dtype = training.noted_dtype(settings, stage, machine)
    model = models.load_model(
        settings.model,
        settings.languages,
        hardware=machine,
        dtype=training.weights_dtype(settings.method, dtype.name, machine.device),
        quantize=settings.method == "qlora",
    )
    adapter = None
    if settings.method != "full":
        adapter = training.lora_config(
            model, lora_r=settings.lora_r, lora_alpha=settings.lora_alpha, lora_dropout=settings.lora_dropout
        )
    arguments = trainer_keywords(settings, stage, dtype, machine)
    callbacks = training.callbacks(settings, stage, watch)
    if settings.early_stopping_patience:
        callbacks.append(EarlyStoppingCallback(settings.early_stopping_patience))
    trainer = Trainer(
        model=model,
        args=SFTConfig(**arguments),
        train_dataset=dataset,
        eval_dataset=held_out,
        processing_class=tokenizer,
        peft_config=adapter,
        callbacks=callbacks,
    )
    training.keep_trainable_float32(trainer.model, dtype)
    if settings.method == "lora":
        training.round_frozen(trainer.model, dtype, machine)
    return trainer


def trainer_keywords(
    settings: SftSettings, stage: artifacts.StageRun, dtype: hardware.DtypeChoice, machine: hardware.Hardware
) -> dict[str, Any]:
    """What SFTConfig is built from."""
    plan = training.noted_plan(settings, stage, machine, "rows")
    measured = {
        "eval_strategy": "steps",
        "eval_steps": settings.save_steps,
        "per_device_eval_batch_size": plan.per_device,
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_loss",
    }
    return {
        **(measured if settings.eval_share else {}),
        **training.trainer_arguments(settings, stage.folder, plan, dtype, machine),
        "packing": settings.packing,
        # Nothing is longer than max_length by now; without packing, TRL need not look again.
        "max_length": settings.max_length if settings.packing else None,
    }
