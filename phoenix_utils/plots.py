"""One look for every picture in the notebooks, the book and the report.

The colours are those of Okabe and Ito (2008, "Color Universal Design"), which people with the common forms of
colour blindness can tell apart, in an order that also differs in lightness when printed grey. A model keeps
its colour everywhere: base grey, SFT blue, DPO vermilion.

matplotlib is imported when something is drawn, so that importing this module costs nothing.
"""

import base64
import io
import math
import re
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from phoenix_utils.statistics import Interval

BLUE = "#0072B2"
ORANGE = "#E69F00"
GREEN = "#009E73"
VERMILION = "#D55E00"
SKY = "#56B4E9"
PURPLE = "#CC79A7"
YELLOW = "#F0E442"
GREY = "#767676"
INK = "#222222"
PALETTE = (BLUE, ORANGE, GREEN, VERMILION, SKY, PURPLE, GREY, YELLOW)
MODEL_COLOURS = {"base": GREY, "sft": BLUE, "dpo": VERMILION}

_STYLE = {
    "figure.figsize": (7.0, 3.6),
    "figure.dpi": 110,
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "savefig.facecolor": "white",
    "font.size": 11,
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same letters everywhere, umlauts included
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 11,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#888888",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.8,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "lines.markersize": 5,
    "svg.hashsalt": "phoenix",  # the same picture gives the same bytes
}


def use_style() -> None:
    """Set the project's style for every figure drawn afterwards in this process."""
    import matplotlib
    from cycler import cycler

    matplotlib.rcParams.update(_STYLE)
    matplotlib.rcParams["axes.prop_cycle"] = cycler(color=PALETTE)
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if hasattr(shell, "kernel"):
        _show_as_vectors(shell)


def _show_as_vectors(shell: "InteractiveShell") -> None:
    """Have a notebook show figures as SVG that carries its words, and no longer as pixels."""
    import matplotlib_inline.backend_inline  # noqa: F401  sets its own formats when it is first imported
    from matplotlib.figure import Figure

    formatters = shell.display_formatter.formatters
    formatters["image/png"].pop(Figure, None)
    formatters["image/svg+xml"].for_type(Figure, _svg_with_words)


def _svg_with_words(figure: "Figure") -> tuple[str, dict[str, str]] | None:
    from IPython.core.pylabtools import print_figure

    svg = print_figure(figure, fmt="svg", metadata={"Date": None})
    return (svg, {"alt": words(figure)}) if svg else None


def words(figure: "Figure") -> str:
    """What a figure shows, in words for whoever does not see it: titles, axes, and the names of rows and series."""
    parts = [figure.get_suptitle()]
    for ax in figure.axes:
        title = ax.get_title(loc="left") or ax.get_title()
        series = [name for name in ax.get_legend_handles_labels()[1] if not name.startswith("_")]
        rows = [tick.get_text() for tick in ax.get_yticklabels()]
        named = [row for row in rows if re.search("[^\\W\\d_]", row)]
        across, up = ax.get_xlabel(), ax.get_ylabel()
        parts += [
            title,
            f"Rows: {', '.join(named)}" if named else "",
            f"Across: {across}" if across else "",
            f"Upwards: {up}" if up else "",
            f"Series: {', '.join(dict.fromkeys(series))}" if series else "",
        ]
    return ". ".join(" ".join(part.split()).rstrip(".") for part in parts if part).replace(r"\$", "$")


def colour(name: str, position: int = 0) -> str:
    """Colour of a series: a model's own if `name` is base, sft or dpo, else the palette's at `position`."""
    return MODEL_COLOURS.get(name.lower(), PALETTE[position % len(PALETTE)])


def axes(width: float = 7.0, height: float = 3.6) -> "Axes":
    """An empty plot of `width` x `height` inches in the project's style; a notebook shows it by itself."""
    import matplotlib.pyplot as plt

    use_style()
    return plt.subplots(figsize=(width, height))[1]


def detached_figure(width: float = 7.0, height: float = 3.6) -> "Figure":
    """A figure that no notebook shows by itself: for pictures that go into a file (see `data_uri`)."""
    from matplotlib.figure import Figure

    use_style()
    return Figure(figsize=(width, height), layout="constrained")


def _no_formula(text: str) -> str:
    """The text for matplotlib, which would set what stands between two dollar signs as a formula, or fail at it."""
    return text.replace("$", r"\$")


def bars(
    values: Mapping[str, "Interval | float"],
    *,
    title: str = "",
    label: str = "",
    share: bool = False,
    digits: int = 2,
    ax: "Axes | None" = None,
) -> "Axes":
    """Horizontal bars, one for each name, with the interval as a whisker and the value written beside it.

    Args:
        values: name -> `Interval` (value, low, high) or a plain number, drawn from top to bottom.
        title: what is seen, as a sentence; label: the axis' quantity and unit.
        share: the values are shares between 0 and 1: drawn and written in per cent.
        digits: decimals of the written value (ignored for shares).
        ax: where to draw; a new plot if None.
    """
    ax = ax or axes(height=0.9 + 0.5 * max(len(values), 1))
    edge = 0.0
    for row, (name, item) in enumerate(values.items()):
        value, low, high = _bounds(item)
        if not math.isfinite(value):
            ax.annotate("n/a", (0, row), xytext=(6, 0), textcoords="offset points", va="center")
            continue
        ax.barh(row, value, height=0.62, color=colour(name, row))
        if high > low:
            whisker = [[max(value - low, 0)], [max(high - value, 0)]]
            ax.errorbar(value, row, xerr=whisker, fmt="none", ecolor=INK, elinewidth=1.3, capsize=4)
        end = max(value, high, 0)
        written = f"{value:.0%}" if share else f"{value:,.{digits}f}"
        ax.annotate(written, (end, row), xytext=(6, 0), textcoords="offset points", va="center")
        edge = max(edge, end)
    ax.set_yticks(range(len(values)), map(_no_formula, values))
    ax.set_ylim(max(len(values), 1) - 0.5, -0.5)  # from top to bottom, with room for rows without a bar
    ax.grid(axis="y", visible=False)
    if share:
        ax.xaxis.set_major_formatter(lambda x, _: f"{x:.0%}")
        ax.set_xlim(0, 1.13)
        ax.set_xticks([0, 0.25, 0.5, 0.75, 1])
    elif edge > 0:
        ax.set_xlim(right=edge * 1.16)  # room for the written value
    ax.set(title=_no_formula(title), xlabel=label)
    return ax


def intervals(
    values: Mapping[str, "Interval"],
    *,
    title: str = "",
    label: str = "",
    share: bool = False,
    ax: "Axes | None" = None,
) -> "Axes":
    """Points with whiskers around a line at zero: for differences that may or may not be zero.

    `share`: they are differences of shares, marked in percentage points. Grey: the interval holds zero.
    """
    ax = ax or axes(height=0.9 + 0.5 * max(len(values), 1))
    for row, item in enumerate(values.values()):
        if not math.isfinite(item.value):
            ax.annotate("n/a", (0, row), xytext=(6, 0), textcoords="offset points", va="center")
            continue
        value, low, high = _bounds(item)
        hue = BLUE if low > 0 or high < 0 else GREY
        whisker = [[max(value - low, 0)], [max(high - value, 0)]]
        ax.errorbar(value, row, xerr=whisker, fmt="o", color=hue, capsize=4, elinewidth=1.6)
    if share:
        ax.xaxis.set_major_formatter(lambda x, _: f"{100 * x:+.3g}" if x else "0")
    ax.axvline(0, color=INK, linewidth=1)
    ax.set_yticks(range(len(values)), map(_no_formula, values))
    ax.set_ylim(len(values) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    ax.set(title=_no_formula(title), xlabel=label)
    return ax


def curve(
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    title: str = "",
    x: str = "",
    y: str = "",
    ax: "Axes | None" = None,
) -> "Axes":
    """One line for each name through its (x, y) points; a legend only where there are several lines."""
    ax = ax or axes()
    for position, (name, points) in enumerate(series.items()):
        xs, ys = zip(*points, strict=True) if points else ((), ())
        ax.plot(xs, ys, marker="o" if len(points) <= 40 else None, color=colour(name, position), label=name)
    if len(series) > 1:
        ax.legend()
    ax.set(title=title, xlabel=x, ylabel=y)
    return ax


def histogram(
    series: Mapping[str, Sequence[float]],
    *,
    bins: int = 30,
    title: str = "",
    x: str = "",
    y: str = "",
    ax: "Axes | None" = None,
) -> "Axes":
    """Outlined histograms over common bins, one for each name, that can lie on top of each other."""
    import numpy as np

    ax = ax or axes()
    present = [value for values in series.values() for value in values]
    edges = np.histogram_bin_edges(present, bins=bins)
    for position, (name, values) in enumerate(series.items()):
        ax.hist(list(values), bins=edges, histtype="stepfilled", alpha=0.25, color=colour(name, position))
        ax.hist(list(values), bins=edges, histtype="step", linewidth=1.8, color=colour(name, position), label=name)
    if len(series) > 1:
        ax.legend()
    ax.set(title=title, xlabel=x, ylabel=y)
    return ax


def data_uri(figure: "Figure") -> str:
    """The figure as a `data:` address (SVG), which an HTML page carries inside itself."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})  # no clock in the file: same numbers, same bytes
    return f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _bounds(item: "Interval | float") -> tuple[float, float, float]:
    """Value and limits; limits that are not known fall on the value."""
    if isinstance(item, (int, float)):
        return float(item), float(item), float(item)
    known = math.isfinite(item.low) and math.isfinite(item.high)
    return (item.value, item.low, item.high) if known else (item.value, item.value, item.value)
