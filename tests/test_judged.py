"""Tables of judged answers: nothing missing is hidden, and a simulated judge's bias and ranking are found again."""

import numpy as np
import pytest

from phoenix_utils.evaluation import judged

MODELS = {"base": 3.0, "sft": 5.0, "dpo": 5.6}


def row(model, question, score, turn=0, length=100, category="math"):
    about = {"model": model, "question_id": question, "turn": turn, "category": category}
    return {**about, "score": score, "length": length, "why": "" if score else "no verdict"}


def test_a_missing_score_is_counted_and_bounds_the_mean():
    rows = [row("a", "1", 8), row("a", "1", 4, turn=1), row("a", "2", None), row("a", "2", 6, turn=1, category="stem")]
    cells = judged.score_tables(rows)["a"]
    assert cells["average"]["value"] == 6 and cells["average"]["n"] == 2
    assert (cells["average"]["answers"], cells["average"]["missing"]) == (4, 1)
    assert cells["average"]["bounds"] == [(18 + 1) / 4, (18 + 10) / 4]
    assert (cells["turn 1"]["value"], cells["turn 1"]["missing"], cells["stem"]["value"]) == (8, 1, 6)
    nothing = judged.score_tables([row("a", "1", None)])["a"]["average"]
    assert nothing["value"] is None and nothing["missing"] == nothing["answers"] == 1 and nothing["bounds"] == [1, 10]


def test_only_questions_that_both_models_have_a_score_for_are_compared():
    rows = [row("a", str(n), 5) for n in range(6)] + [row("b", str(n), 6 if n else None) for n in range(6)]
    found = judged.compare(rows, [("a", "b")])["b-a"]
    assert (found["value"], found["n"], found["without"], found["p"]) == (1, 5, 1, pytest.approx(2 / 32))
    assert judged.compare(rows, [("a", "c")])["c-a"]["value"] is None


def simulate(seed, questions=80, first=0.6, per_thousand=0.8):
    """A judge that adds noise, likes length, and gives the first of two equal answers `first` of its points."""
    g = np.random.default_rng(seed)
    hard = g.normal(0, 1.2, questions)
    scores, pairs, quality, length = [], [], {}, {}
    for model, level in MODELS.items():
        for q in range(questions):
            quality[model, q] = level + hard[q] + g.normal(0, 0.6)
            length[model, q] = int(g.integers(200, 2200))
            for turn in (0, 1):
                seen = quality[model, q] + per_thousand * (length[model, q] - 1200) / 1000 + g.normal(0, 1)
                scores.append(row(model, str(q), float(seen), turn, length[model, q]))
    for q in range(questions):
        for order in (("sft", "dpo"), ("dpo", "sft")):
            about = {"model": order[0], "earlier": "sft", "later": "dpo", "question_id": str(q), "category": "math"}
            longer = length[order[0], q] - length[order[1], q]
            pairs.append({**about, "longer": longer, "score": float(g.random() < first), "why": ""})
    return scores, pairs


def test_ranking_and_biases_of_a_simulated_judge_are_recovered():
    held = {"length": 0, "first": 0, "wins": 0}
    for seed in range(40):
        scores, pairs = simulate(seed)
        table = judged.score_tables(scores)
        assert table["base"]["average"]["high"] < table["sft"]["average"]["low"]
        found = judged.compare(scores, [("base", "sft"), ("sft", "dpo")], seed)
        assert found["sft-base"]["low"] > 1 and found["sft-base"]["p"] < 0.001
        bias = judged.length_bias(scores, seed)
        held["length"] += bias.low <= 0.8 <= bias.high
        told = judged.preferences(pairs, seed)
        held["first"] += told["first"]["low"] <= 0.6 <= told["first"]["high"]
        # Both orders cancel what the first place brings: these two models win alike.
        held["wins"] += told["wins"]["dpo-sft"]["low"] <= 0.5 <= told["wins"]["dpo-sft"]["high"]
    assert all(count >= 34 for count in held.values()), held


def test_two_orders_that_contradict_each_other_are_no_win():
    about = {"earlier": "a", "later": "b", "question_id": "1", "category": "math", "longer": 10, "why": ""}
    rows = [{**about, "model": "a", "score": 1.0}, {**about, "model": "b", "score": 1.0}]
    told = judged.preferences([*rows, {**about, "question_id": "2", "model": "a", "score": None}])
    assert told["wins"]["b-a"]["value"] == 0.5 and told["consistent"]["value"] == 0
    assert (told["first"]["value"], told["longer"]["value"]) == (1, 1)
    assert (told["missing"], told["asked"]) == (1, 3)


def test_a_question_with_one_order_read_is_no_win():
    """A judge that always takes the answer shown first would otherwise win every question for one model."""
    about = {"earlier": "a", "later": "b", "category": "math", "longer": 0, "why": ""}
    half = [
        {**about, "question_id": str(n), "model": model, "score": 1.0 if model == "b" else None}
        for n in range(20)
        for model in "ab"
    ]
    told = judged.preferences(half)
    assert told["wins"] == {} and told["first"]["value"] is None and told["missing"] == 20
    assert judged.preferences([row for row in half if row["model"] == "b"])["wins"]["b-a"]["value"] == 1  # asked once


def test_a_category_called_like_a_column_of_ours_keeps_both():
    rows = [
        {**row("a", str(n), score), "category": name} for n, (score, name) in enumerate([(1, "average"), (10, "x")])
    ]
    told = judged.score_tables(rows)["a"]
    assert told["average"]["value"] == 5.5 and told["category average"]["value"] == 1


def test_the_most_surprising_question_is_the_one_that_moved_unlike_the_others():
    rows = [row("a", str(n), n + 1) for n in range(9)]
    changed = rows + [row("b", str(n), n + 1 + (3 if n == 4 else 0)) for n in range(9)]
    assert judged.surprises(changed, "a", "b")[0]["question_id"] == "4"
