"""Preference optimisation on a tiny model: the loss, the hand-over from SFT, kills, bad pairs."""

import json
import math
import os
import signal
import subprocess
import sys
import time

import launched
import pytest
import tiny_models
import torch
from hypothesis import given
from hypothesis import strategies as st

from phoenix_utils import artifacts, batches, checkpoints, hardware, models, training
from phoenix_utils.dpo import DpoSettings, dpo_loss, run, stage_inputs
from phoenix_utils.dpo import stage as dpo_stage
from phoenix_utils.dpo.data import read_pairs
from phoenix_utils.dpo.diagnostics import fallen, read_watch
from phoenix_utils.dpo.handover import answer_logprobs, check_start
from phoenix_utils.errors import PhoenixError
from phoenix_utils.merging import merge_adapter
from phoenix_utils.sft import SftSettings
from phoenix_utils.sft import run as run_sft

LANGUAGES = ("en", "de")
PAIRS = 10


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    return tiny_models.save_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Reference log-probabilities of a test are its own."""
    monkeypatch.setenv("PHOENIX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "reference"


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
        watch_prompts=0,  # a random model speaks no language; the safety net has tests of its own
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
        trainer, _ = dpo_stage.ready_trainer(settings, stage, dpo_stage.load_sft_tokenizer(settings))
        return trainer


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


def test_the_terms_by_hand():
    policy = torch.tensor([-10.0, -20.0], requires_grad=True)
    terms = dpo_loss(policy, torch.tensor([-30.0, -25.0]), torch.tensor([-12.0, -18.0]), torch.tensor([-31.0, -35.0]))
    assert terms.chosen_rewards.tolist() == pytest.approx([0.2, -0.2])
    assert terms.rejected_rewards.tolist() == pytest.approx([0.1, 1.0])
    assert terms.margins.tolist() == pytest.approx([0.1, -1.2])
    assert terms.weights.tolist() == pytest.approx([1 / (1 + math.exp(0.1)), 1 / (1 + math.exp(-1.2))])
    assert terms.loss.shape == () and terms.loss.requires_grad
    swapped = dpo_loss(policy.detach(), policy, torch.zeros(2), torch.zeros(2))
    for rewards in (terms.chosen_rewards, terms.rejected_rewards, swapped.rejected_rewards):
        assert not rewards.requires_grad


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


def test_half_precision_may_round_but_not_start_elsewhere(settings, monkeypatch):
    """Kept answers a little off pass in half precision and not in float32; those of another model pass in neither."""
    trainer = built_trainer(settings)
    rows = whole_batch(trainer)
    tokens = rows["completion_mask"][-1, 1:].sum().item()

    def moved(nats_per_token):
        def collate(rows, collate=trainer.data_collator):
            batch = collate(rows)
            return batch | {"ref_rejected_logps": batch["ref_rejected_logps"] + nats_per_token * tokens}

        return collate

    for nats, half, refused in ((0.01, True, False), (0.01, False, True), (0.5, True, True)):
        with monkeypatch.context() as patch:
            patch.setattr(trainer, "data_collator", moved(nats))
            patch.setattr(trainer.args, "bf16", half)
            if refused:
                with pytest.raises(RuntimeError, match="would not start at the SFT model"):
                    check_start(trainer, beta=0.5)
            else:
                assert check_start(trainer, beta=0.5).loss == pytest.approx(math.log(2), abs=1e-3)


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
    assert logged["rewards/margins"][-1] == pytest.approx(ours.margins.mean().item(), abs=1e-5)
    assert logged["rewards/chosen"][-1] == pytest.approx(ours.chosen_rewards.mean().item(), abs=1e-5)
    assert logged["rewards/rejected"][-1] == pytest.approx(ours.rejected_rewards.mean().item(), abs=1e-5)


def variant(loss_type, terms, beta, lengths, smoothing):
    """The published formulas, from the rewards of each pair and its answers' lengths."""
    margin = terms.margins
    per_token = (terms.chosen_rewards / lengths[0] - terms.rejected_rewards / lengths[1]) / beta
    log_sigmoid = torch.nn.functional.logsigmoid
    if loss_type == "ipo":  # Azar et al. 2023, equation 17, per token
        return ((per_token - 1 / (2 * beta)) ** 2).mean()
    if loss_type == "sigmoid_norm":  # DPO's loss of the mean over the tokens
        return -log_sigmoid(beta * per_token).mean()
    wrong_way = smoothing * log_sigmoid(-margin)  # Chowdhury et al. 2024
    return ((wrong_way - (1 - smoothing) * log_sigmoid(margin)) / (1 - 2 * smoothing)).mean()


@pytest.mark.parametrize("loss_type", ["ipo", "robust", "sigmoid_norm"])
def test_one_setting_chooses_a_variant_of_the_loss(settings, loss_type):
    settings = settings.model_copy(update={"loss_type": loss_type, "label_smoothing": 0.1})
    trainer = built_trainer(settings)
    torch.manual_seed(1)
    for name, parameter in trainer.model.named_parameters():
        if "lora_B.default" in name:
            parameter.data.add_(torch.randn_like(parameter) * 0.05)
    batch = whole_batch(trainer)
    trainer.model.eval()
    with torch.no_grad():
        theirs = trainer.compute_loss(trainer.model, dict(batch)).item()
        policy = answer_logprobs(trainer.model, batch)
    terms = dpo_loss(*policy, batch["ref_chosen_logps"], batch["ref_rejected_logps"], beta=settings.beta)
    lengths = batch["completion_mask"].sum(1).chunk(2)
    assert theirs == pytest.approx(variant(loss_type, terms, settings.beta, lengths, 0.1).item(), rel=1e-5, abs=1e-5)


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
    marker = folder_of(settings) / "checkpoints" / "checkpoint-4" / checkpoints.MARKER
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


def test_two_processes_train_as_one(settings, tmp_path, monkeypatch):
    """`accelerate launch` with the shipped configuration, on two CPU processes, against one process."""
    import shutil

    settings = settings.model_copy(update={"max_pairs": 8, "dtype": "float32"})
    two = settings.model_copy(update={"run_dir": str(tmp_path / "two")})
    shutil.copytree(settings.run_dir, two.run_dir)
    run(settings)
    monkeypatch.setenv("PHOENIX_CACHE", str(tmp_path / "cache of two"))
    launched.train("dpo", two)
    notes = artifacts.read_json(folder_of(two) / "manifest.json")["notes"]
    assert notes["batch"].endswith("x 2 devices") and notes["reference"] == "asked once, before the first step"
    assert "0.6931" in notes["start"]
    curves = [training.read_curve(folder_of(each)) for each in (settings, two)]
    assert len(curves[0]) == 2 and curves[1] == [pytest.approx(line, abs=1e-3) for line in curves[0]]
    weights = [weights_of(folder_of(each)) for each in (settings, two)]
    assert all(torch.allclose(weights[1][name], value, atol=1e-3) for name, value in weights[0].items())


def noted(settings):
    return artifacts.read_json(folder_of(settings) / "manifest.json")["notes"]["reference"]


def again(settings, tmp_path, **changes):
    """The same run in another directory, as a second run or a cell of a sweep would be."""
    import shutil

    target = tmp_path / f"again_{len(list(tmp_path.iterdir()))}"
    shutil.copytree(settings.run_dir, target, ignore=shutil.ignore_patterns("04_dpo", "*.lock"))
    return settings.model_copy(update={"run_dir": str(target), **changes})


def test_the_reference_is_asked_once_for_all_runs_with_the_same_weights_data_and_settings(settings, tmp_path, cache):
    first = run(settings)
    assert noted(settings) == "asked once, before the first step"
    other_beta = again(settings, tmp_path, beta=0.5)
    second = run(other_beta)
    assert noted(other_beta) == "found: an earlier run asked for the same"
    assert second["loss_first"] == pytest.approx(first["loss_first"], abs=1e-6)
    other_batch = again(settings, tmp_path, max_pairs=6)
    assert run(other_batch)["pairs"] == 6
    assert noted(other_batch) == "asked once, before the first step"
    assert len([path for path in cache.iterdir() if path.is_dir()]) == 2


def test_stored_answers_that_are_damaged_or_of_other_weights_are_not_used(settings, tmp_path, cache, monkeypatch):
    from safetensors.torch import save_file

    first = run(settings)
    [folder] = [path for path in cache.iterdir() if path.is_dir()]
    for path in folder.glob("*.arrow"):
        if path.name != "pairs.arrow":
            path.write_bytes(path.read_bytes()[:-100])
    damaged = again(settings, tmp_path)
    assert run(damaged)["loss_last"] == pytest.approx(first["loss_last"], abs=1e-6)
    assert noted(damaged) == "asked once, before the first step" or "not what was stored" in noted(damaged)
    # The same name and another weight: a base that was replaced in its folder.
    moved = again(settings, tmp_path)
    adapter = sft_folder(moved) / "adapter" / "adapter_model.safetensors"
    weights = {name: value * 1.5 for name, value in weights_of(sft_folder(moved)).items()}
    save_file(weights, adapter, metadata={"format": "pt"})
    monkeypatch.setattr(artifacts, "damaged_products", lambda *_: [])  # which notices it before
    assert run(moved)["loss_start"] == pytest.approx(math.log(2), abs=1e-4)
    assert noted(moved) == "asked again: the stored answers are of other weights"


def test_after_full_fine_tuning_the_whole_model_is_handed_over(model_folder, tmp_path):
    directory = sft_run(tmp_path / "full", model_folder, method="full", learning_rate=1e-3)
    settings = DpoSettings(
        run_dir=str(directory),
        model=str(model_folder),
        max_length=2048,
        learning_rate=1e-4,
        global_batch=4,
        method="full",
        watch_prompts=0,
    )
    metrics = run(settings)
    assert metrics["loss_start"] == pytest.approx(math.log(2), abs=1e-4)
    assert (folder_of(settings) / "model" / "config.json").is_file()
    with pytest.raises(PhoenixError, match="method full, DPO is to use lora"):
        dpo_stage.load_sft_model(settings.model_copy(update={"method": "lora"}), hardware.describe(), "float32")


def test_four_bit_base_weights_are_trained_on_and_merged_without_losing_answers(settings, model_folder, tmp_path):
    pytest.importorskip("bitsandbytes")
    directory = sft_run(tmp_path / "qlora", model_folder, method="qlora")
    settings = settings.model_copy(update={"run_dir": str(directory), "method": "qlora"})
    metrics = run(settings)
    # Some CPUs multiply 4-bit weights in bfloat16.
    assert metrics["loss_start"] == pytest.approx(math.log(2), abs=1e-2)
    adapter = folder_of(settings) / "adapter"
    merged = models.load_model(str(merge_adapter(adapter, settings.model, LANGUAGES, tmp_path / "merged")), LANGUAGES)
    ids = torch.tensor([dpo_stage.load_sft_tokenizer(settings)("Schreib mir bitte einen Satz.")["input_ids"]])

    def logits(base):
        with torch.no_grad():
            return models.load_adapter(base, adapter, base=settings.model)(ids).logits

    trained = logits(models.load_model(settings.model, LANGUAGES, dtype="float32", quantize=True))
    unrounded = logits(models.load_model(settings.model, LANGUAGES, dtype="float32"))
    with torch.no_grad():
        ours = merged(ids).logits
    # The same likeliest tokens; a CPU that multiplies 4-bit weights in bfloat16 may turn a tie.
    behind = trained.max(-1).values - trained.gather(-1, ours.argmax(-1, keepdim=True))[..., 0]
    assert behind.max() < 0.05
    assert (ours - trained).abs().mean() < 0.2 * (unrounded - trained).abs().mean()
    assert models.read_lineage(tmp_path / "merged")["method"] == "qlora"
    with pytest.raises(PhoenixError, match="exists: choose another folder"):
        merge_adapter(adapter, settings.model, LANGUAGES, tmp_path / "merged")


def test_a_lora_adapter_merges_into_the_same_model(settings, tmp_path):
    adapter = sft_folder(settings) / "adapter"
    merged = models.load_model(str(merge_adapter(adapter, settings.model, LANGUAGES, tmp_path / "one")), LANGUAGES)
    ids = torch.arange(5, 60)[None]
    with torch.no_grad():
        base = models.load_model(settings.model, LANGUAGES)
        before = base(ids).logits
        apart = models.load_adapter(base, adapter, base=settings.model)(ids).logits
        assert torch.allclose(merged(ids).logits, apart, atol=1e-3)
    assert (apart - before).abs().max() > 0.1


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


def test_a_prompt_that_fills_the_limit_is_named(settings):
    with pytest.raises(PhoenixError, match=f"the prompt alone fills the limit in {PAIRS} of them"):
        run(settings.model_copy(update={"max_length": 16}))


def test_a_share_that_leaves_no_pair_is_one_sentence(settings):
    with pytest.raises(PhoenixError, match="eval_share 0.01 of 10 pairs sets 0 aside"):
        run(settings.model_copy(update={"eval_share": 0.01}))


def test_the_model_is_looked_at_on_the_way_and_is_not_changed_by_it(settings, tmp_path):
    settings = settings.model_copy(update={"eval_share": 0.2, "dtype": "float32"})
    unwatched = run(settings.model_copy(update={"eval_steps": 1000}))
    folder_of(settings).rename(tmp_path / "unwatched")
    watched = settings.model_copy(update={"watch_prompts": 2, "eval_steps": 1})
    # What a random model says is in no language; this is about the looks, not the stop.
    metrics = run(watched)
    looks = read_watch(folder_of(settings))
    assert [look["step"] for look in looks] == [0, *range(1, metrics["steps"] + 1)]
    assert all(len(look["preferred"]) == 2 and len(look["in_language"]) == 2 for look in looks)
    assert looks[0]["kl"] == pytest.approx(0, abs=1e-3) and abs(looks[-1]["kl"]) > 1e-2
    assert metrics["loss_last"] == pytest.approx(unwatched["loss_last"], abs=1e-6)
    before, after = weights_of(tmp_path / "unwatched"), weights_of(folder_of(settings))
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)


@pytest.mark.parametrize(
    ("key", "before", "now", "stops"),
    [
        ("preferred", [1.0] * 12, [1.0] * 12, False),
        ("preferred", [1.0, 0.0] * 20, [0.0, 1.0] * 20, False),  # the same share by other pairs
        ("preferred", [1.0] * 20, [0.0] * 8 + [1.0] * 12, True),
        ("in_language", [1.0] * 4, [0.0] * 2 + [1.0] * 2, False),  # two of four is not sure
        ("in_language", [1.0] * 4, [0.0] * 4, True),
    ],
)
def test_only_a_sure_fall_under_the_sft_model_stops(key, before, now, stops):
    assert bool(fallen({key: before}, {key: now})) == stops


def test_a_model_that_falls_behind_is_stopped_in_one_sentence(settings, monkeypatch):
    """Steps so large that the chosen answers become the unlikelier ones: trained the wrong way round."""
    from phoenix_utils import corpora, tables

    folder = artifacts.stage_path(settings.run_dir, "filtering")
    rows = list(tables.read_rows(folder / "preferences.parquet"))
    kept = [{**row, "prompt_id": f"{row['prompt_id']}-{n}"} for n in range(2) for row in rows]
    tables.write_rows(folder / "preferences.parquet", kept, corpora.PREFERENCES)
    ruined = settings.model_copy(update={"eval_share": 0.5, "eval_steps": 1, "num_train_epochs": 4.0})
    looks = [{"step": 0, "preferred": [1.0] * 10}]  # an SFT model that had every pair right
    stage_folder, real = folder_of(ruined), checkpoints.resume_from

    def resume_from(folder):
        """With the look that such a model would have left."""
        found = real(folder)
        (stage_folder / "watch.jsonl").write_text("".join(json.dumps(look) + "\n" for look in looks))
        return found

    monkeypatch.setattr(checkpoints, "resume_from", resume_from)
    with pytest.raises(PhoenixError, match="held-out pairs whose chosen answer is the likelier one fell from 100%"):
        run(ruined.model_copy(update={"learning_rate": 1e-6}))
    assert not (stage_folder / "adapter").exists(), "nothing that looks like a result"


def test_the_papers_numbers_are_its_profiles_numbers():
    from phoenix_utils import pipeline

    dpo = pipeline.make_plan("paper").settings("dpo")
    assert (dpo.global_batch, dpo.lr_scheduler_type, dpo.num_train_epochs) == (64, "linear", 1.0)
    assert dpo.max_pairs is None and dpo.eval_share == 0
    assert batches.plan_steps(60_224, dpo.global_batch, dpo.num_train_epochs) == 941
    assert batches.plan_steps(60_225, dpo.global_batch, dpo.num_train_epochs) == 942
    plan = batches.plan_batches(dpo.global_batch, dpo.per_device_train_batch_size, devices=8)
    assert (plan.global_batch, plan.accumulation) == (64, 2)
    text = (artifacts.data_folder("profiles") / "paper.yaml").read_text(encoding="utf-8")
    section = text[text.index("\ndpo:") :]
    for key in ("learning_rate", "beta", "warmup_steps", "max_length"):
        comment = section[: section.index(f"\n  {key}:")].rpartition("\n  # ")[2]
        assert comment.startswith("inferred:"), f"{key} is not in the paper"


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
