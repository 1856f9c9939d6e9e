"""What translating costs: characters to tokens, hours and euros, on a named GPU or one's own machine.

Everything here is arithmetic on plain values. Where a number is an assumption it stands here once, with its date and
where it comes from, and every function takes another one instead.

    >>> round(estimate(1.5e9, characters_per_second=2778, price_per_hour=2.0).euros)
    300
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_args

from phoenix_utils.errors import PhoenixError
from phoenix_utils.profile import GpuName, choose

# The paper's section 3.1: "over 1.5 billion characters" by a translator of 13 B parameters, and three prices for it.
PAPER_CHARACTERS = 1_500_000_000
PAPER_PARAMETERS_B = 13.0
PAPER_EUROS_OWN, PAPER_EUROS_RENTED, PAPER_EUROS_SERVICE = 30.0, 300.0, 30_000.0

# English, rounded. Measured with Gemma's tokenizer: 3.7 on the packaged conversations and pairs, which hold code and
# numbers, and 4.2 on the packaged sentences (their German has 3.9). Tokenizers with fewer entries need more tokens.
CHARACTERS_PER_TOKEN = 4.0

PRICES_AS_OF = "2026-03"
# Commercial customers in Germany on 1 April 2024, 50 MWh a year: 30.5 cents (Statista 154902).
EUROS_PER_KWH = 0.30
# DeepL's help page on billing, API Pro: 0.00002 EUR for each source character, beside a small monthly fee.
SERVICE_EUROS_PER_MILLION = 20.0
# What the computer around a busy GPU draws: processor, memory, fans, losses of the power supply.
HOST_WATTS = 100.0


@dataclass(frozen=True)
class GpuOffer:
    """A GPU for rent: memory in GB, memory bandwidth in GB/s and board power in W from its data sheet, EUR per hour."""

    memory_gb: float
    bandwidth_gb_s: float
    watts: float
    price_per_hour: float


# Assumptions of PRICES_AS_OF: on-demand prices of specialised hosts, rounded, a dollar taken as a euro (RunPod's as
# listed by deploybase.ai, the T4's by computeprices.com). Large clouds ask for two to four times as much, spot offers
# for half. Look up your own price and pass it on.
GPUS: dict[GpuName, GpuOffer] = {
    "T4": GpuOffer(16, 320, 70, 0.35),
    "L4": GpuOffer(24, 300, 72, 0.80),
    "RTX 4090": GpuOffer(24, 1008, 450, 0.60),
    "L40S": GpuOffer(48, 864, 350, 1.40),
    "A100 80GB": GpuOffer(80, 2039, 400, 2.00),
    "H100 80GB": GpuOffer(80, 3350, 700, 3.50),
}

# Below so many billions of parameters a GPU's speed no longer follows from the size of the weights.
SMALLEST_SCALED_B = 1.0

# Measured on 2026-11-26 with the transformers engine on two CPU cores: the embedded model, its vocabulary trimmed,
# with the packaged adapter.
CPU_CORES, CPU_PARAMETERS_B, CPU_CHARACTERS_PER_SECOND = 2, 0.15, 1400.0


@dataclass(frozen=True)
class Estimate:
    """A translation job: source characters, source characters per second, EUR per hour, and what follows from them."""

    characters: float
    characters_per_second: float
    price_per_hour: float

    @property
    def tokens(self) -> float:
        """Source tokens at CHARACTERS_PER_TOKEN; the translation has about as many again."""
        return tokens(self.characters)

    @property
    def hours(self) -> float:
        """Hours of work."""
        return self.characters / self.characters_per_second / 3600

    @property
    def euros(self) -> float:
        """Price of those hours."""
        return self.hours * self.price_per_hour

    @property
    def euros_per_million(self) -> float:
        """Price of a million source characters, the unit in which services ask for money."""
        return self.price_per_hour / self.characters_per_second / 3600 * 1e6


def tokens(characters: float, characters_per_token: float = CHARACTERS_PER_TOKEN) -> float:
    """Tokens that so many source characters are. Raises PhoenixError unless the ratio is positive."""
    _number("characters", characters)
    return characters / _number("characters_per_token", characters_per_token, positive=True)


def estimate(characters: float, characters_per_second: float, price_per_hour: float) -> Estimate:
    """Tokens, hours and euros of translating `characters` at a speed and a price in EUR per hour.

    The speed is source characters per second, as the stage's manifest and `gpu_speed` have it. Raises PhoenixError
    for a negative or infinite number and for a speed of 0.
    """
    return Estimate(
        _number("characters", characters),
        _number("characters_per_second", characters_per_second, positive=True),
        _number("price_per_hour", price_per_hour),
    )


def implied(characters: float, euros: float, price_per_hour: float) -> Estimate:
    """The job behind a known bill: how fast it must have been if an hour cost `price_per_hour` EUR.

    Raises PhoenixError for numbers that are not positive.
    """
    hours = _number("euros", euros, positive=True) / _number("price_per_hour", price_per_hour, positive=True)
    return estimate(_number("characters", characters, positive=True), characters / hours / 3600, price_per_hour)


def power_price(watts: float, euros_per_kwh: float = EUROS_PER_KWH) -> float:
    """EUR per hour that own hardware costs in electricity; it leaves out buying the hardware and cooling it."""
    return _number("watts", watts) / 1000 * _number("euros_per_kwh", euros_per_kwh)


def gpu_offer(name: str) -> GpuOffer:
    """The named GPU. Raises PhoenixError with the known names."""
    choose("GPU", name, get_args(GpuName))
    return GPUS[name]


def gpu_speed(name: str, parameters_b: float, count: int = 1) -> float:
    """Source characters per second of a translator of `parameters_b` B parameters under vLLM. An estimate.

    The paper's 300 EUR at the A100's price say how fast ALMA-13B was there. From that the speed is scaled by what
    decoding waits for, reading every weight from memory once a step: in proportion to the GPU's bandwidth and to
    1 / parameters; `count` GPUs count fully. A model below 1 B parameters waits for other things and counts as 1 B.
    Nothing of it was measured here.
    """
    size = max(SMALLEST_SCALED_B, _number("parameters_b", parameters_b, positive=True))
    reference = GPUS["A100 80GB"]
    anchor = implied(PAPER_CHARACTERS, PAPER_EUROS_RENTED, reference.price_per_hour).characters_per_second
    bandwidth = gpu_offer(name).bandwidth_gb_s * _number("count", count, positive=True) / reference.bandwidth_gb_s
    return anchor * bandwidth * PAPER_PARAMETERS_B / size


def cpu_speed(parameters_b: float, cores: int) -> float:
    """Source characters per second on a CPU: the embedded model's on two cores, scaled by size and cores."""
    scale = _number("cores", cores, positive=True) / CPU_CORES * CPU_PARAMETERS_B
    return CPU_CHARACTERS_PER_SECOND * scale / _number("parameters_b", parameters_b, positive=True)


def fits(name: str, parameters_b: float) -> bool:
    """Whether weights in 16 bits leave a tenth of a GPU's memory to work in."""
    return parameters_b * 1e9 * 2 <= 0.9 * gpu_offer(name).memory_gb * 2**30


@dataclass(frozen=True)
class PaperFigure:
    """One of the paper's three prices for its 1.5 billion characters, and what it implies.

    `job` is None for a service, whose price does not depend on time; `basis` says what was assumed.
    """

    name: str
    euros: float
    basis: str
    job: Estimate | None

    @property
    def euros_per_million(self) -> float:
        """EUR for a million source characters."""
        return self.euros / PAPER_CHARACTERS * 1e6


def paper_figures(
    rent_per_hour: float = GPUS["A100 80GB"].price_per_hour,
    watts: float = GPUS["A100 80GB"].watts + HOST_WATTS,
    euros_per_kwh: float = EUROS_PER_KWH,
) -> list[PaperFigure]:
    """The paper's own hardware (30 EUR), rented GPU (300 EUR) and DeepL Pro (over 30,000 EUR), taken apart.

    Source: arXiv 2401.10580, section 3.1, which states neither hours nor prices; those follow from the arguments.
    """
    power = power_price(watts, euros_per_kwh)
    return [
        PaperFigure(
            "own hardware",
            PAPER_EUROS_OWN,
            f"electricity for {watts:g} W at {euros_per_kwh:.2f} EUR per kWh",
            implied(PAPER_CHARACTERS, PAPER_EUROS_OWN, power),
        ),
        PaperFigure(
            "rented GPU",
            PAPER_EUROS_RENTED,
            f"an A100 80GB at {rent_per_hour:.2f} EUR per hour",
            implied(PAPER_CHARACTERS, PAPER_EUROS_RENTED, rent_per_hour),
        ),
        PaperFigure(
            "DeepL Pro",
            PAPER_EUROS_SERVICE,
            f"{SERVICE_EUROS_PER_MILLION:g} EUR per million characters, its list price",
            None,
        ),
    ]


def cost_table(
    characters: float,
    parameters_b: float = PAPER_PARAMETERS_B,
    *,
    measured: float | None = None,
    watts: float = 65.0,
) -> list[dict[str, str | float | None]]:
    """Rows for a table: this computer if its speed was `measured`, every named GPU, and DeepL Pro.

    `measured` is in source characters per second and `watts` is what this computer draws (65: a laptop at work, an
    assumption). A GPU that the model does not fit into has None for numbers; so has a service for its time.
    """
    rows = []
    if measured is not None:
        job = estimate(characters, measured, power_price(watts))
        rows.append(_row("this computer", f"speed measured, electricity for {watts:g} W", job))
    for name, offer in GPUS.items():
        if fits(name, parameters_b):
            job = estimate(characters, gpu_speed(name, parameters_b), offer.price_per_hour)
            rows.append(_row(name, f"speed and price assumed, {PRICES_AS_OF}", job))
        else:
            rows.append(_row(name, f"{parameters_b:g} B parameters in 16 bits do not fit", None))
    service = _row("DeepL Pro", "its list price", None)
    service["EUR per million characters"] = SERVICE_EUROS_PER_MILLION
    service["EUR"] = SERVICE_EUROS_PER_MILLION * _number("characters", characters) / 1e6
    return [*rows, service]


def _row(where: str, basis: str, job: Estimate | None) -> dict[str, str | float | None]:
    return {
        "where": where,
        "EUR per hour": job and job.price_per_hour,
        "characters per second": job and job.characters_per_second,
        "hours": job and job.hours,
        "EUR": job and job.euros,
        "EUR per million characters": job and job.euros_per_million,
        "basis": basis,
    }


def _number(name: str, value: float, positive: bool = False) -> float:
    """`value`, if it can be an amount: finite, and not negative (or above 0)."""
    if not math.isfinite(value) or value < 0 or (positive and value == 0):
        raise PhoenixError(f"{name} is {value}: give a finite number {'above 0' if positive else 'of 0 or more'}")
    return value
