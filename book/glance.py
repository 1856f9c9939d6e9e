"""The box at the head of each stage's chapter: its goal, what has to be there first, minutes on each profile.

The minutes of `mini` are read from the run that the book shows. Those of the other profiles are arithmetic that nobody
has checked on a machine, and the box says so: translation as `phoenix check` forecasts it, training by the rule of
`book/at_scale.md`, 8 operations for each parameter and token at 40 % of what the device's data sheet promises.
"""

from __future__ import annotations

from pathlib import Path

from phoenix_utils import hardware, pipeline
from phoenix_utils.artifacts import STAGE_FOLDERS, data_folder, read_json
from phoenix_utils.profile import Profile, find_profile, load_profile
from phoenix_utils.translation import cost, forecast

PROFILES = ("mini", "laptop", "colab", "single_gpu", "paper")
# A laptop as the estimates take one.
LAPTOP = hardware.Hardware(cores=8, ram_gb=16)
# Tensor operations a second with 16-bit numbers, from the data sheets (T4, A100, RTX 4090); a laptop's cores: what the
# SFT stage of `mini` reached on two (8 x 150 M parameters x 22,694 tokens in 62 s), four times.
OPERATIONS = {"T4": 65e12, "A100 80GB": 312e12, "RTX 4090": 165e12}
USED_SHARE = 0.4
LAPTOP_OPERATIONS = 4 * 8 * 0.15e9 * 22_694 / 62
LAB = "lab"
CHAPTERS = {
    "adapt": (
        "an adapter that makes the base model a translator, and a measure of what it brought",
        "[the environment](../book/setup.md); for another language than German, some hundreds of sentence pairs",
    ),
    "translation": (
        "every message of the English chats and pairs in the target language, code and markup untouched, each segment "
        "with its audit",
        "[the environment](../book/setup.md); nothing of the chapter before, whose adapter comes with the package",
    ),
    "filtering": (
        "two sets of rows, kept and dropped, and for each dropped row the rules that it broke",
        "`01_translation/` of the same run",
    ),
    "sft": (
        "an adapter with which the base model answers in the target language and stops",
        "`02_filtering/` of the same run; what a token and a gradient are",
    ),
    "dpo": (
        "the same adapter, trained further to prefer the better of two answers",
        "`03_sft/` and the kept pairs of the same run; logarithms and the chain rule",
    ),
    "evaluation": (
        "base, SFT and DPO model side by side, each number with its interval, in one report",
        "`03_sft/` and `04_dpo/` of the same run",
    ),
    LAB: (
        "an experiment of your own: one setting varied, everything else shared, a table with intervals",
        "the five steps; nothing is trained here, so any machine will do",
    ),
}


def box(chapter: str, run: Path, adapt: Path) -> str:
    """The box of a stage, or of the lab, as MyST Markdown."""
    goal, needed = CHAPTERS[chapter]
    lines = ["```{admonition} At a glance", ":class: note", f"**Goal:** {goal}.", "", f"**You need:** {needed}.", ""]
    if chapter == LAB:
        lines.append("**Minutes:** one to read; the sweep itself is about an hour on two cores, see its file below.")
    else:
        lines.append(f"**Minutes:** {minutes(chapter, run, adapt)}.")
    return "\n".join([*lines, "```"])


def minutes(stage: str, run: Path, adapt: Path) -> str:
    """Minutes of a stage on each profile, measured or estimated, and which of the two; or that nobody knows."""
    manifest = (adapt if stage == "adapt" else run) / STAGE_FOLDERS[stage] / "manifest.json"
    shown = max(1, round((read_json(manifest).get("seconds") or 0) / 60))
    measured = f"{shown} ([in the run of this book](../book/reference/timings.md))"
    if stage == "adapt":
        return f"{measured}; the full run behind the packaged adapter took 22 on two CPU cores, says its card"
    found = {}
    for name in PROFILES[1:]:
        profile = load_profile(find_profile(name, [data_folder("profiles")]), pipeline.settings_models())
        found[name] = estimate(stage, profile)
    if None in found.values():
        return f"`mini` {measured}; nobody has timed {', '.join(f'`{name}`' for name in found)}"
    rest = ", ".join(f"`{name}` {_round(value)}" for name, value in found.items())
    return f"`mini` {measured}; by [arithmetic](../book/at_scale.md) that no machine has checked, {rest}"


def estimate(stage: str, profile: Profile) -> float | None:
    """Estimated minutes of a stage of a profile; None where nothing is known to estimate it from."""
    translation, needs = profile.stages["translation"], profile.hardware
    characters = forecast.volume(translation).characters
    if stage == "translation":
        pace = forecast.speed(translation.model_copy(update={"run_dir": "none"}), needs, LAPTOP).characters_per_second
        return characters / pace / 60 if characters and pace else None
    if stage not in ("sft", "dpo"):
        return None
    settings = profile.stages[stage]
    source = (translation.chat if stage == "sft" else translation.preferences).partition(":")[0]
    rows = min(translation.max_rows or 10**9, forecast.KNOWN_ROWS[source])
    length = min(settings.max_length, cost.tokens(forecast.MEAN_ROW_CHARACTERS)) * (2 if stage == "dpo" else 1)
    work = 8 * hardware.known_parameters(settings.model) * 1e9 * rows * length * settings.num_train_epochs
    pace = OPERATIONS[needs.gpu] * USED_SHARE * needs.gpus if needs.gpu else LAPTOP_OPERATIONS
    return work / pace / 60


def _round(value: float) -> str:
    """Two digits are more than an estimate knows."""
    step = 10 ** max(0, len(str(int(value))) - 2)
    return f"{max(1, round(value / step) * step):,}"
