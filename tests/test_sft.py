"""Supervised fine-tuning on a tiny model: the right tokens, whole runs, kills, packing, 4 bit, bad rows."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import launched
import pytest
import tiny_models
import torch

from phoenix_utils import artifacts, batches, chat, checkpoints, models, training
from phoenix_utils.batches import IGNORED
from phoenix_utils.errors import PhoenixError
from phoenix_utils.sft import SftSettings, run, stage_inputs
from phoenix_utils.sft.data import read_conversations, tokenize
from phoenix_utils.sft.stage import SFTConfig, SFTTrainer

LANGUAGES = ("en", "de")
ROOT = Path(__file__).resolve().parent.parent
SHORT = {"global_batch": 8, "max_length": 2048, "lora_r": 4, "lora_alpha": 8, "learning_rate": 5e-3}


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    return tiny_models.save_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def settings(model_folder, tmp_path):
    tiny_models.save_kept_rows(
        tmp_path / "run", tiny_models.rows("conversations", 20), tiny_models.rows("preferences", 8)
    )
    return SftSettings(run_dir=str(tmp_path / "run"), model=str(model_folder), **SHORT)


def folder_of(settings):
    return artifacts.stage_path(settings.run_dir, "sft")


def losses(settings):
    return [row["loss"] for row in training.read_log(folder_of(settings))]


def adapter_weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "adapter" / "adapter_model.safetensors")


def test_labels_are_the_ones_that_trl_would_make(settings, tmp_path):
    """Our tokens and labels, against TRL's own preparation with assistant_only_loss."""
    from datasets import Dataset

    tokenizer = chat.apply_template(models.load_tokenizer(settings.model, LANGUAGES))
    path = stage_inputs(settings)["chat"]
    ours, too_long = tokenize(read_conversations(path), tokenizer, 4096, tmp_path / "tokens.arrow")
    assert too_long == 0 and len(ours) == 20
    rows = Dataset.from_list([{"messages": row["messages"]} for row in read_conversations(path)])
    with training.quiet():
        trainer = SFTTrainer(
            model=models.load_model(settings.model, LANGUAGES),
            processing_class=tokenizer,
            train_dataset=rows,
            args=SFTConfig(
                output_dir=str(tmp_path),
                assistant_only_loss=True,
                max_length=None,
                use_cpu=True,
                bf16=False,
                report_to="none",
                gradient_checkpointing=False,
            ),
        )
    for name in ("input_ids", "labels"):
        assert [list(r) for r in ours[name]] == [list(r) for r in trainer.train_dataset[name]]
    stops = [label for row in ours["labels"] for label in row if label == tokenizer.eos_token_id]
    turns = sum(m["role"] == "assistant" for row in rows["messages"] for m in row)
    assert len(stops) == turns


def test_a_run_leaves_an_adapter_that_loads_and_learnt_something(settings):
    metrics = run(settings.model_copy(update={"num_train_epochs": 4.0, "learning_rate": 2e-2}))
    folder = folder_of(settings)
    assert {path.name for path in folder.iterdir()} == {
        "adapter",
        "log.jsonl",
        "metrics.json",
        "manifest.json",
        "progress.json",
    }
    assert metrics == artifacts.read_json(folder / "metrics.json")
    assert metrics["steps"] == batches.plan_steps(20, 8, 4.0) == 12
    assert metrics["loss_last"] < metrics["loss_first"] - 0.2
    manifest = artifacts.read_json(folder / "manifest.json")
    assert manifest["status"] == "complete" and manifest["counts"]["rows"] == 20
    assert manifest["notes"]["dtype"] == "float32" and "CPU" in manifest["notes"]["dtype_reason"]
    assert manifest["notes"]["batch"] == "8 rows a step: 2 at once x 4 accumulated x 1 devices"

    config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == settings.model
    lineage = models.read_lineage(folder / "adapter")
    assert lineage["base"] == settings.model and lineage["stage"] == "sft"
    tokenizer = models.load_tokenizer(str(folder / "adapter"), LANGUAGES)
    assert "generation" in tokenizer.chat_template
    stop = json.loads((folder / "adapter" / "generation_config.json").read_text())
    assert stop["eos_token_id"] == tokenizer.eos_token_id != stop["pad_token_id"]
    model = models.load_adapter(models.load_model(settings.model, LANGUAGES), folder / "adapter", base=settings.model)
    assert model.active_adapters == ["default"]


def test_a_finished_run_is_skipped_and_other_settings_are_refused(settings):
    first = run(settings.model_copy(update={"num_train_epochs": 0.1}))
    before = (folder_of(settings) / "manifest.json").stat().st_mtime_ns
    assert run(settings.model_copy(update={"num_train_epochs": 0.1})) == first
    assert (folder_of(settings) / "manifest.json").stat().st_mtime_ns == before
    with pytest.raises(PhoenixError, match="learning_rate"):
        run(settings.model_copy(update={"num_train_epochs": 0.1, "learning_rate": 1e-4}))


SCRIPT = """
import sys
from phoenix_utils.{stage} import {name}, run
run({name}.model_validate_json(sys.argv[1]))
"""


def kill_after(script, settings, checkpoint):
    """Start a stage in a process of its own and kill it, with SIGKILL, as soon as `checkpoint` is whole."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, settings.model_dump_json()], env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    deadline = time.monotonic() + 120
    while not (checkpoint / checkpoints.MARKER).is_file():
        assert process.poll() is None and time.monotonic() < deadline, "ended before it could be killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_killed_and_resumed_is_the_same_as_never_interrupted(settings, tmp_path):
    settings = settings.model_copy(
        update={"num_train_epochs": 3.0, "save_steps": 1, "lora_dropout": 0.1, "global_batch": 4, "dtype": "float32"}
    )
    whole = settings.model_copy(update={"run_dir": str(tmp_path / "whole")})
    for directory in ("whole", "run"):
        tiny_models.save_kept_rows(tmp_path / directory, tiny_models.rows("conversations", 10), [])
    run(whole)
    # In the second epoch, after its first step.
    kill_after(
        SCRIPT.format(stage="sft", name="SftSettings"),
        settings,
        folder_of(settings) / "checkpoints" / "checkpoint-4",
    )
    metrics = run(settings)
    assert 4 <= metrics["resumed_from_step"] < metrics["steps"] == 9
    assert losses(settings) == pytest.approx(losses(whole), abs=1e-6)
    log, log_whole = (training.read_log(folder_of(s)) for s in (settings, whole))
    assert [row["num_tokens"] for row in log] == [row["num_tokens"] for row in log_whole]
    weights, weights_whole = adapter_weights(folder_of(settings)), adapter_weights(folder_of(whole))
    assert weights.keys() == weights_whole.keys()
    assert all(torch.allclose(weights[name], weights_whole[name], atol=1e-6) for name in weights)


def test_packed_conversations_do_not_see_each_other(settings, tmp_path):
    """One sequence of four conversations has the loss of the four apart, weighted by tokens."""
    rows = tiny_models.rows("conversations", 4)
    results = {}
    for packing in (False, True):
        directory = tiny_models.save_kept_rows(tmp_path / f"packed-{packing}", rows, [])
        chosen = settings.model_copy(
            update={
                "run_dir": str(directory),
                "packing": packing,
                "global_batch": 1 if packing else 4,
                "num_train_epochs": 1.0,
                "max_length": 4096,
                "lora_dropout": 0.0,
            }
        )
        assert run(chosen)["steps"] == 1
        results[packing] = losses(chosen)[0]
    assert results[True] == pytest.approx(results[False], abs=1e-5)


def test_each_packed_row_has_the_loss_it_has_alone(settings, tmp_path):
    """Row by row, and the same with positions taken away, which lets the rows see each other."""
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    tokenizer = chat.apply_template(models.load_tokenizer(settings.model, LANGUAGES))
    rows, _ = tokenize(read_conversations(stage_inputs(settings)["chat"]), tokenizer, 4096, tmp_path / "tokens.arrow")
    rows = [rows[number] for number in range(4)]
    model = models.load_model(settings.model, LANGUAGES).eval()

    def row_losses(batch):
        with torch.no_grad():
            logits = model(**{name: value for name, value in batch.items() if name != "labels"}, use_cache=False).logits
        losses = torch.nn.functional.cross_entropy(logits[0, :-1], batch["labels"][0, 1:], reduction="none")
        border = 0
        for row in rows:
            yield losses[border : border + len(row["input_ids"]) - 1].sum().item()
            border += len(row["input_ids"])

    packed = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)(rows)
    alone = [
        torch.nn.functional.cross_entropy(
            model(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1].detach(),
            torch.tensor(row["labels"][1:]),
            reduction="sum",
        ).item()
        for row in rows
    ]
    assert list(row_losses(packed)) == pytest.approx(alone, rel=1e-4)
    mixed = list(row_losses({name: packed[name] for name in ("input_ids", "labels")}))
    assert mixed[0] == pytest.approx(alone[0], rel=1e-4) and mixed[1:] != pytest.approx(alone[1:], rel=1e-3)


def test_a_token_weighs_the_same_however_the_batch_is_split(settings, tmp_path):
    """One pass of four rows against four passes of one: rows of different lengths, the same step."""
    found = {}
    for at_once in (4, 1):
        directory = tiny_models.save_kept_rows(tmp_path / f"once-{at_once}", tiny_models.rows("conversations", 8), [])
        chosen = settings.model_copy(
            update={
                "run_dir": str(directory),
                "global_batch": 4,
                "per_device_train_batch_size": at_once,
                "num_train_epochs": 1.0,
            }  # fmt: skip
        )
        run(chosen)
        found[at_once] = losses(chosen), adapter_weights(folder_of(chosen))
    assert found[1][0] == pytest.approx(found[4][0], abs=1e-5)
    assert all(torch.allclose(found[1][1][name], value, atol=1e-5) for name, value in found[4][1].items())


def test_two_processes_train_as_one(settings, tmp_path):
    """`accelerate launch` with the shipped configuration, on two CPU processes, against one process."""
    curves = {}
    for name, train in (("one", run), ("two", lambda asked: launched.train("sft", asked))):
        directory = tiny_models.save_kept_rows(tmp_path / name, tiny_models.rows("conversations", 8), [])
        changes = {"run_dir": str(directory), "global_batch": 4, "dtype": "float32"}
        train(settings.model_copy(update=changes))
        folder = artifacts.stage_path(str(directory), "sft")
        manifest = artifacts.read_json(folder / "manifest.json")
        assert manifest["status"] == "complete" and (folder / "adapter" / "adapter_config.json").is_file()
        assert manifest["notes"]["batch"].endswith(f"x {1 if name == 'one' else 2} devices")
        curves[name] = [row["loss"] for row in training.read_log(folder)], adapter_weights(folder)
    assert len(curves["one"][0]) == 4
    assert curves["two"][0] == pytest.approx(curves["one"][0], abs=1e-3)
    assert all(torch.allclose(curves["two"][1][name], value, atol=1e-3) for name, value in curves["one"][1].items())


def test_a_run_that_no_longer_gets_better_stops_and_keeps_the_best(settings):
    constant = {"learning_rate": 0.5, "lr_scheduler_type": "constant", "warmup_steps": 0.0, "num_train_epochs": 10.0}
    patience = {"eval_share": 0.3, "save_steps": 2, "early_stopping_patience": 1, "global_batch": 4}
    metrics = run(settings.model_copy(update={**constant, **patience}))
    measured = training.read_curve(folder_of(settings), "eval_loss")
    assert metrics["steps"] == measured[-1][0] < batches.plan_steps(14, 4, 10.0)
    assert min(loss for _, loss in measured) == measured[-2][1] < measured[-1][1]


def test_tensorboard_gets_the_losses_of_the_log_and_whoever_watches_hears_of_each(settings):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    heard = []
    run(
        settings.model_copy(update={"report_to": "tensorboard", "num_train_epochs": 1.0}),
        watch=lambda: heard.append(losses(settings)[-1]),
    )
    events = EventAccumulator(str(folder_of(settings) / "tensorboard")).Reload()
    written = [event.value for event in events.Scalars("train/loss")]
    assert written == pytest.approx(losses(settings)) and heard == losses(settings) and len(heard) == 3


def test_a_missing_tensorboard_is_one_sentence(settings, monkeypatch):
    monkeypatch.setattr(training.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PhoenixError, match="pip install"):
        run(settings.model_copy(update={"report_to": "tensorboard"}))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"early_stopping_patience": 2}, "needs rows to measure on; set eval_share"),
        ({"eval_share": 0.01}, "sets 0 aside"),
    ],
)
def test_settings_that_cannot_work_together_are_one_sentence(settings, changes, sentence):
    with pytest.raises(PhoenixError, match=sentence):
        run(settings.model_copy(update=changes))


def test_four_bit_training_runs_saves_and_reloads(settings):
    pytest.importorskip("bitsandbytes")
    settings = settings.model_copy(update={"method": "qlora", "num_train_epochs": 1.0})
    metrics = run(settings)
    assert metrics["steps"] == 3
    weights = adapter_weights(folder_of(settings))
    assert {value.dtype for value in weights.values()} == {torch.float32}
    base = models.load_model(settings.model, LANGUAGES, quantize=True)
    model = models.load_adapter(base, folder_of(settings) / "adapter", base=settings.model)
    tokenizer = models.load_tokenizer(str(folder_of(settings) / "adapter"), LANGUAGES)
    prompt = tokenizer(
        chat.render(tokenizer, [{"role": "user", "content": "Hallo"}]),
        return_tensors="pt",
        add_special_tokens=False,
    )
    assert model.generate(**prompt, max_new_tokens=3, do_sample=False).shape[1] > prompt["input_ids"].shape[1]


def test_full_fine_tuning_saves_a_whole_model(settings):
    settings = settings.model_copy(update={"method": "full", "num_train_epochs": 1.0, "learning_rate": 1e-3})
    metrics = run(settings)
    saved = models.load_model(str(folder_of(settings) / "model"), LANGUAGES)
    before = models.load_model(settings.model, LANGUAGES)
    assert metrics["trainable_parameters"] == sum(p.numel() for p in saved.parameters())
    assert not torch.equal(saved.model.layers[0].mlp.up_proj.weight, before.model.layers[0].mlp.up_proj.weight)
    assert not (folder_of(settings) / "adapter").exists()


def test_long_conversations_are_left_out_whole_and_counted(settings, tmp_path):
    tokenizer = chat.apply_template(models.load_tokenizer(settings.model, LANGUAGES))
    rows = list(read_conversations(stage_inputs(settings)["chat"]))
    lengths = [len(chat.loss_mask(tokenizer, row["messages"])[0]) for row in rows]
    limit = sorted(lengths)[10]
    dataset, too_long = tokenize(rows, tokenizer, limit, tmp_path / "tokens.arrow")
    assert sorted(len(ids) for ids in dataset["input_ids"]) == [n for n in sorted(lengths) if n <= limit]
    assert too_long == sum(n > limit for n in lengths)
    assert all(labels[-1] == tokenizer.eos_token_id for labels in dataset["labels"])
    assert all(labels[0] == IGNORED for labels in dataset["labels"])


def test_a_limit_below_every_row_is_one_sentence(settings):
    with pytest.raises(PhoenixError, match="none of the 20 conversations has at most 16 tokens; raise max_length"):
        run(settings.model_copy(update={"max_length": 16}))


def test_an_empty_answer_is_one_sentence_with_the_row(settings, tmp_path):
    rows = tiny_models.rows("conversations", 3)
    rows[1] = {
        **rows[1],
        "messages": [{"role": "user", "content": "Hallo"}, {"role": "assistant", "content": ""}],
    }
    tiny_models.save_kept_rows(tmp_path / "run", rows, [])
    with pytest.raises(PhoenixError, match=f"row '{rows[1]['prompt_id']}': a conversation has an empty assistant turn"):
        run(settings)


def test_no_rows_and_no_file_are_one_sentence_each(settings, tmp_path):
    tiny_models.save_kept_rows(tmp_path / "run", [], [])
    with pytest.raises(PhoenixError, match="no conversations to train on"):
        run(settings)
    with pytest.raises(PhoenixError, match="does not exist"):
        run(settings.model_copy(update={"run_dir": str(tmp_path / "nowhere")}))


def test_a_loss_that_rises_far_above_its_start_stops_the_run(settings):
    changes = {"method": "full", "learning_rate": 3.0, "warmup_steps": 60.0, "num_train_epochs": 12.0}
    with pytest.raises(PhoenixError, match="the loss has risen from .* at step .* lower learning_rate"):
        run(settings.model_copy(update=changes))


def test_a_loss_that_is_no_number_stops_the_run(settings):
    with pytest.raises(PhoenixError, match="lower learning_rate"):
        run(settings.model_copy(update={"learning_rate": 1e38, "warmup_steps": 0.0}))


def test_the_coloured_view_shows_every_token_and_escapes(settings):
    from phoenix_utils.sft import tokens_html

    tokenizer = chat.apply_template(models.load_tokenizer(settings.model, LANGUAGES))
    messages = [
        {"role": "user", "content": "<script>alert(1)</script>"},
        {"role": "assistant", "content": "Größe & <b>"},
    ]
    ids, mask = chat.loss_mask(tokenizer, messages)
    shown = tokens_html(tokenizer, messages)
    assert shown.count("<span") == len(ids) + 2  # and two words of legend
    assert "<script>" not in shown and "<b>" not in shown
    assert f"trained: {sum(mask)} tokens" in shown
    assert shown.count("#BFE3F5") + shown.count("#93CFEE") == sum(mask) + 1


def test_answers_before_and_after_stand_side_by_side(settings):
    from phoenix_utils.samples import sample_answers, samples_html

    run(settings.model_copy(update={"num_train_epochs": 1.0}))
    rows = sample_answers(settings, ["Hallo <i>du</i>?", "Und?"], ("base", "sft"), max_new_tokens=4)
    assert [set(row) for row in rows] == [{"prompt", "base", "sft"}] * 2
    shown = samples_html(rows)
    assert "<i>" not in shown and "&lt;i&gt;" in shown
    with pytest.raises(PhoenixError, match="run the dpo stage first"):
        sample_answers(settings, ["Hallo"], ("dpo",))


def test_the_embedded_model_takes_a_step(trimmed_model_dir, tmp_path):
    """The real model: its own tokenizer's mask, two steps, and no machine's path in what is saved."""
    rows = [
        {
            "prompt_id": str(number),
            "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
            "source": "test",
            "license": "CC0-1.0",
        }
        for number, (question, answer) in enumerate([("Was ist das?", "Ein Ei."), ("Wer bist du?", "Ich bin Phönix.")])
    ]
    tiny_models.save_kept_rows(tmp_path / "run", rows, [])
    settings = SftSettings(
        run_dir=str(tmp_path / "run"),
        global_batch=2,
        num_train_epochs=2.0,
        warmup_steps=0.0,
        learning_rate=1e-3,
    )
    tokenizer = chat.apply_template(models.load_tokenizer(settings.model, LANGUAGES))
    ids, mask = chat.loss_mask(tokenizer, rows[1]["messages"])
    assert tokenizer.decode([token for token, bit in zip(ids, mask, strict=True) if bit]) == "Ich bin Phönix.<eos>"
    metrics = run(settings)
    assert metrics["steps"] == 2 and metrics["loss_last"] < metrics["loss_first"]
    saved = folder_of(settings) / "adapter"
    assert json.loads((saved / "adapter_config.json").read_text())["base_model_name_or_path"] == settings.model
    for path in folder_of(settings).rglob("*"):
        if path.is_file():
            assert str(trimmed_model_dir).encode() not in path.read_bytes(), path.name


def test_attention_is_counted_and_both_kernels_agree():
    """Mistral 7B at 2,048 tokens: 8 GB of scores, a cache of 1 GB that shared heads bring to a quarter."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    from phoenix_utils.sft import attention

    row = attention.counted((2048,))["2,048 tokens"]
    assert list(row.values()) == [8.0, 0.0, 1.0, 0.25]
    assert attention.score_gb(4096, 32, 32) == 4 * attention.score_gb(2048, 32, 32)
    query, key, value = (torch.randn(1, 2, 16, 8) for _ in range(3))
    found = []
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.MATH):
        with sdpa_kernel(backend):
            found.append(torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True))
    assert torch.allclose(*found, atol=1e-5)
    assert attention.seconds(32, fused=True, shared=True) > 0
