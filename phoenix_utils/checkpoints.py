"""Checkpoints of a training that count only while they are, file by file, what was written.

They lie in a stage's folder `checkpoints`, each with a copy of the stage's logs (`*.jsonl`) as they were then.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from phoenix_utils import artifacts, processes
from phoenix_utils.errors import PhoenixError

MARKER = "whole.json"
# Training stands still while a checkpoint is hashed, a minute for the optimizer of a large model. A kill or a full
# disk cuts a file short, which its size tells; a single wrong bit is looked for in files up to so many bytes.
HASHED = 2**30


def mark_whole(folder: Path, step: int) -> None:
    """Mark a checkpoint that has just been written completely, with the logs as they are now beside it."""
    checkpoint = folder / f"checkpoint-{step}"
    for log in folder.parent.glob("*.jsonl"):
        shutil.copy(log, checkpoint)
    artifacts.write_json(checkpoint / MARKER, {"step": step, "files": _described(checkpoint), "checksum": ""})


def _described(checkpoint: Path) -> dict[str, str | int]:
    """SHA-256 of each file by its name, of a large one its size."""
    found = {}
    for path in (path for path in sorted(checkpoint.rglob("*")) if path.is_file() and path.name != MARKER):
        size = path.stat().st_size
        found[str(path.relative_to(checkpoint))] = size if size > HASHED else artifacts.sha256_file(path)
    return found


def _is_whole(checkpoint: Path) -> bool:
    try:
        marker = artifacts.read_json(checkpoint / MARKER)
        # Markers of earlier versions name no files.
        return "files" not in marker or marker["files"] == _described(checkpoint)
    except (OSError, PhoenixError, TypeError):
        return False


def _all(folder: Path) -> list[Path]:
    return sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))


def resume_from(folder: Path) -> Path | None:
    """The newest checkpoint that is what was written, None where there is none.

    The first process removes those that are cut off or damaged before the others look; it alone, for two would remove
    the same file. The stage's logs become what they were then, and go where there is no checkpoint.
    """
    with processes.first():
        if processes.rank() == 0:
            _restore(folder)
        return _newest(folder)


def _restore(folder: Path) -> None:
    for checkpoint in _all(folder):
        if not _is_whole(checkpoint):
            shutil.rmtree(checkpoint)
    for log in folder.parent.glob("*.jsonl"):
        log.unlink()
    if checkpoint := _newest(folder):
        for log in checkpoint.glob("*.jsonl"):
            shutil.copy(log, folder.parent)


def _newest(folder: Path) -> Path | None:
    return next((path for path in reversed(_all(folder)) if (path / MARKER).is_file()), None)


def remove(stage_folder: Path) -> None:
    """Free the space of checkpoints and prepared rows once the stage's products are written."""
    shutil.rmtree(stage_folder / "checkpoints", ignore_errors=True)
