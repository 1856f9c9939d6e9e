"""The corpora written for this project: schema, split, distinct rows, turns in order, right language."""

import json
import re

import numpy as np
import pytest
from rapidfuzz import fuzz, process

from phoenix_utils import corpora, pairs, sources
from phoenix_utils.filtering import RULES, findings
from phoenix_utils.filtering.settings import FilteringSettings

CATEGORIES = {"writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities"}


def raw(name: str) -> list[dict]:
    lines = sources.packaged(name).read_text(encoding="utf-8").splitlines()
    assert all(lines), f"{name} has an empty line"
    return [json.loads(line) for line in lines]


def texts(row: dict) -> list[str]:
    if "turns" in row:
        return row["turns"]
    if "messages" in row:
        return [message["content"] for message in row["messages"]]
    return [row["prompt"], row["chosen"][-1]["content"], row["rejected"][-1]["content"]]


def similar(first: str, second: str) -> float:
    """Share of word runs of length five that two texts have in common (Jaccard)."""
    runs = [set(zip(*(text.lower().split()[i:] for i in range(5)), strict=False)) for text in (first, second)]
    return len(runs[0] & runs[1]) / max(1, len(runs[0] | runs[1]))


@pytest.mark.parametrize(
    "name, total, held, key",
    [
        ("conversations.jsonl", 160, 40, "prompt_id"),
        ("conversations.de.jsonl", 40, 40, "prompt_id"),
        ("preferences.jsonl", 160, 60, "prompt_id"),
        ("preferences.de.jsonl", 60, 60, "prompt_id"),
        ("questions.de.jsonl", 80, None, "question_id"),
        ("questions.en.jsonl", 80, None, "question_id"),
        ("pairs.en-de.jsonl", 200, None, "pair_id"),
        ("judge_replies.jsonl", 200, None, "reply_id"),
        ("grammar.de.jsonl", 400, None, "pair_id"),
        ("multiple_choice.de.jsonl", 60, None, "question_id"),
        ("pairs_train.en-de.jsonl", 400, None, "pair_id"),
    ],
)
def test_sizes_ids_split_and_licence(name, total, held, key):
    rows = raw(name)
    assert len(rows) == total
    assert len({row[key] for row in rows}) == total
    assert {(row["source"], row["license"]) for row in rows} == {("phoenix-utils", "CC0-1.0")}
    if held is not None:
        eighths = corpora.CHAT_HELD_OUT if name.startswith("conv") else corpora.PREFERENCE_HELD_OUT
        assert sum(corpora.held_out(row[key], eighths) for row in rows) == held


@pytest.mark.parametrize("name", ["conversations", "preferences"])
def test_german_versions_mirror_the_held_out_rows(name):
    read = {"conversations": corpora.held_out_chat, "preferences": corpora.held_out_preferences}[name]
    english, german = ({row["prompt_id"]: row for row in read(language)} for language in ("en", "de"))
    assert english.keys() == german.keys()
    for prompt_id, row in german.items():
        assert len(texts(row)) == len(texts(english[prompt_id]))
        for source, text in zip(texts(english[prompt_id]), texts(row), strict=True):
            assert text != source or pairs.letters(source) < 20, prompt_id
            fences = [re.findall(r"^\s*(?:```|~~~)\w*", each, re.MULTILINE) for each in (source, text)]
            assert fences[0] == fences[1], prompt_id


def test_rows_have_turns_in_order_and_no_empty_text():
    settings = FilteringSettings(language="en", source_language="de")
    for row in raw("conversations.jsonl") + raw("preferences.jsonl"):
        found = findings(row, settings, lambda messages: sum(len(m["content"].split()) for m in messages))
        assert not found, (row["prompt_id"], found)
        assert all(text == text.strip() for text in texts(row)), row["prompt_id"]


def test_preferences_prefer():
    for row in raw("preferences.jsonl") + raw("preferences.de.jsonl"):
        assert row["score_chosen"] > row["score_rejected"]
        assert row["chosen"][0] == row["rejected"][0] == {"role": "user", "content": row["prompt"]}
        assert len(row["chosen"]) == len(row["rejected"]) == 2
        assert similar(row["chosen"][-1]["content"], row["rejected"][-1]["content"]) < 0.9


def test_conversations_are_varied():
    rows = raw("conversations.jsonl")
    assert sum(len(row["messages"]) > 2 for row in rows) >= 40
    answers = "\n".join(message["content"] for row in rows for message in row["messages"])
    assert "```" in answers and re.search(r"^\|", answers, re.MULTILINE) and re.search(r"^[-*] ", answers, re.MULTILINE)
    assert re.search(r"\$[^$]+\$|\\\(", answers)


def test_no_text_comes_twice():
    for name in ("conversations", "preferences"):
        rows = raw(f"{name}.jsonl")
        prompts = [texts(row)[0] for row in rows]
        assert len({prompt.casefold() for prompt in prompts}) == len(rows)
        for index, prompt in enumerate(prompts):
            close = [other for other in prompts[:index] if similar(prompt, other) > 0.3]
            assert not close, (prompt, close)
    everything = [text for row in raw("conversations.jsonl") for text in texts(row) if len(text) > 60]
    assert len(set(everything)) == len(everything)


def test_preference_prompts_are_not_conversation_prompts():
    talks = [texts(row)[0] for row in raw("conversations.jsonl")]
    for row in raw("preferences.jsonl"):
        assert all(similar(row["prompt"], talk) < 0.3 for talk in talks), row["prompt_id"]


def test_languages():
    for name, language in (
        ("conversations.jsonl", "en"), ("conversations.de.jsonl", "de"), ("preferences.jsonl", "en"),
        ("preferences.de.jsonl", "de"), ("questions.de.jsonl", "de"), ("questions.en.jsonl", "en"),
    ):  # fmt: skip
        other = "de" if language == "en" else "en"
        for row in raw(name):
            for text in texts(row):
                share = pairs.foreign_share(text, language, other)
                assert share is None or share <= 0.3, (name, text)
    for row in corpora.sentence_pairs("en", "de") + corpora.training_pairs("en", "de"):
        assert pairs.wrong_language(row["source_text"], "en", "de") is None
        assert pairs.wrong_language(row["target_text"], "de", "en") is None


def test_questions_cover_the_categories_in_two_turns():
    rows = corpora.questions("de")
    assert {row["category"] for row in rows} == CATEGORIES
    for row in rows:
        assert len(row["turns"]) == 2 and all(row["turns"])
        assert row["reference"] == [] or len(row["reference"]) == 2
    counts = [sum(row["category"] == name for row in rows) for name in CATEGORIES]
    assert counts == [10] * 8
    english = {row["question_id"]: row for row in corpora.questions("en")}
    for row in rows:
        same = english.pop(row["question_id"])
        assert (same["category"], len(same["reference"])) == (row["category"], len(row["reference"]))
        assert len(same["turns"]) == 2 and all(same["turns"])
    assert not english


def test_sentence_pairs_have_a_register_and_a_kind():
    rows = corpora.sentence_pairs("en", "de") + corpora.training_pairs("en", "de")
    assert {row["register"] for row in rows} == {"du", "sie", "none"}
    assert {row["kind"] for row in rows} == {"instruction", "question", "answer"}
    assert len({row["pair_id"] for row in rows}) == len({row["source_text"].casefold() for row in rows}) == 600
    for row in rows:
        assert "\n" not in row["source_text"] + row["target_text"]
        marks = [
            sorted(re.findall(r"`[^`]+`|\{\w+\}|%s|https?://[\w./{}-]*\w", row[side]))
            for side in ("source_text", "target_text")
        ]
        assert marks[0] == marks[1], row["pair_id"]


def test_no_two_prompts_are_alike():
    prompts = [texts(row)[0] for name in ("conversations", "preferences") for row in raw(f"{name}.jsonl")]
    prompts += [row["source_text"] for name in ("pairs", "pairs_train") for row in raw(f"{name}.en-de.jsonl")]
    scores = process.cdist(prompts, prompts, scorer=fuzz.token_sort_ratio, processor=str.lower)
    np.fill_diagonal(scores, 0)
    first, second = np.unravel_index(scores.argmax(), scores.shape)
    assert scores.max() <= 85, (prompts[first], prompts[second])


def test_rules_have_a_meaning():
    assert all(RULES.values())


def test_judge_replies_mean_a_score_or_none():
    rows = raw("judge_replies.jsonl")
    assert sum(row["score"] is None for row in rows) == 20
    assert all(row["score"] is None or 1 <= row["score"] <= 10 for row in rows)
    assert {row["language"] for row in rows} == {"de", "en"} and len({row["shape"] for row in rows}) >= 20
    assert not any(row["strict"] for row in rows if row["score"] is None)


def test_multiple_choice_has_one_answer_and_no_favourite_place():
    rows = raw("multiple_choice.de.jsonl")
    assert all(len(set(row["options"])) == 4 and row["answer"] in range(4) for row in rows)
    assert [sum(row["answer"] == place for row in rows) for place in range(4)] == [15] * 4
    right = [len(row["options"][row["answer"]]) for row in rows]
    others = [len(text) for row in rows for text in row["options"]]
    assert abs(np.mean(right) - np.mean(others)) < 2, "the length of an option tells"
