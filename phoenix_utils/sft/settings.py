"""Settings of the SFT stage; the defaults are the values of the `mini` profile."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from phoenix_utils.artifacts import stage_path
from phoenix_utils.training_settings import AdapterSettings, LearningRate, SaveSteps


class SftSettings(AdapterSettings):
    """How the base model is fine-tuned on the kept conversations, spelled as TRL and transformers spell it.

    What is trained
        `method`, `lora_r`, `lora_alpha`, `lora_dropout`, `dtype`.
    What it is trained on
        `max_length`, `chat_template`, `packing`.
    When it stops
        with `eval_share` the checkpoint with the lowest loss on the rows set aside is what is kept, and
        `early_stopping_patience` ends a run that no longer lowers it.
    Batches and steps
        `global_batch` rows make one optimizer step on any hardware; `per_device_train_batch_size` only says
        how many of them are in memory at once, and gradient accumulation makes up the rest.
    """

    method: Literal["lora", "qlora", "full"] = Field(
        "lora", description="lora trains an adapter, qlora the same on 4-bit base weights, full every weight"
    )
    max_length: int = Field(
        640, ge=16, description="longest conversation in tokens; longer ones are left out, never cut"
    )
    chat_template: Literal["zephyr", "chatml", "own"] = Field(
        "zephyr", description="how turns become text: zephyr, chatml, or the model's own template"
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
    learning_rate: LearningRate = 3e-4
    save_steps: SaveSteps = 5
    eval_share: float = Field(
        0.0, ge=0, lt=1, description="share of the conversations set aside to measure the loss on at each checkpoint"
    )
    early_stopping_patience: int = Field(
        0, ge=0, description="checkpoints without a lower loss on them after which training stops; 0 never stops early"
    )


def stage_inputs(settings: SftSettings) -> dict[str, Path | str]:
    """What the stage reads: the conversations that the filters kept."""
    return {"chat": stage_path(settings.run_dir, "filtering") / "chat.parquet"}
