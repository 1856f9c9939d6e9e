"""Readers: every layout, every kind of file, every kind of broken input."""

import csv
import gzip
import itertools
import json
import tracemalloc
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phoenix_utils import corpora, sources
from phoenix_utils.errors import PhoenixError

ASK, REPLY = "Name a colour.", "Blue."
TALK = [{"role": "user", "content": ASK}, {"role": "assistant", "content": REPLY}]
WORSE = [{"role": "user", "content": ASK}, {"role": "assistant", "content": "Dog."}]

CHAT_ROWS = {
    "messages": {"messages": TALK},
    "ultrachat": {"prompt": ASK, "prompt_id": "u1", "messages": TALK},
    "sharegpt": {
        "id": "s1",
        "conversations": [{"from": "human", "value": ASK}, {"from": "gpt", "value": REPLY}],
    },
    "alpaca": {"instruction": ASK, "input": "", "output": REPLY},
    "alpaca without input": {"instruction": ASK, "output": REPLY},
    "dolly": {"instruction": ASK, "context": "", "response": REPLY, "category": "open_qa"},
    "self-instruct": {"id": "t1", "instruction": ASK, "instances": [{"input": "", "output": REPLY}]},
    "prompt and completion": {"prompt": ASK, "completion": REPLY},
}
PREFERENCE_ROWS = {
    "ultrafeedback h4": {
        "prompt": ASK, "prompt_id": "p1", "chosen": TALK, "rejected": WORSE, "messages": TALK,
        "score_chosen": 8.5, "score_rejected": 3,
    },
    "ultrafeedback argilla": {
        "source": "sharegpt", "instruction": ASK, "chosen_response": REPLY, "rejected_response": "Dog.",
        "chosen_avg_rating": 8.5, "rejected_avg_rating": 3.0, "chosen_model": "m",
    },
    "ultrafeedback argilla cleaned": {
        "source": "x", "prompt": ASK, "chosen": TALK, "chosen-rating": 8.5, "chosen-model": "m",
        "rejected": WORSE, "rejected-rating": 3, "rejected-model": "m",
    },
    "texts": {"prompt": ASK, "chosen": REPLY, "rejected": "Dog."},
    "prompt as messages": {"prompt": TALK[:1], "chosen": TALK[1:], "rejected": WORSE[1:]},
    "messages only": {"chosen": TALK, "rejected": WORSE},
    "rasbt": {"instruction": ASK, "input": "", "output": "x", "chosen": REPLY, "rejected": "Dog."},
    "question": {"system": "", "question": ASK, "chosen": REPLY, "rejected": "Dog."},
}  # fmt: skip


def save(path: Path, rows: list[dict]) -> str:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            flat = [{k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()} for row in rows]
            writer.writerows(flat)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
@pytest.mark.parametrize("layout", CHAT_ROWS)
def test_chat_layouts(tmp_path, layout, suffix):
    raw = CHAT_ROWS[layout]
    if suffix == ".csv" and layout == "self-instruct":
        pytest.skip("a table has no place for a list of instances")
    (row,) = corpora.read_chat(save(tmp_path / f"corpus{suffix}", [raw]))
    assert list(row) == corpora.CHAT.names
    assert row["messages"] == TALK
    assert row["prompt_id"] == raw.get("prompt_id", raw.get("id", row["prompt_id"]))
    assert (row["source"], row["license"]) == (f"corpus{suffix}", "unknown")


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
@pytest.mark.parametrize("layout", PREFERENCE_ROWS)
def test_preference_layouts(tmp_path, layout, suffix):
    raw = PREFERENCE_ROWS[layout]
    (row,) = corpora.read_preferences(save(tmp_path / f"corpus{suffix}", [raw]))
    assert list(row) == corpora.PREFERENCES.names
    assert (row["prompt"], row["chosen"], row["rejected"]) == (ASK, TALK, WORSE)
    scored = "ultrafeedback" in layout
    assert (row["score_chosen"], row["score_rejected"]) == ((8.5, 3.0) if scored else (None, None))
    assert row["source"] == raw.get("source", f"corpus{suffix}")


def test_rows_fit_the_schemas(tmp_path):
    chat = list(corpora.read_chat("package:conversations"))
    assert pa.Table.from_pylist(chat, corpora.CHAT).to_pylist() == chat
    pairs = list(corpora.read_preferences("package:preferences"))
    assert pa.Table.from_pylist(pairs, corpora.PREFERENCES).to_pylist() == pairs
    assert set(corpora.CHAT.names) < set(corpora.TRANSLATED_CHAT.names)
    assert set(corpora.PREFERENCES.names) < set(corpora.TRANSLATED_PREFERENCES.names)


def test_input_joins_the_instruction_and_instances_become_rows(tmp_path):
    rows = [
        {
            "id": "a",
            "instruction": "Add.",
            "instances": [{"input": "1 1", "output": "2"}, {"input": "", "output": "0"}],
        }
    ]
    first, second = corpora.read_chat(save(tmp_path / "tasks.jsonl", rows))
    assert first["messages"][0]["content"] == "Add.\n\n1 1"
    assert [first["prompt_id"], second["prompt_id"]] == ["a-0", "a-1"]


def test_system_text_moves_into_a_preference_prompt(tmp_path):
    system = [{"role": "system", "content": "Be brief."}]
    raw = [
        {"chosen": system + TALK, "rejected": system + WORSE},
        {"system": "Be brief.", "question": ASK, "chosen": REPLY, "rejected": "Dog."},
        {"system_prompt": "Be brief.", "prompt": ASK, "chosen": TALK, "rejected": WORSE},
        {"prompt": ASK, "chosen": system + TALK, "rejected": WORSE},
    ]
    rows = list(corpora.read_preferences(save(tmp_path / "p.jsonl", raw)))
    assert [row["prompt"] for row in rows] == ["Be brief.\n\n" + ASK] * 4
    assert rows[0]["chosen"][0] == {"role": "user", "content": "Be brief.\n\n" + ASK}


def test_a_system_column_becomes_the_first_message_of_a_conversation(tmp_path):
    system = {"role": "system", "content": "Be brief."}
    raw = [
        {"system": "Be brief.", "prompt": ASK, "response": REPLY},
        {"system": "", "system_prompt": "Be brief.", **CHAT_ROWS["sharegpt"]},
        {"system": "Be loud.", "messages": [system, *TALK]},
        {"system": " ", "messages": [system, *TALK]},
    ]
    rows = corpora.read_chat(save(tmp_path / "c.jsonl", raw))
    assert [row["messages"] for row in rows] == [[system, *TALK]] * 4


def test_answers_to_different_prompts_are_no_pair(tmp_path):
    other = [{"role": "user", "content": "Name a town."}, {"role": "assistant", "content": "Bonn."}]
    pairs = [
        PREFERENCE_ROWS["texts"],
        {"chosen": TALK, "rejected": other},
        {"prompt": ASK, "chosen": TALK, "rejected": other},
    ]
    skipped = Counter()
    assert len(list(corpora.read_preferences(save(tmp_path / "p.jsonl", pairs), skipped=skipped))) == 1
    assert skipped == {"the two answers are to different prompts": 2}


def test_messages_in_indented_json_are_messages(tmp_path):
    pair = {"prompt": ASK, "chosen": json.dumps(TALK, indent=1), "rejected": json.dumps(WORSE, indent=1)}
    (row,) = corpora.read_preferences(save(tmp_path / "p.csv", [pair]))
    assert (row["chosen"], row["rejected"]) == (TALK, WORSE)


@pytest.mark.parametrize("more", [{}, {"weight": 1}])
def test_messages_as_python_writes_them_are_no_answer(tmp_path, more):
    """pandas writes a column of lists into a CSV file as Python source text."""
    chosen = [{**more, **message} for message in TALK]
    path = save(tmp_path / "p.csv", [{"prompt": ASK, "chosen": str(chosen), "rejected": "Dog."}])
    with pytest.raises(PhoenixError, match="messages as Python text, not as JSON.*json.dumps"):
        list(corpora.read_preferences(path))


@pytest.mark.parametrize(
    "text, words",
    [
        ("prompt,completion\nThe answer is, well, yes,no\n", "row 1, has more cells than the header"),
        ("prompt,completion,,\na,b,,\nThe answer is, well, yes,no\n", "row 2, has more cells than the header"),
        ("prompt,completion,completion\na,b,c\n", "two columns named 'completion'"),
    ],
)
def test_a_table_that_would_lose_cells_is_refused(tmp_path, text, words):
    (tmp_path / "c.csv").write_text(text)
    with pytest.raises(PhoenixError, match=words):
        list(corpora.read_chat(str(tmp_path / "c.csv")))


def test_true_is_no_id(tmp_path):
    first, second = corpora.read_chat(save(tmp_path / "c.jsonl", [{"id": True, **CHAT_ROWS["alpaca"]}] * 2))
    assert first["prompt_id"] != second["prompt_id"] and "True" not in first["prompt_id"]


def test_an_answer_is_not_learned_without_the_turns_before_it(tmp_path):
    raw = [{**CHAT_ROWS["alpaca"], "history": history} for history in ([], None, "[]", [["Name a town.", "Bonn."]])]
    skipped = Counter()
    assert len(list(corpora.read_chat(save(tmp_path / "c.jsonl", raw), skipped=skipped))) == 3
    assert skipped == {"earlier turns in a history column: put all turns into messages": 1}


def test_empty_turns_and_odd_roles_stay_for_the_filters(tmp_path):
    talk = [*TALK, {"role": "user", "content": None}, {"role": "user", "content": "x"}]
    (row,) = corpora.read_chat(save(tmp_path / "c.jsonl", [{"messages": talk}]))
    assert [message["content"] for message in row["messages"]] == [ASK, REPLY, "", "x"]


def test_unusable_rows_are_counted_by_reason(tmp_path):
    rows = [
        {"instruction": ASK, "output": ""},
        {"messages": [{"role": "tool", "content": "x"}]},
        {"messages": TALK[:1]},
        {"messages": TALK},
    ]
    skipped = Counter()
    assert len(list(corpora.read_chat(save(tmp_path / "c.jsonl", rows), skipped=skipped))) == 1
    assert skipped == {"no assistant text": 2, "unknown role 'tool'": 1}
    skipped.clear()
    pairs = [{"chosen": TALK + TALK, "rejected": TALK + WORSE}, PREFERENCE_ROWS["texts"]]
    assert len(list(corpora.read_preferences(save(tmp_path / "p.jsonl", pairs), skipped=skipped))) == 1
    assert skipped == {"more than one exchange": 1}


def test_derived_ids_are_stable_and_distinct(tmp_path):
    path = save(tmp_path / "c.jsonl", [CHAT_ROWS["alpaca"]] * 3)
    ids = [row["prompt_id"] for row in corpora.read_chat(path)]
    assert len(set(ids)) == 3
    assert ids == [row["prompt_id"] for row in corpora.read_chat(path)]
    assert ids[:2] == [row["prompt_id"] for row in corpora.read_chat(path, max_rows=2)]


def test_licence_and_source_of_the_row_win(tmp_path):
    raw = {**CHAT_ROWS["alpaca"], "source": "somewhere", "license": "CC0-1.0"}
    (row,) = corpora.read_chat(save(tmp_path / "c.jsonl", [raw]))
    assert (row["source"], row["license"]) == ("somewhere", "CC0-1.0")


def test_files_as_other_programs_write_them(tmp_path):
    line = json.dumps(CHAT_ROWS["alpaca"])
    (tmp_path / "bom.jsonl").write_text("\ufeff" + line + "\r\n\r\n" + line, encoding="utf-8")
    assert len(list(corpora.read_chat(str(tmp_path / "bom.jsonl")))) == 2
    (tmp_path / "lines.json").write_text(line + "\n" + line + "\n", encoding="utf-8")
    assert len(list(corpora.read_chat(str(tmp_path / "lines.json")))) == 2
    (tmp_path / "bom.json").write_text("\ufeff[" + line + "]", encoding="utf-8")
    assert len(list(corpora.read_chat(str(tmp_path / "bom.json")))) == 1
    long = [{**CHAT_ROWS["alpaca"], "output": "word, " * 50_000}]
    assert len(list(corpora.read_chat(save(tmp_path / "long.csv", long)))) == 1


def test_folder_takes_its_training_split(tmp_path):
    names = [
        "train_sft-00000-of-00002",
        "train_sft-00001-of-00002",
        "train_gen-00000-of-00001",
        "test_sft-00000-of-00001",
    ]
    (tmp_path / "data").mkdir()
    for name in names:
        save(tmp_path / "data" / f"{name}.parquet", [{"prompt_id": name, "messages": TALK}])
    (tmp_path / "dataset_infos.json").write_text("{}")
    assert [row["prompt_id"] for row in corpora.read_chat(str(tmp_path))] == names[:2]
    assert [row["prompt_id"] for row in corpora.read_chat(f"{tmp_path}:test_sft")] == names[3:]
    with pytest.raises(PhoenixError, match="no split 'dev'.*test_sft, train_gen, train_sft"):
        list(corpora.read_chat(f"{tmp_path}:dev"))


def test_a_folder_of_training_files_is_read_whole_or_not_at_all(tmp_path):
    for name in ("train-0.jsonl", "train-1.jsonl"):
        save(tmp_path / name, [{**CHAT_ROWS["alpaca"], "id": name}])
    assert [row["prompt_id"] for row in corpora.read_chat(str(tmp_path))] == ["train-0.jsonl", "train-1.jsonl"]
    for name in ("train-0.jsonl", "train-1.jsonl"):
        (tmp_path / name).rename(tmp_path / name.replace("-", "_"))
    with pytest.raises(PhoenixError, match="no split 'train'; it has: train_0, train_1; name one"):
        list(corpora.read_chat(str(tmp_path)))


def test_folder_without_splits_is_read_whole(tmp_path):
    (tmp_path / ".ipynb_checkpoints").mkdir()  # Jupyter's copy of a file that somebody looked at
    for name in ("dataset_b.jsonl", "a.csv", ".ipynb_checkpoints/b-checkpoint.jsonl"):
        save(tmp_path / name, [{**CHAT_ROWS["alpaca"], "id": name}])
    assert [row["prompt_id"] for row in corpora.read_chat(str(tmp_path))] == ["a.csv", "dataset_b.jsonl"]


def bad_sources(folder: Path) -> dict[str, tuple[str, str]]:
    (folder / "empty.jsonl").touch()
    (folder / "blank.jsonl").write_text("\n\n")
    (folder / "array.json").write_text("[]")
    (folder / "broken.jsonl").write_text(json.dumps(CHAT_ROWS["alpaca"]) + '\n{"instruction": "x", \n')
    (folder / "broken.json").write_text('[{"instruction": "x"\n')
    (folder / "number.jsonl").write_text("42\n")
    (folder / "broken.parquet").write_bytes(b"PAR1 not really")
    (folder / "latin.csv").write_bytes("instruction,output\nStraße,größer\n".encode("latin-1"))
    (folder / "notes.txt").write_text("hello")
    (folder / "folder").mkdir()
    save(folder / "odd.jsonl", [{"city": "Rome", "temperature": 21}])
    save(folder / "unanswered.jsonl", [{"instruction": ASK, "output": ""}] * 2)
    expected = {
        "missing.jsonl": "no file or folder",
        "empty.jsonl": "is empty",
        "blank.jsonl": "no usable chat row.*it is empty",
        "array.json": "no usable chat row",
        "broken.jsonl": "line 2, is not valid JSON",
        "broken.json": "not valid JSON.*line 2",
        "number.jsonl": "line 1, is a JSON int; each row must be an object",
        "broken.parquet": "cannot be read as parquet",
        "latin.csv": "not UTF-8",
        "notes.txt": "'.txt'.*.jsonl",
        "folder": "holds no file",
        "odd.jsonl": "line 1.*columns found: city, temperature; layouts known: .*ShareGPT: conversations",
        "unanswered.jsonl": "no usable chat row.*no assistant text: 2",
    }
    return {name: (str(folder / name), message) for name, message in expected.items()}


def test_bad_input_is_one_clear_sentence(tmp_path):
    for name, (source, message) in bad_sources(tmp_path).items():
        with pytest.raises(PhoenixError, match=message) as caught:
            list(corpora.read_chat(source))
        assert "\n" not in str(caught.value), name


def test_what_counts_as_a_hub_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner").mkdir()
    save(tmp_path / "owner" / "here.jsonl", [CHAT_ROWS["alpaca"]])
    hub = ("owner/name", "owner/name:train_sft", "HuggingFaceH4/ultrachat_200k")
    local = (
        "package:conversations",
        "owner",
        "owner/here.jsonl",
        "owner/gone.jsonl",
        "nonsense",
        "a/b/c",
        "owner:train",
    )
    assert [sources.is_hub_name(name) for name in (*hub, *local)] == [True] * 3 + [False] * 7


def test_bad_names():
    with pytest.raises(PhoenixError, match="no file or folder 'nonsense'"):
        next(corpora.read_chat("nonsense"))
    with pytest.raises(PhoenixError, match="no corpus 'poems.jsonl'; it has: conversations"):
        next(corpora.read_chat("package:poems"))
    with pytest.raises(PhoenixError, match="at least 1"):
        next(corpora.read_chat("package:conversations", max_rows=0))
    with pytest.raises(PhoenixError, match="no conversations in language 'fr'; it has: de"):
        corpora.held_out_chat("fr")
    with pytest.raises(PhoenixError, match="known for preferences.*Argilla"):
        next(corpora.read_preferences("package:conversations"))


def test_hub_is_streamed_by_split(tmp_path, monkeypatch):
    """The hub's own loader on a local copy: load_dataset takes a folder where a name is expected."""
    datasets = pytest.importorskip("datasets")
    for split in ("train_sft", "test_sft"):
        save(tmp_path / f"{split}-00000-of-00001.parquet", [{"prompt_id": split, "messages": TALK}] * 3)
    files = {split: str(tmp_path / f"{split}-*.parquet") for split in ("train_sft", "test_sft")}
    real = datasets.load_dataset
    monkeypatch.setattr(
        datasets,
        "load_dataset",
        lambda name, streaming: real("parquet", data_files=files, streaming=streaming),
    )
    rows = list(corpora.read_chat("HuggingFaceH4/ultrachat_200k", max_rows=2))
    assert [(row["prompt_id"], row["source"], row["license"]) for row in rows] == [
        ("train_sft", "HuggingFaceH4/ultrachat_200k", "mit")
    ] * 2
    assert next(corpora.read_chat("HuggingFaceH4/ultrachat_200k:test_sft"))["prompt_id"] == "test_sft"
    with pytest.raises(PhoenixError, match="no split 'x'"):
        next(corpora.read_chat("HuggingFaceH4/ultrachat_200k:x"))


def test_hub_that_cannot_be_reached(monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(PhoenixError, match="'nobody/nothing' is no local file, and the hub could not give it"):
        next(corpora.read_chat("nobody/nothing"))


def test_large_files_are_streamed(tmp_path):
    big = tmp_path / "big.jsonl"
    line = json.dumps({"instruction": ASK, "output": "word " * 2000}) + "\n"
    big.write_text(line * 4000)  # 40 MB
    tracemalloc.start()
    count = sum(1 for _ in corpora.read_chat(str(big)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 4000
    assert peak < 3_000_000


def test_packaged_parts_do_not_overlap():
    training = {row["prompt_id"] for row in corpora.read_chat("package:conversations")}
    assert not training & {row["prompt_id"] for row in corpora.held_out_chat("en")}
    training = {row["prompt_id"] for row in corpora.read_preferences("package:preferences")}
    assert not training & {row["prompt_id"] for row in corpora.held_out_preferences("en")}


def test_sentence_pairs_serve_both_directions():
    forth, back = corpora.sentence_pairs("en", "de"), corpora.sentence_pairs("de", "en")
    assert forth[0]["source_text"] == back[0]["target_text"]
    with pytest.raises(PhoenixError, match="pairs.en-fr.jsonl"):
        corpora.sentence_pairs("en", "fr")


@given(st.text(min_size=1), st.integers(0, 8))
def test_held_out_is_fixed_and_nested(prompt_id, eighths):
    verdict = corpora.held_out(prompt_id, eighths)
    assert verdict == corpora.held_out(prompt_id, eighths)
    assert not verdict or corpora.held_out(prompt_id, 8)
    assert not corpora.held_out(prompt_id, 0)


def test_held_out_takes_about_its_share():
    share = sum(corpora.held_out(f"id-{number}", 2) for number in range(4000)) / 4000
    assert 0.22 < share < 0.28


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
columns = st.sampled_from(
    "messages conversations instruction input output instances prompt completion chosen rejected "
    "chosen_response rejected_response system question id source license zzz".split()
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.dictionaries(columns, json_values, max_size=6), max_size=4),
    st.sampled_from(["chat", "preferences"]),
)
def test_any_json_gives_rows_or_a_clear_error(tmp_path_factory, rows, kind):
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    save(path, rows)
    read, schema = {
        "chat": (corpora.read_chat, corpora.CHAT),
        "preferences": (corpora.read_preferences, corpora.PREFERENCES),
    }[kind]
    try:
        found = list(read(str(path)))
    except PhoenixError as error:
        assert "\n" not in str(error)
    else:
        assert pa.Table.from_pylist(found, schema).num_rows == len(found) > 0


def test_real_corpora(shared_data):
    tasks = list(corpora.read_chat(str(shared_data / "self_instruct" / "seed_tasks.jsonl")))
    assert len(tasks) >= 175 and len({row["prompt_id"] for row in tasks}) == len(tasks)
    path = str(shared_data / "rasbt_preference" / "instruction-data-with-preference.json")
    pairs = list(corpora.read_preferences(path))
    assert len(pairs) == 1100 and pairs[0]["score_chosen"] is None
    assert len(list(itertools.islice(corpora.read_chat(path), 5))) == 5


def test_gz_is_refused_by_name(tmp_path):
    with gzip.open(tmp_path / "c.jsonl.gz", "wt") as file:
        file.write("{}")
    with pytest.raises(PhoenixError, match="'.gz'"):
        list(corpora.read_chat(str(tmp_path / "c.jsonl.gz")))


@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_half_a_surrogate_pair_is_replaced_and_a_whole_one_is_an_emoji(tmp_path, suffix):
    path = tmp_path / f"rows{suffix}"
    row = json.dumps({"instruction": "A \ud83d cut off", "output": "\ud83d\ude00 \udc00\ud800!"})
    path.write_text(row if suffix == ".jsonl" else f"[{row}]", encoding="ascii")
    (read,) = corpora.read_chat(str(path))
    assert [message["content"] for message in read["messages"]] == ["A \ufffd cut off", "\U0001f600 \ufffd\ufffd!"]
