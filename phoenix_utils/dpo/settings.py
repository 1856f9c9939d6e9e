"""Settings of the DPO stage; the defaults are the values of the `mini` profile."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from phoenix_utils import artifacts
from phoenix_utils.errors import PhoenixError
from phoenix_utils.profile import StageSettings


class DpoSettings(StageSettings):
    """How the SFT model is trained further on preference pairs, spelled as TRL and transformers spell it.

    What is trained
        `method` has to be what the SFT stage used (lora and qlora share adapters); the adapter's shape is the
        SFT adapter's, which is trained further. `dtype`.
    The objective
        `beta`, `loss_type`.
    Batches and steps
        `global_batch` pairs make one optimizer step on any hardware; `per_device_train_batch_size` only says
        how many of them are in memory at once. A batch that shrinks with the memory is a known way to ruin a
        model with DPO.
    """

    method: Literal["lora", "qlora", "full"] = Field(
        "lora", description="as in the SFT stage; qlora trains the adapter on 4-bit base weights"
    )
    beta: float = Field(0.1, gt=0, description="how strongly the model is held to the SFT model; higher holds more")
    loss_type: Literal["sigmoid", "ipo", "hinge", "robust", "sigmoid_norm"] = Field(
        "sigmoid", description="sigmoid is the DPO paper's loss, the others are variants of it in TRL"
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="share of pairs that may be the wrong way round, for the robust loss"
    )
    max_length: int = Field(
        1024, ge=16, description="longest prompt with answer in tokens; longer pairs are left out, never cut"
    )
    global_batch: int = Field(4, ge=1, description="pairs in one optimizer step, on all devices together")
    per_device_train_batch_size: int = Field(
        2,
        ge=1,
        description="most pairs in one device's memory at once; accumulation makes up the global batch",
    )
    num_train_epochs: float = Field(1.0, gt=0, description="times that every pair is seen")
    learning_rate: float = Field(5e-5, gt=0, description="highest learning rate; much lower than that of SFT")
    lr_scheduler_type: Literal["cosine", "linear", "constant", "constant_with_warmup"] = Field(
        "linear", description="how the learning rate falls after the warmup"
    )
    warmup_steps: float = Field(
        0.1, ge=0, description="steps over which the learning rate rises; below 1 a share of all steps"
    )
    weight_decay: float = Field(0.0, ge=0, description="AdamW's weight decay")
    max_grad_norm: float = Field(1.0, gt=0, description="longest gradient; a longer one is shortened to it")
    precompute_ref_log_probs: bool = Field(
        True, description="ask the reference once before training instead of at every step"
    )
    gradient_checkpointing: bool = Field(
        False, description="compute activations twice to keep fewer; for models that need the memory"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="number type to compute in; auto chooses by the hardware and says why"
    )
    save_steps: int = Field(2, ge=1, description="steps between checkpoints to resume from")
    logging_steps: int = Field(1, ge=1, description="steps between lines of log.jsonl")


def stage_inputs(settings: DpoSettings) -> dict[str, Path | str]:
    """What the stage reads: the pairs that the filters kept, and the SFT stage's weights.

    Raises PhoenixError unless the SFT stage of this run has been finished.
    """
    return {
        "preferences": artifacts.stage_path(settings.run_dir, "filtering") / "preferences.parquet",
        "sft": sft_fingerprint(settings.run_dir),
    }


def sft_fingerprint(run_dir: str) -> str:
    """Hash of the weights that the SFT stage of a run has left, taken from its manifest."""
    folder = artifacts.stage_path(run_dir, "sft")
    manifest = artifacts.read_json(folder / "manifest.json") if (folder / "manifest.json").is_file() else {}
    if manifest.get("status") != "complete":
        raise PhoenixError(f"the SFT stage in {folder} is not finished: run it first")
    weights = {
        name: product["sha256"] for name, product in manifest["outputs"].items() if name.endswith(".safetensors")
    }
    return artifacts.fingerprint(weights)
