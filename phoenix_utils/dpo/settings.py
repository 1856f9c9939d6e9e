"""Settings of the DPO stage; the defaults are the values of the `mini` profile."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from phoenix_utils import artifacts
from phoenix_utils.errors import PhoenixError
from phoenix_utils.training_settings import LearningRate, SaveSteps, Schedule, TrainingSettings


class DpoSettings(TrainingSettings):
    """How the SFT model is trained further on preference pairs, spelled as TRL and transformers spell it.

    What is trained
        `method` has to be what the SFT stage used (lora and qlora share adapters); the adapter's shape is the
        SFT adapter's, which is trained further. `dtype`.
    The objective
        `beta`, `loss_type`.
    The pairs
        `max_pairs`, `max_length`; `eval_share` of them are never trained on.
    The safety net
        Every `eval_steps` steps, `watch_prompts` and the pairs set aside are looked at; training stops where the
        model has become worse than the SFT model there (see `diagnostics.py`).
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
        512, ge=16, description="longest prompt with answer in tokens; longer pairs are left out, never cut"
    )
    max_pairs: int | None = Field(None, ge=1, description="take only so many pairs, the first ones; null takes all")
    eval_share: float = Field(
        0.0, ge=0, lt=1, description="share of the pairs set aside; a fall of accuracy on them stops the training"
    )
    watch_prompts: int = Field(
        4, ge=0, description="prompts answered on the way; too few answers in the language stop the training"
    )
    eval_steps: int = Field(5, ge=1, description="steps between looks at the pairs set aside and at those answers")
    global_batch: int = Field(4, ge=1, description="pairs in one optimizer step, on all devices together")
    per_device_train_batch_size: int = Field(
        2,
        ge=1,
        description="most pairs in one device's memory at once; accumulation makes up the global batch",
    )
    num_train_epochs: float = Field(1.0, gt=0, description="times that every pair is seen")
    learning_rate: LearningRate = Field(5e-5, description="highest learning rate; much lower than that of SFT")
    lr_scheduler_type: Schedule = "linear"
    gradient_checkpointing: bool = Field(
        True, description="compute activations twice to keep fewer; a pair is two sequences, so DPO needs it first"
    )
    save_steps: SaveSteps = 2
    precompute_ref_log_probs: bool = Field(
        True, description="ask the reference once before training instead of at every step"
    )


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
    manifest = artifacts.read_manifest(folder / "manifest.json") if (folder / "manifest.json").is_file() else {}
    if manifest.get("status") != "complete":
        raise PhoenixError(f"the SFT stage in {folder} is not finished: run it first")
    artifacts.check_products(folder)
    weights = {
        name: product["sha256"] for name, product in manifest["outputs"].items() if name.endswith(".safetensors")
    }
    return artifacts.fingerprint(weights)
