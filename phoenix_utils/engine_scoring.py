"""What scoring given targets needs around the model: which rows to read, and log-probabilities out of logits."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from phoenix_utils.engine_inputs import SHARED_PREFIX_MIN

TargetScore = tuple[list[float], list[bool]]
"""Log-probability (nats) of each token of a target, and whether each is the likeliest in its place."""


def target_logprobs(logits, targets) -> tuple[list[float], list[bool]]:
    """Log-probability of each target (positions,) under its logits (positions, vocabulary), which are used up."""
    of_target = logits.gather(1, targets[:, None])
    highest, likeliest = logits.max(-1, keepdim=True)
    total = logits.sub_(highest).exp_().sum(-1, keepdim=True).log_()
    return (of_target - highest - total)[:, 0].tolist(), (likeliest[:, 0] == targets).tolist()


def cut(found: tuple[list[float], list[bool]], lengths: list[int]) -> list[TargetScore]:
    """What was found for all targets in a row, as one pair for each target."""
    ends = list(itertools.accumulate(lengths))
    return [tuple(part[end - size : end] for part in found) for end, size in zip(ends, lengths, strict=True)]


def by_head(heads: list[list[int]], tails: list[list[int]]) -> list[list[int]]:
    """The targets whose head others have too, in groups; a head of a few tokens is not worth it."""
    grouped: dict[tuple[int, ...], list[int]] = {}
    for index, head in enumerate(heads):
        if tails[index] and len(head) >= SHARED_PREFIX_MIN:
            grouped.setdefault(tuple(head), []).append(index)
    return [group for group in grouped.values() if len(group) > 1]


def shared_passes(
    heads: list[list[int]], tails: list[list[int]], chosen: Sequence[int]
) -> list[tuple[list[int], list[tuple[int, int, int]]]]:
    """The rows that have to go through the model, each with the spans (first place, length, index) to read from it.

    Of the targets `chosen`. A row with which another begins is read from that one: the earlier turns of a conversation,
    whose last turn has them as its history. In the order of tokens such rows stand next to each other.
    """
    order = sorted(chosen, key=lambda index: heads[index] + tails[index], reverse=True)
    passes: list[tuple[list[int], list[tuple[int, int, int]]]] = []
    for index in order:
        row = heads[index] + tails[index]
        if not passes or passes[-1][0][: len(row)] != row:
            passes.append((row, []))
        passes[-1][1].append((len(heads[index]), len(tails[index]), index))
    return passes
