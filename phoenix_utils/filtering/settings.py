"""Settings of the filtering stage; the defaults are the values of the ``mini`` profile."""

from pathlib import Path

from pydantic import Field

from phoenix_utils.artifacts import stage_path
from phoenix_utils.profile import StageSettings

OPEN_LICENSES = [
    "CC0-1.0", "MIT", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC-BY-3.0", "CC-BY-4.0", "CC-BY-SA-3.0",
    "CC-BY-SA-4.0", "ODC-By-1.0", "CDLA-Permissive-2.0",
]  # fmt: skip


class FilteringSettings(StageSettings):
    """Where each rule draws its line. ``model`` is the student: its tokenizer measures the rows."""

    skip_rules: list[str] = Field(
        ["numbers", "negation", "address_form", "lost_sentence"],
        description="rules that are switched off, by name; what they would reject is counted all the same",
    )
    allowed_licenses: list[str] = Field(OPEN_LICENSES, description="SPDX ids of the licences that rows may have")
    allow_unknown_license: bool = Field(False, description="keep rows whose source states no licence")
    max_foreign_share: float = Field(
        0.3, ge=0, le=1, description="most of a message's prose, in letters, that may be in another language"
    )
    max_copied_share: float = Field(
        0.3, ge=0, le=1, description="most of a message's word runs that may equal the source"
    )
    min_length_ratio: float = Field(
        0.6, gt=0, le=1, description="shortest translation, relative to what its source lets expect"
    )
    max_length_ratio: float = Field(
        1.75, ge=1, description="longest translation, relative to what its source lets expect"
    )
    min_sentence_ratio: float = Field(
        0.85, ge=0, description="least length, relative to what is expected, of a text with fewer sentences"
    )
    max_repeats: int = Field(4, ge=1, description="how often a phrase may be said, unless the source repeats it too")
    max_gap_change: float = Field(
        1.6, ge=1, description="most that the ratio of both answers' lengths may change in translation, as a factor"
    )
    duplicate_similarity: float = Field(
        0.8, gt=0, le=1, description="share of common word runs from which a row counts as an earlier one again"
    )
    max_overlap: float = Field(
        0.5, ge=0, le=1, description="most of an evaluation question's word runs that may stand in a row"
    )
    max_length: int = Field(
        2048, ge=1, description="most tokens of a row in the chat template; the paper keeps rows under 2049"
    )


def stage_inputs(settings: FilteringSettings) -> dict[str, Path | str]:
    """What the stage reads: the translated rows."""
    translated = stage_path(settings.run_dir, "translation")
    return {kind: translated / kind for kind in ("chat", "preferences")}
