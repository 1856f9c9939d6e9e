"""Release: what is given away is the model that was measured, says what it is, and has passed the gate."""

import errno
import json
import os
import shutil
import textwrap
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import tiny_models
import tiny_run
import torch
import yaml
from hub_server import Hub
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma3ForCausalLM, Gemma3TextConfig

from phoenix_utils import (
    artifacts,
    cards,
    chat,
    corpora,
    embedded,
    gate,
    gguf_export,
    gguf_file,
    merging,
    models,
    release,
    vocabulary,
)
from phoenix_utils.errors import PhoenixError
from phoenix_utils.tables import read_rows, write_rows

FILES = {
    *(f"model/{name}" for name in ("config.json", "generation_config.json", "model.safetensors", "lineage.json")),
    *(f"model/{name}" for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")),
    *(f"{part}/{name}" for part in ("model", "dataset") for name in ("README.md", "NOTICE")),
    *(f"dataset/{name}.parquet" for name in ("chat", "preferences")),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run that no test changes."""
    return tiny_run.make_run(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it to spoil; its base stays where it was."""
    return shutil.copytree(finished, tmp_path / "tiny")


@pytest.fixture(scope="module")
def released(finished, tmp_path_factory):
    return release.make_release(gate.find_source(str(finished)), tmp_path_factory.mktemp("out") / "release")


def front_matter(path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8").split("---\n")[1])


def nothing_was_left(run):
    return [path.name for path in run.iterdir() if "release" in path.name] == []


# ---------------------------------------------------------------- what is in it


def test_the_released_model_is_the_base_with_the_last_adapter(released, finished):
    assert {path.relative_to(released).as_posix() for path in release.files_of(released)} == FILES
    base = finished.parent.parent / "tiny-base"
    ids = torch.arange(5, 60)[None]
    wanted = models.load_adapter(
        models.load_model(str(base), ("en", "de"), dtype="float32"), finished / "04_dpo" / "adapter"
    )
    found = AutoModelForCausalLM.from_pretrained(released / "model")
    with torch.no_grad():
        assert torch.allclose(found(ids).logits, wanted(ids).logits, atol=1e-4)
        assert not torch.allclose(found(ids).logits, AutoModelForCausalLM.from_pretrained(base)(ids).logits, atol=1e-2)


def test_it_stops_where_the_template_does_and_answers_a_batch(released):
    model = AutoModelForCausalLM.from_pretrained(released / "model")
    tokenizer = AutoTokenizer.from_pretrained(released / "model")
    asked = [{"role": "user", "content": "Wie heißt du?"}]
    text = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    assert text == "<bos><|user|>\nWie heißt du?<eos>\n<|assistant|>\n"
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == tokenizer("<eos>")["input_ids"][-1]
    assert tokenizer.padding_side == "left"
    config = json.loads((released / "model" / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast" and "is_local" not in config


def test_the_model_card_says_what_the_manifests_say(released, finished):
    card = (released / "model" / "README.md").read_text(encoding="utf-8")
    head = front_matter(released / "model" / "README.md")
    assert (head["license"], head["language"], head["pipeline_tag"]) == ("apache-2.0", "de", "text-generation")
    assert "| Answers that stop by themselves | higher | 62.5 % [37.5, 87.5] | 62.5 % [37.5, 87.5] |" in card
    assert "SFT − Base: Answers that stop by themselves 50.0 % [12.5, 75.0]; 8 of 9 measures show no" in card
    assert "| DPO | lora, 3 steps | 4 |" in card and "| filtering | chat | 8 | 6 |" in card
    assert "adapter of rank 4" in card and "`learning_rate` 0.0003" in card and "7.5 minutes in all" in card
    assert "No judge." in card and "0.004 EUR of electricity" in card


def test_cards_name_no_folder_of_a_path():
    away = "clients/acme_bank/chat.jsonl"
    assert [cards._public(value) for value in (away, "/data/x", [away, "sft"])] == [
        "chat.jsonl",
        "x",
        "chat.jsonl, sft",
    ]
    assert cards._public("HuggingFaceH4/ultrachat_200k:train_sft") == "HuggingFaceH4/ultrachat_200k:train_sft"


def test_the_data_set_is_what_was_trained_on(released, finished):
    for kind in ("chat", "preferences"):
        kept = list(read_rows(finished / "02_filtering" / f"{kind}.parquet"))
        assert list(read_rows(released / "dataset" / f"{kind}.parquet")) == kept
    card = (released / "dataset" / "README.md").read_text(encoding="utf-8")
    assert "| `chat.parquet` | SFT | 8 | 6 | 2 |" in card and "| `language` | 2 | 1 |" in card and "`code`" not in card
    head = front_matter(released / "dataset" / "README.md")
    assert head["configs"] == [{"config_name": k, "data_files": f"{k}.parquet"} for k in ("chat", "preferences")]
    assert head["license"] == ["cc0-1.0"]


def test_a_fully_trained_model_is_released_as_it_is(run, released):
    tiny_run.make_full(run)
    folder = release.make_release(gate.find_source(str(run)))
    ids = torch.arange(5, 60)[None]
    with torch.no_grad():
        found, adapted = (AutoModelForCausalLM.from_pretrained(f / "model")(ids).logits for f in (folder, released))
    assert torch.allclose(found, adapted, atol=1e-5)
    assert "All weights were trained" in (folder / "model" / "README.md").read_text()
    assert {path.relative_to(folder).as_posix() for path in release.files_of(folder)} == FILES


def test_a_full_disk_is_one_sentence_and_leaves_nothing(run, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(release.cards, "dataset_card", full)
    with pytest.raises(PhoenixError, match="release cannot be written .No space left on device.: free some disk"):
        release.make_release(gate.find_source(str(run)))
    assert nothing_was_left(run)


def test_no_file_tells_where_it_was_made(released, finished):
    files = release.files_of(released)
    assert {"README.md", "model.safetensors"} <= {Path(path).name for path in files}
    for path in files:
        assert str(finished.parent.parent).encode() not in path.read_bytes(), path


def test_a_second_call_keeps_it_and_another_wish_is_refused(released, finished):
    before = (released / "model" / "model.safetensors").stat().st_mtime_ns
    source = gate.find_source(str(finished))
    assert release.make_release(source, released) == released
    assert (released / "model" / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(PhoenixError, match="holds a release with another vocabulary"):
        release.make_release(source, released, release.Wish(vocabulary="full"))
    with pytest.raises(PhoenixError, match="holds something else: remove it"):
        release.make_release(source, finished)
    with pytest.raises(PhoenixError, match="with another stage and weights|another manifests and stage"):
        release.make_release(gate.find_source(str(finished), "sft"), released)


@pytest.mark.parametrize("name", ["model/model.safetensors", "model/notes.txt", "dataset/more/README.md"])
def test_a_release_with_other_files_than_were_written_is_refused(released, finished, tmp_path, name):
    folder = shutil.copytree(released, tmp_path / "release")
    with (folder / "model" / "README.md").open("a") as card:
        card.write("A word of my own.\n")
    assert release.make_release(gate.find_source(str(finished)), folder) == folder
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"garbage")
    with pytest.raises(PhoenixError, match=rf"holds the files that were written there \({name} added, changed or"):
        release.make_release(gate.find_source(str(finished)), folder)


# ---------------------------------------------------------------- the gate


def change_json(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def made_by_its_stage(folder):
    """Let the manifest name what stands there now, as if the stage had made it: only the gate can object."""
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    described = {
        name: {"sha256": artifacts.sha256_file(path)} for name, path in files.items() if name != "manifest.json"
    }
    change_json(folder / "manifest.json", lambda manifest: manifest.update(outputs=described))


def other_rows(run):
    shutil.copy(run / "02_filtering" / "preferences.parquet", run / "02_filtering" / "chat.parquet")
    made_by_its_stage(run / "02_filtering")


def change_rows(run, change):
    """Other kept rows, and an SFT stage that says it was trained on them."""
    path = run / "02_filtering" / "chat.parquet"
    kept = list(read_rows(path))
    change(kept)
    write_rows(path, kept, corpora.CHAT)
    made_by_its_stage(path.parent)
    said = artifacts.describe_inputs({"chat": path})
    change_json(run / "03_sft" / "manifest.json", lambda manifest: manifest.update(inputs=said))


def base_of(run):
    return json.loads((run / "04_dpo" / "manifest.json").read_text())["settings"]["model"]


def train_again(run):
    shutil.rmtree(run / "04_dpo" / "adapter")
    tiny_run.save_adapter(run, "dpo", Path(base_of(run)), seed=7)
    made_by_its_stage(run / "04_dpo")


KEY = "hf_" + "aB3dE6gH9j" * 3
SPOILED = {
    "no evaluation": (lambda run: shutil.rmtree(run / "05_evaluation"), "has no finished evaluation stage"),
    "unfinished": (
        lambda run: change_json(run / "05_evaluation" / "manifest.json", lambda m: m.update(status="running")),
        "has no finished evaluation stage: without an evaluation nobody knows",
    ),
    "other weights": (train_again, "measured other weights than"),
    "not this stage": (
        lambda run: change_json(
            run / "05_evaluation" / "manifest.json", lambda m: m["settings"].update(models=["sft"])
        ),
        "measured sft and not dpo",
    ),
    "better scores": (
        lambda run: change_json(run / "05_evaluation" / "scores.json", lambda s: s["dpo"]["chrf"].update(value=99)),
        "scores.json was changed after the evaluation",
    ),
    "other rows": (other_rows, "the sft stage was trained on other rows"),
    "unknown licence": (
        lambda run: change_rows(run, lambda kept: kept[0].update(license="MyOwn-1")),
        "the licence of 1 rows of chat is 'MyOwn-1', and whether .* add --allow-license 'MyOwn-1'",
    ),
    "no licence": (lambda run: change_rows(run, lambda kept: kept[0].update(license=" ")), "'unknown'"),
    "forbidding licence": (
        lambda run: change_rows(run, lambda kept: kept[2].update(license="CC-BY-ND-4.0")),
        "'CC-BY-ND-4.0', which asks to publish nothing that was changed",
    ),
    "secret in a row": (
        lambda run: change_rows(run, lambda kept: kept[3]["messages"][0].update(content=f"Nimm {KEY}!")),
        "of chat.parquet holds what looks like a Hugging Face token",
    ),
    "secret in a setting": (
        lambda run: change_json(run / "04_dpo" / "manifest.json", lambda m: m["settings"].update(loss_type=KEY)),
        r"line \d+ of README.md holds what looks like a Hugging Face token",
    ),
}


@pytest.mark.parametrize("spoil, sentence", SPOILED.values(), ids=SPOILED)
def test_the_gate_refuses_in_one_sentence_and_leaves_nothing(run, spoil, sentence):
    spoil(run)
    with pytest.raises(PhoenixError, match=sentence) as refusal:
        release.make_release(gate.find_source(str(run)))
    assert nothing_was_left(run) and KEY not in str(refusal.value)


def test_a_licence_that_somebody_vouches_for_passes_and_is_told(run):
    change_rows(run, lambda kept: kept[0].update(license="MyOwn-1"))
    folder = release.make_release(gate.find_source(str(run)), wish=release.Wish(allowed_licenses=("myown-1",)))
    assert "| 1 rows of chat | MyOwn-1 | what the publisher" in (folder / "dataset" / "README.md").read_text()
    assert "CC-BY-ND" not in (folder / "dataset" / "README.md").read_text()
    change_rows(run, lambda kept: kept[0].update(license="CC-BY-ND-4.0"))
    with pytest.raises(PhoenixError, match="publish nothing that was changed"):
        gate.check_licenses(gate.find_source(str(run)), ("cc-by-nd-4.0",))


def test_a_licence_against_commercial_use_is_carried_into_the_card(tmp_path):
    run = tiny_run.make_run(tmp_path, license="cc-by-nc-4.0")
    folder = release.make_release(gate.find_source(str(run)))
    assert "this model is not for commercial use" in (folder / "model" / "README.md").read_text()
    assert front_matter(folder / "model" / "README.md")["license"] == "other"
    assert "cc-by-nc-4.0" in (folder / "model" / "NOTICE").read_text()


def test_gemmas_terms_are_whole_and_are_text():
    terms = embedded.terms("embedded:gemma-3-270m")
    assert terms.startswith("Gemma Terms of Use\n") and "<" not in terms
    for words in ("3.1 Distribution and Redistribution", "3.2 Use Restrictions", "4.9 No Waiver", "TranslateGemma"):
        assert words in terms


@pytest.mark.parametrize(
    "secret",
    [
        KEY,
        "sk-" + "proj-a1B2c3D4e5F6g7H8i9J0",
        "AKIA" + "IOSFODNN7EXAMPLE",
        "ghp_" + "a1" * 18,
        "-----BEGIN OPENSSH " + "PRIVATE KEY-----",
        "AIza" + "Sy0123456789abcdefghijABCDEFGHIJ_-x",
    ],
)
def test_a_secret_is_found_wherever_it_stands(tmp_path, secret):
    (tmp_path / "a.md").write_text(f"eins\nzwei\ntoken='{secret}'\n")
    with pytest.raises(PhoenixError, match="line 3 of a.md holds what looks like") as refusal:
        gate.check_secrets([tmp_path / "a.md"])
    assert secret not in str(refusal.value)


@pytest.mark.parametrize("before", ["\n", "\t", "\r", "\x1b", "\x1b[31m", "x_", "\\t"])
def test_a_secret_in_a_row_is_found_whatever_stands_before_it(tmp_path, before):
    row = {"prompt_id": "p1", "messages": [{"role": "user", "content": f"HF_TOKEN{before}{KEY}"}]}
    write_rows(tmp_path / "chat.parquet", [row], pa.Table.from_pylist([row]).schema)
    with pytest.raises(PhoenixError, match="the row p1 of chat.parquet holds what looks like a Hugging Face token"):
        gate.check_secrets([tmp_path / "chat.parquet"])


@pytest.mark.parametrize("name", ["creds.gguf", "model.safetensors"])
def test_text_that_is_called_weights_is_looked_through(tmp_path, name):
    (tmp_path / name).write_text(f"token: {KEY}")
    with pytest.raises(PhoenixError, match=f"line 1 of {name} holds what looks like a Hugging Face token"):
        gate.check_secrets([tmp_path / name])


@pytest.mark.parametrize(
    "text",
    [
        "risk-assessment-of-2024-and-all-that-follows",
        "hf_token = os.environ['HF_TOKEN']",
        "sk-learn-is-a-library-without-numbers",
        "-----BEGIN PUBLIC KEY-----",
        "d50177b2e9831a6ad701dee8917e10e84639ed9cb351d8a3937f818a0e5cb3bb",
    ],
)
def test_ordinary_text_is_no_secret(tmp_path, text):
    (tmp_path / "a.md").write_text(text)
    gate.check_secrets([tmp_path / "a.md"])


@pytest.mark.parametrize(
    "run, stage, sentence",
    [
        ("no/such/run", None, "is no folder; give that of a finished run"),
        (".", "dpo", "holds no trained weights of dpo"),
    ],
)
def test_what_is_no_run_is_one_sentence(tmp_path, run, stage, sentence):
    with pytest.raises(PhoenixError, match=sentence):
        gate.find_source(str(tmp_path / run), stage)


# ---------------------------------------------------------------- the vocabulary and GGUF


def test_the_whole_vocabulary_comes_back_around_what_was_trained(tmp_path):
    whole = tiny_models.save_tiny(tmp_path / "whole")
    tokenizer, model = AutoTokenizer.from_pretrained(whole), AutoModelForCausalLM.from_pretrained(whole)
    published = model.get_input_embeddings().weight.detach().clone()
    texts = ["Ein Baum steht am Fluss.", "Wie heißt du?"]
    kept = vocabulary.kept_tokens(vocabulary.specification(tokenizer), {" und": 1.0}, texts)
    small = vocabulary.trim_tokenizer(tokenizer, kept)
    small.chat_template = chat.CHAT_TEMPLATE
    model = vocabulary.trim_model(model, kept)
    with torch.no_grad():  # as training would
        for parameter in model.parameters():
            parameter.add_(0.01)
    trained = model.get_input_embeddings().weight.detach().clone()
    folder = tmp_path / "model"
    model.save_pretrained(folder), small.save_pretrained(folder)
    merging.restore_vocabulary(folder, whole)
    restored, complete = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert len(complete) == len(tokenizer) > len(small) and complete.chat_template == small.chat_template
    vectors = restored.get_input_embeddings().weight
    gone = sorted({*range(len(tokenizer))} - {*kept})
    assert torch.equal(vectors[kept], trained) and torch.equal(vectors[gone], published[gone]) and gone
    with torch.no_grad():
        for text in texts:
            short, long = (
                t(text, add_special_tokens=False, return_tensors="pt")["input_ids"] for t in (small, complete)
            )
            assert torch.allclose(restored(long).logits[..., kept], model(short).logits, atol=1e-4)
    assert restored.generation_config.eos_token_id == complete.eos_token_id


def tiny_gemma(folder):
    """A Gemma 3 of two layers in `folder`, and the header that a GGUF file of it would have."""
    torch.manual_seed(0)
    tokenizer = chat.apply_template(tiny_models.gemma_like())
    config = Gemma3TextConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=1, head_dim=256, query_pre_attn_scalar=256, max_position_embeddings=512, sliding_window=64,
        bos_token_id=2, eos_token_id=1, pad_token_id=0, tie_word_embeddings=True,
    )  # fmt: skip
    model = Gemma3ForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.1)
    model.save_pretrained(folder), tokenizer.save_pretrained(folder)
    tokens = [token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])]
    numbers = {
        "context_length": 512, "embedding_length": 64, "block_count": 2, "feed_forward_length": 128,
        "attention.head_count": 4, "attention.head_count_kv": 1, "attention.key_length": 256,
        "attention.value_length": 256, "attention.sliding_window": 64,
    }  # fmt: skip
    facts = {"general.architecture": ("gemma3", 8, None)}
    facts |= {f"gemma3.{name}": (value, 4, None) for name, value in numbers.items()}
    facts |= {"gemma3.attention.layer_norm_rms_epsilon": (1e-6, 6, None), "gemma3.rope.freq_base": (1e6, 6, None)}
    facts |= {"tokenizer.ggml.model": ("llama", 8, None), "tokenizer.ggml.tokens": (tokens, 9, 8)}
    facts |= {"tokenizer.ggml.scores": (np.arange(len(tokens), dtype="float32"), 9, 6)}
    facts |= {"tokenizer.ggml.token_type": (np.array([3] * 3 + [1] * (len(tokens) - 3), "int32"), 9, 5)}
    for name, value in (("bos", 2), ("eos", 0), ("unknown", 3), ("padding", 0)):
        facts[f"tokenizer.ggml.{name}_token_id"] = (value, 4, None)
    names = [f"blk.{layer}.{part}.weight" for layer in range(2) for part in gguf_file._LAYER]
    return SimpleNamespace(
        facts={name: value for name, (value, _, _) in facts.items()},
        kinds={name: kinds for name, (_, *kinds) in facts.items()},
        tensors=["output_norm.weight", "token_embd.weight", *names],
    )


def test_a_gguf_file_is_the_model_that_it_was_made_of(tmp_path):
    header = tiny_gemma(tmp_path)
    gguf_export.export(tmp_path, tmp_path / "tiny.gguf", header, "tiny")
    safe = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="tiny.gguf", dtype=torch.float32).eval()
    ids = torch.randint(3, 600, (3, 100), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.allclose(loaded(ids).logits, safe(ids).logits, atol=1e-4)
    read = gguf_file.GgufFile((tmp_path / "tiny.gguf").read_bytes())
    assert read.facts["tokenizer.ggml.eos_token_id"] == 1 and read.facts["general.name"] == "tiny"
    assert read.facts["tokenizer.ggml.tokens"] == header.facts["tokenizer.ggml.tokens"]
    assert read.kinds["tokenizer.ggml.scores"] == (9, 6)
    assert "generation" not in read.facts["tokenizer.chat_template"].replace("add_generation_prompt", "")
    assert "<|assistant|>" in read.facts["tokenizer.chat_template"]


def test_gguf_of_another_model_is_refused_with_the_steps_that_remain(run):
    with pytest.raises(PhoenixError, match=r"convert_hf_to_gguf\.py of llama\.cpp"):
        release.make_release(gate.find_source(str(run)), wish=release.Wish(gguf=True))
    assert nothing_was_left(run)


# ---------------------------------------------------------------- the hub


@pytest.mark.parametrize("name", ["name", "a/b/c", "owner/na me", "/name"])
def test_a_name_that_no_hub_takes_is_refused_before_anything(name):
    with pytest.raises(PhoenixError, match="is no name on a hub; give owner/name"):
        release.check_push(name, dry_run=True)


def test_push_against_a_hub_rehearsal_refusal_and_upload(run, tmp_path):
    """One process: each step is the command as typed, with its exit code and what it printed."""
    code = f"""
        import os, sys
        from phoenix_utils import cli
        for token, words in (("", ["--dry-run"]), ("", []), ("hf_wrong", []), ("hf_good", []), ("hf_good", [])):
            os.environ["HF_TOKEN"] = token
            sys.argv = ["phoenix", "release", {str(run)!r}, "--push", "someone/tiny", *words]
            print("##", flush=True)
            try:
                cli.main()
            except SystemExit as done:
                print("exit", done.code)
            print("release" in os.listdir({str(run)!r}))
    """
    with Hub(tmp_path / "hub", writer="hf_good") as hub:
        done = hub.python("-c", textwrap.dedent(code), home=tmp_path / "home")
    assert done.returncode == 0, done.stderr
    rehearsed, without, refused, pushed, again = done.stdout.split("##\n")[1:]
    folder = run / "release"
    for path in release.files_of(folder):
        name = path.relative_to(folder).as_posix()
        place = "datasets/someone/tiny-data" if name.startswith("dataset") else "models/someone/tiny"
        assert f" {path.stat().st_size:,}  {name}  → {place}\n" in rehearsed
    assert "nothing was uploaded" in rehearsed and rehearsed.endswith("False\n")
    assert without == "exit 2\nFalse\n" and "there is no token to push with" in done.stderr
    assert refused.endswith("exit 2\nTrue\n")
    assert "the hub refuses the token for someone/tiny-data (error 401)" in done.stderr
    assert f"the release stays in {folder}" in done.stderr and "hf_" not in done.stdout + done.stderr
    told = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".safetensors"]
    assert not [path for path in told if b"hf_wrong" in path.read_bytes() or b"hf_good" in path.read_bytes()]
    assert "Traceback" not in done.stderr and done.stderr.count("phoenix:") == 2
    assert "pushed:" in pushed and "pushed:" in again
    writes = [r for r in hub.requests if r.method == "POST" and r.token != "hf_good"]
    assert {r.status for r in writes} == {401} and len(writes) == 1, "rehearsal and missing token asked for nothing"
    there = {path.relative_to(tmp_path / "hub").as_posix() for path in (tmp_path / "hub").rglob("*") if path.is_file()}
    place = {"model": "models/someone/tiny/", "dataset": "datasets/someone/tiny-data/"}
    assert there == {place[name.split("/")[0]] + name.split("/", 1)[1] for name in FILES}
    for name in ("model.safetensors", "README.md", "NOTICE"):
        assert (tmp_path / "hub/models/someone/tiny" / name).read_bytes() == (folder / "model" / name).read_bytes()
    assert front_matter(folder / "model" / "README.md")["datasets"] == ["someone/tiny-data"]
    assert hub.private == {"someone/tiny": "hf_good", "someone/tiny-data": "hf_good"}
