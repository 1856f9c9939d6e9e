"""Reference log-probabilities, asked for once: later runs with the same model, adapter, data and settings find them.

TRL computes them and stores them beside the pairs' file, under a hash of that file and of the weights. What this module
adds is a place that outlives the run, so that a second run, or every beta of a sweep, starts at once; a name for it
that also holds what TRL's hash leaves out (number type, batch, library versions); and a check that what is found there
is whole. open-instruct keeps such a cache for the same reason.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock

from phoenix_utils import artifacts, embedded, processes
from phoenix_utils.dpo.settings import DpoSettings
from phoenix_utils.errors import PhoenixError

MARKER = "whole.json"
# Folders that are kept; the one that was not used for the longest time goes first.
KEPT = 8


def cache_facts(settings: DpoSettings, inputs: dict[str, str], tokenizer: Any, dtype: str) -> dict[str, Any]:
    """Everything that a reference log-probability depends on; `inputs` are the hashes of the stage's manifest."""
    return {
        **inputs,
        "model": settings.model,
        "languages": list(settings.languages),
        "method": settings.method,
        "dtype": dtype,
        "template": artifacts.fingerprint([tokenizer.chat_template, len(tokenizer)]),
        "pairs": {name: getattr(settings, name) for name in ("max_length", "max_pairs", "eval_share", "seed")},
        # Half precision rounds differently in batches of another shape.
        "batch": settings.per_device_train_batch_size,
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers", "trl", "peft")},
    }


@contextlib.contextmanager
def reference_cache(facts: dict[str, Any]) -> Iterator[tuple[Path, str | None]]:
    """The folder for pairs and reference log-probabilities of `facts`, and what was wrong with it, if anything.

    Whatever is in it was finished by an earlier run and is unchanged, else it is removed first. The folder is locked
    while the block lasts, and marked as whole when the block ends well.
    """
    folder = _folder(facts)
    if processes.rank() > 0:
        with processes.first():  # it removes what is not whole
            pass
        yield folder, None
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        with processes.first():
            trouble = _trouble(folder)
            if trouble:
                shutil.rmtree(folder)
            folder.mkdir(exist_ok=True)
        yield folder, trouble
        artifacts.write_json(folder / MARKER, {"facts": facts, "files": _hashes(folder)})
        _prune(folder)


def _folder(facts: dict[str, Any]) -> Path:
    return embedded.cache_folder() / "reference" / artifacts.fingerprint(facts)


def _trouble(folder: Path) -> str | None:
    if not folder.is_dir():
        return None
    marker = folder / MARKER
    if not marker.is_file():
        return "an earlier run was cut off before it had asked the reference about all pairs"
    try:
        whole = artifacts.read_json(marker)["files"] == _hashes(folder)
    except (PhoenixError, KeyError):
        whole = False
    return None if whole else "its files are not what was stored there"


def _hashes(folder: Path) -> dict[str, str]:
    return {path.name: artifacts.sha256_file(path) for path in sorted(folder.iterdir()) if path.name != MARKER}


def _prune(latest: Path) -> None:
    others = (path for path in latest.parent.iterdir() if path.is_dir() and path != latest)
    by_age = sorted(others, key=lambda path: path.stat().st_mtime, reverse=True)
    for path in by_age[KEPT - 1 :]:
        with contextlib.suppress(OSError):
            shutil.rmtree(path)
