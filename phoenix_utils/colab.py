"""What a notebook does first on Google Colab: say which machine it got, and keep `runs/` where a disconnect spares it.

Colab forgets its disk when a session ends. With `runs/` on a mounted Drive the next session finds what is whole, and
every stage goes on from there as it does after a power cut.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from phoenix_utils import artifacts, hardware

MOUNT = "/content/drive"


def prepare(keep_on_drive: bool = False, mount: str = MOUNT) -> None:
    """Describe the session's machine; with `keep_on_drive`, ask for the Drive and put `runs/` there.

    Does nothing outside Colab, whose kernels have imported `google.colab` before the first cell.
    """
    if "google.colab" not in sys.modules:
        return
    machine = hardware.describe()
    choice = hardware.choose_training_dtype(machine)
    names = ", ".join(gpu.name for gpu in machine.gpus)
    print(f"Colab with {names or 'no GPU'}; training computes in {choice.name} ({choice.reason})")
    if machine.gpus:
        print("this notebook does what the profile `mini` does; `!phoenix run colab` makes use of the GPU")
    if keep_on_drive:
        sys.modules["google.colab"].drive.mount(mount)
        print(f"results are kept in {link_runs(Path(mount) / 'MyDrive' / 'phoenix' / 'runs')}")
    else:
        print("results end with this session, and the next notebook opens another: keep_on_drive = True hands them on")


def link_runs(kept: Path) -> Path:
    """Have `runs/` lead to `kept`; what was in it moves there, and what is there already stays."""
    runs = artifacts.resolve_run_dir("runs")
    kept.mkdir(parents=True, exist_ok=True)
    if runs.is_dir() and not runs.is_symlink():
        shutil.copytree(runs, kept, dirs_exist_ok=True)
        shutil.rmtree(runs)
    if not runs.is_symlink():
        runs.symlink_to(kept, target_is_directory=True)
    return kept
