"""Fine-tune the student on a run's kept conversations.

Reads   02_filtering/chat.parquet
Writes  03_sft/adapter/      LoRA adapter, tokenizer with chat template, generation config, lineage
        (03_sft/model/       the whole model instead, with method full)
        03_sft/log.jsonl     one line a logged step      03_sft/metrics.json    the run in numbers
"""

from __future__ import annotations

from typing import Any

from trl import SFTConfig, SFTTrainer

from phoenix_utils import artifacts, batches, chat, hardware, lm_head, models, training
from phoenix_utils.sft.data import read_conversations, tokenize
from phoenix_utils.sft.settings import SftSettings, stage_inputs


class Trainer(batches.GlobalBatches, SFTTrainer):
    """TRL's SFT trainer with batches of rows of similar length."""


def run(settings: SftSettings) -> dict[str, Any]:
    """Train, save and measure; returns what metrics.json holds. Resumes after a kill, skips when done.

    Raises PhoenixError for missing or unusable rows, an unknown model, and a loss that is no number any more.
    """
    inputs = stage_inputs(settings)
    with (
        artifacts.open_stage("sft", settings, inputs) as stage,
        training.quiet(),
        lm_head.fast_on_cpu(),
    ):
        if stage.is_complete:
            return artifacts.read_json(stage.folder / "metrics.json")
        languages = (settings.source_language, settings.language)
        tokenizer = chat.apply_template(models.load_tokenizer(settings.model, languages))
        dataset, too_long = tokenize(
            read_conversations(inputs["chat"]),
            tokenizer,
            settings.max_length,
            stage.folder / "checkpoints" / "tokens.arrow",
        )
        stage.count("rows", len(dataset))
        stage.count("rows_too_long", too_long)
        trainer = build_trainer(settings, stage, tokenizer, dataset)
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
        artifacts.write_json(stage.folder / "metrics.json", metrics)
        stage.count("steps", metrics["steps"])
        stage.count("tokens", metrics["tokens"])
        training.remove_checkpoints(stage)
    return metrics


def build_trainer(settings: SftSettings, stage: artifacts.StageRun, tokenizer: Any, dataset: Any) -> Trainer:
    """TRL's trainer for these settings on this machine, its adapter already on the model."""
    machine = hardware.describe()
    dtype = training.resolve_dtype(settings.dtype, machine)
    stage.note("dtype", dtype.name)
    stage.note("dtype_reason", dtype.reason)
    model = models.load_model(
        settings.model,
        (settings.source_language, settings.language),
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
    trainer = Trainer(
        model=model,
        args=SFTConfig(**arguments),
        train_dataset=dataset,
        processing_class=tokenizer,
        peft_config=adapter,
        callbacks=[training.Reporter(stage)],
    )
    training.keep_trainable_float32(trainer.model, dtype)
    return trainer


def trainer_keywords(
    settings: SftSettings, stage: artifacts.StageRun, dtype: hardware.DtypeChoice, machine: hardware.Hardware
) -> dict[str, Any]:
    """What SFTConfig is built from."""
    plan = training.noted_plan(settings, stage, machine, "rows")
    return {
        **training.trainer_arguments(settings, stage.folder, plan, dtype, machine),
        "packing": settings.packing,
        # Nothing is longer than max_length by now; without packing, TRL need not look again.
        "max_length": settings.max_length if settings.packing else None,
    }
