"""From a judge's rows to tables: means with intervals, missing verdicts in sight, biases, and what would settle it.

A unit is a question: its turns hang together, so a question's score is the mean of its turns.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from phoenix_utils import statistics
from phoenix_utils.evaluation.verdicts import LEAST, MOST
from phoenix_utils.statistics import Interval


def summary(rows: Sequence[dict], pairs: Sequence[tuple[str, str]], seed: int = 0) -> dict[str, Any]:
    """Everything that judged.json holds of a judge's rows: tables, comparisons, biases, what is missing and why."""
    scored = [row for row in rows if row["kind"] == "score"]
    compared = [row for row in rows if row["kind"] == "preference"]
    missing = [row["why"] for row in rows if row["score"] is None]
    about = {key: rows[0][key] for key in ("judge", "version", "prompt_hash")} if rows else {}
    return {
        **about,
        "scores": score_tables(scored),
        "differences": compare(scored, pairs, seed),
        "length_bias": length_bias(scored, seed).as_dict(),
        "preferences": preferences(compared, seed) if compared else None,
        "surprises": {f"{later}-{earlier}": surprises(scored, earlier, later) for earlier, later in pairs},
        "asked": len(rows),
        "missing": len(missing),
        "why": {reason: missing.count(reason) for reason in sorted({*missing})},
        "asked_again": sum(row["attempts"] > 1 for row in rows),
    }


def score_tables(rows: Sequence[dict]) -> dict[str, dict[str, dict[str, Any]]]:
    """{model: {"average" | "turn 1" | … | category: cell}}.

    A cell is an interval's fields and `answers` (how many there were), `missing` (how many got no score), and
    `bounds`: the mean if every missing score were 1, and if it were 10. Where these lie far apart, the mean is not
    the model's but that of the answers that the judge could score.
    """
    tables: dict[str, dict[str, dict]] = {}
    for model, own in _grouped(rows, "model").items():
        cells = {"average": own}
        cells |= {f"turn {turn + 1}": part for turn, part in sorted(_grouped(own, "turn").items())}
        for category, part in sorted(_grouped(own, "category").items()):
            cells[f"category {category}" if category in cells else category] = part
        tables[model] = {name: _cell(part) for name, part in cells.items()}
    return tables


def compare(rows: Sequence[dict], pairs: Iterable[tuple[str, str]], seed: int = 0) -> dict[str, dict[str, Any]]:
    """{"later-earlier": the mean difference with interval, `p`, `units_to_settle`, `questions`} on the questions that
    both models have a score for."""
    means = {model: _by_question(own) for model, own in _grouped(rows, "model").items()}
    found = {}
    for earlier, later in pairs:
        both = sorted(means.get(earlier, {}).keys() & means.get(later, {}).keys())
        a, b = ([means[name][question] for question in both] for name in (earlier, later))
        changes = [y - x for x, y in zip(a, b, strict=True)]
        needed = statistics.units_to_settle(changes)
        found[f"{later}-{earlier}"] = {
            **statistics.t_mean(changes).as_dict(),
            "p": statistics.paired_test(a, b, seed) if both else None,
            "units_to_settle": needed if math.isfinite(needed) else None,
            "without": len(means.get(earlier, {}).keys() ^ means.get(later, {}).keys()),
        }
    return found


def length_bias(rows: Sequence[dict], seed: int = 0) -> Interval:
    """Points for 1,000 more characters, within questions: every answer against the mean of its question and turn."""
    x, y, units = [], [], []
    numbers: dict[str, int] = {}
    for group in _grouped([row for row in rows if row["score"] is not None], "question_id", "turn").values():
        if len(group) > 1:
            units += [numbers.setdefault(group[0]["question_id"], len(numbers))] * len(group)
            length, score = (sum(row[key] for row in group) / len(group) for key in ("length", "score"))
            x += [(row["length"] - length) / 1000 for row in group]
            y += [row["score"] - score for row in group]
    return statistics.slope(x, y, units, seed)


def preferences(rows: Sequence[dict], seed: int = 0) -> dict[str, Any]:
    """What pairwise rows say, both orders of a question taken together.

    Returns "wins": {"later-earlier": interval of the later model's share of points, a tie being half}; "first": share
    of points that went to the answer shown first (0.5 is fair); "consistent": share of questions whose two orders
    agree; "longer": share of decided verdicts for the longer answer; "missing" and "asked". A question of which only
    one of two orders got a verdict is in none of the first three: its point could be one for the place.
    """
    read = [row for row in rows if row["score"] is not None]
    wins: dict[str, list[float]] = defaultdict(list)
    agree, first = [], []
    for group in _grouped(rows, "question_id", "earlier", "later").values():
        if any(row["score"] is None for row in group):
            continue
        later, earlier = group[0]["later"], group[0]["earlier"]
        points = [row["score"] if row["model"] == later else 1 - row["score"] for row in group]
        wins[f"{later}-{earlier}"].append(sum(points) / len(points))
        first.append(sum(row["score"] for row in group) / len(group))
        if len(points) == 2:
            agree.append(float(points[0] == points[1]))
    decided = [row for row in read if row["score"] != 0.5 and row["longer"]]
    longer = [float((row["score"] > 0.5) == (row["longer"] > 0)) for row in decided]
    return {
        "wins": {name: statistics.bootstrap_mean(points, seed).as_dict() for name, points in wins.items()},
        "first": statistics.bootstrap_mean(first, seed).as_dict(),
        "consistent": statistics.bootstrap_share(agree, seed=seed).as_dict(),
        "longer": statistics.bootstrap_share(longer, seed=seed).as_dict(),
        "missing": len(rows) - len(read),
        "asked": len(rows),
    }


def surprises(rows: Sequence[dict], earlier: str, later: str) -> list[dict]:
    """Questions by how far the change from `earlier` to `later` is from the usual change, the most surprising first."""
    means = {model: _by_question(own) for model, own in _grouped(rows, "model").items()}
    both = sorted(means.get(earlier, {}).keys() & means.get(later, {}).keys())
    changes = {question: means[later][question] - means[earlier][question] for question in both}
    usual = sum(changes.values()) / max(1, len(changes))
    told = [{"question_id": q, "change": change, "surprise": abs(change - usual)} for q, change in changes.items()]
    return sorted(told, key=lambda row: -row["surprise"])


def _cell(rows: Sequence[dict]) -> dict[str, Any]:
    missing = sum(row["score"] is None for row in rows)
    interval = statistics.t_mean(list(_by_question(rows).values()))
    bounded = Interval(interval.value, max(interval.low, LEAST), min(interval.high, MOST), interval.n)
    total = sum(row["score"] for row in rows if row["score"] is not None)
    bounds = [(total + missing * score) / len(rows) for score in (LEAST, MOST)]
    return {**bounded.as_dict(), "answers": len(rows), "missing": missing, "bounds": bounds}


def _by_question(rows: Iterable[dict]) -> dict[str, float]:
    """A question's mean over its turns; a question without any score is left out (its cell counts it as missing)."""
    grouped = _grouped([row for row in rows if row["score"] is not None], "question_id")
    return {question: sum(row["score"] for row in own) / len(own) for question, own in grouped.items()}


def _grouped(rows: Iterable[dict], *keys: str) -> dict[Any, list[dict]]:
    grouped: dict[Any, list[dict]] = defaultdict(list)
    for row in rows:
        grouped[row[keys[0]] if len(keys) == 1 else tuple(row[key] for key in keys)].append(row)
    return grouped
