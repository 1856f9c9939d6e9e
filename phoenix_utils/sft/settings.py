"""Settings of the SFT stage; the defaults are the values of the `mini` profile."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from phoenix_utils.artifacts import stage_path
from phoenix_utils.profile import StageSettings


class SftSettings(StageSettings):
    """How the base model is fine-tuned on the kept conversations, spelled as TRL and transformers spell it.

    What is trained
        `method`, `lora_r`, `lora_alpha`, `lora_dropout`, `dtype`.
    What it is trained on
        `max_length`, `packing`.
    Batches and steps
        `global_batch` rows make one optimizer step on any hardware; `per_device_train_batch_size` only says
        how many of them are in memory at once, and gradient accumulation makes up the rest.
    """

    method: Literal["lora", "qlora", "full"] = Field(
        "lora", description="lora trains an adapter, qlora the same on 4-bit base weights, full every weight"
    )
    max_length: int = Field(
        1024, ge=16, description="longest conversation in tokens; longer ones are left out, never cut"
    )
    packing: bool = Field(
        False,
        description="fill sequences of max_length with several conversations that do not see each other",
    )
    global_batch: int = Field(2, ge=1, description="rows in one optimizer step, on all devices together")
    per_device_train_batch_size: int = Field(
        2,
        ge=1,
        description="most rows in one device's memory at once; accumulation makes up the global batch",
    )
    num_train_epochs: float = Field(2.0, gt=0, description="times that every row is seen")
    learning_rate: float = Field(3e-4, gt=0, description="highest learning rate")
    lr_scheduler_type: Literal["cosine", "linear", "constant", "constant_with_warmup"] = Field(
        "cosine", description="how the learning rate falls after the warmup"
    )
    warmup_steps: float = Field(
        0.1, ge=0, description="steps over which the learning rate rises; below 1 a share of all steps"
    )
    weight_decay: float = Field(0.0, ge=0, description="AdamW's weight decay")
    max_grad_norm: float = Field(1.0, gt=0, description="longest gradient; a longer one is shortened to it")
    lora_r: int = Field(16, ge=1, description="rank of the adapter's matrices")
    lora_alpha: int = Field(32, ge=1, description="scale of the adapter, applied as lora_alpha / lora_r")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="dropout before the adapter's matrices")
    gradient_checkpointing: bool = Field(
        False, description="compute activations twice to keep fewer; for models that need the memory"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="number type to compute in; auto chooses by the hardware and says why"
    )
    save_steps: int = Field(5, ge=1, description="steps between checkpoints to resume from")
    logging_steps: int = Field(1, ge=1, description="steps between lines of log.jsonl")


def stage_inputs(settings: SftSettings) -> dict[str, Path | str]:
    """What the stage reads: the conversations that the filters kept."""
    return {"chat": stage_path(settings.run_dir, "filtering") / "chat.parquet"}
