"""The shipped profiles: complete, commented, and `mini` and `paper` what they claim to be."""

import re
from pathlib import Path

import pytest
import yaml

from phoenix_utils.batches import plan_batches, plan_steps
from phoenix_utils.errors import PhoenixError
from phoenix_utils.pipeline import RUN_STAGES, STAGES
from phoenix_utils.profile import SHARED_KEYS, UNHASHED_KEYS, load_profile, load_settings, shipped_profiles

FOLDER = Path(__file__).resolve().parent.parent / "profiles"
PATHS = shipped_profiles(FOLDER)
MODELS = {name: STAGES[name].settings_model() for name in RUN_STAGES}


def comments(path: Path) -> dict[str, str]:
    """The comment lines right above each key, by dotted name."""
    found, section, above = {}, "", []
    for line in path.read_text(encoding="utf-8").splitlines():
        text = line.strip()
        if text.startswith("#"):
            above.append(text.lstrip("# "))
            continue
        if match := re.match(r"( *)([a-z0-9_]+):(.*)", line):
            indent, key, value = match.groups()
            name = f"{section}.{key}" if indent else key
            section = section if indent else key
            if indent or value.strip():
                found[name] = " ".join(above)
        above = []
    return found


def test_the_five_profiles_are_there():
    assert {path.stem for path in PATHS} == {"mini", "laptop", "colab", "single_gpu", "paper"}


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_profile_names_every_setting_with_its_trade_off(path):
    # A setting left out would silently take mini's value.
    profile, given = load_profile(path, MODELS), yaml.safe_load(path.read_text(encoding="utf-8"))
    assert (profile.name, given["name"]) == (path.stem, path.stem) and profile.description
    for stage, model in MODELS.items():
        assert set(model.model_fields) - {*SHARED_KEYS, *UNHASHED_KEYS} == set(given[stage]) - {*SHARED_KEYS}
    above = comments(path)
    wanted = {*SHARED_KEYS, *(f"{stage}.{key}" for stage in MODELS for key in given[stage])}
    assert not [name for name in wanted if not above.get(name)]


def test_the_settings_of_the_packaged_translator_load():
    settings = load_settings(FOLDER / "adapt_en_de.yaml", STAGES["adapt"].settings_model(), {"max_pairs": "7"})
    assert settings.max_pairs == 7 and settings.pairs == ["package:pairs", "debian:libreoffice-help"]
    with pytest.raises(PhoenixError, match="'lora_rank'"):
        load_settings(FOLDER / "adapt_en_de.yaml", STAGES["adapt"].settings_model(), {"lora_rank": "7"})


@pytest.mark.parametrize("stage", MODELS)
def test_mini_is_what_the_notebooks_do_as_they_stand(stage):
    settings = load_profile(FOLDER / "mini.yaml", MODELS).stages[stage]
    assert settings == MODELS[stage]()


def test_paper_holds_what_the_paper_prints():
    stages = load_profile(FOLDER / "paper.yaml", MODELS).stages
    translation, sft, dpo = stages["translation"], stages["sft"], stages["dpo"]
    assert translation.model == "haoranxu/ALMA-13B" and translation.max_rows is None
    assert translation.chat.startswith("HuggingFaceH4/ultrachat_200k")
    assert translation.preferences.startswith("argilla/ultrafeedback-binarized-preferences:")
    assert {stages[name].model for name in ("filtering", "sft", "dpo", "evaluation")} == {
        "LeoLM/leo-mistral-hessianai-7b"
    }
    # Tables 1 and 2.
    assert (sft.global_batch, sft.packing, sft.lr_scheduler_type) == (512, True, "cosine")
    assert sft.max_length == 2048
    assert (dpo.global_batch, dpo.lr_scheduler_type, dpo.num_train_epochs) == (64, "linear", 1)
    assert stages["evaluation"].harness_tasks == ["arc_de", "hellaswag_de", "m_mmlu_de"]


def test_paper_comes_to_its_steps_on_its_devices():
    """Table 1: 228 steps of 512 packed sequences of 2,048 tokens, on eight devices."""
    profile = load_profile(FOLDER / "paper.yaml", MODELS)
    sft = profile.stages["sft"]
    plan = plan_batches(sft.global_batch, sft.per_device_train_batch_size, profile.hardware.gpus)
    assert (plan.global_batch, plan.devices, sft.max_length, sft.packing) == (512, 8, 2048, True)
    assert plan.per_device * plan.accumulation == 64
    assert plan_steps(116_736, plan.global_batch, sft.num_train_epochs) == 228
    for name in ("ddp", "fsdp", "zero3"):
        launch = yaml.safe_load((FOLDER / "accelerate" / f"{name}.yaml").read_text(encoding="utf-8"))
        assert launch["num_processes"] == profile.hardware.gpus


def test_paper_labels_what_the_paper_does_not_state():
    above = comments(FOLDER / "paper.yaml")
    not_stated = [
        "seed",
        "sft.num_train_epochs",
        "dpo.beta",
        "dpo.max_length",
        "evaluation.judge",
        "evaluation.mt_bench",
        *(
            f"{stage}.{key}"
            for stage in ("sft", "dpo")
            for key in ("learning_rate", "warmup_steps", "weight_decay", "dtype")
        ),
    ]
    assert [name for name in not_stated if not above[name].startswith("inferred:")] == []
