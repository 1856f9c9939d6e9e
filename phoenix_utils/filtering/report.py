"""Look at what the filters did: a waterfall, a table of reasons, rejected rows to read, lengths."""

import html
import json
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from phoenix_utils import artifacts, pairs, plots, tables
from phoenix_utils.filtering import lexicon, scoring
from phoenix_utils.filtering.rules import parts
from phoenix_utils.filtering.settings import KINDS, RULES, FilteringSettings
from phoenix_utils.html_table import html_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame


def reasons_table(summary: dict) -> "DataFrame":
    """One line for each rule: how many rows of each corpus break it, and how many break no rule before it."""
    import pandas as pd

    table = {"what is wrong": RULES}
    for kind in KINDS:
        table[f"{kind}: all"] = summary[kind]["rules"]
        table[f"{kind}: first"] = {step["rule"]: step["removed"] for step in summary[kind]["waterfall"]}
    return pd.DataFrame(table).rename_axis("rule")


def draw_waterfall(summary: dict, kind: str, ax: "Axes | None" = None) -> "Axes":
    """How many rows are left after each rule; rules that remove nothing are left out."""
    part = summary[kind]
    steps = [step for step in part["waterfall"] if step["removed"]]
    ax = ax or plots.axes(height=1.4 + 0.4 * len(steps))
    names = ["translated", *(step["rule"] for step in steps), "kept"]
    ax.barh(0, part["rows_in"], color=plots.GREY)
    for row, step in enumerate(steps, 1):
        ax.barh(row, step["removed"], left=step["left"], color=plots.VERMILION)
        ax.text(step["left"] + step["removed"], row, f" −{step['removed']:,}", va="center")
    ax.barh(len(names) - 1, part["kept"], color=plots.GREEN)
    for row, value in ((0, part["rows_in"]), (len(names) - 1, part["kept"])):
        ax.text(value, row, f" {value:,}", va="center")
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set_xlim(0, part["rows_in"] * 1.12)
    ax.set_xlabel("rows")
    ax.set_title(f"{kind}: {part['kept']:,} of {part['rows_in']:,} rows are kept")
    ax.grid(axis="y", visible=False)
    return ax


def draw_overlap(summary: dict, kind: str, ax: "Axes | None" = None) -> "Axes | None":
    """How many rows break two rules at once, and each rule (on the diagonal); None where no row was rejected."""
    part = summary[kind]
    rules = [rule for rule, count in part["rules"].items() if count]
    if not rules:
        return None
    counts = {(rule, rule): part["rules"][rule] for rule in rules}
    for found in part["overlap"]:
        one, other = found["rules"]
        counts[one, other] = counts[other, one] = found["rows"]
    ax = ax or plots.axes(width=max(5.0, 2.5 + 0.45 * len(rules)), height=2.0 + 0.4 * len(rules))
    matrix = [[counts.get((one, other), 0) for other in rules] for one in rules]
    shares = [[value / counts[rule, rule] for value in line] for rule, line in zip(rules, matrix, strict=True)]
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=1.6, aspect="auto")
    for row, line in enumerate(matrix):
        for column, value in enumerate(line):
            ax.text(column, row, f"{value:,}" if value else "", ha="center", va="center")
    ax.set_xticks(range(len(rules)), rules, rotation=60, ha="right")
    ax.set_yticks(range(len(rules)), rules)
    ax.grid(visible=False)
    ax.set_title(f"{kind}: rows that break both rules")
    return ax


def draw_score(name: str, settings: FilteringSettings, ax: "Axes | None" = None) -> "Axes":
    """The distribution of one score over all texts of the run, with its threshold."""
    path = artifacts.stage_path(settings.run_dir, "filtering") / "scores.parquet"
    limit = scoring.thresholds(path, settings).get(name)
    values = scoring.values(path, name)
    ax = plots.histogram({"texts": values}, title=f"Score {name!r} of {len(values):,} texts", x=scoring.NAMES[name],
                         y="texts", ax=ax)  # fmt: skip
    if limit is not None:
        side = "above" if name == "dual" else "below"
        lost = sum(value > limit if name == "dual" else value < limit for value in values)
        ax.axvline(limit, color=plots.VERMILION, linestyle="--", label=f"{lost:,} {side} {limit:.3f}")
        ax.legend()
    return ax


def origins_table(summary: dict, origin: str = "licenses") -> "DataFrame":
    """Rows in and rows kept by licence (or, with "sources", by source) of each corpus."""
    import pandas as pd

    lines = [
        {"corpus": kind, origin[:-1]: name, **counts, "kept share": f"{counts['kept'] / counts['rows_in']:.0%}"}
        for kind, part in summary.items()
        for name, counts in part[origin].items()
    ]
    return pd.DataFrame(lines, columns=["corpus", origin[:-1], "rows_in", "kept", "kept share"]).set_index(
        ["corpus", origin[:-1]]
    )


def length_points(settings: FilteringSettings, max_points: int = 2000, shares: bool = True) -> list[dict]:
    """One point for each translated text: source_letters, ratio, kept (its row) and, with `shares`, foreign_share."""
    languages = settings.language, settings.source_language
    rejected = {
        (row["kind"], row["prompt_id"])
        for row in tables.read_rows(artifacts.stage_path(settings.run_dir, "filtering") / "rejected.parquet")
    }
    points = []
    for kind in KINDS:
        for row in tables.read_rows(artifacts.stage_path(settings.run_dir, "translation") / kind):
            for _, source, text in parts(row):
                if source is None or not text.strip():
                    continue
                points.append(
                    {
                        "source_letters": pairs.letters(source),
                        "ratio": pairs.length_ratio(source, text, *languages),
                        "foreign_share": pairs.foreign_share(text, *languages) if shares else None,
                        "kept": (kind, row["prompt_id"]) not in rejected,
                    }
                )
                if len(points) == max_points:
                    return points
    return points


def draw_lengths(points: list[dict], settings: FilteringSettings, ax: "Axes | None" = None) -> "Axes":
    """Length ratio against source length; rejected rows in their own colour, the allowed band shaded."""
    from matplotlib.ticker import LogLocator, NullLocator

    ax = ax or plots.axes()
    centre = lexicon.length_centre(settings.source_language, settings.language) or 1.0
    low, high = settings.min_length_ratio * centre, settings.max_length_ratio * centre
    ax.axhspan(low, high, color=plots.GREEN, alpha=0.1, label="allowed")
    for kept, colour, label in ((True, plots.BLUE, "row kept"), (False, plots.VERMILION, "row rejected")):
        chosen = [point for point in points if point["kept"] is kept]
        ax.scatter(
            [max(point["source_letters"], 1) for point in chosen],
            [point["ratio"] for point in chosen],
            s=14, alpha=0.6, color=colour, label=label, linewidths=0,
        )  # fmt: skip
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.set_yscale("log", base=2)
    ax.xaxis.set_minor_locator(NullLocator())
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.set_xlabel("letters in the source text")
    ax.set_ylabel("translation / source length")
    ax.set_title("How long the translations are")
    ax.legend(loc="upper right")
    return ax


def rejected_examples(settings: FilteringSettings, per_rule: int = 1) -> Iterator[dict]:
    """A few rejected rows for each rule: rule, part, detail, kind, prompt_id, original, text.

    Rows that break the rule before any other come first, so that one bad row does not stand for every rule.
    """
    path = artifacts.stage_path(settings.run_dir, "filtering") / "rejected.parquet"
    typical, others = defaultdict(list), defaultdict(list)
    for row in tables.read_rows(path):
        for rule in row["rules"]:
            found = typical if rule == row["rules"][0] else others
            if len(found[rule]) < per_rule:
                finding = next(finding for finding in row["findings"] if finding["rule"] == rule)
                original, text = _texts(json.loads(row["row"]), finding["part"])
                about = {
                    "kind": row["kind"],
                    "prompt_id": row["prompt_id"],
                    "original": original,
                    "text": text,
                }
                found[rule].append({**finding, **about})
    for rule in RULES:
        yield from (typical[rule] + others[rule])[:per_rule]


def _texts(row: dict, part: str) -> tuple[str, str]:
    """Source and text of one part; those of the last part, an answer, if the whole row is meant."""
    found = {name: (source or "", text) for name, source, text in parts(row)}
    return found.get(part) or (list(found.values()) or [("", "")])[-1]


def examples_html(settings: FilteringSettings, per_rule: int = 1, width: int = 300) -> str:
    """The examples as an HTML table; texts, which may hold anything, are cut to ``width`` and escaped."""
    lines = []
    for example in rejected_examples(settings, per_rule):
        lines.append(
            [
                f"<b>{example['rule']}</b><br>{_show(example['detail'], width)}<br>"
                f"<small>{example['kind']}, {_show(example['prompt_id'], width)}, part {example['part']}</small>",
                _show(example["original"], width),
                _show(example["text"], width),
            ]
        )
    return html_table(("rule", "source", "translation"), lines) if lines else "<p>No row was rejected.</p>"


def _show(text: str | None, width: int) -> str:
    text = text or ""
    return html.escape(text if len(text) <= width else f"{text[:width]} …").replace("\n", "<br>")
