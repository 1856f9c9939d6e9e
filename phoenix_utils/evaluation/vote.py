"""A blind vote in the notebook: two answers without names, a click for the better one, analysed like a judge's word.

Which model stands on the left is drawn anew for every question, and neither names nor lengths are shown, so that a
voter's taste is measured and not a voter's hope.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from phoenix_utils import statistics
from phoenix_utils.evaluation import judged as judged_tables
from phoenix_utils.evaluation.kept import Kept
from phoenix_utils.tables import read_lines, read_rows

if TYPE_CHECKING:
    import ipywidgets

POINTS = {"left": 1.0, "same": 0.5, "right": 0.0}


class Ballot:
    """The questions of an evaluation stage's `folder` to vote on between two models, in an order drawn with `seed`.

    Votes are kept in `votes.jsonl` there as soon as they are given; the next ballot goes on behind them.
    """

    def __init__(self, folder: Path, earlier: str = "sft", later: str = "dpo", voter: str = "reader", seed: int = 0):
        self.earlier, self.later, self.voter = earlier, later, voter
        self.kept = Kept(folder / "votes.jsonl")
        rows = read_lines(folder / "mt_bench.jsonl") if (folder / "mt_bench.jsonl").is_file() else []
        rows = [{**row, "unit": row["question_id"]} for row in rows] or [
            {**row, "unit": row["prompt_id"]} for row in read_rows(folder / "answers.parquet")
        ]
        answers = {(row["model"], row["unit"], row["turn"]): row for row in rows}
        units = [key[1:] for key in answers if key[0] == later and (earlier, *key[1:]) in answers]
        order = np.random.default_rng(seed).permutation(len(units))
        swapped = np.random.default_rng(seed + 1).random(len(units)) < 0.5
        self.cards = [self._card(answers, *units[place], bool(swapped[place])) for place in order]

    def _card(self, answers: dict, unit: str, turn: int, swap: bool) -> dict:
        left, right = (self.later, self.earlier) if swap else (self.earlier, self.later)
        a, b = answers[left, unit, turn], answers[right, unit, turn]
        key = Kept.key(
            voter=self.voter, models=sorted((left, right)), unit=unit, turn=turn, texts=[a["answer"], b["answer"]]
        )
        about = {"earlier": self.earlier, "later": self.later, "question_id": f"{unit}/{turn}", "model": left}
        about |= {"category": a["category"], "longer": len(a["answer"]) - len(b["answer"]), "why": ""}
        return {"key": key, "prompt": a["prompt"], "left": a["answer"], "right": b["answer"], "about": about}

    @property
    def open(self) -> list[dict]:
        """The cards that this voter has not voted on yet."""
        return [card for card in self.cards if self.kept.get(card["key"]) is None]

    def vote(self, choice: str) -> None:
        """Keep the vote on the first open card: "left", "right" or "same"."""
        card = self.open[0]
        row = {**card["about"], "kind": "preference", "score": POINTS[choice], "judge": self.voter}
        self.kept.add({card["key"]: row})

    def rows(self) -> list[dict]:
        """All votes of this voter on these models, as the rows of a pairwise judge."""
        found = [self.kept.get(card["key"]) for card in self.cards]
        return [row for row in found if row is not None]

    def result(self, seed: int = 0) -> dict:
        """Wins with intervals, how often the left side won, how often the longer answer did (`judged.preferences`)."""
        return judged_tables.preferences(self.rows(), seed)


def ballot(folder: Path, earlier: str = "sft", later: str = "dpo", voter: str = "reader") -> ipywidgets.Widget:
    """The vote as a widget: question, two answers, three buttons; the result where nothing is left to vote on."""
    import ipywidgets

    votes = Ballot(folder, earlier, later, voter)
    shown = ipywidgets.HTML()
    buttons = [ipywidgets.Button(description=text) for text in ("left is better", "the same", "right is better")]

    def refresh() -> None:
        left = votes.open
        shown.value = (
            _card_html(left[0], len(votes.cards) - len(left), len(votes.cards)) if left else _result_html(votes)
        )
        for button in buttons:
            button.disabled = not left

    def clicked(choice: str):
        def handle(_) -> None:
            votes.vote(choice)
            refresh()

        return handle

    for button, choice in zip(buttons, ("left", "same", "right"), strict=True):
        button.on_click(clicked(choice))
    refresh()
    return ipywidgets.VBox([shown, ipywidgets.HBox(buttons)])


def judge_against_votes(folder: Path, votes: Sequence[dict], seed: int = 0) -> dict | None:
    """How far a judge's scores and the votes prefer the same models, on the answers that both have compared.

    Returns "agree" (share of answers with the same preference, one side's tie counting half), "kappa" (quadratic
    weights on worse, the same, better), "pearson" and "spearman" (of the difference of scores with the vote), each as
    an interval, and "answers"; None where there is no judge's score or no vote on the same answers.
    """
    path = folder / "judgements.jsonl"
    if not path.is_file():
        return None
    scores = {
        (row["model"], f"{row['question_id']}/{row['turn']}"): row["score"]
        for row in read_lines(path)
        if row["kind"] == "score" and row["score"] is not None
    }
    judged, voted = [], []
    for row in votes:
        earlier, later = (scores.get((name, row["question_id"])) for name in (row["earlier"], row["later"]))
        if earlier is not None and later is not None:
            judged.append(later - earlier)
            voted.append((2 * row["score"] - 1) * (1 if row["model"] == row["later"] else -1))
    if not judged:
        return None
    signs = np.sign(judged)
    found = statistics.agreement(judged, voted, seed)
    found["kappa"] = statistics.agreement(signs, voted, seed)["kappa"]
    found["agree"] = statistics.bootstrap_share(1 - np.abs(signs - voted) / 2, seed=seed)
    return {**{name: interval.as_dict() for name, interval in found.items()}, "answers": len(judged)}


def _card_html(card: dict, done: int, total: int) -> str:
    prose = "white-space:pre-wrap;overflow-wrap:anywhere"
    side = "<div style='flex:1 1 280px;background:#f7f7f7;border-radius:6px;padding:.5em .8em;{}'>{}</div>"
    both = "".join(side.format(prose, html.escape(card[name]) or "(empty)") for name in ("left", "right"))
    return (
        f"<div>{done} of {total} voted</div><div style='font-weight:600;{prose}'>{html.escape(card['prompt'])}</div>"
        f"<div style='display:flex;flex-wrap:wrap;gap:.8em;margin-top:.6em'>{both}</div>"
    )


def _result_html(votes: Ballot) -> str:
    found = votes.result()["wins"].get(f"{votes.later}-{votes.earlier}")
    if not found or found["value"] is None:
        return "<div>There is nothing to vote on between these two models.</div>"
    span = "" if found["low"] is None else f" ({found['low']:.0%} to {found['high']:.0%})"
    return f"<div>Done: {html.escape(votes.later)} gets {found['value']:.0%} of the points{span}.</div>"
