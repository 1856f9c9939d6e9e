"""One training on several processes (`accelerate launch`): the first opens the stage and writes, the others follow."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from phoenix_utils import artifacts, hardware
from phoenix_utils.errors import PhoenixError

if TYPE_CHECKING:
    from phoenix_utils.profile import StageSettings


def count() -> int:
    """Processes that train together; one where nothing has launched more."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Number of this process among them, from 0."""
    return int(os.environ.get("RANK", "0"))


def shards() -> bool:
    """Whether `accelerate launch` will cut the model into shards itself, so that no process may put it on its GPU."""
    return any(os.environ.get(f"ACCELERATE_USE_{name}") == "true" for name in ("FSDP", "DEEPSPEED"))


class Follower(artifacts.StageRun):
    """A stage as the other processes see it: they read its folder and manifest, and write and show nothing."""

    def progress(self, total: int, unit: str) -> _Silent:
        """No progress line; the first process has it."""
        return _Silent()


class _Silent:
    def update(self, done: int, **details: object) -> None:
        """Show nothing."""

    def close(self, message: str) -> None:
        """Show nothing."""


@contextlib.contextmanager
def open_stage(stage: str, settings: StageSettings, inputs: dict[str, Path | str]) -> Iterator[artifacts.StageRun]:
    """As `artifacts.open_stage`, once for all processes: the first opens it, and what it refuses all refuse."""
    if count() == 1:
        with artifacts.open_stage(stage, settings, inputs) as run:
            yield run
        return
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    state = PartialState(cpu=hardware.describe().device == "cpu")
    with contextlib.ExitStack() as stack:
        opened = [None, None]  # what went wrong, the manifest
        if rank() == 0:
            try:
                run = stack.enter_context(artifacts.open_stage(stage, settings, inputs))
                opened[1] = run.manifest
            except PhoenixError as error:
                opened[0] = str(error)
        broadcast_object_list(opened)
        if opened[0]:
            raise PhoenixError(opened[0])
        if rank() > 0:
            run = Follower(stage, artifacts.stage_path(settings.run_dir, stage), opened[1])
        yield run
        state.wait_for_everyone()


def wait() -> None:
    """Wait for the other processes to come here too."""
    if count() > 1:
        from accelerate import PartialState

        PartialState(cpu=hardware.describe().device == "cpu").wait_for_everyone()


@contextlib.contextmanager
def first() -> Iterator[None]:
    """The first process runs the block before the others do, which then find what it has left."""
    if count() == 1:
        yield
        return
    from accelerate import PartialState

    with PartialState(cpu=hardware.describe().device == "cpu").main_process_first():
        yield
