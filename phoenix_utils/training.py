"""What SFT and DPO share: adapters, checkpoints that are whole, a log, and trainers that keep quiet.

Both stages train with TRL's own trainers. Around them stands: a *global* batch that never depends on the
hardware (`batches.py`), a progress line, one line of `log.jsonl` for each logged step, and checkpoints that
count only once they have been written completely.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import math
import os
import pickle
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from transformers import PrinterCallback, TrainerCallback

from phoenix_utils import artifacts, chat, checkpoints, models, processes
from phoenix_utils.batches import BatchPlan, device_count, plan_batches
from phoenix_utils.errors import PhoenixError
from phoenix_utils.hardware import DtypeChoice, Hardware, choose_training_dtype
from phoenix_utils.training_settings import TrainingSettings

LOG = "log.jsonl"
# Lines of the log whose mean loss is compared with the start's.
WINDOW = 8


def resolve_dtype(dtype: str, hardware: Hardware) -> DtypeChoice:
    """The setting `dtype`, or this machine's own choice where it is "auto"."""
    if dtype == "auto":
        return choose_training_dtype(hardware)
    if dtype == "float16" and hardware.device != "cuda":
        raise PhoenixError(f"dtype float16 does not train on {hardware.device}; set dtype to auto or float32")
    return DtypeChoice(dtype, "set by hand")


def weights_dtype(method: str, dtype: str, device: str) -> str:
    """In what the weights are loaded: full fine-tuning keeps float32 masters and computes in `dtype`.

    At the learning rates of full fine-tuning, most updates are smaller than half precision can add to a
    weight. On a CPU, where half precision saves no scarce memory, weights always stay float32.
    """
    return "float32" if method == "full" or device == "cpu" else dtype


def lora_target_modules(model: torch.nn.Module) -> list[str]:
    """Names of all linear layers but the output embedding, as QLoRA trains them (Dettmers et al. 2023)."""
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    found = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, (torch.nn.Linear, Conv1D)) and module is not head
    }
    return sorted(found)


def lora_config(model: torch.nn.Module, *, lora_r: int, lora_alpha: int, lora_dropout: float) -> LoraConfig:
    """LoRA on every linear layer (Hu et al. 2021)."""
    return LoraConfig(
        r=lora_r,
        lora_alpha=lora_alpha,
        lora_dropout=lora_dropout,
        bias="none",
        task_type="CAUSAL_LM",
        target_modules=lora_target_modules(model),
    )


def noted_dtype(settings: TrainingSettings, stage: artifacts.StageRun, machine: Hardware) -> DtypeChoice:
    """The number type to compute in, kept in the manifest with its reason; raises as `resolve_dtype`."""
    dtype = resolve_dtype(settings.dtype, machine)
    stage.note("dtype", dtype.name)
    stage.note("dtype_reason", dtype.reason)
    return dtype


def noted_plan(settings: Any, stage: artifacts.StageRun, machine: Hardware, unit: str) -> BatchPlan:
    """How a step's global batch is spread over this machine, kept in the manifest; `unit` is "rows" or "pairs"."""
    plan = plan_batches(settings.global_batch, settings.per_device_train_batch_size, device_count(machine))
    stage.note(
        "batch",
        f"{plan.global_batch} {unit} a step: {plan.per_device} at once x {plan.accumulation} "
        f"accumulated x {plan.devices} devices",
    )
    return plan


def trainer_arguments(
    settings: Any, folder: Path, plan: BatchPlan, dtype: DtypeChoice, hardware: Hardware
) -> dict[str, Any]:
    """The keywords that SFTConfig and DPOConfig have in common, from a stage's settings."""
    same = (
        "learning_rate",
        "num_train_epochs",
        "lr_scheduler_type",
        "warmup_steps",
        "weight_decay",
        "max_grad_norm",
        "gradient_checkpointing",
        "save_steps",
        "logging_steps",
        "seed",
    )
    return {
        **{name: getattr(settings, name) for name in same},
        "output_dir": str(folder / "checkpoints"),
        "per_device_train_batch_size": plan.per_device,
        "gradient_accumulation_steps": plan.accumulation,
        "bf16": dtype.name == "bfloat16",  # TRL switches it on wherever fp16 is off
        "fp16": dtype.name == "float16",
        "use_cpu": hardware.device == "cpu",
        "dataloader_pin_memory": hardware.device == "cuda",
        "save_strategy": "steps",
        "save_total_limit": 2,  # the previous one must outlive the moment in which the next is not whole yet
        "logging_nan_inf_filter": False,
        "disable_tqdm": True,
        "report_to": "none",  # `callbacks` reports instead
    }


def callbacks(
    settings: TrainingSettings, stage: artifacts.StageRun, watch: Callable[[], None] | None = None
) -> list[TrainerCallback]:
    """What watches a training: the log, and TensorBoard's where it is asked for; `watch` is called after each line.

    Raises PhoenixError where tensorboard is not installed.
    """
    reporter = Reporter(stage, watch)
    if settings.report_to == "none":
        return [reporter]
    if importlib.util.find_spec("tensorboard") is None:
        raise PhoenixError(
            "report_to is tensorboard, which is not installed: pip install 'phoenix-utils[tensorboard]', or set none"
        )
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback

    return [reporter, TensorBoardCallback(SummaryWriter(str(stage.folder / "tensorboard")))]


def keep_trainable_float32(model: torch.nn.Module, dtype: DtypeChoice) -> None:
    """Make trainable weights float32 unless the run computes in bfloat16; call it once the trainer is built.

    TRL casts a quantised model's adapters to bfloat16, which a T4 lacks and which a CPU is slow at; and the
    loss scaler of float16 training refuses gradients of half-precision weights.
    """
    if dtype.name == "bfloat16":
        return
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    wrong = [name for name, p in model.named_parameters() if p.requires_grad and p.dtype != torch.float32]
    assert not wrong, f"trainable parameters that are not float32: {wrong[:3]}"


def round_frozen(model: torch.nn.Module, dtype: DtypeChoice, hardware: Hardware) -> None:
    """On a CPU that computes in bfloat16, keep frozen linear layers in it; call it once the trainer is built.

    Autocast would round the same float32 weights in every pass, and hold the rounded copies until the backward
    pass is over. The products are equal to the last bit (tested), in half the memory. Not for a model whose adapter
    is merged on the way: a sum in bfloat16 does not come apart again.
    """
    if hardware.device != "cpu" or dtype.name != "bfloat16":
        return
    head = model.get_output_embeddings()
    linear = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head}
    for parameter in model.parameters():
        if not parameter.requires_grad:
            # A copy of the others too: the last view of the mapped file goes, and the file's pages with it.
            rounded = parameter.data.bfloat16() if id(parameter) in linear else parameter.data.clone()
            parameter.data = rounded


def diverges(losses: list[float]) -> str | None:
    """In words, what is wrong with the losses logged so far; None while nothing is.

    A single batch says little, so means over WINDOW lines are compared: half as much again as at the start.
    """
    if not math.isfinite(losses[-1]):
        return f"the loss became {losses[-1]}"
    start, now = (sum(part) / WINDOW for part in (losses[:WINDOW], losses[-WINDOW:]))
    if len(losses) >= 2 * WINDOW and now > 1.5 * start:
        return f"the loss has risen from {start:.2f} to {now:.2f} (means of {WINDOW} lines)"
    return None


class Reporter(TrainerCallback):
    """Writes `log.jsonl`, keeps the progress line, marks whole checkpoints, and stops a run that diverges."""

    def __init__(self, stage: artifacts.StageRun, watch: Callable[[], None] | None = None):
        self.stage, self.path, self.watch = stage, stage.folder / LOG, watch
        self.tokens_before = self.tokens = 0
        self.losses: list[float] = []

    def on_train_begin(self, args, state, control, **kwargs):
        """Drop log lines from after the checkpoint that training goes on from; start the progress line."""
        kept = [row for row in read_log(self.stage.folder) if row["step"] <= state.global_step]
        if state.is_world_process_zero:
            with artifacts.write_atomic(self.path) as partial:
                partial.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        self.losses = [row["loss"] for row in kept if "loss" in row]
        # TRL counts tokens from zero after a resume.
        self.tokens_before = self.tokens = kept[-1].get("num_tokens", 0) if kept else 0
        self.progress = self.stage.progress(state.max_steps, "steps")
        self.progress.update(state.global_step)
        self.started = time.monotonic()

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Append one line; TRL's summary at the end of training is left out."""
        if not logs or not {"loss", "eval_loss"} & set(logs):
            return
        if "loss" in logs:
            self.losses.append(logs["loss"])
            if trouble := diverges(self.losses):
                raise PhoenixError(
                    f"{trouble} at step {state.global_step}: lower learning_rate, say to a tenth, or raise "
                    "warmup_steps, then run again with redo"
                )
        if "num_tokens" in logs:
            self.tokens = self.tokens_before + int(logs["num_tokens"])
            logs = {**logs, "num_tokens": self.tokens}
        if state.is_world_process_zero:
            with open(self.path, "a", encoding="utf-8") as handle:
                handle.write(json.dumps({"step": state.global_step, **logs}) + "\n")
            if self.watch:
                self.watch()

    def on_step_end(self, args, state, control, **kwargs):
        """Tell how far training is."""
        if state.is_world_process_zero:
            rate = (self.tokens - self.tokens_before) / max(1e-9, time.monotonic() - self.started)
            details = {"loss": f"{self.losses[-1]:.3f}"} if self.losses else {}
            self.progress.update(state.global_step, **details, **{"tokens/s": f"{rate:.0f}"})

    def on_save(self, args, state, control, **kwargs):
        """Mark the checkpoint that has just been written completely, with the logs as they are now beside it."""
        processes.wait()  # each has a part of it
        if state.is_world_process_zero:
            checkpoints.mark_whole(Path(args.output_dir), state.global_step)


def train(trainer: Any, stage: artifacts.StageRun) -> dict[str, Any]:
    """Train to the end, from the last whole checkpoint if there is one; returns the run in numbers.

    Of several processes only the first has them; the others return an empty dictionary.
    """
    reporter = next(item for item in trainer.callback_handler.callbacks if isinstance(item, Reporter))
    trainer.remove_callback(PrinterCallback)  # the Trainer's own way of saying what the progress line says
    checkpoint = checkpoints.resume_from(Path(trainer.args.output_dir))
    started = time.monotonic()
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except pickle.UnpicklingError:  # transformers reads them with `weights_only`, which runs nothing
        raise PhoenixError(
            f"{checkpoint} holds something else than numbers, which is not loaded: remove that folder, and the same "
            "command goes on from the checkpoint before it"
        ) from None
    seconds = time.monotonic() - started
    if not trainer.is_world_process_zero():
        return {}
    resumed = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
    losses = [loss for _, loss in read_curve(stage.folder)]
    tail = losses[-max(1, len(losses) // 10) :]
    metrics = {
        "steps": trainer.state.global_step,
        "resumed_from_step": resumed,
        "loss_first": losses[0],
        "loss_last": sum(tail) / len(tail),
        "tokens": reporter.tokens,
        "seconds": round(seconds, 1),
        "tokens_per_second": round((reporter.tokens - reporter.tokens_before) / max(seconds, 1e-9), 1),
        "trainable_parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
    }
    reporter.progress.close(
        f"{metrics['steps']:,} steps · loss {metrics['loss_first']:.3f} → "
        f"{metrics['loss_last']:.3f} · {metrics['tokens_per_second']:.0f} tokens/s"
    )
    return metrics


def save_trained(trainer: Any, tokenizer: Any, stage: artifacts.StageRun, base: str, **lineage: Any) -> Path:
    """Save what was trained: one adapter as `adapter/`, or after full fine-tuning the model as `model/`.

    Beside the weights go the tokenizer with its chat template, a generation config that ends at the
    template's stop token, and `lineage.json`. Every process takes part, since shards have to be gathered; the
    first writes.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    is_adapter = isinstance(model, PeftModel)
    target = stage.folder / ("adapter" if is_adapter else "model")
    gathered = {"state_dict": trainer.accelerator.get_state_dict(trainer.model)} if processes.count() > 1 else {}
    if not trainer.is_world_process_zero():
        return target
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    chat.set_stop_token(model, tokenizer)
    if is_adapter:
        config = model.peft_config["default"]
        # The name in the settings, not the folder that this machine keeps the model in.
        config.base_model_name_or_path = base
        config.target_modules = sorted(config.target_modules)  # a set, whose order changes from run to run
        model.save_pretrained(partial, selected_adapters=["default"], save_embedding_layers=False, **gathered)
        (partial / "README.md").unlink(missing_ok=True)  # PEFT's empty form
    else:
        model.save_pretrained(partial, **gathered)
    model.generation_config.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    models.write_lineage(partial, model, base, stage=stage.stage, **lineage)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    return target


def finish(stage: artifacts.StageRun, metrics: dict[str, Any]) -> None:
    """Write `metrics.json` and the counts of the manifest, and free what only a resumed training would need."""
    artifacts.write_json(stage.folder / "metrics.json", metrics)
    stage.count("steps", metrics["steps"])
    stage.count("tokens", metrics["tokens"])
    checkpoints.remove(stage.folder)


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of a stage's `log.jsonl`; a last line that a kill has cut off is left out."""
    path = folder / LOG
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return rows


def read_curve(folder: Path, key: str = "loss") -> list[tuple[int, float]]:
    """(step, value) of one quantity over a training run, for plots."""
    return [(row["step"], row[key]) for row in read_log(folder) if key in row]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' progress bars, notices and telemetry away; errors still show."""
    import datasets
    import transformers
    from huggingface_hub import constants

    # The variable is read when huggingface_hub is imported, which has happened by now.
    constants.HF_HUB_DISABLE_TELEMETRY = os.environ.get("HF_HUB_DISABLE_TELEMETRY") != "0"
    bars = datasets.is_progress_bar_enabled()
    verbosity = transformers.logging.get_verbosity()
    tqdm = os.environ.get("TQDM_DISABLE")
    accelerate_level = logging.getLogger("accelerate").level
    os.environ["TQDM_DISABLE"] = "1"
    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    try:
        with models.without_bars(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger("accelerate").setLevel(accelerate_level)
        transformers.logging.set_verbosity(verbosity)
        if bars:
            datasets.enable_progress_bars()
        if tqdm is None:
            del os.environ["TQDM_DISABLE"]
        else:
            os.environ["TQDM_DISABLE"] = tqdm
