"""Preference optimisation on a tiny model: the loss, the hand-over from SFT, kills, bad pairs."""

import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest
import tiny_models
import torch
from hypothesis import given
from hypothesis import strategies as st

from phoenix_utils import artifacts, batches, hardware, models, training
from phoenix_utils.dpo import DpoSettings, dpo_loss, run, stage_inputs
from phoenix_utils.dpo import stage as dpo_stage
from phoenix_utils.dpo.data import prepare, read_pairs
from phoenix_utils.dpo.handover import answer_logprobs, check_start
from phoenix_utils.errors import PhoenixError
from phoenix_utils.sft import SftSettings
from phoenix_utils.sft import run as run_sft

LANGUAGES = ("en", "de")
PAIRS = 10


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    return tiny_models.save_tiny(tmp_path_factory.mktemp("tiny"))


def sft_run(directory, model_folder, **changes):
    """A run directory in which filtering and SFT are done."""
    tiny_models.save_kept_rows(directory, tiny_models.rows("conversations", 8), tiny_models.rows("preferences", PAIRS))
    values = {
        "learning_rate": 2e-2,
        "lora_r": 4,
        "max_length": 2048,
        "num_train_epochs": 2.0,
        "global_batch": 4,
        **changes,
    }
    run_sft(SftSettings(run_dir=str(directory), model=str(model_folder), **values))
    return directory


@pytest.fixture(scope="module")
def sft_directory(tmp_path_factory, model_folder):
    return sft_run(tmp_path_factory.mktemp("sft") / "run", model_folder)


@pytest.fixture
def settings(sft_directory, model_folder, tmp_path):
    import shutil

    shutil.copytree(sft_directory, tmp_path / "run")
    return DpoSettings(
        run_dir=str(tmp_path / "run"),
        model=str(model_folder),
        max_length=2048,
        learning_rate=1e-2,
        global_batch=4,
    )


def folder_of(settings):
    return artifacts.stage_path(settings.run_dir, "dpo")


def sft_folder(settings):
    return artifacts.stage_path(settings.run_dir, "sft")


def weights_of(folder):
    from safetensors.torch import load_file

    return load_file(folder / "adapter" / "adapter_model.safetensors")


def built_trainer(settings):
    """The stage's trainer before its first step."""
    with artifacts.open_stage("dpo", settings, stage_inputs(settings)) as stage, training.quiet():
        tokenizer = dpo_stage.load_sft_tokenizer(settings)
        dataset, _ = prepare(
            read_pairs(stage_inputs(settings)["preferences"]),
            tokenizer,
            settings.max_length,
            stage.folder / "checkpoints" / "pairs.arrow",
        )
        return dpo_stage.build_trainer(settings, stage, tokenizer, dataset)


def whole_batch(trainer):
    return trainer.data_collator([trainer.train_dataset[index] for index in range(len(trainer.train_dataset))])


numbers = st.floats(-50, 0, allow_nan=False)


@given(st.lists(st.tuples(numbers, numbers, numbers, numbers), min_size=1, max_size=5), st.floats(0.01, 1.0))
def test_the_loss_is_equation_7(values, beta):
    terms = dpo_loss(*torch.tensor(values, dtype=torch.float64).T, beta=beta)
    by_hand = 0.0
    for chosen, rejected, ref_chosen, ref_rejected in values:
        z = beta * (chosen - ref_chosen) - beta * (rejected - ref_rejected)
        by_hand += math.log1p(math.exp(-z)) / len(values)
    assert terms.loss.item() == pytest.approx(by_hand, rel=1e-9, abs=1e-12)
    assert terms.margins.shape == (len(values),)


def test_the_loss_pushes_less_where_the_order_is_right_already():
    def gradient(margin):
        chosen = torch.tensor([margin], requires_grad=True)
        dpo_loss(chosen, torch.zeros(1), torch.zeros(1), torch.zeros(1), beta=0.1).loss.backward()
        return -chosen.grad.item()

    assert gradient(0.0) == pytest.approx(0.05)  # beta / 2
    assert gradient(-20.0) > gradient(0.0) > gradient(20.0) > 0


def test_the_reference_is_the_sft_model_and_training_starts_at_ln_2(settings):
    trainer = built_trainer(settings)
    start = check_start(trainer, settings.beta)
    assert start.loss == pytest.approx(math.log(2), abs=1e-4)
    # Independently: the SFT model, loaded anew from base and adapter, gives TRL's reference
    # log-probabilities.
    base = models.load_model(settings.model, LANGUAGES)
    sft = models.load_adapter(base, sft_folder(settings) / "adapter", base=settings.model)
    batch = whole_batch(trainer)
    with torch.no_grad():
        chosen, rejected = answer_logprobs(sft, batch)
        with sft.disable_adapter():
            base_chosen, _ = answer_logprobs(sft, batch)
    assert torch.allclose(chosen, batch["ref_chosen_logps"], atol=1e-2, rtol=1e-5)
    assert torch.allclose(rejected, batch["ref_rejected_logps"], atol=1e-2, rtol=1e-5)
    assert (chosen - base_chosen).abs().min() > 0.1, "the SFT adapter should matter for this test to say anything"
    frozen = {name for name, p in trainer.model.named_parameters() if not p.requires_grad}
    assert all(".ref." in name or "lora" not in name for name in frozen)
    assert not any(p.requires_grad for name, p in trainer.model.named_parameters() if ".ref." in name)


def test_a_wrong_hand_over_is_noticed_before_the_first_step(settings):
    trainer = built_trainer(settings)
    for name, parameter in trainer.model.named_parameters():
        if "lora_B.default" in name:
            parameter.data.zero_()  # as if training began at the base
    with pytest.raises(RuntimeError, match="would not start at the SFT model"):
        check_start(trainer, settings.beta)


def test_our_loss_and_rewards_are_trls(settings):
    """On real batches, away from the start: loss, rewards and margins agree to 1e-5."""
    trainer = built_trainer(settings)
    torch.manual_seed(1)
    for name, parameter in trainer.model.named_parameters():
        if "lora_B.default" in name:
            parameter.data.add_(torch.randn_like(parameter) * 0.05)
    batch = whole_batch(trainer)
    trainer.model.eval()
    with torch.no_grad():
        theirs = trainer.compute_loss(trainer.model, dict(batch))
        policy = answer_logprobs(trainer.model, batch)
    ours = dpo_loss(*policy, batch["ref_chosen_logps"], batch["ref_rejected_logps"], beta=settings.beta)
    logged = trainer._metrics["eval"]
    assert theirs.item() == pytest.approx(ours.loss.item(), abs=1e-5)
    assert abs(theirs.item() - math.log(2)) > 1e-3
    assert logged["rewards/margins"][-1] == pytest.approx(ours.margins.mean().item(), abs=1e-4)
    assert logged["rewards/chosen"][-1] == pytest.approx(ours.chosen_rewards.mean().item(), abs=1e-4)


def test_a_run_leaves_one_adapter_that_loads_on_the_base(settings):
    metrics = run(settings.model_copy(update={"num_train_epochs": 8.0}))
    folder = folder_of(settings)
    assert {path.name for path in folder.iterdir()} == {
        "adapter",
        "log.jsonl",
        "metrics.json",
        "manifest.json",
        "progress.json",
    }
    assert not any(path.is_dir() for path in (folder / "adapter").iterdir()), "one adapter, not two"
    assert metrics["loss_start"] == pytest.approx(math.log(2), abs=1e-4)
    assert metrics["rewards/margins"] > 0.05 and metrics["rewards/accuracies"] > 0.7
    assert metrics["steps"] == batches.plan_steps(PAIRS, 4, 8.0) == 24
    names = ("rewards/margins", "rewards/accuracies", "rewards/chosen", "rewards/rejected", "logps/chosen")
    assert all(len(training.read_curve(folder, name)) == 24 for name in names)
    base = models.load_model(settings.model, LANGUAGES)
    model = models.load_adapter(base, folder / "adapter", base=settings.model)
    assert list(model.peft_config) == ["default"]
    before, after = weights_of(sft_folder(settings)), weights_of(folder)
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    lineage = models.read_lineage(folder / "adapter")
    assert lineage["base"] == settings.model
    assert lineage["trained_from"] == stage_inputs(settings)["sft"]
    start = artifacts.read_json(folder / "manifest.json")["notes"]["start"]
    assert "0.6931" in start


def test_without_precomputing_the_same_is_learnt(settings, tmp_path):
    other = settings.model_copy(update={"precompute_ref_log_probs": False})
    first, second = run(settings), None
    artifacts.stage_path(settings.run_dir, "dpo").rename(tmp_path / "first")
    second = run(other)
    assert second["loss_last"] == pytest.approx(first["loss_last"], abs=1e-5)
    assert second["loss_start"] == pytest.approx(math.log(2), abs=1e-4)


SCRIPT = """
import sys
from phoenix_utils.dpo import DpoSettings, run
run(DpoSettings.model_validate_json(sys.argv[1]))
"""


def test_killed_and_resumed_is_the_same_as_never_interrupted(settings, tmp_path):
    settings = settings.model_copy(update={"num_train_epochs": 3.0, "save_steps": 1, "dtype": "float32"})
    run(settings)
    folder_of(settings).rename(tmp_path / "whole")
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, settings.model_dump_json()], env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    marker = folder_of(settings) / "checkpoints" / "checkpoint-4" / training.MARKER
    deadline = time.monotonic() + 120
    while not marker.is_file():
        assert process.poll() is None and time.monotonic() < deadline, "ended before it could be killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    metrics = run(settings)
    assert 4 <= metrics["resumed_from_step"] < metrics["steps"] == 9
    assert metrics["loss_start"] == pytest.approx(math.log(2), abs=1e-4), "the reference is still the SFT model"
    log, whole = training.read_log(folder_of(settings)), training.read_log(tmp_path / "whole")
    assert [row["loss"] for row in log] == pytest.approx([row["loss"] for row in whole], abs=1e-6)
    resumed, never = weights_of(folder_of(settings)), weights_of(tmp_path / "whole")
    assert all(torch.allclose(resumed[name], never[name], atol=1e-6) for name in never)


def test_reference_log_probabilities_are_asked_for_once(settings, monkeypatch):
    """A second trainer over the same pairs finds TRL's cache beside them."""
    from trl import DPOTrainer

    asked = []
    original = DPOTrainer.compute_ref_log_probs
    monkeypatch.setattr(DPOTrainer, "compute_ref_log_probs", lambda *args: asked.append(1) or original(*args))
    built_trainer(settings)
    assert asked
    asked.clear()
    built_trainer(settings)
    assert not asked


def test_after_full_fine_tuning_the_whole_model_is_handed_over(model_folder, tmp_path):
    directory = sft_run(tmp_path / "full", model_folder, method="full", learning_rate=1e-3)
    settings = DpoSettings(
        run_dir=str(directory),
        model=str(model_folder),
        max_length=2048,
        learning_rate=1e-4,
        global_batch=4,
        method="full",
    )
    metrics = run(settings)
    assert metrics["loss_start"] == pytest.approx(math.log(2), abs=1e-4)
    assert (folder_of(settings) / "model" / "config.json").is_file()
    with pytest.raises(PhoenixError, match="method full, DPO is to use lora"):
        dpo_stage.load_sft_model(settings.model_copy(update={"method": "lora"}), hardware.describe(), "float32")


def test_four_bit_base_weights_are_trained_on(settings, model_folder, tmp_path):
    pytest.importorskip("bitsandbytes")
    directory = sft_run(tmp_path / "qlora", model_folder, method="qlora")
    metrics = run(settings.model_copy(update={"run_dir": str(directory), "method": "qlora"}))
    # Some CPUs multiply 4-bit weights in bfloat16.
    assert metrics["loss_start"] == pytest.approx(math.log(2), abs=1e-2)


def bad_pair(**changes):
    row = tiny_models.rows("preferences", 1)[0]
    return {**row, **changes}


def answer(text, prompt="Hallo?"):
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": text}]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"chosen": answer("Ja."), "rejected": answer("Ja.")}, "chosen equals rejected"),
        ({"chosen": answer("Ja."), "rejected": answer(" ")}, "its rejected side is no prompt with an answer"),
        (
            {"chosen": [{"role": "assistant", "content": "Ja."}]},
            "its chosen side is no prompt with an answer",
        ),
        ({"chosen": answer("Ja."), "rejected": answer("Nein.", "Was?")}, "answer different prompts"),
    ],
)
def test_pairs_that_prefer_nothing_are_one_sentence_each(settings, tmp_path, changes, sentence):
    row = bad_pair(**changes)
    tiny_models.save_kept_rows(tmp_path / "run", tiny_models.rows("conversations", 8), [row])
    with pytest.raises(PhoenixError, match=f"row '{row['prompt_id']}': .*{sentence}"):
        run(settings)


def test_a_limit_below_every_pair_is_one_sentence(settings):
    with pytest.raises(PhoenixError, match=f"none of the {PAIRS} pairs has at most 16 tokens"):
        run(settings.model_copy(update={"max_length": 16}))


def test_without_sft_there_is_no_dpo(settings, tmp_path):
    tiny_models.save_kept_rows(tmp_path / "bare", [], tiny_models.rows("preferences", 2))
    with pytest.raises(PhoenixError, match="the SFT stage in .* is not finished: run it first"):
        run(settings.model_copy(update={"run_dir": str(tmp_path / "bare")}))


def test_an_adapter_of_another_base_is_one_sentence(settings, tmp_path):
    other = tiny_models.save_tiny(tmp_path / "other", hidden_size=128)
    with pytest.raises(PhoenixError, match="was trained on"):
        run(settings.model_copy(update={"model": str(other)}))


def test_the_prompt_is_split_from_the_answers(settings):
    pairs = list(read_pairs(stage_inputs(settings)["preferences"]))
    rows = tiny_models.rows("preferences", PAIRS)
    assert [json.dumps(p["prompt"]) for p in pairs] == [json.dumps(r["chosen"][:-1]) for r in rows]
    assert [p["rejected"] for p in pairs] == [r["rejected"][-1:] for r in rows]
