"""From the SFT stage to DPO: what is loaded, and the proof that training starts at the SFT model.

The base is loaded with the SFT adapter on it, trainable. TRL, given a PeftModel and no new LoRA
configuration, copies that adapter to a second, frozen one named "ref" and asks it for the reference
log-probabilities. So there is one model in memory, the reference is the SFT model, and the one adapter that
is saved loads on the base.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel

from phoenix_utils import artifacts, hardware, models, training
from phoenix_utils.dpo.loss import dpo_loss
from phoenix_utils.dpo.settings import DpoSettings
from phoenix_utils.errors import PhoenixError

# Nats per token by which half precision may move a log-probability when a batch has another shape; measured: 0.003 on
# average, 0.005 at most, while leaving the SFT adapter out moves it by 0.1 to 0.5.
HALF_PRECISION_NATS = 0.02


@dataclass(frozen=True)
class StartCheck:
    """Where DPO begins: the loss on a few pairs, and by how many nats policy and reference differ at most."""

    loss: float
    difference: float
    pairs: int


def load_sft_model(settings: DpoSettings, machine: hardware.Hardware, dtype: str) -> Any:
    """The SFT model, trainable: base and adapter, or after full fine-tuning the whole model.

    Raises PhoenixError where `settings.method` is not how the SFT stage was trained, or the adapter belongs
    to another base.
    """
    folder = artifacts.stage_path(settings.run_dir, "sft")
    languages = settings.languages
    whole = (folder / "model").is_dir()
    if whole != (settings.method == "full"):
        was, now = ("full", settings.method) if whole else ("lora or qlora", "full")
        raise PhoenixError(f"the SFT stage was trained with method {was}, DPO is to use {now}; use the same for both")
    options = {"hardware": machine, "dtype": training.weights_dtype(settings.method, dtype, machine.device)}
    if whole:
        return models.load_model(str(folder / "model"), languages, **options)
    base = models.load_model(settings.model, languages, quantize=settings.method == "qlora", **options)
    return models.load_adapter(base, folder / "adapter", base=settings.model, trainable=True)


def check_start(trainer: Any, beta: float, pairs: int = 2) -> StartCheck:
    """Compare policy and reference before the first step, on the shortest `pairs` of the training data.

    Both are the SFT model then: asked in the same batch, every log-probability agrees and the loss is ln 2 = 0.693. The
    answers of the reference that were kept come from batches of another shape; in half precision they may differ by
    rounding, which is no step in any direction. Raises RuntimeError otherwise, since whatever would be trained from
    there is not what the settings say.
    """
    rows = trainer.train_dataset
    batch = trainer.data_collator([rows[index] for index in range(max(0, len(rows) - pairs), len(rows))])
    batch = {name: value.to(trainer.model.device) for name, value in batch.items()}
    training_mode = trainer.model.training
    trainer.model.eval()
    kept = (batch["ref_chosen_logps"], batch["ref_rejected_logps"]) if "ref_chosen_logps" in batch else None
    with torch.no_grad(), trainer.accelerator.autocast():
        policy = answer_logprobs(trainer.model, batch)
    # After full fine-tuning the reference is not in memory any more once it was asked.
    asked = kept if trainer.ref_model is None and not isinstance(trainer.model, PeftModel) else None
    reference = asked or trainer.compute_ref_log_probs(trainer.model, batch)
    trainer.model.train(training_mode)
    half = trainer.args.bf16 or trainer.args.fp16 or getattr(trainer.model, "is_loaded_in_4bit", False)
    exact = trainer.model.dtype == torch.float32 and not half
    tokens = batch["completion_mask"][:, 1:].sum().item()
    for answers in filter(None, (kept, reference)):
        loss = dpo_loss(*policy, *answers, beta=beta).loss.item()
        differences = (torch.cat(policy) - torch.cat(answers)).abs()
        apart = differences.sum().item() / tokens
        if abs(loss - math.log(2)) > 1e-3 if exact else apart > HALF_PRECISION_NATS:
            raise RuntimeError(
                f"DPO would not start at the SFT model: on {len(policy[0])} pairs the loss is {loss:.4f}, not ln 2; "
                f"log-probabilities differ by {apart:.4f} nats per token"
            )
    # Those of the reference, which stands last: what was asked in the same batch.
    return StartCheck(loss, differences.max().item(), len(policy[0]))


def answer_logprobs(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability (nats) of each chosen and each rejected answer, both of shape (pairs,).

    `batch` is TRL's: the chosen answers' rows first, then the rejected ones', in `input_ids`,
    `attention_mask` and `completion_mask`, all of shape (2 x pairs, tokens).
    """
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
    scores = logits[:, :-1].float().log_softmax(-1)
    tokens = scores.gather(-1, batch["input_ids"][:, 1:, None])[..., 0]
    sums = (tokens * batch["completion_mask"][:, 1:]).sum(1)
    chosen, rejected = sums.chunk(2)
    return chosen, rejected
