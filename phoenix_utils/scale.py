"""A run worked out before it is paid for: hours, euros, files, checkpoints, and what fails on the way.

Pure arithmetic, like :mod:`phoenix_utils.translation.cost`, from which the translator's speed and all prices come. The
model behind each figure:

translation  characters / speed; the speed is scaled from the paper's own bill (see `cost.gpu_speed`)
training     floating-point operations / what the GPUs reach. A forward and a backward pass are 6 x parameters x tokens
             (Kaplan et al. 2020, arXiv 2001.08361, section 2.1), a third more with gradient checkpointing; DPO's
             reference is a forward pass more, 2 x parameters x tokens
failures     GPU hours / hours between failures. 419 unexpected interruptions in 54 days on 16,384 H100 (Llama 3, arXiv
             2407.21783, section 3.3.4) are one in 50,677 GPU hours; rented machines that may be taken back are not that
a failure    costs half of what lies between two saves, and starting again

>>> plan = translation_plan(1.5e9, "A100 80GB", 13.0)
>>> round(plan.hours), round(plan.euros), plan.files
(150, 300, 28)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from phoenix_utils.errors import PhoenixError
from phoenix_utils.profile import GpuName

# Dense matrix products in 16 bits, 10^12 operations a second, from the makers' data sheets (T4: float16).
PEAK_TFLOPS: dict[GpuName, float] = {
    "T4": 65.0,
    "L4": 121.0,
    "RTX 4090": 165.0,
    "L40S": 362.0,
    "A100 80GB": 312.0,
    "H100 80GB": 989.0,
}
# Of which training reaches so much; an assumption, of what well-set frameworks report for 7 B on eight cards.
UTILISATION = 0.4
GPU_HOURS_BETWEEN_FAILURES = 16_384 * 54 * 24 / 419
# Loading weights, compiling, reading back: an assumption.
RESTART_HOURS = 0.15
# The paper: 271,600 rows of both sets in 1.5 billion characters.
CHARACTERS_PER_ROW = 1.5e9 / (208_000 + 63_600)
ROWS_PER_FILE = 10_000
# Measured on `mini`: bytes of the store of segments, and of the tables, for each source character.
STORE_BYTES, TABLE_BYTES = 3.8, 3.2
# Segments that are handed to an engine at once (a window), and their mean length; what is done with a window is kept.
WINDOW_CHARACTERS = 2048 * 91


@dataclass(frozen=True)
class StagePlan:
    """One stage on `gpus` cards: wall-clock hours, EUR, files and GB written, saves, and failures.

    `failures` are those to expect in the whole stage, `lost_hours` the wall-clock hours that one of them costs.
    """

    stage: str
    tokens: float
    gpus: int
    hours: float
    euros: float
    files: int
    disk_gb: float
    failures: float
    lost_hours: float
    # Cards of a training wait for each other; each translating one works alone, and alone it fails.
    together: bool = True

    @property
    def gpu_hours(self) -> float:
        """Hours of all cards together."""
        return self.hours * self.gpus

    @property
    def lost_euros(self) -> float:
        """EUR that one failure costs."""
        return self.lost_hours * self.euros / self.hours / (1 if self.together else self.gpus)


def translation_plan(characters: float, gpu: GpuName, parameters_b: float, gpus: int = 1) -> StagePlan:
    """Translating `characters` source characters with a model of `parameters_b` B parameters on `gpus` cards.

    Each card works for itself on its part of the rows, so hours fall in proportion. Raises PhoenixError for a GPU that
    is not known, numbers that are not positive, and a model that does not fit on a card.
    """
    from phoenix_utils.translation import cost

    if not cost.fits(gpu, _positive("parameters_b", parameters_b)):
        raise PhoenixError(f"{parameters_b:g} B parameters in 16 bits do not fit on one {gpu}: take a larger card")
    speed = cost.gpu_speed(gpu, parameters_b) * _positive("gpus", gpus)
    hours = _positive("characters", characters) / speed / 3600
    window = WINDOW_CHARACTERS / (speed / gpus) / 3600
    return StagePlan(
        "translation",
        cost.tokens(characters),
        gpus,
        hours,
        hours * gpus * cost.gpu_offer(gpu).price_per_hour,
        math.ceil(characters / CHARACTERS_PER_ROW / ROWS_PER_FILE),
        characters * (STORE_BYTES + TABLE_BYTES) / 1e9,
        expected_failures(hours * gpus),
        window / 2 + RESTART_HOURS,
        together=False,
    )


def training_plan(
    stage: str,
    tokens: float,
    gpu: GpuName,
    parameters_b: float,
    gpus: int = 8,
    *,
    steps: int,
    save_steps: int,
    reference: bool = False,
    utilisation: float = UTILISATION,
) -> StagePlan:
    """Full fine-tuning, with gradient checkpointing, on `tokens` tokens in `steps` steps.

    `reference` adds DPO's forward pass with the SFT model, `utilisation` is the share of its peak that a card reaches.

    A checkpoint holds weights and both moments of Adam in float32, 12 bytes a parameter; the newest two are kept.
    Raises PhoenixError for numbers that are not positive.
    """
    from phoenix_utils.translation import cost

    parameters = _positive("parameters_b", parameters_b) * 1e9
    passes = 8 + (2 if reference else 0)
    reached = PEAK_TFLOPS[gpu] * 1e12 * _positive("utilisation", utilisation) * _positive("gpus", gpus)
    hours = passes * parameters * _positive("tokens", tokens) / reached / 3600
    between = hours * min(1.0, _positive("save_steps", save_steps) / _positive("steps", steps))
    return StagePlan(
        stage,
        tokens,
        gpus,
        hours,
        hours * gpus * cost.gpu_offer(gpu).price_per_hour,
        max(1, steps // save_steps),
        2 * 12 * parameters / 1e9,
        expected_failures(hours * gpus),
        between / 2 + RESTART_HOURS,
    )


def expected_failures(gpu_hours: float, between: float = GPU_HOURS_BETWEEN_FAILURES) -> float:
    """Failures to expect in so many GPU hours. Raises PhoenixError unless `between` is positive."""
    return gpu_hours / _positive("between", between)


def paper_plans(scale: float = 1.0, translators: int = 1) -> list[StagePlan]:
    """The paper's three stages on A100 with 80 GB, for `scale` times its 1.5 billion characters.

    Translation on `translators` cards. Training on eight: 228 steps of 512 x 2,048 tokens; 941 steps of 64 pairs, taken
    as two answers of 500 tokens, the length being an assumption. More data means more steps of the same batch.
    """
    _positive("scale", scale)
    sft, dpo = math.ceil(228 * scale), math.ceil(941 * scale)
    cards = {"gpu": "A100 80GB", "parameters_b": 7.24, "gpus": 8}
    return [
        translation_plan(1.5e9 * scale, "A100 80GB", 13.0, translators),
        training_plan("sft", sft * 512 * 2048, **cards, steps=sft, save_steps=100),
        training_plan("dpo", dpo * 64 * 2 * 500, **cards, steps=dpo, save_steps=200, reference=True),
    ]


def plan_rows(plans: list[StagePlan]) -> list[dict[str, str]]:
    """The plans as rows of a table, with as many digits as estimates deserve."""
    return [
        {
            "stage": plan.stage,
            "tokens": f"{plan.tokens / 1e6:,.0f} million",
            "cards": str(plan.gpus),
            "hours": f"{plan.hours:.1f}",
            "card hours": f"{plan.gpu_hours:,.0f}",
            "EUR": f"{plan.euros:,.0f}",
            "files": f"{plan.files:,}",
            "disk": f"{plan.disk_gb:,.0f} GB",
            "failures": f"{plan.failures:.4f}",
            "a failure costs": f"{60 * plan.lost_hours:.0f} min, {plan.lost_euros:.2f} EUR",
        }
        for plan in plans
    ]


def _positive(name: str, value: float) -> float:
    if not math.isfinite(value) or value <= 0:
        raise PhoenixError(f"{name} is {value}: give a finite number above 0")
    return value
