"""What the DPO notebook shows: the shape of the loss, rewards and accuracy over training, and how healthy
they are."""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from phoenix_utils import artifacts, plots, training
from phoenix_utils.dpo import diagnostics
from phoenix_utils.html_table import html_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from phoenix_utils.dpo.settings import DpoSettings


def draw_loss_shape() -> Axes:
    """-log sigma over the margin, and the weight that the gradient gives a pair: 1 - sigma."""
    margins = np.linspace(-5, 5, 201)
    loss = np.log1p(np.exp(-margins))
    axes = plots.curve(
        {
            "loss of a pair: -log σ(margin)": list(zip(margins, loss, strict=True)),
            "weight of its gradient: σ(-margin)": list(zip(margins, 1 - 1 / (1 + np.exp(-margins)), strict=True)),
        },
        title="Pairs in the wrong order count most",
        x="margin: reward of chosen minus reward of rejected",
        y="",
    )
    axes.plot([0], [math.log(2)], "o", color=plots.INK)
    axes.annotate("start: ln 2", (0, math.log(2)), xytext=(8, 8), textcoords="offset points")
    return axes


def draw_rewards(settings: DpoSettings) -> Axes:
    """Implicit rewards of chosen and rejected answers and the margin between them, step by step."""
    axes = _curves(
        settings,
        {"chosen": "rewards/chosen", "rejected": "rewards/rejected", "margin": "rewards/margins"},
        title="What the model has learnt to prefer",
        y="reward (beta x nats)",
    )
    axes.axhline(0, color=plots.INK, linewidth=1)
    return axes


def draw_accuracy(settings: DpoSettings) -> Axes:
    """Share of training pairs whose chosen answer has the higher reward, step by step."""
    axes = _curves(
        settings,
        {"pairs in the right order": "rewards/accuracies"},
        title="How often the chosen answer wins",
        y="share of the batch",
    )
    axes.axhline(0.5, color=plots.INK, linewidth=1, linestyle=":")
    axes.set_ylim(-0.03, 1.03)
    return axes


def _curves(settings: DpoSettings, keys: dict[str, str], **labels: str) -> Axes:
    folder = artifacts.stage_path(settings.run_dir, "dpo")
    series = {name: training.read_curve(folder, key) for name, key in keys.items()}
    return plots.curve(series, x="optimizer step", **labels)


def draw_signs(settings: DpoSettings) -> Figure:
    """Every sign of a healthy run over its steps: the healthy range as a green band, range and red flag below it."""
    folder = artifacts.stage_path(settings.run_dir, "dpo")
    looks = diagnostics.read_watch(folder)
    signs = diagnostics.SIGNS
    figure = plots.axes(7, 2.7 * len(signs)).figure
    figure.clear()
    for axes, sign in zip(figure.subplots(len(signs), 1), signs, strict=True):
        points = training.read_curve(folder, sign.key) or [(k["step"], k[sign.key]) for k in looks if sign.key in k]
        plots.curve({sign.title: points}, title=sign.title, ax=axes)
        if sign.low is not None:
            axes.axhspan(sign.low, sign.high, color="#2e8b57", alpha=0.12, linewidth=0)
        lines = [*textwrap.wrap(f"healthy: {sign.healthy}", 92), *textwrap.wrap(f"red flag: {sign.red_flag}", 92)]
        axes.set_xlabel("\n".join(lines if points else ["not measured in this run"]), loc="left", fontsize=10)
    return figure


def watch_html(settings: DpoSettings) -> str:
    """The looks at the model on the way, the SFT model's first; what has fallen behind it stops a run."""
    names = {
        "preferred": ("held-out pairs in the right order", "{:.0%}"),
        "in_language": ("answers in the language", "{:.0%}"),
        "answer_tokens": ("tokens an answer", "{:.0f}"),
        "kl": ("KL estimate, nats an answer", "{:.2f}"),
    }
    looks = diagnostics.read_watch(artifacts.stage_path(settings.run_dir, "dpo"))
    shown = [key for key in names if any(look.get(key) not in (None, []) for look in looks)]
    rows = []
    for look in looks:
        cells = [str(look["step"]) if look["step"] else "0, the SFT model"]
        for key in shown:
            value = look.get(key)
            value = sum(value) / len(value) if isinstance(value, list) and value else value
            cells.append("–" if value in (None, []) else names[key][1].format(value))
        rows.append(cells)
    head = ("step", *(names[key][0] for key in shown))
    return html_table(head, rows) if looks else "nothing was watched in this run"


def lengths_html(pairs: Sequence[dict[str, Any]]) -> str:
    """Median length in letters of chosen and rejected answers, and how often the chosen one is the longer."""
    chosen, rejected = ([len(pair[side][0]["content"]) for pair in pairs] for side in ("chosen", "rejected"))
    longer = sum(a > b for a, b in zip(chosen, rejected, strict=True)) / len(pairs)
    return (
        f"median length: chosen {np.median(chosen):.0f} letters, rejected {np.median(rejected):.0f}; the chosen answer "
        f"is the longer one in {longer:.0%} of {len(pairs)} pairs"
    )


def health_html(settings: DpoSettings, metrics: dict[str, Any]) -> str:
    """This run's numbers, each with the range that is healthy and the red flag."""
    log = [row for row in training.read_log(artifacts.stage_path(settings.run_dir, "dpo")) if "loss" in row]
    change = log[-1]["logps/chosen"] - log[0]["logps/chosen"]
    rows = (
        ("loss before the first step", f"{metrics['loss_start']:.4f}", "0.6931 (ln 2)",
         "anything else: the reference is not the SFT model"),
        ("margin, last tenth", f"{metrics['rewards/margins']:+.3f}", "rises steadily, 0.1 to a few",
         "exactly 0: nothing is trained; above 10: the model has run away"),
        ("accuracy, last tenth", f"{metrics['rewards/accuracies']:.0%}", "65 to 90 % on the training pairs",
         "50 % throughout: nothing is learnt; 100 % early: learnt by heart"),
        ("loss, last tenth", f"{metrics['loss_last']:.3f}", "0.3 to 0.69, falling", "close to 0, or above 0.693"),
        ("log-probability of chosen answers, last batch against first", f"{change:+.1f} nats",
         "a little up or down; other rows, other lengths",
         "down by a third or more: the model forgets how to speak"),
    )  # fmt: skip
    return html_table(("", "this run", "healthy", "red flag"), ([html.escape(text) for text in row] for row in rows))


def pair_html(pairs: Sequence[dict[str, Any]]) -> str:
    """Prompt, chosen and rejected answer of some pairs beside each other, escaped."""
    texts = ((pair["prompt"][-1], pair["chosen"][0], pair["rejected"][0]) for pair in pairs)
    rows = ([html.escape(message["content"]) for message in row] for row in texts)
    return html_table(("prompt", "chosen", "rejected"), rows)
