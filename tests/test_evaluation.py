"""Evaluation: metrics on hand-made answers, exact likelihoods on a tiny model, the stage, the report."""

import html.parser
import json
import math
import re
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import sacrebleu
import torch
from hypothesis import given
from hypothesis import strategies as st
from manifests import manifest  # tests/manifests.py, beside this file
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from phoenix_utils import artifacts, chat, corpora, mt_metrics
from phoenix_utils.artifacts import read_json, stage_path, write_json
from phoenix_utils.engine_transformers import TransformersEngine
from phoenix_utils.engines import GenerationParams
from phoenix_utils.errors import PhoenixError
from phoenix_utils.evaluation import (
    EvaluationSettings,
    answers,
    likelihood,
    metrics,
    prompts,
    scores,
    similarity,
    stage,
    views,
)
from phoenix_utils.evaluation.contenders import comparisons
from phoenix_utils.tables import read_lines, read_rows, write_lines, write_rows

matplotlib.use("Agg")

GERMAN = "Am besten gießt du die Pflanzen morgens, bevor die Sonne auf die Blätter scheint."
ENGLISH = "It is best to water the plants in the morning, before the sun shines on the leaves."


# --- one answer ---


@pytest.mark.parametrize(
    "answer, german",
    [
        (GERMAN, True),
        (ENGLISH, False),
        ("Het is het beste om de planten 's ochtends water te geven, voordat de zon schijnt.", False),
        (f"{GERMAN}\n\n```python\nfor plant in garden:\n    water(plant, when='morning')\n```", True),
        (f"{GERMAN}\n\n{ENGLISH}", False),
        ("Ja, gerne.", True),
        ("No, thanks.", False),
        ("", False),
        ("  \n", False),
        ("42", False),
        ("```\nprint('hallo')\n```", False),
    ],
)
def test_target_language_of_an_answer(answer, german):
    assert metrics.in_target_language(answer, "de", "en") is german


@pytest.mark.parametrize(
    "answer, loops",
    [
        (GERMAN, False),
        ("Ich bin ein Modell. " * 5, True),
        ("\n".join(f"{number}. Die Stadt ist sehr schön und groß." for number in range(1, 8)), True),
        ("Das ist sehr, sehr schön, wirklich sehr schön.", False),
        ("Jaaaaaaaaaaaaaaaaaa", True),
        ("| a | b |\n|---|---|\n| 1 | 2 |\n| 1 | 3 |", False),
        ("", False),
    ],
)
def test_loops(answer, loops):
    assert metrics.is_loop(answer) is loops


def test_no_human_reference_loops_or_misses_its_language():
    found = [prompt.reference for prompt in prompts.conversation_prompts(corpora.held_out_chat("de"))]
    assert len(found) >= 16
    assert not any(metrics.is_loop(text) for text in found)
    assert all(metrics.in_target_language(text, "de", "en") for text in found)


def test_word_pairs_ignore_case_and_punctuation():
    assert metrics.word_pairs("Der Hund. DER Hund!") == [("der", "hund"), ("hund", "der"), ("der", "hund")]
    assert metrics.word_pairs("Wort") == []


@given(
    st.lists(
        st.tuples(st.text(alphabet="abä \n.", max_size=25), st.text(alphabet="abä .", min_size=1, max_size=25)),
        min_size=1,
        max_size=5,
    )
)
def test_chrf_equals_sacrebleu(rows):
    counts = np.array([mt_metrics.chrf_counts(answer, reference) for answer, reference in rows])
    found = mt_metrics.chrf(counts)(np.ones((1, len(rows))))[0]
    hypotheses, references = zip(*rows, strict=True)
    assert found == pytest.approx(sacrebleu.corpus_chrf(list(hypotheses), [list(references)]).score, abs=1e-9)


def test_chrf_signature_is_that_of_the_default_metric():
    assert mt_metrics.chrf_signature().startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:")


def test_meaning_is_nearer_in_other_words_than_in_another_topic():
    reference = "Gieße die Blumen früh am Tag, ehe die Sonne hoch steht."
    near, translated, far, empty = similarity.cosines(
        [GERMAN, ENGLISH, "Der Zug nach Jena fährt heute von Gleis sieben.", " \n"], [reference] * 4
    )
    assert near > far + 0.05 and translated > far and empty == 0
    assert similarity.cosines([reference], [reference]) == [pytest.approx(1, abs=1e-5)]


def test_equal_scores_count_half():
    assert metrics.preferred([1, 2, 3], [2, 2, 2]) == [0, 0.5, 1]


# --- prompts ---


def test_each_turn_is_a_prompt_with_the_references_history():
    rows = [row for row in corpora.held_out_chat("de") if len(row["messages"]) >= 4]
    first, second = prompts.conversation_prompts(rows[:1])[:2]
    assert [message["role"] for message in second.messages] == ["user", "assistant", "user"]
    assert second.messages[1]["content"] == first.reference
    assert second.unit == first.unit and (first.turn, second.turn) == (0, 1)


def test_max_prompts_takes_evenly_from_both():
    everything = prompts.held_out_prompts("de")
    assert {prompt.kind for prompt in everything} == {"conversation", "question"}
    for count in (1, 2, 10, len(everything) - 1, len(everything) + 5):
        some = prompts.held_out_prompts("de", count)
        assert len(some) == len({(p.unit, p.turn) for p in some}) == min(count, len(everything))
    assert sum(p.kind == "question" for p in prompts.held_out_prompts("de", 10)) == 5
    with pytest.raises(PhoenixError, match="nothing to ask in 'xx'"):
        prompts.held_out_prompts("xx")


def test_what_a_run_has_translated_is_asked_without_its_failed_rows(tmp_path):
    def row(name, good):
        messages = [{"role": "user", "content": f"Vraag {name}"}, {"role": "assistant", "content": "Ja."}]
        return {**dict.fromkeys(corpora.TRANSLATED_CHAT.names), "prompt_id": name, "messages": messages, "good": good}

    folder = artifacts.stage_path(str(tmp_path), "translation")
    write_rows(folder / "held_out_chat" / "00000.parquet", [row("a", True), row("b", False)], corpora.TRANSLATED_CHAT)
    assert [p.unit for p in prompts.held_out_references("nl", str(tmp_path))] == ["a"]
    with pytest.raises(PhoenixError, match="held_out_preferences holds no translated ones.*held_out_rows"):
        prompts.held_out_pairs("nl", str(tmp_path))
    # People's German stands, whatever a run holds.
    assert len(prompts.held_out_references("de", str(tmp_path))) == len(prompts.held_out_references("de"))


def test_a_table_that_has_grown_stays_where_a_kill_comes_before_its_hash(tmp_path, monkeypatch):
    settings, grown = EvaluationSettings(run_dir=str(tmp_path)), [{"model": "base"}, {"model": "sft"}]

    def killed(path):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), artifacts.open_stage("evaluation", settings, {}) as run:
        table = stage._Growing(run, "harness.jsonl")
        table.add(grown[:1])
        monkeypatch.setattr(run, "keep", killed)
        table.add(grown[1:])
    with artifacts.open_stage("evaluation", settings, {}) as run:
        assert stage._Growing(run, "harness.jsonl").rows == grown


def test_a_share_of_nothing_and_of_one_unit_is_told():
    from phoenix_utils.evaluation import share_text

    assert share_text({"value": 0.867, "low": 0.767, "high": 0.95}) == "87 % (77 to 95)"
    assert share_text({"value": 1.0, "low": None, "high": None}) == "100 %"
    assert share_text({"value": None, "low": None, "high": None}) == "n/a"


def test_german_tasks_are_left_out_of_another_language_and_the_report_says_so():
    german, dutch, other = (EvaluationSettings(language=code) for code in ("de", "nl", "is"))
    assert german.tasks() == ["phoenix_mc_de", "phoenix_grammar_de"] and dutch.tasks() == []
    assert not any("German" in sentence for sentence in german.not_run())
    assert any("belebele_nld_Latn" in sentence for sentence in dutch.not_run())
    assert any("Global-MMLU" in sentence for sentence in other.not_run())
    assert EvaluationSettings(language="nl", harness_tasks=["belebele_nld_Latn", "arc_de"]).tasks() == [
        "belebele_nld_Latn"
    ]


def test_plain_prompt_is_plain():
    messages = (
        {"role": "user", "content": "A?"},
        {"role": "assistant", "content": "B."},
        {"role": "user", "content": "C?"},
    )
    assert prompts.plain_prompt(messages, "de") == "Frage: A?\nAntwort:\nB.\n\nFrage: C?\nAntwort:\n"
    assert prompts.plain_prompt(messages[:1], "xx") == "Question: A?\nAnswer:\n"


# --- settings ---


def test_what_was_not_run_is_said_in_sentences():
    assert EvaluationSettings().not_run() == ["MT-Bench was not run: mt_bench_questions is 0."]
    named = EvaluationSettings(mt_bench_questions=8, harness_tasks=[]).not_run()
    assert "not judged" in named[0] and "harness_tasks is empty" in named[1]
    assert EvaluationSettings(judge="j", mt_bench_questions=8).not_run() == []


def test_what_judging_may_cost_does_not_make_it_another_run():
    free, capped = EvaluationSettings(), EvaluationSettings(judge_budget=2.0, judge_concurrency=3)
    assert free.fingerprint_values() == capped.fingerprint_values()
    assert free.fingerprint_values() != EvaluationSettings(judge="other").fingerprint_values()


def test_whom_to_compare_with_whom():
    assert comparisons(["base", "sft", "dpo"]) == [("base", "sft"), ("sft", "dpo")]
    assert comparisons(["base", "sft", "dpo", "a/b-c"])[-1] == ("dpo", "a/b-c")
    assert comparisons(["a/b", "c/d"]) == [("a/b", "c/d")] and comparisons(["a/b"]) == []


# --- scores from hand-made answers ---


def answer_row(model, unit, text, finish="stop", reference="", turn=0, kind="question", prompt="Wie?"):
    return {
        "model": model,
        "prompt_id": unit,
        "kind": kind,
        "category": "writing",
        "turn": turn,
        "prompt": prompt,
        "reference": reference,
        "answer": text,
        "finish_reason": finish,
        "mean_logprob": -1.0,
        "in_target_language": metrics.in_target_language(text, "de", "en"),
        "is_loop": metrics.is_loop(text),
        "keeps_form": None if kind == "conversation" else finish == "stop",
        "similarity": similarity.cosines([text], [reference])[0] if reference else None,
    }


def logprob_row(model, kind, unit, logprob, tokens=10, template="chat", turn=0):
    return {
        "model": model,
        "kind": kind,
        "template": template,
        "prompt_id": unit,
        "turn": turn,
        "tokens": tokens,
        "logprob": logprob,
    }


@pytest.fixture
def hand_made():
    """Four questions and one conversation of two turns; the base rambles in English, SFT and DPO answer."""
    written, likely = [], []
    for model in ("base", "sft", "dpo"):
        base = model == "base"
        for number in range(4):
            text = ENGLISH * 2 if base else f"{GERMAN} Nummer {number}."
            written.append(answer_row(model, f"q{number}", text, "length" if base else "stop"))
        for turn in (0, 1):
            text = "" if base and turn else GERMAN
            written.append(
                answer_row(model, "c", text, reference=GERMAN, turn=turn, kind="conversation", prompt=f"Und {turn}?")
            )
            likely.append(logprob_row(model, "reference", "c", -40.0 if base else -20.0 - turn, turn=turn))
            likely.append(logprob_row(model, "reference", "d", -30.0, turn=turn))
            if base:
                likely.append(logprob_row(model, "reference", "c", -35.0, template="plain", turn=turn))
                likely.append(logprob_row(model, "reference", "d", -30.0, template="plain", turn=turn))
        for number in range(4):
            margin = {"base": -1, "sft": 1 if number else -1, "dpo": 1}[model]
            likely.append(logprob_row(model, "chosen", f"p{number}", -20.0 + margin, tokens=5))
            likely.append(logprob_row(model, "rejected", f"p{number}", -20.0))
    return written, likely


def test_scores_of_hand_made_answers(hand_made):
    found, differences = scores.evaluate(*hand_made, samples=500, seed=0)
    assert set(found) == {"base", "sft", "dpo"}
    assert all(set(values) == set(scores.METRICS) for values in found.values())
    assert all(set(item) == {"value", "low", "high", "n"} for values in found.values() for item in values.values())
    base, sft, dpo = found["base"], found["sft"], found["dpo"]
    assert base["target_language_share"]["value"] == pytest.approx(1 / 6)
    assert sft["target_language_share"]["value"] == 1 and sft["target_language_share"]["n"] == 5
    assert sft["target_language_share"]["low"] == pytest.approx(0.05 ** (1 / 5))
    assert (base["stop_share"]["value"], sft["stop_share"]["value"]) == (pytest.approx(2 / 6), 1)
    assert base["chrf"]["value"] < 80 and sft["chrf"]["value"] == pytest.approx(100)
    assert base["similarity"]["value"] == pytest.approx(0.5 * similarity.cosines([GERMAN], [GERMAN])[0], abs=1e-6)
    assert sft["similarity"]["value"] == pytest.approx(1, abs=1e-5) and sft["similarity"]["n"] == 1
    assert (base["form_share"]["value"], sft["form_share"]["value"], sft["form_share"]["n"]) == (0, 1, 4)
    assert sft["median_length"]["value"] == len(GERMAN) + len(" Nummer 1.")
    assert base["nll_per_token"]["value"] == pytest.approx((35 + 35 + 30 + 30) / 40)
    assert sft["nll_per_token"]["value"] == pytest.approx((20 + 21 + 30 + 30) / 40)
    assert [m["preference_accuracy"]["value"] for m in (base, sft, dpo)] == [0, 0.75, 1]
    assert (differences["base_prompt"], differences["base_prompts"]["chat"]) == ("plain", pytest.approx(3.5))
    paired = differences["paired"]
    assert paired["sft-base"]["nll_per_token"]["value"] == pytest.approx(-29 / 40)
    assert paired["dpo-sft"]["preference_accuracy"]["value"] == 0.25
    assert paired["dpo-sft"]["target_language_share"]["high"] > 0  # no spread, and still no certainty
    views_of_pairs = differences["preference"]
    assert views_of_pairs["dpo_reward"]["value"] == pytest.approx((1 + 3 * 0.5) / 4)
    assert views_of_pairs["by_mean"]["dpo"]["value"] == 0  # fewer tokens, more surprise for each
    assert views_of_pairs["shorter_chosen"] == 1


def test_scores_without_references_or_pairs_are_unknown_not_wrong(hand_made):
    written = [{**row, "reference": ""} for row in hand_made[0]]
    likely = [row for row in hand_made[1] if row["kind"] == "none"]
    found, differences = scores.evaluate(written, likely, samples=100, seed=0)
    for name in ("nll_per_token", "chrf", "preference_accuracy"):
        assert found["sft"][name] == {"value": None, "low": None, "high": None, "n": 0}
    json.dumps([found, differences], allow_nan=False)


# --- a tiny real model ---


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A random Llama with a byte-level tokenizer: (folder of the model, tokenizer with the chat template)."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([GERMAN, ENGLISH, *(p.reference for p in prompts.held_out_prompts("de"))], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    chat.apply_template(fast)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=2048,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.2,
    )
    folder = tmp_path_factory.mktemp("tiny")
    LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder, fast


@pytest.fixture(scope="module")
def engine(tiny):
    folder, tokenizer = tiny
    return TransformersEngine(LlamaForCausalLM.from_pretrained(folder), tokenizer)


def direct_logprob(engine, messages, answer):
    """Log-probability of exactly the answer's tokens, one sequence at a time, by the definition."""
    tokenizer = engine.tokenizer
    head = tokenizer(chat.render(tokenizer, messages, True), add_special_tokens=False)["input_ids"]
    if tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id:
        head = [tokenizer.bos_token_id, *head]
    tail = tokenizer(answer, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits = engine.model(torch.tensor([head + tail])).logits[0].double().log_softmax(-1)
    total = sum(logits[len(head) + place - 1, token].item() for place, token in enumerate(tail))
    return total, len(tail)


def test_nll_counts_exactly_the_content_tokens(engine):
    asked = prompts.conversation_prompts(corpora.held_out_chat("de")[:3])
    rows = likelihood.score_references(engine, "base", asked, "de", ("chat", "plain"))
    chat_rows = [row for row in rows if row["template"] == "chat"]
    assert len(rows) == 2 * len(asked)
    for prompt, row in zip(asked, chat_rows, strict=True):
        wanted, tokens = direct_logprob(engine, list(prompt.messages), prompt.reference)
        assert row["tokens"] == tokens
        assert row["logprob"] == pytest.approx(wanted, rel=1e-4)
    plain = [row for row in rows if row["template"] == "plain"]
    assert [row["tokens"] for row in plain] == [row["tokens"] for row in chat_rows]
    assert [row["logprob"] for row in plain] != [row["logprob"] for row in chat_rows]


def test_every_turn_of_the_held_out_conversations_is_scored_however_few_prompts_are_answered():
    references = prompts.held_out_references("de")
    assert all(prompt.reference and prompt.kind == "conversation" for prompt in references)
    assert {prompt.unit for prompt in references} == {row["prompt_id"] for row in corpora.held_out_chat("de")}
    assert len(references) > len(prompts.held_out_prompts("de", 6))


def test_stop_token_and_template_do_not_enter_the_nll(engine):
    """The answer's tokens are those of the full conversation's loss mask without its stop token."""
    prompt = prompts.conversation_prompts(corpora.held_out_chat("de")[:1])[0]
    full = [*prompt.messages, {"role": "assistant", "content": prompt.reference}]
    ids, mask = chat.loss_mask(engine.tokenizer, full)
    trained = [token for token, counts in zip(ids, mask, strict=True) if counts]
    assert engine.tokenizer.eos_token_id in trained
    content = engine.tokenizer(prompt.reference, add_special_tokens=False)["input_ids"]
    assert trained[: len(content)] == content
    row = likelihood.score_references(engine, "sft", [prompt], "de", ("chat",))[0]
    assert row["tokens"] == len(content) < len(trained)


def test_preference_accuracy_of_a_tiny_model_is_that_of_direct_sums(engine):
    pairs = prompts.held_out_pairs("de")[:6]
    rows = likelihood.score_pairs(engine, "sft", pairs, "de")
    wins = [
        direct_logprob(engine, list(pair.messages), pair.chosen)[0]
        > direct_logprob(engine, list(pair.messages), pair.rejected)[0]
        for pair in pairs
    ]
    measure = scores.likelihood_measures(rows, "chat")["preference_accuracy"]
    assert measure.statistic(np.ones((1, len(pairs))))[0] == pytest.approx(sum(wins) / len(wins))


def test_answers_are_the_engines_and_are_judged(engine):
    asked = prompts.held_out_prompts("de", 4)
    told = []
    rows = answers.answer_prompts(engine, "base", asked, GenerationParams(6), "de", "en", on_answers=told.append)
    assert {row["similarity"] is None for row in rows if row["reference"]} == {False}
    assert sum(told) == 4
    assert [(row["prompt_id"], row["turn"]) for row in rows] == [(p.unit, p.turn) for p in asked]
    assert {row["finish_reason"] for row in rows} <= {"stop", "length"}
    again = engine.generate([chat.render(engine.tokenizer, p.messages) for p in asked], GenerationParams(6))
    assert [row["answer"] for row in rows] == [completion.text.strip() for completion in again]


# --- the whole stage ---


@pytest.fixture
def trained_run(tiny, tmp_path):
    """A run directory whose SFT and DPO stages left (random, different) adapters of the tiny model."""
    folder, tokenizer = tiny
    for seed, name in enumerate(("sft", "dpo"), 1):
        target = stage_path(str(tmp_path), name)
        torch.manual_seed(seed)
        lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
        get_peft_model(LlamaForCausalLM.from_pretrained(folder), lora).save_pretrained(target / "adapter")
        tokenizer.save_pretrained(target / "adapter")
        write_json(target / "manifest.json", manifest(settings={"model": str(folder)}))
    return EvaluationSettings(
        run_dir=str(tmp_path),
        model=str(folder),
        max_new_tokens=5,
        max_prompts=6,
        bootstrap_samples=200,
        harness_tasks=[],
    )


def test_run_makes_every_product_and_is_skipped_the_second_time(trained_run):
    trained_run = trained_run.model_copy(
        update={"mt_bench_questions": 3, "harness_tasks": ["phoenix_mc_de"], "harness_limit": 3}
    )
    folder = stage.run(trained_run)
    names = {path.name for path in folder.iterdir()}
    assert {"answers.parquet", "logprobs.parquet", "scores.json", "differences.json", "report.html"} <= names
    found = read_json(folder / "scores.json")
    assert list(found) == ["base", "sft", "dpo"]
    nll = [found[model]["nll_per_token"]["value"] for model in found]
    assert len(set(nll)) == 3 and all(math.isfinite(value) for value in nll)  # the adapters were really switched
    harness = read_lines(folder / "harness.jsonl")
    assert [(row["model"], row["chat_template"], row["n"]) for row in harness] == [
        (model, template, 3) for model in ("base", "sft", "dpo") for template in (False, True)
    ]
    bench = read_lines(folder / "mt_bench.jsonl")
    assert len(bench) == 18 and {row["turn"] for row in bench} == {0, 1}
    assert "questions for pupils" not in (folder / "report.html").read_text() and not (folder / "judged.json").exists()
    manifest = read_json(folder / "manifest.json")
    assert manifest["status"] == "complete" and manifest["counts"]["prompts"] == 6
    assert manifest["counts"]["references"] == len(prompts.held_out_references("de"))
    assert found["sft"]["nll_per_token"]["n"] == len({prompt.unit for prompt in prompts.held_out_references("de")})
    assert manifest["notes"]["dtype"] == "float32"
    before = (folder / "scores.json").stat().st_mtime_ns
    assert stage.run(trained_run) == folder
    assert (folder / "scores.json").stat().st_mtime_ns == before


def test_base_sft_and_dpo_stand_in_each_table_with_intervals(trained_run, serve):
    """The whole stage with a judge over HTTP that falters: 429, 500, no verdict."""

    def judge(body, number):
        if number < 2:
            return (429, {"Retry-After": "0"}, "slow down") if number else (500, {}, "oops")
        choice = {"index": 0, "message": {"content": f"Bewertung: {3 + number % 4}/10"}, "finish_reason": "stop"}
        if number % 7 == 0:
            choice["message"]["content"] = "Schwer zu sagen."
        return {"model": "j-1", "choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 3}}

    server = serve(judge)
    settings = trained_run.model_copy(
        update={
            "mt_bench_questions": 8, "harness_tasks": ["phoenix_grammar_de"], "harness_limit": 8, "judge": "j",
            "judge_base_url": server.url, "judge_prices": [1.0, 1.0],
        }
    )  # fmt: skip
    folder = stage.run(settings)
    stored = read_json(folder / "judged.json")
    assert stored["asked"] == 3 * 8 * 2 and list(stored["scores"]) == ["base", "sft", "dpo"]
    assert "cost 0.00" in stored["cost"] and stored["asked_again"] > 0
    for table in (
        views.scores_table(folder), views.judged_table(folder), views.harness_table(folder),
        views.paper_table(folder, 3), views.paper_table(folder, 4),
    ):  # fmt: skip
        rows = re.findall(r"<tr>.*?</tr>", table, re.S)
        shown = " ".join(rows).casefold()
        assert all(name in shown for name in ("base", "sft", "dpo"))
        assert re.search(r"\d ?%? to \d", " ".join(rows))
    differences = views.differences_table(folder)
    assert "SFT − Base" in differences and "DPO − SFT" in differences
    asked = len(server.seen)
    (folder / "manifest.json").unlink()
    assert stage.run(settings) == folder and len(server.seen) == asked, "replies that were paid for are not asked again"


def test_a_held_out_question_of_mt_bench_is_answered_once(trained_run, monkeypatch):
    seen, real = [], TransformersEngine.generate

    def generate(self, prompts, params, on_batch=None):
        seen.extend((prompt, params) for prompt in prompts)
        return real(self, prompts, params, on_batch)

    monkeypatch.setattr(TransformersEngine, "generate", generate)
    greedy = [q for q in corpora.questions("de") if q["category"] == "math"][:1]
    path = Path(trained_run.run_dir) / "q.jsonl"
    write_lines(path, greedy)
    asked = prompts.question_prompts(greedy)
    monkeypatch.setattr(stage, "held_out_prompts", lambda *_: asked)
    stage.run(trained_run.model_copy(update={"mt_bench": str(path), "mt_bench_questions": 1, "models": ["base"]}))
    assert len(seen) == len({str(item) for item in seen}) == 2  # the first turn is a held-out prompt as well


def test_base_in_the_stage_is_the_base_without_adapters(trained_run, engine):
    folder = stage.run(trained_run)
    stored = [row for row in read_rows(folder / "logprobs.parquet") if row["model"] == "base"]
    pairs = prompts.held_out_pairs("de")
    wanted = likelihood.score_pairs(engine, "base", pairs, "de")
    found = [row for row in stored if row["kind"] != "reference"]
    assert [row["logprob"] for row in found] == pytest.approx([row["logprob"] for row in wanted], rel=1e-4)


def test_resume_keeps_the_models_that_are_done(trained_run, monkeypatch):
    real, asked = answers.answer_prompts, []

    def killed_at_dpo(engine, model, *arguments, **keywords):
        asked.append(model)
        if model == "dpo" and asked.count("dpo") == 1:
            raise KeyboardInterrupt
        return real(engine, model, *arguments, **keywords)

    monkeypatch.setattr(answers, "answer_prompts", killed_at_dpo)
    with pytest.raises(KeyboardInterrupt):
        stage.run(trained_run)
    folder = stage_path(trained_run.run_dir, "evaluation")
    kept = list(read_rows(folder / "answers.parquet"))
    assert {row["model"] for row in kept} == {"base", "sft"}
    assert not (folder / "scores.json").exists()
    stage.run(trained_run)
    assert asked == ["base", "sft", "dpo", "dpo"]
    assert list(read_rows(folder / "answers.parquet"))[: len(kept)] == kept
    assert len(list(read_rows(folder / "answers.parquet"))) == 18


def test_a_model_from_elsewhere_is_evaluated_by_changing_one_parameter(tiny, tmp_path):
    folder, _ = tiny
    settings = EvaluationSettings(
        run_dir=str(tmp_path), model=str(folder), models=[str(folder)], max_new_tokens=3, max_prompts=2,
        bootstrap_samples=100, harness_tasks=[],
    )  # fmt: skip
    found = stage.run(settings)
    scored = read_json(found / "scores.json")
    assert list(scored) == [str(folder)] and math.isfinite(scored[str(folder)]["nll_per_token"]["value"])
    assert read_json(found / "differences.json")["paired"] == {}
    assert folder.name in (found / "report.html").read_text()


def test_whole_models_of_full_fine_tuning_are_evaluated_too(trained_run, tiny):
    folder, tokenizer = tiny
    tuned = {}
    for factor, name in ((1.5, "sft"), (2.0, "dpo")):
        tuned[name] = LlamaForCausalLM.from_pretrained(folder)
        with torch.no_grad():
            tuned[name].lm_head.weight.mul_(factor)
        target = stage_path(trained_run.run_dir, name) / "model"
        tuned[name].save_pretrained(target)
        tokenizer.save_pretrained(target)
    rows = list(read_rows(stage.run(trained_run) / "logprobs.parquet"))
    for name, model in tuned.items():
        wanted = likelihood.score_pairs(TransformersEngine(model, tokenizer), name, prompts.held_out_pairs("de"), "de")
        stored = [row["logprob"] for row in rows if row["model"] == name and row["kind"] != "reference"]
        assert stored == pytest.approx([row["logprob"] for row in wanted], rel=1e-4)


def test_other_settings_are_refused_and_bad_input_is_one_sentence(trained_run, tmp_path):
    stage.run(trained_run)
    with pytest.raises(PhoenixError, match="max_new_tokens"):
        stage.run(trained_run.model_copy(update={"max_new_tokens": 6}))
    with pytest.raises(PhoenixError, match="does not exist"):
        stage.run(trained_run.model_copy(update={"run_dir": str(tmp_path / "nothing")}))
    other = stage_path(trained_run.run_dir, "dpo") / "manifest.json"
    write_json(other, manifest(settings={"model": "some/other"}))
    with pytest.raises(PhoenixError, match="'some/other'"):
        stage.check_same_base(trained_run)


# --- report and views ---

EVIL = "<script>alert('x')</script> <img src=x onerror=alert(1)> & \"quoted\" </div></details>"


class Tags(html.parser.HTMLParser):
    """Collects tags and attributes, and complains about an end tag that closes nothing."""

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br", "link", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()


@pytest.fixture
def finished(hand_made, tmp_path):
    """The products of an evaluation whose SFT model and whose user wrote hostile HTML."""
    from phoenix_utils.evaluation import report
    from phoenix_utils.tables import write_rows

    written, likely = hand_made
    for row in written:
        if row["prompt_id"] == "q0":
            row.update(answer=EVIL, prompt=f"Frage {EVIL}")
        if row["prompt_id"] == "c":
            row.update(reference=f"Referenz {EVIL}")
    write_rows(tmp_path / "answers.parquet", written, answers.ANSWERS)
    write_rows(tmp_path / "logprobs.parquet", likely, likelihood.LOGPROBS)
    settings = EvaluationSettings(model="ju<b>dge", harness_tasks=["arc_de"])
    found, differences = scores.evaluate(written, likely, 200, 0)
    write_json(tmp_path / "scores.json", found)
    write_json(tmp_path / "differences.json", {**differences, "not_run": settings.not_run()})
    page = report.render(tmp_path, settings)
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    return tmp_path, page


def test_report_escapes_everything_a_model_wrote(finished):
    _, page = finished
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    names = {tag for tag, _ in tags.seen}
    assert "script" not in names and "b" in names
    assert not any(key.startswith("on") for _, attributes in tags.seen for key in attributes)
    assert "&lt;script&gt;alert(" in page and "ju&lt;b&gt;dge" in page
    sources = [attributes["src"] for tag, attributes in tags.seen if tag == "img"]
    assert len(sources) == len(scores.METRICS) + 1 and all(src.startswith("data:image/svg+xml") for src in sources)
    assert not any(str(attributes.get("href", "")).startswith("http") for _, attributes in tags.seen)


def test_report_tells_scores_differences_and_what_was_not_run(finished):
    _, page = finished
    for text in (
        "75 %",
        "SFT − Base",
        "+75 points",
        "plain question-and-answer prompt",
        "ARC-de",
        "nrefs:1|case:mixed",
        "width=device-width",
    ):
        assert text in page
    assert page.count("<details") == 6


def test_views_escape_too_and_draw(finished):
    import matplotlib.pyplot as plt

    folder, _ = finished
    for piece in (
        views.answers_side_by_side(folder, count=9),
        views.scores_table(folder),
        views.differences_table(folder),
    ):
        shown = piece._repr_html_()
        assert "<script" not in shown and "<table" in shown or "&lt;script" in shown
        tags = Tags()
        tags.feed(shown)
        assert tags.open == []
    assert views.answers_side_by_side(folder, kind="conversation").count('class="card"') == 2
    views.plot_scores(folder)
    assert [label.get_text() for label in views.plot_differences(folder, "nll_per_token").get_yticklabels()] == [
        "SFT − Base",
        "DPO − SFT",
    ]
    plt.close("all")


class Verdicts:
    """A judge that answers a chat with the same words each time."""

    def chat(self, texts, params, on_batch):
        replies = [{"text": EVIL + " [[7]]", "served": "v1", "tokens_in": 9, "tokens_out": 3} for _ in texts]
        on_batch(list(range(len(texts))), replies)
        return replies


def test_judged_page_shows_missing_verdicts_and_escapes_the_judge(finished):
    from phoenix_utils.evaluation import judged, mt_bench, report
    from phoenix_utils.evaluation.judge import Judge
    from phoenix_utils.evaluation.kept import Kept

    folder, _ = finished
    rows = [
        {"model": m, "question_id": str(q), "category": "math", "turn": t, "prompt": EVIL, "reference": "",
         "answer": EVIL, "finish_reason": "stop", "in_target_language": True, "is_loop": False}
        for m in ("base", "sft") for q in range(3) for t in (0, 1)
    ]  # fmt: skip
    write_lines(folder / "mt_bench.jsonl", rows)
    requests = mt_bench.score_requests(rows, "de") + mt_bench.pair_requests(rows, "base", "sft", "de")
    said = Judge("ju<b>dge", Verdicts(), Kept(folder / "kept"), by_chat=True).judge(requests)
    said[0].update(score=None, why="no verdict")
    write_lines(folder / "judgements.jsonl", said)
    write_json(folder / "judged.json", {**judged.summary(said, [("base", "sft")]), "cost": "free"})
    page = report.render(folder, EvaluationSettings())
    tags = Tags()
    tags.feed(page)
    assert tags.open == [] and not {"script"} & {tag for tag, _ in tags.seen}
    assert "ju&lt;b&gt;dge" in page and "1 of 6 missing" in page and "what the judge said" in page
    links = {a["href"].removeprefix("#q-") for tag, a in tags.seen if tag == "a" and a["href"].startswith("#q-")}
    assert links == {a["id"].removeprefix("q-") for _, a in tags.seen if str(a.get("id", "")).startswith("q-")}


def test_the_papers_tables_keep_what_is_printed_and_warn():
    from phoenix_utils.evaluation import paper

    heads, rows = paper.table_3(None)
    assert (heads[0], rows[0][1][0].text, rows[-1][0]) == ("Phoenix (paper)", "6.39", "average")
    assert all(cells[0].warnings for _, cells in rows)
    _, rows = paper.table_4(None)
    leo = rows[0][1][0]
    assert leo.text == "47.6%" and any("0.617 with 10 shots" in warning for warning in leo.warnings)
    mean = np.mean([paper.TABLE_3[name] for name in list(paper.TABLE_3)[2:-1]])
    assert mean == pytest.approx(paper.TABLE_3["average"], abs=1e-4)


def test_votes_are_blind_kept_and_counted_for_the_right_model(finished):
    from phoenix_utils.evaluation.vote import Ballot, ballot

    folder, _ = finished
    widget = ballot(folder, "base", "sft")
    assert "<script" not in widget.children[0].value and "base" not in widget.children[0].value
    votes = Ballot(folder, "base", "sft")
    total = len(votes.open)
    while votes.open:
        card = votes.open[0]
        votes.vote("left" if card["about"]["model"] == "sft" else "right")  # sft wins wherever it stands
    assert {row["model"] for row in votes.rows()} == {"base", "sft"} and len(votes.rows()) == total > 4
    again = Ballot(folder, "base", "sft")
    assert again.open == [] and again.result()["wins"]["sft-base"]["value"] == 1
    assert "100%" in ballot(folder, "base", "sft").children[0].value


def test_judge_and_votes_are_compared_on_what_both_have_seen(finished):
    from phoenix_utils.evaluation.vote import Ballot, judge_against_votes

    folder, _ = finished
    votes = Ballot(folder, "base", "sft")
    assert "Nothing to compare" in views.judge_and_votes(folder, "base", "sft")
    keys = [card["about"]["question_id"] for card in votes.cards]
    liked = {key: ("sft", "base", "same")[place % 3] for place, key in enumerate(keys)}
    while votes.open:
        card = votes.open[0]["about"]
        likes = liked[card["question_id"]]
        votes.vote("same" if likes == "same" else "left" if card["model"] == likes else "right")

    def judge(turned):
        points = {"sft": (3, 8), "base": (8, 3), "same": (5, 5)}
        for key in keys[:-1]:  # the last one was never scored
            unit, _, turn = key.rpartition("/")
            for model, score in zip(("base", "sft"), points[liked[key]], strict=True):
                score = 11 - score if turned and score != 5 else score
                yield {"model": model, "question_id": unit, "turn": int(turn), "kind": "score", "score": score}

    write_lines(folder / "judgements.jsonl", list(judge(turned=False)))
    found = judge_against_votes(folder, votes.rows())
    assert found["answers"] == len(keys) - 1
    assert [found[name]["value"] for name in ("agree", "kappa", "pearson")] == [1, 1, pytest.approx(1)]
    assert "kappa" in views.judge_and_votes(folder, "base", "sft")
    write_lines(folder / "judgements.jsonl", list(judge(turned=True)))
    found = judge_against_votes(folder, votes.rows())
    assert found["kappa"]["value"] < 0 and found["spearman"]["value"] == pytest.approx(-1)
