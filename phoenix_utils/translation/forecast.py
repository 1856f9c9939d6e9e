"""What `phoenix check` says of a translation before it runs: how much text, and what it will take.

Local sources are counted, hub sources are not read. How fast, how long and how dear is `cost`'s arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from phoenix_utils import artifacts, hardware, sources
from phoenix_utils.hardware import Hardware
from phoenix_utils.profile import HardwareNeeds
from phoenix_utils.translation import cost
from phoenix_utils.translation.rows import Table, tables_of
from phoenix_utils.translation.settings import TranslationSettings

# Rows of the paper's sources and of their other editions, from their cards.
PAPER_ROWS = {"HuggingFaceH4/ultrachat_200k": 208_000, "argilla/ultrafeedback-binarized-preferences": 63_600}
KNOWN_ROWS = {
    **PAPER_ROWS,
    "argilla/ultrafeedback-binarized-preferences-cleaned": 60_900,
    "HuggingFaceH4/ultrafeedback_binarized": 61_100,
}
MEAN_ROW_CHARACTERS = cost.PAPER_CHARACTERS / sum(PAPER_ROWS.values())
# Counting so many rows takes seconds; a larger source is counted no further.
MOST_COUNTED = 20_000


@dataclass(frozen=True)
class Volume:
    """Source characters of a corpus (None: unknown until it is read) and how they were found."""

    characters: int | None
    basis: str


@dataclass(frozen=True)
class Speed:
    """Source characters per second (None: not known) and where the number comes from."""

    characters_per_second: float | None
    basis: str


def volume(settings: TranslationSettings) -> Volume:
    """How much text a run translates: all messages, of pairs the prompt and both answers, and the evaluation's texts
    where nobody wrote them in the language.

    An upper bound for local sources, since code is kept and a repeated segment is translated once. Raises PhoenixError
    for a local source that cannot be read.
    """
    parts = [_part(table, getattr(settings, name, ""), settings) for name, table in tables_of(settings).items()]
    unknown = [part.basis for part in parts if part.characters is None]
    if unknown:
        return Volume(None, " and ".join(dict.fromkeys(unknown)))
    return Volume(sum(part.characters for part in parts), "; ".join(dict.fromkeys(part.basis for part in parts)))


def _part(table: Table, source: str, settings: TranslationSettings) -> Volume:
    """Volume of one table; `source` is "" for the evaluation's, which come from the package."""
    if not sources.is_hub_name(source):
        return _counted(table.rows(settings))
    name, _, split = source.partition(":")
    if name not in KNOWN_ROWS or (split and not split.startswith("train")):
        return Volume(None, source)
    rows = min(settings.max_rows or KNOWN_ROWS[name], KNOWN_ROWS[name])
    basis = f"not read: the paper's mean, {_rounded(MEAN_ROW_CHARACTERS)} a row"
    return Volume(round(rows * MEAN_ROW_CHARACTERS), basis)


def _counted(rows: Iterator[tuple[dict, dict[str, str]]]) -> Volume:
    total = 0
    for count, (_, texts) in enumerate(rows):
        if count == MOST_COUNTED:
            return Volume(total, f"only the first {MOST_COUNTED:,} rows of a source counted")
        total += sum(map(len, texts.values()))
    return Volume(total, "counted")


def speed(settings: TranslationSettings, needs: HardwareNeeds, machine: Hardware) -> Speed:
    """How fast a run will translate: as measured by an earlier run in its folder, or else estimated.

    Estimates are for the profile's GPU, or else for this machine's CPU cores.
    """
    if measured := _measured(settings):
        return Speed(measured, f"measured in {settings.run_dir}")
    if settings.engine == "server":
        return Speed(None, "a server's speed is known once it has answered")
    if settings.engine == "ray" and settings.ray_address:
        return Speed(None, "a cluster's speed is known once a part is translated")
    billions = _billions(settings.model)
    if billions is None:
        return Speed(None, f"{settings.model} does not say how large it is")
    if needs.gpu:
        slower = "" if settings.model_engine == "vllm" else "; that is vLLM's speed, transformers is slower"
        basis = "scaled from what the paper's 300 EUR imply, not measured here"
        return Speed(cost.gpu_speed(needs.gpu, billions, settings.gpus), basis + slower)
    if needs.device == "cuda":
        return Speed(None, "the profile's hardware.gpu names no GPU")
    basis = f"scaled from the embedded model's on {cost.CPU_CORES} cores, not measured on this machine"
    return Speed(cost.cpu_speed(billions, machine.cores), basis)


def _billions(model: str) -> float | None:
    """Parameters that decoding reads: without those that trimming the embedded model's vocabulary takes away."""
    return cost.CPU_PARAMETERS_B if model.startswith("embedded:") else hardware.known_parameters(model)


def _measured(settings: TranslationSettings) -> float | None:
    path = artifacts.stage_path(settings.run_dir, "translation") / "manifest.json"
    if not path.is_file():
        return None
    manifest = artifacts.read_manifest(path)
    asked = settings.fingerprint_values()
    same = all(manifest["settings"].get(name) == asked[name] for name in ("model", "engine"))
    engine = manifest["notes"].get("engine", "")
    workers = engine if engine.endswith("Ray workers") else ""
    return manifest["notes"].get("characters_per_second") if same and workers == settings.on_ray else None


def cost_lines(settings: TranslationSettings, needs: HardwareNeeds, machine: Hardware) -> list[str]:
    """Volume, time and price of a translation in words; what is not known is called unknown."""
    text, pace = volume(settings), speed(settings, needs, machine)
    if text.characters is None:
        first = f"characters unknown, known after reading {text.basis}"
        characters, unit = 1e6, " for each million characters"
    else:
        size, count = _rounded(text.characters), _rounded(cost.tokens(text.characters))
        first = f"about {size} source characters ({text.basis}), {count} tokens"
        characters, unit = text.characters, ""
    if pace.characters_per_second is None:
        return [f"translation: {first}", f"translation: hours unknown ({pace.basis})"]
    price, why = _price(settings, needs)
    job = cost.estimate(characters, pace.characters_per_second, price or 0.0)
    where = f"{settings.gpus} x {needs.gpu}" if needs.gpu else f"{machine.cores} CPU cores"
    took = f"about {_duration(job.hours)}{unit} on {where} at {_rounded(job.characters_per_second)} characters/s"
    euros = why if price is None else f"about {_euros(job.euros)} EUR{unit} {why}"
    return [f"translation: {first}", f"translation: {took} ({pace.basis})", f"translation: {euros}"]


def _price(settings: TranslationSettings, needs: HardwareNeeds) -> tuple[float | None, str]:
    """EUR per hour of all GPUs that translate (or of the machine), and what that price is."""
    if needs.price_per_hour is not None:
        count = settings.gpus if needs.gpu else 1
        return needs.price_per_hour * count, f"at the profile's {needs.price_per_hour:.2f} EUR per hour"
    if not needs.gpu:
        return None, "no price: hardware.price_per_hour is not set"
    offer = cost.gpu_offer(needs.gpu)
    why = f"at {offer.price_per_hour:.2f} EUR per hour (assumed, {cost.PRICES_AS_OF}: look up your own price)"
    return offer.price_per_hour * settings.gpus, why


def _duration(hours: float) -> str:
    return f"{hours:,.0f} h" if hours >= 10 else f"{hours:.1f} h" if hours >= 1 else f"{max(1, round(hours * 60))} min"


def _euros(euros: float) -> str:
    return f"{euros:,.0f}" if euros >= 10 or not euros else f"{euros:.2f}"


def _rounded(number: float) -> str:
    """A number with as many digits as an estimate deserves: 1.5 billion, 380 million, 51,000, 430."""
    digits = float(f"{number:.2g}")
    for size, name in ((1e9, "billion"), (1e6, "million")):
        if digits >= size:
            return f"{digits / size:g} {name}"
    return f"{digits:,.0f}"
