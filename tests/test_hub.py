"""Hub ids for real: the client libraries against a hub of this machine's own, with datasets of the two usual shapes."""

import json
import re
import textwrap

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import Hub
from tiny_models import rows, save_tiny

from phoenix_utils.artifacts import read_json
from phoenix_utils.hub import unreachable
from phoenix_utils.tables import read_rows

CHAT, PREFERENCES, MODEL = "someone/ultrachat_small", "someone/ultrafeedback_small", "someone/tiny-translator"
PICKLED, SCRIPTED = "someone/pickled", "someone/scripted"


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """Shards of several splits as the two datasets of the paper have them, and a model."""
    folder = tmp_path_factory.mktemp("hub")
    conversations = [
        {"prompt": row["messages"][0]["content"], "prompt_id": row["prompt_id"], "messages": row["messages"]}
        for row in rows("conversations", 30)
    ]
    names = ("prompt", "prompt_id", "chosen", "rejected", "score_chosen", "score_rejected")
    pairs = [{name: row[name] for name in names} for row in rows("preferences", 12)]
    tables = {
        CHAT: {"train_sft-00000-of-00002": conversations[:10], "train_sft-00001-of-00002": conversations[10:20],
               "test_sft-00000-of-00001": conversations[20:]},
        PREFERENCES: {"train_prefs-00000-of-00001": pairs[:8], "test_prefs-00000-of-00001": pairs[8:]},
    }  # fmt: skip
    for name, files in tables.items():
        data = folder / "datasets" / name / "data"
        data.mkdir(parents=True)
        (data.parent / "README.md").write_text("---\nlicense: mit\n---\n")
        for file, content in files.items():
            pq.write_table(pa.Table.from_pylist(content), data / f"{file}.parquet")
    model = folder / "models" / MODEL
    model.parent.mkdir(parents=True)
    save_tiny(model)
    pickled = folder / "models" / PICKLED
    save_tiny(pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    (folder / "datasets" / SCRIPTED).mkdir(parents=True)
    (folder / "datasets" / SCRIPTED / "scripted.py").write_text("print('this code has run')\n")
    with Hub(folder) as server:
        yield server


def run_stage(hub, tmp_path, code: str, token: str = ""):
    """Run code with `settings(**values)` of a translation of both datasets by the model, all of them from the hub."""
    start = f"""
        from phoenix_utils.translation import TranslationSettings, run
        from phoenix_utils.errors import PhoenixError
        def settings(**values):
            return TranslationSettings(**{{"chat": {CHAT!r}, "preferences": {PREFERENCES!r}, "model": {MODEL!r},
                "run_dir": {str(tmp_path / "run")!r}, "max_new_tokens": 8, "max_rows": 12, **values}})
    """
    done = hub.python("-c", textwrap.dedent(start) + textwrap.dedent(code), home=tmp_path / "home", token=token)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_run_reads_datasets_and_translator_from_the_hub_and_refuses_what_could_run_code(hub, tmp_path):
    hub.requests.clear()
    code = f"""
        run(settings())
        from phoenix_utils import corpora, models
        weights = lambda: models.load_model({PICKLED!r}, ("en", "de"))
        script = lambda: next(corpora.read_chat({SCRIPTED!r}))
        for load in (weights, script):
            try:
                load()
            except PhoenixError as error:
                print("refused:", error)
    """
    weights, script = re.findall("^refused: (.*)$", run_stage(hub, tmp_path, code), re.M)
    assert "has no weights as safetensors; what it may have are pickles, which are refused" in weights
    assert not hub.downloads("pytorch_model.bin")
    assert "Dataset scripts are no longer supported" in script
    folder = tmp_path / "run" / "01_translation"
    chat, pairs = list(read_rows(folder / "chat")), list(read_rows(folder / "preferences"))
    assert [row["messages_source"] for row in chat] == [row["messages"] for row in rows("conversations", 12)]
    assert [row["prompt_source"] for row in pairs] == [row["prompt"] for row in rows("preferences", 8)]
    assert {row["source"] for row in chat} == {CHAT} and {row["source"] for row in pairs} == {PREFERENCES}
    assert all(segment["text"] and segment["finish_reason"] for row in chat + pairs for segment in row["segments"])
    assert read_json(folder / "manifest.json")["inputs"] == {"chat": f"hub:{CHAT}", "preferences": f"hub:{PREFERENCES}"}
    assert hub.downloads("train_sft-00000")
    assert hub.downloads(r"model\.safetensors")


def test_twelve_rows_do_not_download_what_follows_them(hub, tmp_path):
    hub.requests.clear()
    code = f"""
        from phoenix_utils import corpora
        print(len(list(corpora.read_chat({CHAT!r}, 5))))
        print(len(list(corpora.read_chat({CHAT + ":test_sft"!r}))))
    """
    assert run_stage(hub, tmp_path, code).split() == ["5", "10"]
    assert not hub.downloads("train_sft-00001")


def test_what_the_hub_refuses_is_one_sentence_without_the_token(hub, tmp_path):
    hub.private[CHAT] = hub.gated[MODEL] = "hf_secret"
    code = f"""
        from phoenix_utils import hub, models, corpora
        for line in hub.unreachable([{MODEL!r}, "someone/nothing"], [{CHAT!r}, {PREFERENCES!r}]):
            print(line)
        try:
            next(corpora.read_chat({CHAT!r}))
        except PhoenixError as error:
            print(error)
    """
    try:
        refused, allowed = run_stage(hub, tmp_path, code), run_stage(hub, tmp_path, code, token="hf_secret")
    finally:
        hub.private.clear(), hub.gated.clear()
    assert f"may not read the model {MODEL}: accept its terms on the hub and set HF_TOKEN" in refused
    assert "finds no model someone/nothing on the hub" in refused and f"finds no dataset {CHAT}" in refused
    assert f"the dataset {CHAT!r} is no local file, and the hub could not give it" in refused
    assert "someone/nothing" in allowed and len(allowed.splitlines()) == 1
    assert "hf_secret" not in refused + allowed


def test_check_asks_the_hub_before_anything_starts(hub, tmp_path):
    values = {"translation.chat": CHAT, "translation.preferences": "someone/absent", "translation.model": MODEL}
    words = [word for name, value in values.items() for word in ("--set", f"{name}={value}")]
    done = hub.python("-m", "phoenix_utils.cli", "check", "mini", *words, home=tmp_path / "home")
    assert "finds no dataset someone/absent on the hub" in done.stdout + done.stderr
    assert f"model {MODEL}" not in done.stdout + done.stderr and json.dumps(CHAT)[1:-1] in done.stdout


@pytest.mark.parametrize("name", ["[sft]", "/tmp/nowhere", "a" * 100])
def test_what_can_be_no_name_on_the_hub_is_one_sentence(name):
    [problem] = unreachable([name], [])
    assert problem.startswith(f"finds no model '{name}', which is no folder here")


def test_the_evaluation_notebook_takes_a_hub_model_by_one_parameter(hub, tmp_path):
    """`models` is all that has to change; the other values here only make it short."""
    done = tmp_path / "05_evaluation.ipynb"
    short = {"max_new_tokens": 4, "max_prompts": 4, "harness_limit": 2, "bootstrap_samples": 100}
    code = f"""
        import papermill
        values = {{"models": [{MODEL!r}], "run_dir": {str(tmp_path / "run")!r}, **{short}}}
        papermill.execute_notebook("notebooks/05_evaluation.ipynb", {str(done)!r}, values, progress_bar=False)
    """
    ran = hub.python("-c", textwrap.dedent(code), home=tmp_path / "home")
    assert ran.returncode == 0, ran.stderr[-3000:]
    scored = read_json(tmp_path / "run" / "05_evaluation" / "scores.json")
    assert list(scored) == [MODEL] and scored[MODEL]["stop_share"]["n"] == 4
    shown = done.read_text()
    assert "tiny-translator" in shown and "One model alone" in shown
