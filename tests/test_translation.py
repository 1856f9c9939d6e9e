"""The translation stage: resumable, each segment once, structure kept, and the real model at the end."""

import importlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from phoenix_utils import corpora, mt_metrics, pairs
from phoenix_utils.artifacts import read_json
from phoenix_utils.decoding import Completion
from phoenix_utils.errors import PhoenixError
from phoenix_utils.tables import read_rows
from phoenix_utils.translation import (
    SegmentStore,
    Translation,
    TranslationSettings,
    Translator,
    choose_translator,
    examples,
    packaged_adapter,
    packaged_card,
    prompts,
    run,
    stage_inputs,
    translate_texts,
)
from phoenix_utils.translation.report import translation_summary

# The package hands `translate` functions on, so the module itself is asked for by name.
rows_module = importlib.import_module("phoenix_utils.translation.rows")
translate_module = importlib.import_module("phoenix_utils.translation.translate")

CHAT = [
    {
        "prompt_id": "one",
        "messages": [
            {"role": "user", "content": "Say hello.\nTwice, please."},
            {"role": "assistant", "content": "```\nhello\n```\n- hello\n- hello"},
        ],
    },
    {
        "prompt_id": "two",
        "messages": [
            {"role": "user", "content": "Say hello."},
            {"role": "assistant", "content": "Hello."},
        ],
    },
]
PAIRS = [{"prompt_id": "p", "prompt": "Say hello.", "chosen": "Hello.", "rejected": "No."}]


class Upper:
    """An engine that answers at once: the last source line of ALMA's prompt in capitals."""

    def __init__(self, fail_after: int | None = None):
        self.asked: list[str] = []
        self.fail_after = fail_after

    def generate(self, prompts, params, on_batch=None):
        done = []
        for place, prompt in enumerate(prompts):
            if self.fail_after is not None and len(self.asked) == self.fail_after:
                raise RuntimeError("the engine died")
            source = prompt.rpartition("\nEnglish: ")[2].removesuffix("\nGerman:")
            self.asked.append(source)
            done.append(Completion(" " + source.upper(), "stop", -0.5))
            if on_batch:
                on_batch([place], done[-1:])
        return done


@pytest.fixture
def sources(tmp_path):
    for name, rows in (("chat", CHAT), ("pairs", PAIRS)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return {
        "chat": str(tmp_path / "chat.jsonl"),
        "preferences": str(tmp_path / "pairs.jsonl"),
        "run_dir": str(tmp_path / "run"),
    }


def translate(sources, engine, **changes):
    settings = TranslationSettings(**{**sources, **changes})
    return run(settings, Translator(settings, engine))


def test_rows_come_back_in_order_with_structure_and_audit(sources):
    folder = translate(sources, Upper())
    first, second = read_rows(folder / "chat")
    assert [first["prompt_id"], second["prompt_id"]] == ["one", "two"]
    assert [m["content"] for m in first["messages"]] == [
        "SAY HELLO.\nTWICE, PLEASE.",
        "```\nhello\n```\n- HELLO\n- HELLO",
    ]
    assert first["messages_source"] == CHAT[0]["messages"]
    assert {s["part"] for s in first["segments"]} == {"0", "1"}
    assert first["segments"][0] == {
        "part": "0",
        "text": "Say hello.",
        "translation": "SAY HELLO.",
        "finish_reason": "stop",
        "mean_logprob": -0.5,
        "attempt": "masked",
        "fault": "",
    }
    assert first["good"] and second["good"]
    (pair,) = read_rows(folder / "preferences")
    assert pair["prompt"] == "SAY HELLO." and pair["rejected"][1]["content"] == "NO."
    assert pair["chosen"][0] == {"role": "user", "content": "SAY HELLO."}
    assert pair["prompt_source"] == "Say hello." and pair["chosen_source"][-1]["content"] == "Hello."


def test_rows_that_cannot_be_used_are_counted_with_their_reasons(sources):
    with open(sources["chat"], "a") as file:
        file.write("\n" + json.dumps({"messages": [{"role": "tool", "content": "x"}]}) + "\n")
    folder = translate(sources, Upper())
    manifest = read_json(folder / "manifest.json")
    assert manifest["counts"]["chat_rows"] == 2 and manifest["counts"]["chat_rows_unusable"] == 1
    assert manifest["notes"]["chat_rows_unusable"] == {"unknown role 'tool'": 1}
    assert "preferences_rows_unusable" not in manifest["counts"] | manifest["notes"]
    assert translation_summary(folder)["rows of the corpora that cannot be used"] == 1


def test_a_price_is_counted_and_does_not_make_another_run_of_it(sources):
    folder = translate(sources, Upper(), price_per_hour=3600.0)
    manifest = read_json(folder / "manifest.json")
    assert 0 < manifest["notes"]["euros"] <= manifest["seconds"] + 0.1
    assert translate(sources, Upper(fail_after=0), price_per_hour=None) == folder


ODD = {
    "white space": " \t\n\n  ",
    "only code": "```\nx = 1\n```",
    "only emoji": "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 \u2764\ufe0f",
    "one long line": "This has no end and " * 10_000,
    "one long word": "x" * 200_000,
    "an open fence": "Look:\n```python\nprint(1)\nand on it goes",
    "a fence too many": "```\na\n```\nprose\n```\n",
    "mixed line endings": "one\r\ntwo\rthree\nfour\u2028five\x0bsix\x0c",
    "right to left": "\u0627\u0644\u0633\u0644\u0627\u0645 \u200fabc\u200e `x` \u05e9\u05dc\u05d5\u05dd.",
    "control characters": "a\x00b\x07c\x1b[31mred\x1b[0m \ufeff",
}


def test_odd_texts_come_through_the_stage_unharmed(sources, tmp_path):
    class Echo(Upper):
        def generate(self, prompts, params, on_batch=None):
            done = [
                Completion(prompt.rpartition("\nEnglish: ")[2].removesuffix("\nGerman:"), "stop", -0.5)
                for prompt in prompts
            ]
            if on_batch:
                on_batch(list(range(len(done))), done)
            return done

    rows = [{"instruction": f"Explain {name}.", "output": f"{text}?"} for name, text in ODD.items()]
    (tmp_path / "odd.jsonl").write_text("\n".join(map(json.dumps, rows)))
    folder = translate(sources, Echo(), chat=str(tmp_path / "odd.jsonl"))
    found = {row["messages"][0]["content"]: row for row in read_rows(folder / "chat")}
    for row in rows:
        translated = found[row["instruction"]]
        assert translated["messages"] == translated["messages_source"], row["instruction"]
        assert translated["good"], row["instruction"]


def test_equal_segments_are_asked_for_once(sources):
    engine = Upper()
    translate(sources, engine)
    assert sorted(engine.asked) == ["Hello.", "No.", "Say hello.", "Twice, please.", "hello"]


def test_a_failing_engine_loses_nothing_and_the_next_run_asks_only_for_the_rest(sources):
    dying, rest = Upper(fail_after=2), Upper()
    with pytest.raises(RuntimeError):
        translate(sources, dying)
    folder = translate(sources, rest)
    assert len(dying.asked) == 2 and len(rest.asked) == 3 and not set(dying.asked) & set(rest.asked)
    assert read_json(folder / "manifest.json")["counts"]["segments"] == 5


def test_an_engine_that_answers_too_few_prompts_is_one_sentence_and_loses_nothing(sources):
    class Lazy(Upper):
        def generate(self, prompts, params, on_batch=None):
            return super().generate(prompts[:-2], params, on_batch)

    with pytest.raises(PhoenixError, match="the Lazy gave 3 answers to 5 prompts: what was finished is kept"):
        translate(sources, Lazy())
    rest = Upper()
    translate(sources, rest)
    assert len(rest.asked) == 2


def test_a_finished_run_loads_no_model_and_other_settings_are_refused(sources):
    folder = translate(sources, Upper())
    settings = TranslationSettings(**sources, max_rows=60)
    assert run(settings) == folder  # Translator without an engine: it would have to load the real one
    with pytest.raises(PhoenixError, match=r"max_rows 60 \(now 1\)"):
        translate(sources, Upper(), max_rows=1)


def test_kill_nine_in_the_middle_keeps_every_finished_batch(sources, tmp_path):
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from test_translation import Upper, translate\n"
        "class Slow(Upper):\n"
        "    def generate(self, prompts, params, on_batch=None):\n"
        "        def told(*batch):\n"
        "            on_batch(*batch); print('batch', flush=True); time.sleep(0.2)\n"
        "        return super().generate(prompts, params, told)\n"
        f"translate({sources!r}, Slow())\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, os.path.dirname(__file__)], stdout=subprocess.PIPE)
    for _ in range(3):
        assert child.stdout.readline()
    child.send_signal(signal.SIGKILL)
    child.wait()
    time.sleep(0.1)
    rest = Upper()
    killed = list(read_rows(translate(sources, rest) / "chat"))
    assert len(rest.asked) == 2
    undisturbed = list(read_rows(translate({**sources, "run_dir": str(tmp_path / "far" / "other")}, Upper()) / "chat"))
    assert killed == undisturbed


def test_an_empty_translation_keeps_the_source_and_the_audit_says_so(sources):
    class Silent(Upper):
        def generate(self, prompts, params, on_batch=None):
            done = [Completion("", "stop", 0.0) for _ in prompts]
            if on_batch:
                on_batch(list(range(len(done))), done)
            return done

    folder = translate(sources, Silent())
    row = next(read_rows(folder / "chat"))
    assert row["messages"][0]["content"] == "Say hello.\nTwice, please."
    assert row["segments"][0]["translation"] == "" and row["segments"][0]["fault"] == "empty" and not row["good"]


def test_a_copied_segment_gets_a_second_try_behind_other_examples():
    class CopiesOnce(Upper):
        def generate(self, prompts, params, on_batch=None):
            second = any("How much flour" in prompt for prompt in prompts)
            done = [Completion("Das Haus." if second else "The old house is for sale.", "stop", -1.0) for _ in prompts]
            if on_batch:
                on_batch(list(range(len(done))), done)
            return done

    told = {}
    translator = Translator(TranslationSettings(prompt="few_shot"), CopiesOnce())
    (done,) = translator.translate_segments(
        ["The old house is for sale."], lambda places, batch: told.update(zip(places, batch, strict=True))
    )
    assert done.text == "Das Haus." and told == {0: done}


def test_a_damaged_store_is_one_sentence(tmp_path):
    (tmp_path / "segments.sqlite").write_bytes(b"not a database" * 100)
    with pytest.raises(PhoenixError, match="segments.sqlite is damaged"):
        SegmentStore(tmp_path / "segments.sqlite")


@pytest.mark.parametrize("damage", ["x'ff00'", "7", "'other'"])
def test_a_damaged_segment_is_asked_for_again(tmp_path, damage):
    with SegmentStore(tmp_path / "segments.sqlite") as store:
        store.add(["one", "two"])
        store.connection.execute(f"UPDATE segments SET text = {damage} WHERE id = 1")
        store.drop_damaged()
        store.add(["one", "two"])
        assert sorted(text for part in store.pending(8) for text in part) == ["one", "two"]


def test_a_damaged_index_of_the_store_hides_no_text(tmp_path):
    from phoenix_utils.translation.store import segment_key

    path, texts = tmp_path / "segments.sqlite", [f"text {number}" for number in range(50)]
    with SegmentStore(path) as store:
        store.add(texts)
    data, key = bytearray(path.read_bytes()), segment_key(texts[7])
    places = [found.start() for found in re.finditer(re.escape(key), data)]
    [place] = [place for place in places if data[place // 4096 * 4096] == 10]  # a leaf of an index, not of a table
    data[place : place + len(key)] = bytes(len(key))
    path.write_bytes(data)
    with SegmentStore(path) as store:
        store.drop_damaged()
        store.add(texts)
        assert sorted(text for part in store.pending(8) for text in part) == sorted(texts)


def test_control_characters_do_not_break_the_store(tmp_path):
    with SegmentStore(tmp_path / "segments.sqlite") as store:
        store.add(["a\x00b", "ok"])
        store.put(["ok"], [Translation("gut", "stop", -1.0)])
        assert store.get(["ok"])[0].text == "gut" and list(store.pending(5)) == [["a\x00b"]]
        with pytest.raises(KeyError):
            store.get(["ok", "a\x00b"])


def test_a_run_takes_over_what_a_run_beside_it_translated_in_the_same_way(sources, tmp_path):
    translate(sources, Upper())
    again, other, far = Upper(), Upper(), Upper()
    folder = translate({**sources, "run_dir": str(tmp_path / "second")}, again, max_rows=1)
    assert again.asked == [] and read_json(folder / "manifest.json")["counts"]["segments_reused"] == 5
    translate({**sources, "run_dir": str(tmp_path / "third")}, other, max_new_tokens=99)  # another translator
    translate({**sources, "run_dir": str(tmp_path / "deeper" / "run")}, far)  # a run that is not beside them
    assert len(other.asked) == len(far.asked) == 5


def test_a_store_that_cannot_be_read_is_passed_over(sources, tmp_path):
    broken = tmp_path / "broken" / "01_translation"
    broken.mkdir(parents=True)
    (broken / "segments.sqlite").write_bytes(b"not a database" * 100)
    engine = Upper()
    translate(sources, engine)
    assert len(engine.asked) == 5


class Scripted:
    """Answers from a function of the source line; counts what it was asked."""

    def __init__(self, answer):
        self.answer, self.asked = answer, []

    def generate(self, prompts, params, on_batch=None):
        sources = [prompt.rpartition("\nEnglish: ")[2].removesuffix("\nGerman:") for prompt in prompts]
        self.asked += sources
        done = [Completion(self.answer(source), "stop", -0.5) for source in sources]
        if on_batch:
            on_batch(list(range(len(done))), done)
        return done


def attempts(text, answer):
    engine, told = Scripted(answer), {}
    translator = Translator(TranslationSettings(), engine)
    (done,) = translator.translate_segments([text], lambda at, got: told.update(zip(at, got, strict=True)))
    assert told == {0: done}  # reported once, and only when final
    return done, engine.asked


def test_a_lost_mask_is_tried_unmasked_then_in_parts_then_kept_as_failed():
    text = "Run `ls` now."
    done, asked = attempts(text, lambda source: "Starte `ls` jetzt." if "`" in source else "Starte jetzt.")
    assert (done.text, done.attempt, done.fault) == ("Starte `ls` jetzt.", "unmasked", "")
    assert asked == ["Run X1 now.", "Run `ls` now."]
    done, asked = attempts(text, lambda source: "Starte jetzt." if "ls" in source or "X1" in source else source.upper())
    assert (done.text, done.attempt, done.fault) == ("RUN `ls` NOW.", "parts", "")
    assert asked == ["Run X1 now.", "Run `ls` now.", "Run", "now."]
    done, asked = attempts(text, lambda source: "`neu`")
    assert done.fault == "lost `ls`" and not done.usable and len(asked) == 4


def test_a_loop_is_tried_again_with_a_penalty_on_repetition():
    class Loops(Scripted):
        def generate(self, prompts, params, on_batch=None):
            self.answer = lambda _: "Das Haus ist alt." if params.repetition_penalty > 1 else "Das Haus " * 20
            return super().generate(prompts, params, on_batch)

    engine = Loops(None)
    (done,) = Translator(TranslationSettings(), engine).translate_segments(["The house is old."])
    assert (done.text, done.attempt, done.fault) == ("Das Haus ist alt.", "penalised", "") and len(engine.asked) == 2


def test_without_protected_text_a_failure_goes_sentence_by_sentence():
    done, asked = attempts("First one. Second one.", lambda source: "" if " Second" in source else source.upper())
    assert (done.text, done.attempt) == ("FIRST ONE. SECOND ONE.", "parts")
    assert asked == ["First one. Second one.", "First one.", "Second one."]


def test_alma_is_asked_to_the_letter():
    assert prompts.alma("Good night.", "en", "de") == (
        "Translate this from English to German:\nEnglish: Good night.\nGerman:"
    )
    shots = prompts.few_shot("Good night.", "en", "de")
    assert shots.endswith(prompts.alma("Good night.", "en", "de")) and shots.count("English: ") == 5
    assert prompts.few_shot("Good night.", "en", "yo") == prompts.alma("Good night.", "en", "yo")
    with pytest.raises(PhoenixError, match="'xx' is not a language code"):
        prompts.language_name("xx")


def test_few_shot_examples_are_in_no_measurement():
    measured = {row["source_text"] for row in corpora.sentence_pairs("en", "de")}
    shown = {english for sets in (examples.EXAMPLES, examples.SECOND_EXAMPLES) for english, _ in sets["de"]}
    assert not measured & shown


@pytest.mark.parametrize("language", sorted(examples.EXAMPLES))
def test_examples_are_in_the_language_they_are_said_to_be_in(language):
    texts = [text for _, text in examples.EXAMPLES[language]]
    assert len(set(texts)) == len(texts) >= 3
    assert pairs.detect_language(" ".join(texts), language, "en") == language


@pytest.mark.parametrize(
    ("model", "style"),
    [("haoranxu/ALMA-13B", "alma"), ("haoranxu/ALMA-7B-R", "alma"), ("haoranxu/X-ALMA-13B-Group1", "x_alma"),
     ("Unbabel/TowerInstruct-7B-v0.2", "tower"), ("utter-project/EuroLLM-1.7B-Instruct", "eurollm"),
     ("utter-project/EuroLLM-1.7B", "few_shot"), ("google/gemma-3-4b-it", "chat"), ("/models/alma-7b", "alma"),
     ("LeoLM/leo-mistral-hessianai-7b", "few_shot"), ("LeoLM/leo-mistral-hessianai-7b-chat", "chat")],
)  # fmt: skip
def test_a_models_name_says_how_it_wants_to_be_asked(model, style):
    assert choose_translator(TranslationSettings(model=model)).prompt == style


def test_each_family_is_asked_as_its_card_says():
    ask = {name: build("Good night.", "en", "nl") for name, build in prompts.STYLES.items()}
    assert ask["tower"] == "Translate the following text from English into Dutch.\nEnglish: Good night.\nDutch:"
    assert ask["eurollm"] == "Translate the following English source text to Dutch:\nEnglish: Good night.\nDutch:"
    assert ask["x_alma"] == ask["alma"] and "Good night." in ask["chat"]


EMBEDDED = "embedded:gemma-3-270m"


@pytest.mark.parametrize(
    "settings, prompt, adapter, reason",
    [
        ({}, "alma", True, "trained for en-de"),
        ({"language": "nl"}, "few_shot", False, "no adapter of embedded:gemma-3-270m for en-nl"),
        ({"source_language": "de", "language": "en"}, "few_shot", False, "for de-en"),
        ({"model": "owner/model"}, "few_shot", False, "no adapter of owner/model"),
        ({"model": "owner/model", "prompt": "alma"}, "alma", False, "set by hand"),
        ({"prompt": "few_shot"}, "few_shot", False, "set by hand"),
        ({"adapter": "none"}, "few_shot", False, "no adapter"),
    ],
)
def test_which_translator_serves_which_languages(settings, prompt, adapter, reason):
    choice = choose_translator(TranslationSettings(**settings))
    assert (choice.prompt, choice.adapter is not None) == (prompt, adapter) and reason in choice.reason


def test_an_adapter_of_ones_own_is_an_input_of_the_stage(tmp_path, sources):
    with pytest.raises(PhoenixError, match="where there is no adapter"):
        choose_translator(TranslationSettings(adapter=str(tmp_path)))
    (tmp_path / "adapter_config.json").write_text("{}")
    settings = TranslationSettings(**sources, adapter=str(tmp_path))
    assert choose_translator(settings).prompt == "alma" and stage_inputs(settings)["adapter"] == tmp_path
    assert "adapter" not in stage_inputs(TranslationSettings(**sources, adapter="none"))


def test_the_packaged_adapter_is_small_and_has_a_card():
    folder = packaged_adapter(EMBEDDED, "en", "de")
    assert (folder / "adapter_model.safetensors").stat().st_size <= 8_000_000
    config = read_json(folder / "adapter_config.json")
    assert config["r"] <= 16 and config["base_model_name_or_path"] == EMBEDDED
    card = packaged_card("en", "de")
    assert "phoenix adapt profiles/adapt_en_de.yaml" in card and "MPL-2.0" in card and "chrF" in card
    assert packaged_card("en", "nl") == "no adapter for en-nl"


def test_the_packaged_adapter_translates_what_it_has_not_seen():
    rows = corpora.sentence_pairs("en", "de")[::20]
    done = translate_texts([row["source_text"] for row in rows])
    counts = [mt_metrics.chrf_counts(text, row["target_text"]) for text, row in zip(done, rows, strict=True)]
    assert mt_metrics.chrf(np.array(counts))(np.ones((1, len(rows))))[0] > 40
    assert not any(pairs.copied(row["source_text"], text) for text, row in zip(done, rows, strict=True))


def test_the_real_model_translates_prose_and_keeps_code():
    translator = Translator(TranslationSettings())
    text = "The house is very old.\n```python\nprint('The house')\n```\n\n- Where is the station?"
    (german,) = translate_texts([text], translator=translator)
    lines = german.split("\n")
    assert lines[1:4] == ["```python", "print('The house')", "```"] and lines[5].startswith("- ")
    assert "Das Haus" in lines[0] and "Wo ist" in lines[5]
    assert translate_texts(["", "```\nx\n```", "🙂 42"], translator=translator) == [
        "",
        "```\nx\n```",
        "🙂 42",
    ]


class Dutch(Upper):
    """Capitals for every language; a sentence about the kitchen never ends."""

    def generate(self, prompts, params, on_batch=None):
        self.asked = [prompt.rpartition("\nEnglish: ")[2].rpartition("\n")[0] for prompt in prompts]
        done = [Completion(" " + text.upper(), "length" if "kitchen" in text else "stop", -0.5) for text in self.asked]
        if on_batch:
            on_batch(list(range(len(done))), done)
        return done


def test_where_nobody_wrote_the_evaluation_it_is_translated_and_says_so(sources):
    german = translate({**sources, "run_dir": f"{sources['run_dir']}-de"}, Upper())
    assert not list(german.glob("held_out*")), "German has its evaluation from people"
    none = translate({**sources, "run_dir": f"{sources['run_dir']}-none"}, Dutch(), language="nl", held_out_rows=0)
    assert not list(none.glob("held_out*"))
    folder = translate(sources, Dutch(), language="nl", held_out_rows=8)
    chat, pairs, questions = (
        list(read_rows(folder / f"held_out_{kind}")) for kind in ("chat", "preferences", "questions")
    )
    assert len(chat) == len(pairs) == len(questions) == 8
    english = {row["prompt_id"]: row for row in corpora.held_out_chat("en")}
    for row in chat:
        assert row["messages_source"] == english[row["prompt_id"]]["messages"]
        assert row["messages"] != row["messages_source"]
    assert len({row["category"] for row in questions}) >= 5, "taken evenly, not from the front"
    originals = {row["question_id"]: row for row in corpora.questions("en")}
    for row in questions:
        original = originals[row["question_id"]]
        assert [len(row["turns"]), len(row["reference"])] == [len(original["turns"]), len(original["reference"])]
        assert row["turns"] != original["turns"]
    with pytest.raises(PhoenixError, match="held_out_rows 8"):
        translate(sources, Dutch(), language="nl", held_out_rows=9)
    # In German it decides nothing, so a finished run stays finished.
    translate({**sources, "run_dir": f"{sources['run_dir']}-de"}, Upper(0), held_out_rows=9)
    # What the run's own rows count as good is not blurred by what the evaluation asks.
    assert read_json(folder / "manifest.json")["counts"]["rows_good"] == 3


def test_an_interrupted_table_goes_on_behind_its_last_shard_and_a_lost_one_is_made_again(sources, monkeypatch):
    whole = list(read_rows(translate({**sources, "run_dir": f"{sources['run_dir']}-whole"}, Upper()) / "chat"))
    monkeypatch.setattr(translate_module, "SHARD_ROWS", 1)
    assembled = []
    real = rows_module._finish_chat

    def dies_at_the_second(row, translated):
        assembled.append(row["prompt_id"])
        if len(assembled) == 2:
            raise RuntimeError("killed")
        return real(row, translated)

    table = rows_module._CORPORA["chat"]
    monkeypatch.setitem(rows_module._CORPORA, "chat", table._replace(finish=dies_at_the_second))
    with pytest.raises(RuntimeError):
        translate(sources, Upper())
    folder = translate(sources, Upper())
    assert assembled == ["one", "two", "two"]
    assert list(read_rows(folder / "chat")) == whole
    (folder / "chat" / "00000.parquet").unlink()
    assert list(read_rows(translate(sources, Upper()) / "chat")) == whole


def test_pending_segments_come_in_windows_once_each_in_the_order_of_the_corpus(tmp_path):
    with SegmentStore(tmp_path / "segments.sqlite") as store:
        store.add(["c", "a", "c", "b"])
        store.add(["d", "a", "e"])
        store.put(["a"], [Translation("A", "stop", -1.0)])
        asked = []
        for window in store.pending(2):
            asked.append(window)
            store.put(window, [Translation(text.upper(), "stop", -1.0) for text in window])
        assert asked == [["c", "b"], ["d", "e"]] and list(store.pending(2)) == []
        assert [done.text for done in store.get(["e", "a", "e", "c"])] == ["E", "A", "E", "C"]
        assert store.totals() == {"segments": 5, "done": 5, "characters": 5, "characters_done": 5}


def test_three_random_kills_in_two_thousand_rows_change_nothing(tmp_path):
    chat = tmp_path / "chat.jsonl"
    rows = [
        {"instruction": f"Name {n} things.\nOr {n % 700} others.", "output": f"- {n} stones\n- a `list`"}
        for n in range(2000)
    ]
    chat.write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "pairs.jsonl").write_text(json.dumps(PAIRS[0]))
    sources = {"chat": str(chat), "preferences": str(tmp_path / "pairs.jsonl"), "max_rows": None}
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from test_translation import Upper, translate\n"
        "class Batches(Upper):\n"
        "    def generate(self, prompts, params, on_batch=None):\n"
        "        done = super().generate(prompts, params)\n"
        "        for at in range(0, len(done), 50):\n"
        "            if on_batch: on_batch(list(range(len(done)))[at:at + 50], done[at:at + 50]); time.sleep(0.02)\n"
        "        return done\n"
        f"translate({sources | {'run_dir': str(tmp_path / 'killed')}!r}, Batches())\n"
    )
    seed = random.randrange(10**6)
    print("seed of the kills:", seed)
    waits = random.Random(seed)
    store = tmp_path / "killed" / "01_translation" / "segments.sqlite"
    for _ in range(3):
        child = subprocess.Popen([sys.executable, "-c", code, os.path.dirname(__file__)])
        while not store.exists() and child.poll() is None:
            time.sleep(0.01)
        time.sleep(waits.uniform(0, 2.5))
        child.kill()
        child.wait()
    killed = translate({**sources, "run_dir": str(tmp_path / "killed")}, Upper())
    undisturbed = translate({**sources, "run_dir": str(tmp_path / "elsewhere" / "whole")}, Upper())
    for table in ("chat", "preferences"):
        assert list(read_rows(killed / table)) == list(read_rows(undisturbed / table))
