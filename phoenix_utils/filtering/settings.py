"""Settings of the filtering stage; the defaults are the values of the ``mini`` profile."""

from pathlib import Path

from pydantic import Field

from phoenix_utils.artifacts import stage_path
from phoenix_utils.profile import StageSettings


class FilteringSettings(StageSettings):
    """Where each rule draws its line. ``model`` is the student: its tokenizer measures the rows."""

    max_foreign_share: float = Field(
        0.3, ge=0, le=1, description="most of a message's prose, in letters, that may be in another language"
    )
    max_copied_share: float = Field(
        0.3, ge=0, le=1, description="most of a message's word runs that may equal the source"
    )
    min_length_ratio: float = Field(0.5, gt=0, le=1, description="shortest translation, relative to its source")
    max_length_ratio: float = Field(2.0, ge=1, description="longest translation, relative to its source")
    max_repeats: int = Field(4, ge=1, description="how often a phrase may be said, unless the source repeats it too")
    max_length: int = Field(
        2048, ge=1, description="most tokens of a row in the chat template; the paper keeps rows under 2049"
    )


def stage_inputs(settings: FilteringSettings) -> dict[str, Path | str]:
    """What the stage reads: the translated rows."""
    translated = stage_path(settings.run_dir, "translation")
    return {kind: translated / kind for kind in ("chat", "preferences")}
