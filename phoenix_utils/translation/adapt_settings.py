"""Settings of the translator's own training; the defaults are a small run on the project's own pairs."""

from pathlib import Path

from pydantic import Field

from phoenix_utils import sources
from phoenix_utils.paths import expanded
from phoenix_utils.training_settings import AdapterSettings, LearningRate, SaveSteps


class AdaptSettings(AdapterSettings):
    """How a base model becomes a translator (ALMA's recipe: Xu et al. 2023). Here `model` is that base model.

    The translator's direction is `source_language` to `language`. The full run is `profiles/adapt_en_de.yaml`.
    """

    run_dir: str = Field("runs/adapt", description="folder of this run; a relative one lies below the project")
    pairs: list[str] = Field(
        ["package:pairs"],
        min_length=1,
        description="parallel text: package:pairs, debian:libreoffice-help, files (.tsv .jsonl .parquet), Moses "
        "prefixes, hub ids",
    )
    max_pairs: int | None = Field(
        120, ge=1, description="at most so many pairs to train on besides the package's own, None for all"
    )
    instruction_repeats: int = Field(
        1, ge=0, description="times that the package's own instruction-style pairs are seen in an epoch; 0 drops them"
    )
    max_instruction_pairs: int | None = Field(
        96, ge=1, description="at most so many of the package's own pairs, None for all"
    )
    monolingual_rows: int = Field(
        0, ge=0, description="target-language paragraphs read before the pairs, from pairs that are not trained on"
    )
    max_length: int = Field(
        256, ge=16, description="longest prompt and translation in tokens; longer ones are left out"
    )
    batch_tokens: int = Field(1024, ge=64, description="most tokens, padding included, in one optimizer step")
    num_train_epochs: int = Field(1, ge=1, description="times that every pair is seen")
    learning_rate: LearningRate = 1e-3
    save_steps: SaveSteps = 25
    sample_pairs: int = Field(8, ge=2, description="pairs set aside to look at while it trains")
    measure_rows: int = Field(24, ge=2, description="pairs of each measured set, translated before and after")


def stage_inputs(settings: AdaptSettings) -> dict[str, Path | str]:
    """What the training reads: files by their hash, everything else by its name."""
    found: dict[str, Path | str] = {}
    for number, name in enumerate(settings.pairs):
        path = expanded(name)
        if name == "package:pairs":
            found[f"pairs_{number}"] = sources.packaged(
                f"pairs_train.{settings.source_language}-{settings.language}.jsonl"
            )
        elif path.exists():
            found[f"pairs_{number}"] = path
        else:
            found[f"pairs_{number}"] = name
    return found
