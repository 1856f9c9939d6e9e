"""Draw the pictures of the book's deep chapters again: `python book/figures/make.py [NAME ...]`.

Each function draws one SVG from the package's own arithmetic, from a table in `book/results` or with the embedded
model's tokenizer; nothing is typed in that the code can compute. The versions for dark pages are made of these files
when the book is built (`book/finish.py`).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from phoenix_utils import memory, plots, statistics
from phoenix_utils.translation import cost

HERE = Path(__file__).resolve().parent
MODEL = "embedded:gemma-3-270m"
# Mistral 7B: billions of parameters, vocabulary, hidden size, layers (Jiang et al. 2023, table 1).
MISTRAL = {"parameters_b": 7.24, "vocab_size": 32_000, "hidden_size": 4096, "num_layers": 32}


def tokens_by_language() -> Figure:
    """The same four sentences in thirteen languages: tokens with all of the vocabulary and with what is kept."""
    from transformers import AutoTokenizer

    from phoenix_utils import embedded
    from phoenix_utils.translation.examples import ENGLISH, EXAMPLES
    from phoenix_utils.translation.prompts import language_name

    full, trimmed = (AutoTokenizer.from_pretrained(f()) for f in (embedded.ensure_full, embedded.ensure))
    texts = {"en": ENGLISH} | {code: [other for _, other in shots] for code, shots in EXAMPLES.items()}
    counts = {
        language_name(code): [
            sum(len(tok(t, add_special_tokens=False)["input_ids"]) for t in found) for tok in (full, trimmed)
        ]
        for code, found in texts.items()
    }
    order = sorted(counts, key=lambda name: counts[name][0])
    figure = plots.detached_figure(7.0, 4.6)
    ax = figure.subplots()
    rows = np.arange(len(order))
    for shift, column, name, hue in (
        (-0.2, 0, f"all {len(full):,} tokens", plots.GREY),
        (0.2, 1, f"trimmed to English and German: {len(trimmed):,}", plots.BLUE),
    ):
        values = [counts[language][column] for language in order]
        ax.barh(rows + shift, values, height=0.38, color=hue, label=name)
        for row, value in zip(rows, values, strict=True):
            ax.annotate(
                str(value), (value, row + shift), xytext=(3, 0), textcoords="offset points", va="center", fontsize=8
            )
    ax.set_yticks(rows, order)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.legend(loc="upper right", bbox_to_anchor=(1, 0.5))
    ax.set_xlabel("tokens for the same four sentences")
    ax.set_title("Trimming costs the kept languages nothing, and others much")
    return figure


def _intervals(ax: Axes, rows: list[list[str]], column: int, shift: float, hue: str, name: str, scale: int = 1) -> None:
    """Draw a column of a stored table, `value [low, high]` in each row, as dots with bars beside the rows' places."""
    for position, row in enumerate(rows):
        value, low, high = (scale * float(number) for number in re.findall(r"[\d.]+", row[column]))
        ax.errorbar(
            value,
            position + shift,
            xerr=[[value - low], [high - value]],
            fmt="o",
            color=hue,
            capsize=3,
            label=name if position == 0 else None,
        )


def translator_arms() -> Figure:
    """chrF of each way to train the small translator, from the stored comparison."""
    rows = table("adapt_arms")
    figure = plots.detached_figure(7.4, 4.2)
    ax = figure.subplots()
    _intervals(ax, rows, 1, -0.15, plots.BLUE, "help text")
    _intervals(ax, rows, 2, 0.15, plots.VERMILION, "this project's sentences")
    ax.set_yticks(range(len(rows)), [re.sub(r" \([^)]*\)", "", row[0]) for row in rows])
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set_xlim(35, 58)  # room for the legend
    ax.legend(loc="lower right")
    ax.set_xlabel("chrF on pairs that were not trained on, with 95 % intervals")
    ax.set_title("Data moves the translator; rank hardly does")
    return figure


def languages() -> Figure:
    """Before and after SFT, from the stored runs of each language: answers in it, and those that stop by themselves."""
    rows = [row for row in table("languages") if len(row) > 2]
    figure = plots.detached_figure(7.4, 3.8)
    panels = figure.subplots(1, 2, sharey=True)
    for ax, first, title in zip(
        panels, (3, 6), ("answers in the language", "answers that stop by themselves"), strict=True
    ):
        _intervals(ax, rows, first, -0.15, plots.GREY, "base", scale=100)
        _intervals(ax, rows, first + 1, 0.15, plots.BLUE, "after SFT", scale=100)
        ax.set_title(title)
        ax.grid(axis="y", visible=False)
        ax.set_xlim(-4, 104)
        ax.set_xlabel("% of 24 prompts, with 95 % intervals")
    panels[0].axvline(85, color=plots.INK, linestyle=":")
    panels[0].set_yticks(range(len(rows)), [row[0] for row in rows])
    panels[0].invert_yaxis()
    panels[0].legend(loc="upper left")
    return figure


def rows_kept() -> Figure:
    """Rows that pass the filters after two translators, from the stored comparison."""
    found = {row[0]: [int(re.match(r"\d+", cell)[0]) for cell in row[1:3]] for row in table("adapt_downstream")[:2]}
    figure = plots.detached_figure(7.0, 2.6)
    ax = figure.subplots()
    for row, values in enumerate(found.values()):
        for shift, value, hue, what in (
            (-0.2, values[0], plots.BLUE, "conversations"),
            (0.2, values[1], plots.ORANGE, "preference pairs"),
        ):
            ax.barh(row + shift, value, height=0.36, color=hue, label=what if row == 0 else None)
            inside = {"xytext": (-4, 0), "textcoords": "offset points", "va": "center", "ha": "right", "color": "white"}
            ax.annotate(str(value), (value, row + shift), **inside)
    ax.axvline(60, color=plots.INK, linestyle=":", zorder=0)
    ax.set_yticks([0, 1], ["base model with\nfour examples", "the same model with\nan adapter"])
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set_xlim(0, 104)
    ax.legend(loc="center right")
    ax.set_xlabel("rows kept, of 60 translated")
    ax.set_title("A filter shows how good the translator was")
    return figure


def loss_mask() -> Figure:
    """A short conversation token by token: which are trained on."""
    from phoenix_utils import chat, models

    tokenizer = chat.apply_template(models.load_tokenizer(MODEL, ("en", "de")))
    messages = [
        {"role": "user", "content": "Wie weit ist es bis Jena?"},
        {"role": "assistant", "content": "Etwa 40 Kilometer."},
        {"role": "user", "content": "Und mit dem Rad?"},
        {"role": "assistant", "content": "Zwei bis drei Stunden."},
    ]
    ids, mask = chat.loss_mask(tokenizer, messages)
    figure = plots.detached_figure(7.0, 3.3)
    ax = figure.subplots()
    ax.set_axis_off()
    ax.set(xlim=(0, 100), ylim=(-11.4, 1.2))
    x, y = 0.0, 0
    for token, bit in zip(ids, mask, strict=True):
        text = tokenizer.decode([token])
        shown = text.replace("\n", "↵").replace(" ", "␣")
        width = 1.55 * len(shown) + 1.6
        if x + width > 100:
            x, y = 0.0, y - 1.4
        hue = plots.BLUE if bit else "#E3E3E3"
        ax.add_patch(
            FancyBboxPatch((x, y - 0.45), width - 0.6, 0.95, boxstyle="round,pad=0.0,rounding_size=0.2", color=hue)
        )
        ax.text(
            x + (width - 0.6) / 2, y, shown, ha="center", va="center", fontsize=9.5, family="DejaVu Sans Mono",
            color="white" if bit else plots.INK,
        )  # fmt: skip
        x += width
        if "\n" in text:
            x, y = 0.0, y - 1.4
    figure.suptitle(
        f"{sum(mask)} of {len(mask)} tokens carry loss (blue): the answers and the tokens that end them",
        x=0.01, ha="left", fontsize=11, fontweight="bold",
    )  # fmt: skip
    return figure


def training_memory() -> Figure:
    """Memory of one training step of a 7 B model, part by part, for each way to train it."""
    common = {"max_length": 2048, "per_device_batch": 1, "dtype": "bfloat16", "device": "cuda", **MISTRAL}
    common |= {"gradient_checkpointing": True}
    methods = {
        "full, one GPU": {"method": "full"},
        "full, each of eight": {"method": "full", "devices": 8},
        "LoRA": {"method": "lora"},
        "QLoRA": {"method": "qlora"},
    }
    figure = plots.detached_figure(7.0, 3.2)
    ax = figure.subplots()
    ground = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # the dotted lines end at the number
    for row, options in enumerate(methods.values()):
        left = 0.0
        parts = memory.parts_gb(**common, **options)
        for position, (part, size) in enumerate(parts.items()):
            ax.barh(row, size, left=left, height=0.6, color=plots.PALETTE[position], label=part if row == 0 else None)
            left += size
        ax.annotate(f"{left:.0f} GB", (left, row), xytext=(5, 0), textcoords="offset points", va="center", bbox=ground)
    for limit in (16, 24, 80):
        ax.axvline(limit, color=plots.INK, linestyle=":", linewidth=1)
        ax.annotate(f"{limit}", (limit, -0.55), ha="center", va="bottom", fontsize=9, bbox=ground)
    ax.set_yticks(range(len(methods)), methods)
    ax.set_ylim(3.5, -0.9)
    ax.set_xlim(0, 128)
    ax.grid(axis="y", visible=False)
    ax.legend(loc="lower right")
    ax.set_xlabel("GB for one step on one row of 2,048 tokens; dotted: common cards")
    ax.set_title("Where the memory goes (estimate)")
    return figure


def dpo_beta() -> Figure:
    """Loss of one pair, and the weight of its gradient, over how far the model has moved, for three betas."""
    moved = np.linspace(-40, 40, 321)
    figure = plots.detached_figure(7.4, 3.4)
    for ax, title, value in zip(
        figure.subplots(1, 2),
        ("loss of a pair", "weight of its gradient, over β"),
        (lambda u: np.logaddexp(0, -u), lambda u: 1 / (1 + np.exp(u))),
        strict=True,
    ):
        for beta, hue in ((0.01, plots.GREEN), (0.1, plots.BLUE), (0.5, plots.VERMILION)):
            ax.plot(moved, value(beta * moved), color=hue, label=f"β = {beta}")
        ax.plot([0], [value(0.0)], "o", color=plots.INK)
        ax.set_title(title)
        ax.set_xlabel("nats moved from rejected to chosen")
        ax.legend()
    return figure


def interval_widths() -> Figure:
    """How wide the 95 % interval of a share of one half is, for sets of various sizes."""
    sizes = [24, 40, 60, 80, 160, 500, 1000]
    widths = []
    for size in sizes:
        found = statistics.bootstrap_share([1.0, 0.0] * (size // 2), seed=0, n=2000)
        widths.append((size, 100 * (found.high - found.low) / 2))
    figure = plots.detached_figure(7.0, 3.2)
    ax = figure.subplots()
    ax.plot(*zip(*widths, strict=True), "o-", color=plots.BLUE)
    for size, width in widths:
        ax.annotate(f"{size:,}: ±{width:.0f}", (size, width), xytext=(6, 6), textcoords="offset points", fontsize=9)
    ax.set_xscale("log")
    ax.set_xlim(20, 2000)
    ax.set_xticks([30, 100, 300, 1000], ["30", "100", "300", "1,000"])
    ax.set_ylim(0, 25)
    ax.set_xlabel("answers")
    ax.set_ylabel("± percentage points")
    ax.set_title("What a measured 50 % can mean")
    return figure


def translation_cost() -> Figure:
    """Price of the paper's 1.5 billion characters, on a logarithmic axis."""
    rows = [(f"paper: {f.name}", f.euros, plots.BLUE) for f in cost.paper_figures()]
    rows += [
        (f"estimate: {row['where']}", row["EUR"], plots.ORANGE)
        for row in cost.cost_table(cost.PAPER_CHARACTERS)
        if row["EUR"] and row["where"] != "DeepL Pro"
    ]
    rows.sort(key=lambda row: row[1])
    figure = plots.detached_figure(7.0, 3.0)
    ax = figure.subplots()
    for position, (_, euros, hue) in enumerate(rows):
        ax.barh(position, euros, height=0.6, color=hue)
        ax.annotate(f"{euros:,.0f} EUR", (euros, position), xytext=(5, 0), textcoords="offset points", va="center")
    ax.set_xscale("log")
    ax.set_xlim(5, 300_000)
    ax.set_yticks(range(len(rows)), [name for name, *_ in rows])
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("EUR for 1.5 billion source characters")
    ax.set_title("Translation: three orders of magnitude")
    return figure


def table(name: str) -> list[list[str]]:
    """Body rows of a stored Markdown table of `book/results`."""
    lines = (HERE.parent / "results" / f"{name}.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return rows[2:]


def released_vocabulary() -> Figure:
    """What the embedded model consists of when it is released with its trimmed and with its full vocabulary."""
    import json

    from phoenix_utils import embedded

    small, full = (json.loads((f() / "phoenix.json").read_bytes()) for f in (embedded.ensure, embedded.ensure_full))
    width = (full["parameters"] - small["parameters"]) // (full["tokens"] - small["tokens"])
    layers, kept = small["parameters"] - small["tokens"] * width, small["tokens"] * width
    parts = [
        (layers, plots.BLUE, "layers, trained"),
        (kept, plots.ORANGE, f"vectors of the run's {small['tokens']:,} tokens"),
        (full["parameters"] - small["parameters"], plots.GREY, "vectors of all others, from the published base"),
    ]
    figure = plots.detached_figure(7.0, 2.6)
    ax = figure.subplots()
    for row, shown in enumerate((parts[:2], parts)):
        left = 0.0
        for count, hue, label in shown:
            ax.barh(row, count / 1e6, left=left, height=0.5, color=hue, label=label if row else None)
            left += count / 1e6
        ax.annotate(f"{left:.0f} M", (left, row), xytext=(4, 0), textcoords="offset points", va="center")
    ax.set_yticks([0, 1], ["trimmed", "full"])
    ax.set_ylim(2.3, -0.5)
    ax.grid(axis="y", visible=False)
    ax.set_xlim(0, 310)
    ax.legend(loc="lower right", fontsize=8)
    ax.set_xlabel("million parameters")
    ax.set_title("What comes back with the full vocabulary was never trained here")
    return figure


FIGURES: dict[str, Callable[[], Figure]] = {
    "tokens_by_language": tokens_by_language,
    "translator_arms": translator_arms,
    "languages": languages,
    "rows_kept": rows_kept,
    "loss_mask": loss_mask,
    "training_memory": training_memory,
    "dpo_beta": dpo_beta,
    "interval_widths": interval_widths,
    "translation_cost": translation_cost,
    "released_vocabulary": released_vocabulary,
}


def main(names: list[str]) -> None:
    """Write the named figures, or all of them, beside this file."""
    for name in names or FIGURES:
        FIGURES[name]().savefig(HERE / f"{name}.svg", metadata={"Date": None})
        print(HERE.name, f"{name}.svg")


if __name__ == "__main__":
    main(sys.argv[1:])
