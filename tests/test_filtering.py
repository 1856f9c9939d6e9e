"""Filters: good rows pass, each fault is caught by the rule that names it, and no row is ever lost."""

import copy
import json
import random
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manifests import manifest  # tests/manifests.py, beside this file
from typer.testing import CliRunner

from phoenix_utils import artifacts, corpora, tables
from phoenix_utils.cli import app
from phoenix_utils.embeddings import open_embedder
from phoenix_utils.errors import PhoenixError
from phoenix_utils.filtering import (
    RULES,
    FilteringSettings,
    explain,
    findings,
    report,
    run,
    scoring,
    token_counter,
)
from phoenix_utils.filtering.near import Contamination, NearDuplicates, evaluation_texts
from phoenix_utils.filtering.rules import parts

LIMITS = FilteringSettings(skip_rules=[], allow_unknown_license=False)
ENGLISH = (
    "People who live beside the sea often say that the weather changes quickly. They keep a warm coat "
    "near the door, and they look at the sky before they leave the house in the morning."
)


def segments(sources: dict[str, str], translations: dict[str, str]) -> list[dict]:
    return [
        {
            "part": part,
            "text": text,
            "translation": translations[part],
            "finish_reason": "stop",
            "mean_logprob": -0.3,
            "attempt": "masked",
            "fault": "",
        }
        for part, text in sources.items()
    ]


def translated_chat() -> list[dict]:
    """Rows as the translation stage leaves them, made of the human German versions."""
    german = {row["prompt_id"]: row for row in corpora.held_out_chat("de")}
    rows = []
    for row in corpora.held_out_chat("en"):
        target = german[row["prompt_id"]]["messages"]
        texts = [{str(i): m["content"] for i, m in enumerate(side)} for side in (row["messages"], target)]
        rows.append({**row, "messages": target, "messages_source": row["messages"], "segments": segments(*texts)})
    return rows


def translated_preferences() -> list[dict]:
    german = {row["prompt_id"]: row for row in corpora.held_out_preferences("de")}
    rows = []
    for row in corpora.held_out_preferences("en"):
        target = {name: german[row["prompt_id"]][name] for name in ("prompt", "chosen", "rejected")}
        source = {f"{name}_source": row[name] for name in target}
        texts = [
            {"prompt": side["prompt"], **{name: side[name][-1]["content"] for name in ("chosen", "rejected")}}
            for side in (row, target)
        ]
        rows.append({**row, **target, **source, "segments": segments(*texts)})
    return rows


CHAT, PREFERENCES = translated_chat(), translated_preferences()


def last(row: dict) -> dict:
    """The message that a corruption spoils: the last answer."""
    return (row["messages"] if "messages" in row else row["chosen"])[-1]


def long_chat(rows: list[dict]) -> list[dict]:
    """Rows whose last answer is prose long enough to be spoiled in any way."""
    return [
        row
        for row in rows
        if len(last(row)["content"]) > 150
        and not set("`|$") & set(last(row)["content"])
        and (row.get("messages_source") or row["chosen_source"])[-1]["content"][-1] == "."
    ]


def spoil(row: dict, how: str) -> dict:
    """A copy of a row with one fault; the fault's name begins with the rule that has to catch it."""
    row = copy.deepcopy(row)
    message = last(row)
    text, source = message["content"], (row.get("messages_source") or row.get("chosen_source"))[-1]["content"]
    changed = {
        "structure, empty": " \n",
        "language, English": ENGLISH[: max(60, len(text))],
        "copied, whole": source,
        "copied, half": text[: len(text) // 2] + " " + source[len(source) // 2 :],
        "length, short": "Ja, das ist so.",
        "length, long": f"{text} {' '.join(reversed(text.split()))} {text}",
        "truncation, open code": f"{text}\n\n```python\nprint(1)",
        "truncation, cut": text[:-8].rstrip(' .,;:!?"“”)0123456789*–-') or "x",
        "repetition, phrase": text + " und so weiter und so fort" * 8,
        "repetition, sentence": text + "".join(f" {word}! Das weiß ich leider nicht genau." for word in "abcdef"),
        "repetition, letters": text + " se" + "hr" * 30,
        "run_together": text + " Dann noch die EinstellungenSpeichern und fertig.",
        "too_long": text + "".join(f" Zahl {number} folgt auf {number - 1}." for number in range(900)),
    }
    if how in changed:
        message["content"] = changed[how]
    elif how == "truncation, reported":
        row["segments"][-1]["finish_reason"] = "length"
    elif how == "failed_segment, lost code":
        row["segments"][-1]["fault"] = "lost `print()`"
    elif how == "structure, roles":
        message["role"] = "user"
    elif how == "structure, lost turn":
        (row["messages"] if "messages" in row else row["chosen"]).pop()
    elif how == "same_answers":
        row["rejected"] = copy.deepcopy(row["chosen"])
    return row


FAULTS = [
    "structure, empty", "structure, roles", "structure, lost turn", "language, English", "copied, whole",
    "copied, half", "length, short", "length, long", "truncation, reported", "truncation, open code",
    "truncation, cut", "failed_segment, lost code", "repetition, phrase", "repetition, sentence",
    "repetition, letters", "run_together", "too_long",
]  # fmt: skip


def count_words(messages: list[dict]) -> int:
    return sum(len(message["content"].split()) for message in messages)


def judge(row: dict, limits: FilteringSettings = LIMITS) -> set[str]:
    return {finding.rule for finding in findings(row, limits, count_words)}


@pytest.mark.parametrize("row", CHAT + PREFERENCES, ids=lambda row: row["prompt_id"])
def test_human_translations_pass(row):
    assert findings(row, LIMITS, count_words) == []


@pytest.mark.parametrize("how", FAULTS)
@pytest.mark.parametrize("kind", ["chat", "preferences"])
def test_each_fault_is_caught_by_the_rule_that_names_it(kind, how):
    rows = long_chat(CHAT if kind == "chat" else PREFERENCES)
    assert len(rows) >= 4
    for row in rows:
        assert how.split(",")[0] in judge(spoil(row, how)), row["prompt_id"]


def test_equal_answers_are_caught():
    for row in PREFERENCES:
        assert judge(spoil(row, "same_answers")) >= {"same_answers"}


@given(st.sampled_from(long_chat(CHAT + PREFERENCES)), st.sampled_from(FAULTS))
@settings(max_examples=60, deadline=None)
def test_a_row_carries_all_its_reasons(row, how):
    both = spoil(spoil(row, how), "truncation, reported")
    assert judge(both) >= {how.split(",")[0], "truncation"}


def test_rows_without_audit_columns_are_judged_by_what_is_there():
    for row in CHAT + PREFERENCES:
        bare = {name: value for name, value in row.items() if name != "segments" and not name.endswith("_source")}
        assert judge(bare) == set()
    bare = {"messages": CHAT[0]["messages"]}
    assert [source for _, source, _ in parts(bare)] == [None] * len(bare["messages"])
    for how in (
        "language, English",
        "structure, empty",
        "repetition, phrase",
        "truncation, open code",
        "too_long",
    ):
        row = spoil(long_chat(CHAT)[0], how)
        assert judge({"messages": row["messages"], "segments": None, "license": "mit"}) == {how.split(",")[0]}


def test_a_source_that_repeats_may_repeat_in_translation():
    source = "Write one line fifty times: " + "I must not run in the corridor. " * 10
    german = "Schreibe eine Zeile fünfzig Mal: " + "Ich darf nicht im Flur rennen. " * 10
    ask = {"role": "user", "content": "Strafarbeit bitte"}
    row = {
        "license": "MIT",
        "messages": [ask, {"role": "assistant", "content": german}],
        "messages_source": [ask, {"role": "assistant", "content": source}],
    }
    assert judge(row) == set()


def test_settings_move_the_lines():
    row = long_chat(CHAT)[0]
    assert judge(row, FilteringSettings(max_length=10)) == {"too_long"}
    assert judge(row, FilteringSettings(max_length_ratio=1.0, min_length_ratio=0.99)) == {"length"}
    loose = FilteringSettings(max_foreign_share=1.0, max_copied_share=1.0)
    assert judge(spoil(row, "copied, whole"), loose) == {"remainder"}


# The whole stage, with the student's real tokenizer.


def write_run(folder, chat: list[dict], preferences: list[dict], **values) -> FilteringSettings:
    limits = FilteringSettings(**{"run_dir": str(folder), "skip_rules": ["contaminated", "duplicate"], **values})
    translation = artifacts.stage_path(limits.run_dir, "translation")
    tables.Shards(translation / "chat", corpora.TRANSLATED_CHAT, 100).append(chat)
    tables.Shards(translation / "preferences", corpora.TRANSLATED_PREFERENCES, 100).append(preferences)
    return limits


def read(limits: FilteringSettings, name: str) -> list[dict]:
    return list(tables.read_rows(artifacts.stage_path(limits.run_dir, "filtering") / f"{name}.parquet"))


@pytest.fixture(scope="module")
def count_tokens(trimmed_model_dir):
    return token_counter(FilteringSettings(model=str(trimmed_model_dir)))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory, trimmed_model_dir):
    """A finished run over all human rows and one spoiled copy of a row for each fault."""
    spoiled = [{**spoil(long_chat(CHAT)[0], how), "prompt_id": f"bad {how}", "license": "mit"} for how in FAULTS]
    pairs = [{**spoil(long_chat(PREFERENCES)[0], how), "prompt_id": f"bad {how}"} for how in [*FAULTS, "same_answers"]]
    model = str(trimmed_model_dir)
    limits = write_run(tmp_path_factory.mktemp("run"), CHAT + spoiled, pairs + PREFERENCES, model=model)
    return limits, run(limits)


def test_stage_keeps_the_good_and_names_the_bad(mixed):
    limits, summary = mixed
    assert [row["prompt_id"] for row in read(limits, "chat")] == [row["prompt_id"] for row in CHAT]
    assert [row["prompt_id"] for row in read(limits, "preferences")] == [row["prompt_id"] for row in PREFERENCES]
    rejected = read(limits, "rejected")
    assert len(rejected) == 2 * len(FAULTS) + 1
    for row in rejected:
        assert row["prompt_id"].removeprefix("bad ").split(",")[0] in row["rules"]
        assert {finding["rule"] for finding in row["findings"]} == set(row["rules"])
        assert all(finding["detail"] for finding in row["findings"])
        assert json.loads(row["row"])["prompt_id"] == row["prompt_id"]
    for kind, schema in (("chat", corpora.CHAT), ("preferences", corpora.PREFERENCES)):
        path = artifacts.stage_path(limits.run_dir, "filtering") / f"{kind}.parquet"
        assert pq.read_schema(path).equals(schema)
        part = summary[kind]
        assert part["rows_in"] == part["kept"] + part["rejected"]
        assert part["waterfall"][-1]["left"] == part["kept"]
        assert sum(step["removed"] for step in part["waterfall"]) == part["rejected"]
        assert all(part["rules"][how.split(",")[0]] for how in FAULTS)
        for counts in (part["licenses"], part["sources"]):
            assert sum(each["rows_in"] for each in counts.values()) == part["rows_in"]
            assert sum(each["kept"] for each in counts.values()) == part["kept"]
    assert summary["chat"]["licenses"]["mit"] == {"rows_in": len(FAULTS), "kept": 0}


def test_stage_is_skipped_when_nothing_changed(mixed):
    limits, summary = mixed
    path = artifacts.stage_path(limits.run_dir, "filtering") / "chat.parquet"
    before = path.stat().st_mtime_ns
    assert run(limits) == summary
    assert path.stat().st_mtime_ns == before
    manifest = artifacts.read_json(path.with_name("manifest.json"))
    assert manifest["counts"]["chat_in"] == summary["chat"]["rows_in"]
    assert set(manifest["outputs"]) == {
        "chat.parquet",
        "preferences.parquet",
        "rejected.parquet",
        "report.html",
        "summary.json",
    }


def test_report_shows_what_happened_and_escapes_it(mixed):
    limits, summary = mixed
    table = report.reasons_table(summary)
    assert list(table.index) == list(RULES)
    assert table["chat: first"].sum() == summary["chat"]["rejected"]
    found = list(report.rejected_examples(limits, per_rule=1))
    fired = [rule for rule in RULES if summary["chat"]["rules"][rule] or summary["preferences"]["rules"][rule]]
    assert [example["rule"] for example in found] == fired
    page = report.examples_html(limits)
    assert page.count("<tr>") == len(fired) + 1
    licences = report.origins_table(summary)
    assert licences.loc[("chat", "mit"), "rows_in"] == len(FAULTS) and licences["kept"].sum() == sum(
        part["kept"] for part in summary.values()
    )
    import matplotlib

    matplotlib.use("agg")
    assert len(report.draw_waterfall(summary, "chat").patches) == 2 + sum(
        step["removed"] > 0 for step in summary["chat"]["waterfall"]
    )
    matrix = report.draw_overlap(summary, "chat").images[0].get_array()
    assert matrix.shape == (len(fired_in(summary, "chat")),) * 2
    points = report.length_points(limits)
    assert len(report.length_points(limits, max_points=5)) == 5
    assert {point["kept"] for point in points} == {True, False}
    report.draw_lengths(points, limits).figure.canvas.draw()


def fired_in(summary: dict, kind: str) -> list[str]:
    return [rule for rule, count in summary[kind]["rules"].items() if count]


def test_page_stands_alone_and_names_every_rule_with_examples(mixed):
    limits, summary = mixed
    page = (artifacts.stage_path(limits.run_dir, "filtering") / "report.html").read_text(encoding="utf-8")
    links = re.findall(r"(?:src|href)=\"([^\"]*)", page)
    assert links and all(link.startswith(("data:image/svg", "#")) for link in links)
    assert "<script" not in page and "default-src 'none'" in page
    for rule in fired_in(summary, "chat"):
        assert f"<summary>{rule}: " in page
    assert len(re.findall(r"<td>.*?, part ", page)) == sum(
        min(5, sum(summary[kind]["rules"][rule] for kind in summary)) for rule in RULES
    )


def test_why_a_row_went_or_stayed_is_told(mixed):
    limits, _ = mixed
    told = explain(limits.run_dir, "bad copied, whole")
    assert told.count("rejected by") == 2  # a conversation and a pair of this name
    assert RULES["copied"] in told and "100% of it is copied" in told and "translation: " in told
    assert explain(limits.run_dir, CHAT[0]["prompt_id"]).startswith(f"chat {CHAT[0]['prompt_id']}: kept")
    done = CliRunner().invoke(app, ["filter", limits.run_dir, "--explain", "bad run_together"])
    assert done.exit_code == 0 and RULES["run_together"] in done.output
    with pytest.raises(PhoenixError, match="no translated row of the id 'nobody'"):
        explain(limits.run_dir, "nobody")
    with pytest.raises(PhoenixError, match="filter the run first"):
        explain(limits.run_dir + "/nowhere", "nobody")


def test_a_kept_row_tells_what_the_rules_that_are_off_would_say(tmp_path, count_tokens):
    row = {**spoil(long_chat(CHAT)[0], "run_together"), "prompt_id": "joined"}
    limits = write_run(tmp_path, [row], PREFERENCES[:1], skip_rules=["contaminated", "run_together"])
    assert run(limits, count_tokens)["chat"]["skipped"] == {"contaminated": 1, "run_together": 1}
    told = explain(limits.run_dir, "joined")
    assert told.startswith("chat joined: kept") and "'EinstellungenSpeichern' looks like" in told


def test_unknown_rules_are_refused_with_those_that_are_known():
    with pytest.raises(
        PhoenixError, match=r"'numbres' \(did you mean 'numbers'\?\); known: license, structure, .*score"
    ):
        FilteringSettings(skip_rules=["language", "numbres"])


def test_model_output_is_escaped_in_examples(tmp_path, count_tokens):
    evil = spoil(CHAT[0], "structure, roles")
    evil["messages"][-1]["content"] = "<script>alert('x')</script> & mehr"
    evil["prompt_id"] = "<b>id</b>"
    limits = write_run(tmp_path, [*CHAT, evil], PREFERENCES)
    run(limits, count_tokens)
    whole = artifacts.stage_path(limits.run_dir, "filtering") / "report.html"
    for page in (report.examples_html(limits), whole.read_text(encoding="utf-8")):
        assert "<script" not in page and "&lt;script&gt;" in page and "<b>id" not in page


@given(st.data())
@settings(max_examples=12, deadline=None)
def test_rows_in_are_rows_kept_plus_rows_rejected(tmp_path_factory, count_tokens, data):
    seed = data.draw(st.integers(0, 2**16))
    chooser = random.Random(seed)
    rows = {"chat": [*CHAT[:2]], "preferences": [*PREFERENCES[:2]]}
    for kind, pool in (("chat", long_chat(CHAT)), ("preferences", long_chat(PREFERENCES))):
        for number in range(data.draw(st.integers(0, 12))):
            row = chooser.choice(pool)
            row = row if chooser.random() < 0.4 else spoil(row, chooser.choice(FAULTS))
            rows[kind].append({**row, "prompt_id": f"{kind}-{number}"})
    limits = write_run(tmp_path_factory.mktemp("run"), rows["chat"], rows["preferences"])
    summary = run(limits, count_tokens)
    rejected = read(limits, "rejected")
    for kind, given_rows in rows.items():
        kept = [row["prompt_id"] for row in read(limits, kind)]
        out = [row["prompt_id"] for row in rejected if row["kind"] == kind]
        assert sorted(kept + out) == sorted(row["prompt_id"] for row in given_rows)
        assert (summary[kind]["kept"], summary[kind]["rejected"]) == (len(kept), len(out))


def test_nothing_kept_is_an_error_that_counts_the_reasons(tmp_path, count_tokens):
    bad = [spoil(row, "copied, whole") for row in long_chat(CHAT)]
    limits = write_run(tmp_path, bad, PREFERENCES)
    with pytest.raises(
        PhoenixError, match=rf"none of the {len(bad)} translated chat rows .*copied {len(bad)}"
    ) as error:
        run(limits)
    steps = [int(left) for left in re.findall(r"(\d+) after \w+", str(error.value))]  # down to nothing
    assert steps == sorted(steps, reverse=True) and steps[0] < len(bad) and steps[-1] == 0
    folder = artifacts.stage_path(limits.run_dir, "filtering")
    assert not (folder / "chat.parquet").exists()
    assert len(read(limits, "rejected")) == len(bad)
    assert artifacts.read_json(folder / "manifest.json")["status"] != "complete"


@pytest.mark.parametrize(
    "how, rule",
    [
        (lambda text: text.replace("2,4", "2,9"), "numbers"),
        (lambda text: text.replace("example.org/a", "example.org/b"), "addresses"),
        (lambda text: text.replace("print(x)", "drucke(x)"), "code"),
        (lambda text: text.replace("x^2", "x^3"), "formulas"),
        (lambda text: text.replace("nicht zu früh heraus, sonst wird der Teig zäh", "früh heraus"), "negation"),
        (lambda text: text.replace("- eins\n- zwei\n- drei", "eins, zwei und drei"), "shape"),
        (lambda text: text + " Und du weißt das. Fragen Sie mich.", "address_form"),
        (lambda text: "German: " + text, "chatter"),
        (lambda text: text.replace("sonst wird der Teig zäh", "or else the dough turns tough"), "remainder"),
        (lambda text: text + " Rühr die Masse kräftig um." * 2, "repeated_sentence"),
    ],
)  # fmt: skip
def test_each_content_rule_names_its_own_fault(how, rule):
    source = (
        "Weigh 2.4 kg of flour, see https://example.org/a for the table, and let $x^2 = 4$ be.\n\n- one\n- two\n"
        "- three\n\n```python\nprint(x)\n```\n\nDo not take it out too early, or else the dough turns tough."
    )
    german = (
        "Wieg 2,4 kg Mehl ab, die Tabelle steht unter https://example.org/a, und es sei $x^2 = 4$.\n\n- eins\n- zwei\n"
        "- drei\n\n```python\nprint(x)\n```\n\nNimm ihn nicht zu früh heraus, sonst wird der Teig zäh."
    )

    def row(text: str) -> dict:
        ask = {"role": "user", "content": "Brot"}
        return {
            "license": "MIT",
            "messages": [ask, {"role": "assistant", "content": text}],
            "messages_source": [ask, {"role": "assistant", "content": source}],
        }

    assert judge(row(german)) == set()
    assert how(german) != german
    assert rule in judge(row(how(german)))


def test_a_license_must_be_stated_and_allowed():
    row = {**CHAT[0], "license": "unknown"}
    assert judge(row) == {"license"}
    assert judge(row, LIMITS.model_copy(update={"allow_unknown_license": True})) == set()
    assert judge({**row, "license": "CC-BY-NC-4.0"}) == {"license"}
    assert judge({**row, "license": "cc0-1.0"}) == set()


def test_pairs_whose_difference_is_lost():
    row = copy.deepcopy(long_chat(PREFERENCES)[0])
    row["rejected"][-1]["content"] = "Ja."
    assert "length_gap" in judge(row)
    row = copy.deepcopy(long_chat(PREFERENCES)[0])
    for segment in row["segments"]:
        segment["fault"] = "cut off" if segment["part"] == "rejected" else ""
    assert judge(row) == {"one_side"}
    for side, text in (("chosen_source", "**One** two"), ("rejected_source", "One two")):
        row[side][-1]["content"] = text
    for side, text in (("chosen", "Eins zwei"), ("rejected", "Eines, zwei")):
        row[side][-1]["content"] = text
    assert "format_lost" in judge(row)


def test_equal_rows_are_one_row_and_different_ones_are_not():
    near = NearDuplicates(0.8)
    text = " ".join(f"wort{number}" for number in range(200))
    assert near.seen("first", text) is None
    assert sum(near.seen(str(number), text) == "100% like first" for number in range(10_000)) == 10_000
    assert len(near.names) == 1
    assert near.seen("changed", text.replace("wort7 ", "anders ")) is not None
    assert near.seen("other", " ".join(f"wort{number}" for number in range(500, 700))) is None
    assert near.seen("empty", "") is None and near.seen("word", "Ja") is None and near.seen("again", "ja!") is not None
    assert near.seen("ja", "パンには小麦粉と水と塩と時間が必要です。") is None
    assert near.seen("ja again", "パンには小麦粉と水と塩と時間が必要です。") == "100% like ja"


def test_signatures_estimate_what_two_texts_have_in_common():
    near, words = NearDuplicates(0.8), [f"wort{number}" for number in range(1000)]
    for changed in (5, 20, 50):
        other = [f"anders{n}" if n % (1000 // changed) == 0 else word for n, word in enumerate(words)]
        runs = [{tuple(text[at : at + 5]) for at in range(996)} for text in (words, other)]
        exact = len(runs[0] & runs[1]) / len(runs[0] | runs[1])
        assert abs((near._signature(words) == near._signature(other)).mean() - exact) < 0.17


def test_a_question_of_the_evaluation_is_named():
    question = corpora.questions("de")[0]["turns"][0]
    found = Contamination([("question 1 turn 1", question)], most=0.5)
    assert found.question_in([f"Bitte hilf mir. {question} Danke!"]) == "100% of question 1 turn 1 stands in it"
    assert found.question_in([question[: len(question) // 3]]) is None
    assert found.question_in([row["messages"][0]["content"] for row in CHAT]) is None


def test_questions_from_a_file_are_among_those_of_the_evaluation(tmp_path):
    path = tmp_path / "questions.jsonl"
    text = "Warum ist der Himmel am Abend über dem kleinen See so rot?"
    tables.write_lines(path, [{"question_id": 7, "turns": [text, "Und morgens?"]}])
    texts = evaluation_texts(FilteringSettings(evaluation_questions=str(path)))
    assert Contamination(texts, most=0.5).question_in([text]) == f"100% of {path} question 7 turn 1 stands in it"
    assert len(dict(texts)) == len(texts)  # a name stands for one text
    tables.write_lines(path, [{"question_id": 7, "text": text}])
    with pytest.raises(PhoenixError, match="line 1, is no question"):
        evaluation_texts(FilteringSettings(evaluation_questions=str(path)))


@given(st.data())
@settings(max_examples=6, deadline=None)
def test_turning_a_rule_off_frees_the_rows_whose_only_reason_it_was(tmp_path_factory, count_tokens, data):
    chooser = random.Random(data.draw(st.integers(0, 2**16)))
    spoiled = [spoil(chooser.choice(long_chat(CHAT)), chooser.choice(FAULTS)) for _ in range(10)]
    rows = [*CHAT[:2], *({**row, "prompt_id": f"row {number}"} for number, row in enumerate(spoiled))]
    limits = write_run(tmp_path_factory.mktemp("run"), rows, PREFERENCES[:1], skip_rules=["contaminated"])
    run(limits, count_tokens)
    before = {row["prompt_id"]: row["rules"] for row in read(limits, "rejected") if row["kind"] == "chat"}
    rule = data.draw(st.sampled_from(sorted({rule for rules in before.values() for rule in rules})))
    other = write_run(tmp_path_factory.mktemp("run"), rows, PREFERENCES[:1], skip_rules=["contaminated", rule])
    summary = run(other, count_tokens)
    after = {row["prompt_id"]: row["rules"] for row in read(other, "rejected") if row["kind"] == "chat"}
    assert after == {name: left for name, rules in before.items() if (left := [r for r in rules if r != rule])}
    assert summary["chat"]["skipped"][rule] == sum(rule in rules for rules in before.values())


# Scores.


def swapped(rows: list[dict]) -> list[dict]:
    """Rows that have each other's answers."""
    rows = [{**copy.deepcopy(row), "prompt_id": f"swapped {row['prompt_id']}"} for row in rows]
    answers = [last(row)["content"] for row in rows]
    for row, answer in zip(rows, [*answers[1:], answers[0]], strict=True):
        last(row)["content"] = answer
    return rows


@pytest.fixture(scope="module")
def scored(tmp_path_factory, count_tokens):
    """A run with embedding scores, every rule but "score" off, over good rows and swapped ones."""
    off = [rule for rule in RULES if rule != "score"]
    limits = write_run(
        tmp_path_factory.mktemp("run"), CHAT[:8] + swapped(CHAT[:3]), PREFERENCES[:2], skip_rules=off,
        scores=["cosine"], score_keep_rate=0.9, score_batch=7,
    )  # fmt: skip
    return limits, run(limits, count_tokens)


def test_scores_find_texts_that_say_something_else(scored):
    limits, _ = scored
    rejected = [row for row in read(limits, "rejected") if row["prompt_id"].startswith("swapped")]
    assert len(rejected) == 3 and all(row["rules"] == ["score"] for row in rejected)
    assert all("cosine 0." in row["findings"][0]["detail"] for row in rejected)


def test_scores_stay_with_their_rows_and_the_keep_rate_makes_the_threshold(scored):
    limits, summary = scored
    folder = artifacts.stage_path(limits.run_dir, "filtering")
    lines = list(tables.read_rows(folder / "scores.parquet"))
    assert [line["prompt_id"] for line in lines if line["part"] == "0"] == [
        row["prompt_id"] for row in tables.read_rows(artifacts.stage_path(limits.run_dir, "translation") / "chat")
    ]
    values = [line["cosine"] for line in lines if line["cosine"] is not None]
    limit = float(artifacts.read_json(folder / "manifest.json")["notes"]["threshold_cosine"])
    assert abs(sum(value < limit for value in values) - 0.1 * len(values)) <= 1
    for row in read(limits, "chat"):
        mine = [line for line in lines if line["prompt_id"] == row["prompt_id"]]
        assert [each["cosine"] for each in row["scores"]] == [line["cosine"] for line in mine]
        assert all(each["cosine"] is None or each["cosine"] >= limit - 1e-4 for each in row["scores"])
    assert "distribution of the score cosine" in (folder / "report.html").read_text(encoding="utf-8")


def test_a_threshold_that_is_set_goes_before_the_keep_rate(scored, count_tokens, tmp_path):
    off = [rule for rule in RULES if rule != "score"]
    limits = write_run(tmp_path, CHAT[:2], PREFERENCES[:1], skip_rules=off, scores=["cosine"], min_cosine=-1.0)
    summary = run(limits, count_tokens)
    assert summary["chat"]["kept"] == 2 and summary["preferences"]["kept"] == 1


def test_translator_scores_are_those_of_the_runs_own_translator(tmp_path, trimmed_model_dir, count_tokens):
    [row], [pair_row] = (sorted(rows, key=lambda row: len(str(row)))[:1] for rows in (CHAT, PREFERENCES))
    limits = write_run(
        tmp_path, [row], [pair_row], skip_rules=list(RULES), scores=["forward", "dual"], model="any/student"
    )
    made = {"model": str(trimmed_model_dir), "adapter": "none", "engine": "transformers", "load_in_4bit": False,
            "batch_tokens": 4096, "num_gpus": 1}  # fmt: skip
    path = artifacts.stage_path(limits.run_dir, "translation") / "manifest.json"
    artifacts.write_json(path, manifest(settings=made))
    run(limits, count_tokens)
    line = next(line for line in read(limits, "scores") if line["forward"] is not None)
    engine = scoring.open_translator(limits, scoring.run_translator(limits))
    pair = [" ".join(row[name][int(line["part"])]["content"].split()) for name in ("messages_source", "messages")]
    there = engine.score([f"Translate this from English to German:\nEnglish: {pair[0]}\nGerman:"], [" " + pair[1]])[0]
    back = engine.score([f"Translate this from German to English:\nGerman: {pair[1]}\nEnglish:"], [" " + pair[0]])[0]
    assert line["forward"] == pytest.approx(there, abs=1e-3)
    assert line["dual"] == pytest.approx(abs(there - back) - (there + back) / 2, abs=1e-3)
    artifacts.write_json(path, manifest(settings={**made, "engine": "server"}))
    with pytest.raises(PhoenixError, match="stands behind a server"):
        scoring.run_translator(limits)
    path.unlink()
    with pytest.raises(PhoenixError, match="cosine needs none"):
        scoring.run_translator(limits)


def test_any_encoder_can_embed_and_a_missing_one_is_refused(trimmed_model_dir):
    embed = open_embedder(str(trimmed_model_dir))
    found = embed(["Guten Morgen!", "Wir fahren heute mit dem Rad an den See."])
    assert found.shape[0] == 2 and np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-4)
    assert np.allclose(embed(["Guten Morgen!"])[0], found[0], atol=1e-3)  # padding changes nothing
    with pytest.raises(PhoenixError, match="neither a folder, nor a hub id"):
        open_embedder("no encoder")


# Data of other kinds.


def chat_row(name: str, source: str, text: str) -> dict:
    ask = {"role": "user", "content": text}, {"role": "user", "content": source}
    answer = {"role": "assistant", "content": text + "!"}, {"role": "assistant", "content": source + "!"}
    return {"prompt_id": name, "messages": [ask[0], answer[0]], "messages_source": [ask[1], answer[1]],
            "source": "test", "license": "mit"}  # fmt: skip


def test_rows_of_one_word_pass_and_ten_thousand_equal_rows_are_one(tmp_path, count_tokens):
    rows = [chat_row(f"row {number}", "Yes", "Ja") for number in range(10_000)]
    limits = write_run(tmp_path, rows, PREFERENCES[:1], skip_rules=["contaminated"])
    assert run(limits, count_tokens)["chat"]["rules"] == {**dict.fromkeys(RULES, 0), "duplicate": 9_999}
    assert [row["prompt_id"] for row in read(limits, "chat")] == ["row 0"]


def test_japanese_and_a_language_the_detector_does_not_know(tmp_path, count_tokens):
    japanese = chat_row(
        "bread", "Bread needs flour, water, salt and time. Let the dough rest over night, then bake it very hot.",
        "パンには小麦粉と水と塩と時間が必要です。生地を一晩休ませて、それからとても熱いオーブンで焼いてください。",
    )  # fmt: skip
    english = {**chat_row("english", ENGLISH, ENGLISH), "prompt_id": "english"}
    limits = write_run(tmp_path / "ja", [japanese, english], PREFERENCES, language="ja", skip_rules=["contaminated"])
    with pytest.raises(PhoenixError, match="none of the .* preferences"):  # they are German
        run(limits, count_tokens)
    assert [row["prompt_id"] for row in read(limits, "chat")] == ["bread"]
    faroese = chat_row("faroese", "The weather changes quickly in the islands.", "Veðrið broytist skjótt í oyggjunum.")
    limits = write_run(tmp_path / "fo", [faroese], PREFERENCES[:1], language="fo", skip_rules=["contaminated"])
    assert run(limits, count_tokens)["chat"]["kept"] == 1
    notes = artifacts.read_json(artifacts.stage_path(limits.run_dir, "filtering") / "manifest.json")["notes"]
    assert notes["language_rule"] == "off: unknown to lingua"


def test_missing_translation_is_one_clear_sentence(tmp_path):
    with pytest.raises(PhoenixError, match="does not exist"):
        run(FilteringSettings(run_dir=str(tmp_path)))


def test_changed_limits_are_refused_without_redo(mixed):
    limits, _ = mixed
    with pytest.raises(PhoenixError, match="max_repeats"):
        run(limits.model_copy(update={"max_repeats": 9}))


def test_importing_the_stage_is_cheap():
    import subprocess
    import sys

    code = (
        "import sys; from phoenix_utils.filtering import FilteringSettings; FilteringSettings();"
        "heavy = {'torch', 'transformers', 'pandas', 'matplotlib', 'lingua', 'datasets', 'pyarrow'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
