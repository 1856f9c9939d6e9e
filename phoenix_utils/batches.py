"""How rows become batches: a global batch that no hardware changes, and passes of rows of similar length."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from datasets import Dataset
from torch.utils.data import Sampler

from phoenix_utils.errors import PhoenixError
from phoenix_utils.hardware import Hardware

# The label of a token without loss, as torch's cross entropy and TRL spell it.
IGNORED = -100


@dataclass(frozen=True)
class BatchPlan:
    """How one optimizer step's rows are spread: global_batch = per_device x accumulation x devices."""

    per_device: int
    accumulation: int
    devices: int = 1

    @property
    def global_batch(self) -> int:
        """Rows in one optimizer step."""
        return self.per_device * self.accumulation * self.devices


def plan_batches(global_batch: int, per_device: int, devices: int = 1) -> BatchPlan:
    """Reach `global_batch` exactly, with at most `per_device` rows in a device's memory at once.

    A batch that silently shrinks to what fits is a known way to ruin a model (alignment-handbook #188), so
    the rest is made up by gradient accumulation. Raises PhoenixError where the batch cannot be dealt out
    evenly.
    """
    share, rest = divmod(global_batch, devices)
    if rest or not share:
        raise PhoenixError(
            f"global_batch {global_batch} cannot be dealt out to {devices} devices; make it a multiple of {devices}"
        )
    fitting = next(size for size in range(min(per_device, share), 0, -1) if share % size == 0)
    return BatchPlan(fitting, share // fitting, devices)


def plan_steps(rows: int, global_batch: int, num_train_epochs: float) -> int:
    """Optimizer steps of a run; the last batch of an epoch may be smaller than the others."""
    return math.ceil(math.ceil(rows / global_batch) * num_train_epochs)


def held_out_count(rows: int, eval_share: float, what: str) -> int:
    """How many of `rows` are only measured; `what` names them. Raises PhoenixError where one side would be empty."""
    count = round(rows * eval_share)
    if not 0 < count < rows:
        raise PhoenixError(
            f"eval_share {eval_share:g} of {rows} {what} sets {count} aside; choose one that leaves at least one to "
            "measure on and one to train on"
        )
    return count


def device_count(hardware: Hardware) -> int:
    """Devices that this run trains on: the processes of `accelerate launch`, else one.

    Raises PhoenixError where one process sees several GPUs, of which it would use one badly.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes == 1 and len(hardware.gpus) > 1:
        raise PhoenixError(
            f"{len(hardware.gpus)} GPUs are visible to one process: choose one with "
            "CUDA_VISIBLE_DEVICES=0, or start one process for each with accelerate launch"
        )
    return processes


class GlobalBatchSampler(Sampler[int]):
    """Random global batches, the rows of each ordered by length.

    Ordering inside an optimizer step changes nothing about what it learns from, but puts rows of similar
    length into the same forward pass, which is then not spent on padding. The order depends on seed and epoch
    alone, so a resumed run sees the same rows as one that was never interrupted.
    """

    def __init__(self, lengths: list[int], global_batch: int, seed: int):
        self.lengths, self.global_batch, self.seed, self.epoch = lengths, global_batch, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer at the start of each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1000 + self.epoch)
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        for start in range(0, len(order), self.global_batch):
            batch = order[start : start + self.global_batch]
            yield from sorted(batch, key=lambda row: -self.lengths[row])


class GlobalBatches:
    """Mixed into a TRL trainer, makes it take its rows in the order of `GlobalBatchSampler`."""

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> GlobalBatchSampler:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        args = self.args
        rows = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        return GlobalBatchSampler(row_lengths(dataset), rows, args.seed)


def row_lengths(dataset: Dataset) -> list[int]:
    """Tokens in each row of a tokenised dataset, for a pair those of its longer side."""
    import numpy as np
    import pyarrow.compute as pc

    table = dataset.with_format("arrow")[:]
    length = {
        name: pc.list_value_length(table[name]).to_numpy()
        for name in table.column_names
        if name in ("input_ids", "prompt_ids", "chosen_ids", "rejected_ids")
    }
    if "input_ids" in length:
        return length["input_ids"].tolist()
    return (length["prompt_ids"] + np.maximum(length["chosen_ids"], length["rejected_ids"])).tolist()
