"""MT-Bench: every layout of questions, answers that resume, and what a judge is asked about them."""

import json

import pytest
import tiny_models

from phoenix_utils.decoding import GenerationParams
from phoenix_utils.engine_transformers import TransformersEngine
from phoenix_utils.errors import PhoenixError
from phoenix_utils.evaluation import mt_bench
from phoenix_utils.evaluation.kept import Kept
from phoenix_utils.evaluation.mt_bench import Question

PARAMS = GenerationParams(max_new_tokens=5, seed=3)


@pytest.fixture(scope="module")
def engine():
    tokenizer = tiny_models.gemma_like()
    return TransformersEngine(tiny_models.tiny_llama(len(tokenizer)), tokenizer)


def write(path, value, lines=False):
    path.parent.mkdir(exist_ok=True)
    text = "\n".join(map(json.dumps, value)) if lines else json.dumps(value)
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_the_packages_questions_are_the_default():
    questions = mt_bench.read_questions(None, "de")
    assert len(questions) == 80 and all(len(q.turns) == 2 for q in questions)
    assert {q.temperature for q in questions} == {0.0, 0.1, 0.7}
    assert {q.category for q in mt_bench.read_questions(None, "de", 16)} == {q.category for q in questions}


def test_fastchats_files_with_their_reference_answers(tmp_path):
    rows = [{"question_id": 81, "category": "math", "turns": ["Eins?", "Zwei?"]}]
    source = write(tmp_path / "question.jsonl", rows, lines=True)
    assert mt_bench.read_questions(source, "de") == [Question("81", "math", ("Eins?", "Zwei?"))]
    answers = [{"question_id": 81, "choices": [{"index": 0, "turns": ["1", "2"]}]}]
    write(tmp_path / "reference_answer" / "gpt-4.jsonl", answers, lines=True)
    assert mt_bench.read_questions(source, "de")[0].references == ("1", "2")


def test_fastevals_dictionary_and_odd_questions(tmp_path):
    rows = {
        "7": {"category": "knitting", "turns": ["Nur eine Frage"], "reference": ["Antwort", None]},
        "8": {"turns": [f"Frage {number}?" for number in range(40)]},
    }
    one, forty = mt_bench.read_questions(write(tmp_path / "q.json", rows), "de")
    assert one == Question("7", "knitting", ("Nur eine Frage",), ("Antwort", "")) and one.temperature == 0.7
    assert (one.reference(0), one.reference(1), forty.reference(39)) == ("Antwort", "", "")
    assert forty.category == "other" and len(forty.turns) == 40


@pytest.mark.parametrize(
    "rows, words",
    [
        ([{"question_id": 1, "turns": []}], "line 1, is no question: it needs question_id and turns"),
        ([{"turns": ["a"]}], "is no question"),
        ([{"question_id": 1, "turns": ["a", " "]}], "not empty"),
        ([{"question_id": 1, "turns": ["a"]}] * 2, "'1' more than once"),
    ],
)
def test_bad_questions_are_one_sentence(tmp_path, rows, words):
    with pytest.raises(PhoenixError, match=words):
        mt_bench.read_questions(write(tmp_path / "question.jsonl", rows, lines=True), "de")


def test_the_second_turn_follows_the_models_own_first_answer(engine, monkeypatch):
    questions = mt_bench.read_questions(None, "de", 8)
    seen, real = [], engine.generate

    def generate(prompts, params, on_batch=None):
        seen.append((params.temperature, list(prompts)))
        return real(prompts, params, on_batch)

    monkeypatch.setattr(engine, "generate", generate)
    rows = mt_bench.answer(engine, "base", questions, PARAMS, ("en", "de"))
    assert len(rows) == 16 and {row["turn"] for row in rows} == {0, 1}
    by_turn = {(row["question_id"], row["turn"]): row for row in rows}
    for temperature, prompts in seen[len(seen) // 2 :]:  # the second turns
        for prompt in prompts:
            [question] = [q for q in questions if q.turns[1] in prompt]
            assert question.temperature == temperature
            assert question.turns[0] in prompt and by_turn[question.id, 0]["answer"] in prompt


def test_an_interrupted_model_goes_on_behind_its_answers(engine, tmp_path, monkeypatch):
    questions = [q for q in mt_bench.read_questions(None, "de", 16) if q.temperature == 0]
    whole = mt_bench.answer(engine, "base", questions, PARAMS, ("en", "de"), Kept(tmp_path / "a"), "f")
    real, calls = engine.generate, []

    def killed(prompts, params, on_batch=None):
        calls.append(len(prompts))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(prompts, params, on_batch)

    monkeypatch.setattr(engine, "generate", killed)
    with pytest.raises(KeyboardInterrupt):
        mt_bench.answer(engine, "base", questions, PARAMS, ("en", "de"), Kept(tmp_path / "b"), "f")
    assert mt_bench.answer(engine, "base", questions, PARAMS, ("en", "de"), Kept(tmp_path / "b"), "f") == whole
    assert calls == [len(questions)] * 3  # first turns once, second turns until they were answered
    mt_bench.answer(engine, "base", questions, PARAMS, ("en", "de"), Kept(tmp_path / "b"), "other weights")
    assert len(calls) == 5


def test_forty_turns_end_where_the_model_reads_no_further(engine):
    long = Question("9", "other", tuple(f"Frage {number}? " * 12 for number in range(40)))
    rows = mt_bench.answer(engine, "base", [long], PARAMS, ("en", "de"))
    assert len(rows) == 40
    reasons = [row["finish_reason"] for row in rows]
    assert reasons[0] != "too long" and reasons[-1] == "too long" and rows[-1]["answer"] == ""


def answered(model, question, turn, answer, reference=""):
    about = {"category": "math", "prompt": f"F{turn} von {question}", "reference": reference}
    return {"model": model, "question_id": question, "turn": turn, "answer": answer, **about}


def test_what_a_judge_is_asked():
    rows = [
        answered(m, "1", t, f"{m} sagt {t}" * (2 if m == "sft" else 1), "42") for m in ("base", "sft") for t in (0, 1)
    ]
    first, second = mt_bench.score_requests(rows[:2], "de")
    assert "base sagt 0" in second.prompt and "base sagt 1" in second.prompt and "base sagt 1" not in first.prompt
    assert "42" in first.prompt and first.about["turn"] == 0
    forth, back = mt_bench.pair_requests(rows, "base", "sft", "de")
    assert forth.prompt.index("base sagt") < forth.prompt.index("sft sagt")
    assert back.prompt.index("sft sagt") < back.prompt.index("base sagt")
    assert (forth.about["model"], back.about["model"]) == ("base", "sft")
    assert forth.about["longer"] == -back.about["longer"] < 0
    assert mt_bench.pair_requests(rows[:2], "base", "sft", "de") == []
