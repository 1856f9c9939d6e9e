"""Tables of long comparisons, kept in book/results with what made them."""

import datetime
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path

from phoenix_utils import hardware, statistics

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "book" / "results"
# Short heads of columns, as the glossary explains them.
HEADS = {"nll_per_token": "surprise", "target_language_share": "German", "stop_share": "stops", "chrf": "chrF"}


def store(name: str, command: str, lines: list[str], note: str = "") -> Path:
    """Write book/results/NAME.md: date, commit, command and machine, a note, then the table's lines."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    machine = hardware.describe()
    units = ", bfloat16 units" if hardware.choose_training_dtype(machine).name == "bfloat16" else ""
    head = (
        f"Made on {datetime.date.today()} at commit {commit.strip()} by `{command}` on {machine.cores} CPU "
        f"core{'' if machine.cores == 1 else 's'} ({platform.machine()}{units}), no GPU."
    )
    path = FOLDER / f"{name}.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join([head, *([note] if note else []), "", *lines, ""]), encoding="utf-8")
    return path


def shown(cell: dict, digits: int = 1) -> str:
    """A value with its interval, for example `46.1 [44.6, 47.5]`."""
    return statistics.shown(cell, digits)


def without_one(ours: dict, without: dict[str, dict], rate: Callable[..., float]) -> dict[str, float]:
    """One line for each part that was left out: its rate and peak, and how much faster and smaller ours is.

    `rate(found, clock)` is what a run trains in a second of that clock. Returns the ratios as figures.
    """
    figures = {}
    for name, found in without.items():
        speed, memory = rate(ours, "cpu_seconds") / rate(found, "cpu_seconds"), ours["peak_gb"] / found["peak_gb"]
        print(f"{name:26}{rate(found):6.2f}  {speed:5.2f}x {found['peak_gb']:6.2f} GB  {memory:5.2f}x")
        key = name.replace(" ", "_").replace("'", "").lower()
        figures |= {f"speed_against_{key}": speed, f"memory_against_{key}": memory}
    return figures
