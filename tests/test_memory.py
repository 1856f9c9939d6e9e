"""The memory estimate: grows with what it should, matches published sizes, and names the setting that would fit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phoenix_utils import artifacts, memory, needs, pipeline
from phoenix_utils.dpo import DpoSettings
from phoenix_utils.errors import PhoenixError
from phoenix_utils.hardware import Gpu, Hardware
from phoenix_utils.memory import estimate_gb
from phoenix_utils.profile import find_profile, load_profile
from phoenix_utils.sft import SftSettings
from phoenix_utils.translation import TranslationSettings

CPU = Hardware(2, 8.0)
T4 = Hardware(2, 12.7, (Gpu("Tesla T4", 15.0, (7, 5)),))


sizes = st.floats(0.05, 70)
methods = st.sampled_from(["full", "lora", "qlora"])
lengths = st.integers(64, 4096)
batches = st.integers(1, 16)


def gpu_gb(*sizes, **shape):
    return estimate_gb(*sizes, device="cuda", **shape)


@given(sizes, methods, lengths, batches)
def test_more_of_anything_takes_more_memory(size, method, length, batch):
    least = gpu_gb(size, method, length, batch)
    assert gpu_gb(size * 1.5, method, length, batch) > least
    assert gpu_gb(size, method, length * 2, batch) > least
    assert gpu_gb(size, method, length, batch + 1) > least
    assert gpu_gb(size, method, length, batch, sequences_per_row=2) > least
    assert gpu_gb(size, method, length, batch, gradient_checkpointing=True) < least
    assert gpu_gb(size, method, length, batch, dtype="bfloat16") < least


@given(sizes, lengths, batches)
def test_qlora_takes_less_than_lora_and_lora_less_than_full(size, length, batch):
    full, lora, qlora = (gpu_gb(size, method, length, batch) for method in ("full", "lora", "qlora"))
    assert qlora < lora < full


def test_known_cases_are_of_the_right_size():
    # A published figure each: 7 B full fine-tuning states need 16 bytes a parameter; QLoRA of 7 B fits into
    # 12 GB.
    states = memory.parts_gb(7.0, "full", 2048, 1)
    assert sum(states[name] for name in ("weights", "gradients", "optimizer")) == pytest.approx(
        7 * 16 / 1.0737, rel=0.01
    )
    assert 5 < gpu_gb(7.2, "qlora", 1024, 2, dtype="bfloat16", gradient_checkpointing=True) < 12


# Measured with benchmarks/sft.py on two CPU cores: (method, length, rows at once, dtype, checkpointing) and peak in GB.
MEASURED = {
    ("lora", 256, 2, "float32", False): 2.41,
    ("lora", 512, 2, "bfloat16", False): 2.99,
    ("lora", 1024, 2, "bfloat16", True): 3.41,
    ("full", 256, 2, "float32", False): 3.55,
    ("qlora", 512, 1, "float32", False): 2.58,
}


@pytest.mark.parametrize("case", MEASURED)
def test_estimates_are_within_a_fifth_of_what_was_measured(case):
    method, length, batch, dtype, checkpointing = case
    shape = {name: value for name, value in memory.EMBEDDED.items() if name != "parameters_b"}
    found = estimate_gb(0.15, method, length, batch, dtype=dtype, gradient_checkpointing=checkpointing, **shape)
    assert found == pytest.approx(MEASURED[case], rel=0.2)


def test_a_training_stage_is_estimated_from_its_settings():
    sft = memory.estimate_stage_gb("sft", SftSettings(), CPU)
    # Two sequences a pair take more than one row, and computing activations twice takes most of that away.
    dpo, kept = (DpoSettings(gradient_checkpointing=twice) for twice in (True, False))
    assert memory.estimate_stage_gb("dpo", kept, CPU) > sft > memory.estimate_stage_gb("dpo", dpo, CPU)
    assert memory.estimate_stage_gb("sft", SftSettings(per_device_train_batch_size=8), CPU) > sft
    assert 0.8 < memory.estimate_stage_gb("translation", SftSettings(), CPU) < sft
    assert memory.estimate_stage_gb("sft", SftSettings(model="someone/unsized"), CPU) is None


def test_all_workers_of_one_machine_without_gpus_count():
    one = TranslationSettings()
    three = one.model_copy(update={"engine": "ray", "ray_workers": 3})
    gpu = Hardware(8, 64, gpus=(Gpu("A", 80.0, (8, 0)),) * 3)
    for machine, settings, times in (
        (CPU, three, 3),
        (CPU, three.model_copy(update={"ray_address": "head:6379"}), 1),
        (gpu, three, 1),
    ):
        needed = [memory.estimate_stage_gb("translation", each, machine) for each in (one, settings)]
        assert needed[1] == pytest.approx(times * needed[0])


@given(st.floats(2.0, 90.0), st.sampled_from(["full", "lora", "qlora"]), st.integers(1, 32))
def test_the_advice_fits_or_there_is_none(available, method, batch):
    settings = SftSettings(
        model="org/model-7b", method=method, per_device_train_batch_size=batch, max_length=4096, dtype="bfloat16"
    )
    card = Hardware(8, 64.0, (Gpu("A", available, (8, 0)),))
    advice = memory.what_would_fit("sft", settings, card, available)
    if advice == "choose a smaller model":
        least = settings.model_copy(update={"method": "qlora", "per_device_train_batch_size": 1, "max_length": 1024,
                                            "gradient_checkpointing": True})  # fmt: skip
        assert memory.estimate_stage_gb("sft", least, card) > available
        return
    changes = dict(part.removeprefix("sft.").split("=") for part in advice.removeprefix("set ").split(", ") if part)
    changed = settings.model_copy(
        update={name: {"True": True}.get(text, int(text) if text.isdigit() else text) for name, text in changes.items()}
    )
    assert memory.estimate_stage_gb("sft", changed, card) <= available


def test_a_plan_that_cannot_fit_is_refused_and_told_what_would(monkeypatch, tmp_path):
    monkeypatch.setattr("phoenix_utils.hardware.describe", lambda: Hardware(2, 6.5))
    fits = pipeline.make_plan("mini", out=str(tmp_path / "run"))
    assert fits.problems == []
    big = ["sft.per_device_train_batch_size=8", "sft.global_batch=8"]
    plan = pipeline.make_plan("mini", big, out=str(tmp_path / "run"))
    [problem] = plan.problems
    assert "in sft, and one device has 6.5 GB: set sft.per_device_train_batch_size=1" in problem
    with pytest.raises(PhoenixError, match="cannot run here: it needs about .* GB in sft"):
        pipeline.execute(plan, print)
    assert not (tmp_path / "run").exists()
    assert any(line.startswith("sft: ") and "GB on each device" in line for line in needs.memory_lines(plan))


def test_each_shipped_profile_fits_its_own_hardware():
    models = pipeline.settings_models()
    for name in ("mini", "laptop", "colab", "single_gpu", "paper"):
        profile = load_profile(find_profile(name, [artifacts.data_folder("profiles")]), models)
        plan = pipeline.Plan(profile, None, list(pipeline.RUN_STAGES))
        machine = needs.meant_hardware(plan, Hardware(8, profile.hardware.ram_gb))
        there = machine.gpus[0].memory_gb if machine.gpus else machine.ram_gb
        for stage in ("sft", "dpo"):
            needed = memory.estimate_stage_gb(stage, profile.stages[stage], machine, profile.hardware.gpus or 1)
            assert needed <= there, (name, stage, needed)
