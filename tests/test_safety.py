"""Nothing secret is written or shown, and no weights, checkpoint or model folder can run code."""

import ast
import json
import os
import pickle
import sys
from pathlib import Path

import pytest
import test_sft
import tiny_models
import torch
from peft import get_peft_model

from phoenix_utils import checkpoints, cli, models, pipeline, secrecy, training
from phoenix_utils.artifacts import write_json
from phoenix_utils.embeddings import open_embedder
from phoenix_utils.errors import PhoenixError
from phoenix_utils.evaluation.judge import Request, open_judge
from phoenix_utils.evaluation.kept import Kept
from phoenix_utils.profile import build_settings
from phoenix_utils.sft import run as run_sft
from phoenix_utils.translation import TranslationSettings
from phoenix_utils.translation import run as run_translation

ROOT = Path(__file__).resolve().parent.parent
LANGUAGES = ("en", "de")
# Put together here, so that no scanner takes this file for a leak.
HUB, KEY, PASSWORD = "hf_" + "pLanTed0" * 5, "planted-key-" + "4711" * 3, "planted-pass-word"
model_folder, settings = test_sft.model_folder, test_sft.settings


@pytest.fixture
def planted(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", HUB)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def leaks(folder: Path, *texts: str) -> list[str]:
    """Where a planted secret stands: files below `folder` and `texts` by number."""
    files = {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    found = files | {f"text {number}": text.encode() for number, text in enumerate(texts)}
    return [place for place, data in found.items() if any(s.encode() in data for s in (HUB, KEY, PASSWORD))]


def phoenix(monkeypatch, capfd, *words: str) -> tuple[int, str]:
    """Exit code of the command and everything it printed."""
    monkeypatch.setattr(sys, "argv", ["phoenix", *words])
    with pytest.raises(SystemExit) as done:
        cli.main()
    shown = capfd.readouterr()
    return done.value.code or 0, shown.out + shown.err


# ---------------------------------------------------------------- secrets


def test_a_run_with_planted_secrets_writes_and_shows_none(planted, serve, tmp_path, monkeypatch, capfd):
    """A translation that a server refuses with the key in its words, then the same one when the server answers."""
    replies = [(401, {}, f"Incorrect API key provided: {KEY}"), (429, {}, f"Slow down, Bearer {KEY}")]

    def answer(body, number):
        choice = {"text": " Hallo.", "finish_reason": "stop", "logprobs": {"token_logprobs": [-0.1]}}
        return replies.pop(0) if replies else {"choices": [choice]}

    server = serve(answer)
    model = str(tiny_models.save_tiny(tmp_path / "model"))
    values = {"engine": "server", "base_url": server.url, "model": model, "max_rows": 2, "held_out_rows": 0}
    words = [word for name, value in values.items() for word in ("--set", f"translation.{name}={value}")]
    command = ["run", "mini", "--only", "translation", *words, "--set", "translation.concurrency=1"]
    command += ["--out", str(tmp_path / "run")]
    code, refused = phoenix(monkeypatch, capfd, *command)
    assert code == 2 and "refuses access (401)" in refused
    assert "refuses access (401)" in (tmp_path / "run/notebooks/01_translation.ipynb").read_text()
    assert leaks(tmp_path, refused) == []
    run_translation(TranslationSettings(**values, concurrency=1, run_dir=str(tmp_path / "again")))
    went = capfd.readouterr()
    assert len(server.bodies) > 3 and server.seen[-1][1]["Authorization"] == f"Bearer {KEY}"
    assert {"manifest.json", "01_translation.ipynb", "segments.sqlite"} <= {p.name for p in tmp_path.rglob("*")}
    assert leaks(tmp_path, went.out, went.err) == []


@pytest.mark.parametrize(
    "word",
    [
        f"evaluation.judge_base_url=http://me:{PASSWORD}@host/v1",
        f"translation.base_url=http://{PASSWORD}@host/v1",
        f"translation.chat=https://me:{PASSWORD}@host/rows.jsonl",
        f"model={HUB}",
        f"sft.seed={HUB}",
        f"sft.{HUB}=1",
        KEY,
    ],
)
def test_a_secret_among_the_settings_is_refused_and_not_repeated(planted, word, tmp_path, monkeypatch, capfd):
    code, shown = phoenix(monkeypatch, capfd, "run", "mini", "--set", word, "--out", str(tmp_path / "run"))
    assert code == 2 and shown.count("\n") == 1 and leaks(tmp_path, shown) == [], shown
    assert not (tmp_path / "run").exists()


def test_a_profile_that_tells_a_secret_beside_its_settings_is_refused(planted, tmp_path, monkeypatch, capfd):
    """The description of a profile and the settings of a sweep are written down too."""
    told = (ROOT / "profiles/mini.yaml").read_text(encoding="utf-8")
    description = next(line for line in told.splitlines() if line.startswith("description:"))
    (tmp_path / "mine.yaml").write_text(told.replace(description, f"description: my token is {HUB}"), encoding="utf-8")
    code, shown = phoenix(monkeypatch, capfd, "check", str(tmp_path / "mine.yaml"))
    assert code == 2 and "description" in shown and leaks(tmp_path / "none", shown) == [], shown


@pytest.mark.parametrize("before", ["\n", "\t", "\x1b[31m", "x_"])
def test_an_executed_notebook_keeps_no_token(tmp_path, before):
    """Without the token in the environment, so that only its looks give it away."""
    outputs = [
        {"output_type": "error", "ename": "X", "evalue": f"401{before}{HUB}", "traceback": [f"for{before}{HUB}"]},
        {"output_type": "stream", "name": "stdout", "text": [f"TOKEN{before}{HUB}\n"]},
        {"output_type": "display_data", "metadata": {}, "data": {"application/json": {f"a{before}{HUB}": [HUB, 1]}}},
    ]
    cell = {"cell_type": "code", "metadata": {}, "execution_count": 1, "source": [], "outputs": outputs}
    write_json(tmp_path / "partial.ipynb", {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
    pipeline._publish(tmp_path / "partial.ipynb", tmp_path / "done.ipynb", ROOT / "README.md", True)
    assert leaks(tmp_path) == [] and (tmp_path / "done.ipynb").read_text().count("***") == 5


def test_check_shows_none(planted, tmp_path, monkeypatch, capfd):
    code, shown = phoenix(monkeypatch, capfd, "check", "mini")
    assert code == 0 and "judge_base_url" in shown and leaks(tmp_path, shown) == []


def test_a_judge_that_repeats_the_key_leaves_none(planted, serve, tmp_path):
    server = serve(lambda body, number: (400, {}, f"policy: your key {KEY} may not ask that"))
    judge = open_judge("some-judge", server.url, Kept(tmp_path / "kept.jsonl"), languages=LANGUAGES)
    [row] = judge.judge([Request({"id": 1}, "Score it.")])
    assert row["why"] == "refused by the server" and "policy: your key ***" in row["reply"]
    assert leaks(tmp_path, json.dumps(row)) == []


def test_a_setting_that_is_built_by_hand_shows_no_password():
    with pytest.raises(ValueError) as error:
        TranslationSettings(chat=f"https://me:{PASSWORD}@host/x")
    assert PASSWORD not in str(error.value)
    with pytest.raises(
        PhoenixError, match="translation.chat is 'https://\\*\\*\\*@host/x'.* HF_TOKEN or OPENAI_API_KEY"
    ):
        build_settings(TranslationSettings, {"chat": f"https://me:{PASSWORD}@host/x"}, "translation.")


@pytest.mark.parametrize(
    "text",
    ["http://localhost:8000/v1", "https://hub.co/@someone/x", "http://host:80/@x", "me@host.de", "EMPTY", "hf_x"],
)
def test_ordinary_text_stays(text, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "EMPTY")
    assert secrecy.hide(text) == text


@pytest.mark.parametrize("password", [PASSWORD, f"a@{PASSWORD}", f"{PASSWORD}/b@c"])
def test_a_password_in_an_address_is_hidden_as_a_whole(password):
    assert secrecy.hide(f"see http://me:{password}@host/v1 'me@host.de'") == "see http://***@host/v1 'me@host.de'"


# ---------------------------------------------------------------- pickles


class Bomb:
    """Unpickled, it leaves a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def plant(file: Path, fell: Path) -> None:
    """Write a pickle as torch.save does, that makes the folder `fell` when it is loaded without care."""
    torch.save({"weight": torch.zeros(2), "bomb": Bomb(fell)}, file)


def test_the_bomb_works(tmp_path):
    plant(tmp_path / "x.bin", tmp_path / "fell")
    torch.load(tmp_path / "x.bin", weights_only=False)
    assert (tmp_path / "fell").is_dir()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pkl"])
def test_a_model_of_pickles_is_refused_with_the_reason(tmp_path, name):
    folder = tiny_models.save_tiny(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    plant(folder / name, tmp_path / "fell")
    for load in (models.check_reachable, lambda f: models.load_model(f, LANGUAGES), open_embedder):
        with pytest.raises(
            PhoenixError, match=f"are pickles \\({name}\\), which are refused since loading one can run"
        ):
            load(str(folder))
    assert not (tmp_path / "fell").exists()


def test_an_adapter_of_pickles_is_refused_with_the_reason(tmp_path):
    base = models.load_model(str(tiny_models.save_tiny(tmp_path / "model")), LANGUAGES)
    get_peft_model(base, training.lora_config(base, lora_r=4, lora_alpha=8, lora_dropout=0.0)).save_pretrained(
        tmp_path / "a"
    )
    (tmp_path / "a" / "adapter_model.safetensors").rename(tmp_path / "a" / "model.safetensors")
    plant(tmp_path / "a" / "adapter_model.bin", tmp_path / "fell")
    with pytest.raises(PhoenixError, match=r"are pickles \(adapter_model.bin\), which are refused"):
        models.load_adapter(base, tmp_path / "a")
    assert not (tmp_path / "fell").exists()


def test_a_checkpoint_with_code_in_it_is_not_loaded(settings, tmp_path, monkeypatch):
    settings = settings.model_copy(update={"save_steps": 1, "num_train_epochs": 1.0})
    real = training.Reporter.on_save

    def stop(self, args, state, control, **kwargs):
        real(self, args, state, control, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(training.Reporter, "on_save", stop)
    with pytest.raises(KeyboardInterrupt):
        run_sft(settings)
    monkeypatch.undo()
    [checkpoint] = (test_sft.folder_of(settings) / "checkpoints").glob("checkpoint-*")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        whole = (checkpoint / name).read_bytes()
        plant(checkpoint / name, tmp_path / "fell")
        checkpoints.mark_whole(checkpoint.parent, 1)  # by somebody who knows how we know what we wrote
        with pytest.raises(PhoenixError, match="checkpoint-1 holds something else than numbers, which is not loaded"):
            run_sft(settings)
        (checkpoint / name).write_bytes(whole)
        checkpoints.mark_whole(checkpoint.parent, 1)
    assert run_sft(settings)["resumed_from_step"] == 1 and not (tmp_path / "fell").exists()


def test_rows_are_never_read_from_a_pickle(tmp_path):
    from phoenix_utils import corpora

    (tmp_path / "rows.pkl").write_bytes(pickle.dumps([Bomb(tmp_path / "fell")]))
    for source, words in ((tmp_path / "rows.pkl", "give a file of one of these kinds"), (tmp_path, "holds no file")):
        with pytest.raises(PhoenixError, match=words):
            next(corpora.read_chat(str(source)))
    assert not (tmp_path / "fell").exists()


# ---------------------------------------------------------------- code that a model brings


def test_a_model_with_its_own_code_is_refused_and_the_code_not_run(tmp_path, monkeypatch):
    """Even for somebody who would answer "y" at the keyboard, where transformers asks."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    folder = tiny_models.save_tiny(tmp_path / "model")
    (folder / "own.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'fell')!r})\nclass Own: pass\n")
    config = json.loads((folder / "config.json").read_text())
    names = ("AutoConfig", "AutoModel", "AutoModelForCausalLM")
    config |= {"model_type": "own", "auto_map": dict.fromkeys(names, "own.Own")}
    (folder / "config.json").write_text(json.dumps(config))
    tokens = json.loads((folder / "tokenizer_config.json").read_text())
    tokens |= {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokens))
    for load in (
        lambda f: models.load_model(f, LANGUAGES),
        lambda f: models.load_tokenizer(f, LANGUAGES),
        open_embedder,
    ):
        with pytest.raises(PhoenixError, match="brings Python code of its own .* never run here"):
            load(str(folder))
    assert not (tmp_path / "fell").exists()


def test_the_package_opens_no_door():
    """No pickle is read, no code of a model run, no text evaluated anywhere in the package."""
    for path in (ROOT / "phoenix_utils").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            place = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.keyword):
                value = getattr(node.value, "value", None)
                assert not (node.arg in ("trust_remote_code", "allow_pickle") and value is not False), place
                assert not (node.arg == "weights_only" and value is not True), place
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                assert name not in ("torch.load", "pickle.load", "pickle.loads", "np.load", "eval", "exec"), place
                if name.endswith(".from_pretrained") and name.startswith("Auto") and "Config" not in name:
                    kept = {ast.unparse(k.value) for k in node.keywords if k.arg is None}
                    ours = path.name in ("merging.py", "gguf_export.py", "release.py")  # folders that we have written
                    assert ours or kept & {"NO_CODE", "models.NO_CODE", "models.WEIGHTS_ONLY", "options"}, place
