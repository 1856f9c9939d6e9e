"""What the SFT notebook shows: coloured tokens, lengths, the loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from phoenix_utils import artifacts, chat, plots, token_view, training

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
    """The training loss of a run, step by step."""
    folder = artifacts.stage_path(settings.run_dir, "sft")
    return plots.curve(
        {"sft": training.read_curve(folder)},
        title="The loss falls",
        x="optimizer step",
        y="loss (nats per token)",
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
