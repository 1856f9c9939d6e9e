"""Train the SFT model further on a run's kept preference pairs.

Reads   02_filtering/preferences.parquet, 03_sft/adapter (or 03_sft/model after full fine-tuning)
Writes  04_dpo/adapter/      the SFT adapter trained further: one adapter that loads on the base
        (04_dpo/model/       the whole model instead, with method full)
        04_dpo/log.jsonl     one line a logged step      04_dpo/metrics.json    the run in numbers
        04_dpo/watch.jsonl   looks at the held-out pairs and at answers on the way
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import PeftModel, load_peft_weights, set_peft_model_state_dict
from trl import DPOConfig, DPOTrainer

from phoenix_utils import artifacts, batches, chat, hardware, lm_head, processes, training
from phoenix_utils.dpo.data import prepare, read_pairs, save_tokens, set_aside
from phoenix_utils.dpo.diagnostics import Watch
from phoenix_utils.dpo.handover import StartCheck, check_start, load_sft_model
from phoenix_utils.dpo.reference import cache_facts, reference_cache
from phoenix_utils.dpo.settings import DpoSettings, stage_inputs


class Trainer(batches.GlobalBatches, DPOTrainer):
    """TRL's DPO trainer with batches of pairs of similar length, which resumes the adapter that it trained.

    A checkpoint holds the trained adapter at its top and the frozen reference in the folder `ref`.
    transformers 5.19 reads only the folders where there are any, so a resumed run would go on from the SFT
    model without a word.
    """

    # Batches that the reference was asked about; none where its answers were found.
    reference_batches = 0

    def __init__(self, *args: Any, store: Path, **keywords: Any):
        self.store = store
        super().__init__(*args, **keywords)

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
        """TRL's tokens, kept in `store`: its own cache depends on the folder that the tokenizer came from."""
        file = self.store / f"{dataset_name}_tokens.arrow"
        # What follows has the processes wait for each other, so all must find the same: look before anyone can write.
        processes.wait()
        missing = not file.is_file()
        processes.wait()
        if missing:
            tokens = super()._prepare_dataset(dataset, processing_class, args, dataset_name)
            with processes.first():
                if not file.is_file():
                    save_tokens(tokens, file)
        return Dataset.from_file(str(file))

    def compute_ref_log_probs(self, model: Any, inputs: Any) -> Any:
        """TRL's, counted."""
        self.reference_batches += 1
        return super().compute_ref_log_probs(model, inputs)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        model = model or self.model
        if isinstance(model, PeftModel):
            set_peft_model_state_dict(model, load_peft_weights(resume_from_checkpoint), adapter_name="default")


def run(settings: DpoSettings) -> dict[str, Any]:
    """Train, save and measure; returns what metrics.json holds. Resumes after a kill, skips when done.

    Raises PhoenixError for missing or unusable pairs, an SFT stage that is missing or of another kind, and a
    loss that is no number any more.
    """
    inputs = stage_inputs(settings)
    with (
        processes.open_stage("dpo", settings, inputs) as stage,
        training.quiet(),
        lm_head.fast_on_cpu(),
    ):
        if stage.is_complete:
            return artifacts.read_json(stage.folder / "metrics.json")
        tokenizer = load_sft_tokenizer(settings)
        trainer, too_long = ready_trainer(settings, stage, tokenizer)
        dataset = trainer.train_dataset
        stage.count("pairs", len(dataset))
        stage.count("pairs_too_long", too_long)
        start = check_start(trainer, settings.beta)
        stage.note("start", f"loss {start.loss:.4f} on {start.pairs} pairs before the first step, ln 2 is 0.6931")
        metrics = training.train(trainer, stage)
        training.save_trained(
            trainer,
            tokenizer,
            stage,
            settings.model,
            method=settings.method,
            beta=settings.beta,
            loss_type=settings.loss_type,
            languages=list(settings.languages),
            data=stage.manifest["inputs"]["preferences"],
            trained_from=stage.manifest["inputs"]["sft"],
        )
        if processes.rank() > 0:
            return metrics
        metrics = {"pairs": len(dataset), "pairs_too_long": too_long, **metrics, **summary(stage, start)}
        training.finish(stage, metrics)
    return metrics


def load_sft_tokenizer(settings: DpoSettings) -> Any:
    """The tokenizer that the SFT stage has saved, chat template included."""
    saved = artifacts.trained_weights(artifacts.stage_path(settings.run_dir, "sft"))
    return chat.saved_tokenizer(saved, settings.model, settings.languages)


def ready_trainer(settings: DpoSettings, stage: artifacts.StageRun, tokenizer: Any) -> tuple[Trainer, int]:
    """The trainer before its first step, reference log-probabilities included, and how many pairs were too long.

    They come from the cache (see `reference.py`) where an earlier run has asked for the same; what was done is noted.
    """
    dtype = training.resolve_dtype(settings.dtype, hardware.describe())
    facts = cache_facts(settings, stage.manifest["inputs"], tokenizer, dtype.name)
    with reference_cache(facts) as (folder, trouble):
        stored = (folder / "pairs.arrow").is_file()
        with processes.first():
            pairs = islice(read_pairs(stage_inputs(settings)["preferences"]), settings.max_pairs)
            dataset, too_long = prepare(pairs, tokenizer, settings.max_length, folder / "pairs.arrow")
        train, held_out = set_aside(dataset, settings.eval_share, settings.seed)
        trainer = build_trainer(settings, stage, tokenizer, train, held_out, folder)
    if not settings.precompute_ref_log_probs:
        how = "asked at every step"
    elif not trainer.reference_batches:
        how = "found: an earlier run asked for the same"
    elif trouble or stored:
        how = f"asked again: {trouble or 'the stored answers are of other weights'}"
    else:
        how = "asked once, before the first step"
    stage.note("reference", how)
    return trainer, too_long


def build_trainer(
    settings: DpoSettings, stage: artifacts.StageRun, tokenizer: Any, dataset: Any, held_out: Any, store: Path
) -> Trainer:
    """TRL's trainer with the SFT model as policy and as reference; asks the reference once if so set.

    `store` is the folder where tokens and the reference's answers are kept.
    """
    machine = hardware.describe()
    dtype = training.noted_dtype(settings, stage, machine)
    progress = stage.progress(len(dataset), "pairs")
    progress.close(f"asking the reference about {len(dataset):,} pairs")
    trainer = Trainer(
        model=load_sft_model(settings, machine, dtype.name),
        args=DPOConfig(**trainer_keywords(settings, stage, dtype, machine)),
        train_dataset=dataset,
        eval_dataset=held_out,
        processing_class=tokenizer,
        callbacks=training.callbacks(settings, stage),
        store=store,
    )
    training.keep_trainable_float32(trainer.model, dtype)
    # Sharded weights cannot answer, and what all processes must agree on could stop one of them alone.
    if processes.count() == 1 and (settings.watch_prompts or held_out is not None):
        trainer.add_callback(Watch(trainer, settings, stage))
    return trainer


def trainer_keywords(
    settings: DpoSettings, stage: artifacts.StageRun, dtype: hardware.DtypeChoice, machine: hardware.Hardware
) -> dict[str, Any]:
    """What DPOConfig is built from."""
    plan = training.noted_plan(settings, stage, machine, "pairs")
    return {
        **training.trainer_arguments(settings, stage.folder, plan, dtype, machine),
        "beta": settings.beta,
        "loss_type": [settings.loss_type],
        "label_smoothing": settings.label_smoothing,
        "precompute_ref_log_probs": settings.precompute_ref_log_probs,
        "max_length": settings.max_length,
    }


def summary(stage: artifacts.StageRun, start: StartCheck) -> dict[str, Any]:
    """The start, and rewards over the last tenth of the logged steps."""
    log = [row for row in training.read_log(stage.folder) if "loss" in row]
    tail = log[-max(1, len(log) // 10) :]
    names = ("rewards/margins", "rewards/accuracies", "rewards/chosen", "rewards/rejected")
    return {
        "loss_start": start.loss,
        "start_difference": start.difference,
        **{name: sum(row[name] for row in tail) / len(tail) for name in names},
    }
