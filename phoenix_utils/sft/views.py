"""What the SFT notebook shows: coloured tokens, lengths, the loss."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from phoenix_utils import artifacts, chat, hardware, memory, plots, token_view, training

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from transformers import PreTrainedTokenizerBase

    from phoenix_utils.sft.settings import SftSettings


def tokens_html(tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]]) -> str:
    """Every token of a conversation in a box (see `token_view`): blue if it is trained on, grey if it is only read."""
    ids, mask = chat.loss_mask(tokenizer, messages)
    return token_view.tokens_html(tokenizer, ids, mask)


def draw_lengths(counts: Sequence[tuple[int, int]], settings: SftSettings) -> Axes:
    """How long the conversations are and how much of each is trained on, from `token_counts`."""
    axes = plots.histogram(
        {"whole conversation": [whole for whole, _ in counts], "trained part": [part for _, part in counts]},
        title="How long the conversations are",
        x="tokens",
        y="conversations",
    )
    if max(whole for whole, _ in counts) > settings.max_length / 2:
        axes.axvline(settings.max_length, color=plots.VERMILION, linestyle="--")
    return axes


def draw_loss(settings: SftSettings) -> Axes:
    """The training loss of a run, step by step, and the loss on rows set aside where there are any."""
    folder = artifacts.stage_path(settings.run_dir, "sft")
    curves = {"sft": training.read_curve(folder), "set aside": training.read_curve(folder, "eval_loss")}
    return plots.curve(
        {name: points for name, points in curves.items() if points},
        title="The loss falls",
        x="optimizer step",
        y="loss (nats per token)",
    )


@contextlib.contextmanager
def live_loss(settings: SftSettings, seconds: float = 2.0) -> Iterator[Callable[[], None]]:
    """For a notebook: gives a function that draws the loss so far below the cell, anew after so many seconds.

    Pass it to `run` as `watch`. The picture goes when the block ends; `draw_loss` draws the whole curve.
    """
    import matplotlib.pyplot as plt
    from IPython.display import HTML, display

    handle, last = None, -math.inf

    def redraw() -> None:
        nonlocal handle, last
        if time.monotonic() - last < seconds:
            return
        figure = draw_loss(settings).figure
        if handle is None:
            handle = display(figure, display_id=True)
        else:
            handle.update(figure)
        plt.close(figure)
        last = time.monotonic()

    try:
        yield redraw
    finally:
        if handle is not None:
            handle.update(HTML(""))


def draw_schedules(schedules: dict[str, tuple[str, int, float]], warmup: float = 0.1) -> Axes:
    """Learning rate as a share of its highest over the course of a run; {name: (kind, steps, highest rate)}."""
    import torch
    from transformers import get_scheduler

    series = {}
    for name, (kind, steps, rate) in schedules.items():
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        scheduler = get_scheduler(kind, optimizer, round(warmup * steps), steps)
        points = []
        for step in range(steps):
            points.append((step / steps, scheduler.get_last_lr()[0]))
            optimizer.step()
            scheduler.step()
        series[f"{name}: {kind}, {steps} steps, at most {rate:g}"] = points
    return plots.curve(
        series, title="A warmup, then down to zero", x="share of the run", y="learning rate, share of the highest"
    )


def draw_memory(settings: SftSettings, machine: hardware.Hardware) -> Axes:
    """What each way to train would need on this machine with these settings, at the most."""
    needed = {
        method: memory.estimate_stage_gb("sft", settings.model_copy(update={"method": method}), machine)
        for method in ("full", "lora", "qlora")
    }
    return plots.bars(
        {method: math.nan if size is None else size for method, size in needed.items()},
        title="Memory of one training step, by method",
        label="GB, if every row were max_length long",
    )


def metrics_rows(metrics: dict[str, Any]) -> dict[str, str]:
    """The numbers of a run as a reader wants them, name and value."""
    return {
        "conversations": f"{metrics['rows']:,} ({metrics['rows_too_long']:,} too long)",
        "steps": f"{metrics['steps']:,}",
        "loss, first step": f"{metrics['loss_first']:.3f}",
        "loss, last tenth": f"{metrics['loss_last']:.3f}",
        "trained parameters": f"{metrics['trainable_parameters'] / 1e6:.1f} M",
        "time": f"{metrics['seconds']:.0f} s, {metrics['tokens_per_second']:.0f} tokens/s",
    }
