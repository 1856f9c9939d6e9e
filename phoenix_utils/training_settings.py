"""The settings that every training shares: the optimizer's, the adapter's and the log's.

A stage's own model inherits from one of these and gives `learning_rate`, `lr_scheduler_type` and `save_steps` a
default of its own; meaning and limits stand here once.
"""

from typing import Annotated, Literal

from pydantic import Field

from phoenix_utils.profile import StageSettings

LearningRate = Annotated[float, Field(gt=0, description="highest learning rate")]
Schedule = Annotated[
    Literal["cosine", "linear", "constant", "constant_with_warmup"],
    Field(description="how the learning rate falls after the warmup"),
]
SaveSteps = Annotated[int, Field(ge=1, description="steps between checkpoints to resume from")]


class TrainingSettings(StageSettings):
    """Optimizer, number type, checkpoints and log of a training, spelled as transformers spells them."""

    learning_rate: LearningRate
    lr_scheduler_type: Schedule = "cosine"
    warmup_steps: float = Field(
        0.1, ge=0, description="steps over which the learning rate rises; below 1 a share of all steps"
    )
    weight_decay: float = Field(0.0, ge=0, description="AdamW's weight decay")
    max_grad_norm: float = Field(1.0, gt=0, description="longest gradient; a longer one is shortened to it")
    gradient_checkpointing: bool = Field(
        False, description="compute activations twice to keep fewer; for models that need the memory"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="number type to compute in; auto chooses by the hardware and says why"
    )
    save_steps: SaveSteps
    logging_steps: int = Field(1, ge=1, description="steps between lines of log.jsonl")
    report_to: Literal["none", "tensorboard"] = Field(
        "none", description="tensorboard also writes the log for TensorBoard, into the stage's folder"
    )


class AdapterSettings(TrainingSettings):
    """A training that starts a new LoRA adapter (Hu et al. 2021)."""

    lora_r: int = Field(16, ge=1, description="rank of the adapter's matrices")
    lora_alpha: int = Field(32, ge=1, description="scale of the adapter, applied as lora_alpha / lora_r")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="dropout before the adapter's matrices")
