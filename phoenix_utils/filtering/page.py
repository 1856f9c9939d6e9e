"""One HTML page with everything about a filtering; it needs no other file and no network.

Whatever a corpus or a model wrote is escaped by Jinja2, and a content policy in the page's head forbids scripts and
outside addresses on top of that.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from phoenix_utils import plots
from phoenix_utils.filtering import report, scoring
from phoenix_utils.filtering.settings import RULES, FilteringSettings


def render(folder: Path, settings: FilteringSettings, summary: dict, per_rule: int = 5) -> str:
    """The page about the products in `folder`, with up to `per_rule` real rows for each rule that rejected some."""
    examples = report.rejected_examples(settings, per_rule)
    points = report.length_points(settings, shares=False) if any(part["rows_in"] for part in summary.values()) else []
    scored = [name for name in settings.scores if scoring.values(folder / "scores.parquet", name)]
    made = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
                       trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    return made.get_template("report.html.j2").render(
        settings=settings,
        summary=summary,
        rules=RULES,
        waterfalls={kind: _waterfall(summary, kind) for kind in summary},
        overlaps={kind: _overlap(summary, kind) for kind in summary},
        scores={name: _picture(lambda ax, name=name: report.draw_score(name, settings, ax)) for name in scored},
        meanings=scoring.NAMES,
        lengths=_picture(lambda ax: report.draw_lengths(points, settings, ax)) if points else None,
        examples=[(rule, list(found)) for rule, found in groupby(examples, key=lambda each: each["rule"])],
    )


def _picture(draw: Callable, width: float = 7.0, height: float = 3.2) -> str:
    figure = plots.detached_figure(width, height)
    draw(figure.add_subplot())
    return plots.data_uri(figure)


def _waterfall(summary: dict, kind: str) -> str:
    steps = sum(step["removed"] > 0 for step in summary[kind]["waterfall"])
    return _picture(lambda ax: report.draw_waterfall(summary, kind, ax), height=1.4 + 0.35 * steps)


def _overlap(summary: dict, kind: str) -> str | None:
    fired = sum(count > 0 for count in summary[kind]["rules"].values())
    if not fired:
        return None
    size = max(5.0, 2.5 + 0.45 * fired), 2.0 + 0.4 * fired
    return _picture(lambda ax: report.draw_overlap(summary, kind, ax), *size)
