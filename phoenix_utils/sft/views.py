"""What the SFT notebook shows: coloured tokens, lengths, the loss."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from phoenix_utils import artifacts, chat, plots, training

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from transformers import PreTrainedTokenizerBase

    from phoenix_utils.sft.settings import SftSettings

_TRAINED = ("#BFE3F5", "#93CFEE")
_READ = ("#F2F2F2", "#E4E4E4")


def tokens_html(tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]]) -> str:
    """Every token of a conversation in a box: blue if it is trained on, grey if it is only read.

    Neighbours differ in shade, so that the borders between tokens show; ⏎ is a line break. The text is
    escaped.
    """
    ids, mask = chat.loss_mask(tokenizer, messages)
    boxes = []
    for place, (token, bit) in enumerate(zip(ids, mask, strict=True)):
        text = _token_text(tokenizer, token)
        colour = (_TRAINED if bit else _READ)[place % 2]
        style = f"background:{colour};color:#222;padding:1px 0;white-space:pre-wrap"
        boxes.append(
            f"<span style='{style}'>{html.escape(text).replace(chr(10), '⏎')}</span>" + "<br>" * text.count("\n")
        )
    legend = "".join(
        f"<span style='background:{colour};color:#222;padding:1px 6px;margin-right:8px'>{label}</span>"
        for colour, label in (
            (_TRAINED[0], f"trained: {sum(mask)} tokens"),
            (_READ[0], f"read: {len(mask) - sum(mask)}"),
        )
    )
    return f"<div style='font-family:monospace;line-height:1.7'>{''.join(boxes)}<br><br>{legend}</div>"


def _token_text(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    text = tokenizer.decode([token])
    if "\ufffd" in text:  # a piece of a character
        return tokenizer.convert_ids_to_tokens(token)
    # Decoded alone, a token that begins a word loses its space in some tokenizers.
    starts_word = tokenizer.convert_ids_to_tokens(token).startswith(("▁", "Ġ"))
    return f" {text}" if starts_word and not text.startswith(" ") else text


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
