"""Profiles and settings: what is read, what is refused, and in which words."""

from pathlib import Path

import pytest

from phoenix_utils.errors import PhoenixError
from phoenix_utils.evaluation.settings import EvaluationSettings
from phoenix_utils.pipeline import RUN_STAGES, parse_overrides, settings_models
from phoenix_utils.profile import build_settings, find_profile, load_profile, parse_override, shipped_profiles
from phoenix_utils.sft import SftSettings

ROOT = Path(__file__).resolve().parent.parent
PROFILES = shipped_profiles(ROOT / "profiles")


def load(tmp_path, text: str):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return load_profile(path, settings_models())


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_every_profile_loads_however_deep_it_lies(path):
    profile = load_profile(path, settings_models())
    assert profile.name == path.stem and profile.description
    assert set(profile.stages) == set(RUN_STAGES)


def test_all_five_profiles_are_shipped():
    assert {path.stem for path in PROFILES} >= {"mini", "laptop", "colab", "single_gpu", "paper"}


def test_the_defaults_of_every_stage_are_the_mini_profile():
    profile = load_profile(ROOT / "profiles/mini.yaml", settings_models())
    for name, settings in profile.stages.items():
        assert settings == settings_models()[name](), name


def test_a_stage_may_override_a_shared_value(tmp_path):
    profile = load(tmp_path, "model: org/student\nlanguage: nl\ntranslation:\n  model: org/translator\n")
    assert profile.stages["translation"].model == "org/translator"
    assert profile.stages["sft"].model == "org/student"
    assert {settings.language for settings in profile.stages.values()} == {"nl"}


def test_an_hour_of_the_machine_costs_what_its_gpus_cost_unless_the_stage_says_otherwise(tmp_path):
    hardware = "hardware:\n  device: cuda\n  gpus: 8\n  price_per_hour: 2.0\n"
    assert load(tmp_path, hardware).stages["translation"].price_per_hour == 16.0
    own = load(tmp_path, f"{hardware}translation:\n  price_per_hour: 3.0\n")
    assert own.stages["translation"].price_per_hour == 3.0
    assert load(tmp_path, "name: x\n").stages["translation"].price_per_hour is None


@pytest.mark.parametrize(
    "text, words",
    [
        ("sft:\n  learning_rat: 0.1\n", r"unknown key 'sft.learning_rat' \(did you mean 'learning_rate'\?\)"),
        ("stf:\n  seed: 1\n", r"unknown key 'stf' \(did you mean 'sft'\?\)"),
        ("sft:\n  learning_rate: 2e-4\n", r"sft.learning_rate is '2e-4', a str: .*write 2.0e-4"),
        ("language: no\n", "reads no, yes, on and off as true or false"),
        ("sft:\n  num_train_epochs: many\n", "sft.num_train_epochs is 'many'"),
        ("sft: 3\n", "sft is 3; a section of settings is wanted"),
        ("hardware:\n  gpu_count: 1\n", "unknown key 'hardware.gpu_count'"),
        ("sft: [\n", "not valid YAML at line"),
        ("seed: 1\nlanguage: nl\nseed: 2\n", "has 'seed' again at line 3: keep one"),
        ("sft:\n  lora_r: 8\n  lora_r: 4\n", "has 'lora_r' again at line 3"),
        ("sft:\n  learning_rate: .inf\n", "sft.learning_rate is inf.*finite"),
        ("sft:\n  learning_rate: .nan\n", "sft.learning_rate is nan.*finite"),
        ("", "is empty"),
        ("- a\n- b\n", "not a set of keys"),
    ],
)
def test_bad_profiles_get_one_clear_sentence(tmp_path, text, words):
    with pytest.raises(PhoenixError, match=words) as caught:
        load(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_an_unknown_profile_names_the_known_ones():
    with pytest.raises(PhoenixError, match=r"unknown profile 'minni' \(did you mean 'mini'\?\); known: .*paper"):
        find_profile("minni", [ROOT / "profiles"])
    with pytest.raises(PhoenixError, match="does not exist"):
        find_profile("nowhere.yaml", [ROOT / "profiles"])


def test_an_override_is_read_as_the_type_of_its_setting():
    assert parse_override(SftSettings, "learning_rate", "2e-4") == 2e-4
    assert parse_override(SftSettings, "language", "no") == "no"
    assert parse_override(SftSettings, "redo", "true") is True
    assert parse_override(EvaluationSettings, "judge_prices", "0.15, 0.6") == [0.15, 0.6]
    with pytest.raises(PhoenixError, match="judge_prices is 'dear,0.6'"):
        parse_override(EvaluationSettings, "judge_prices", "dear,0.6")
    with pytest.raises(PhoenixError, match="judge_prices.0 is -1"):
        build_settings(EvaluationSettings, {"judge_prices": [-1.0, 0.0]})
    with pytest.raises(PhoenixError, match="sft.learning_rate is 'fast'"):
        parse_override(SftSettings, "learning_rate", "fast", "sft.")
    with pytest.raises(PhoenixError, match="finite"):
        parse_override(SftSettings, "learning_rate", "nan", "sft.")


def test_overrides_name_stage_and_key():
    assert parse_overrides(["sft.seed=1", "dpo.beta=0.2"]) == {"sft": {"seed": "1"}, "dpo": {"beta": "0.2"}}
    shared = parse_overrides(["model=org/student", "seed=7"])
    assert "model" not in shared["translation"] and shared["translation"]["seed"] == "7"
    assert shared["sft"] == {"model": "org/student", "seed": "7"}
    for wrong, words in (
        ("sft.seed", "has no '='"),
        ("stf.seed=1", "unknown stage"),
        ("sed=1", "unknown key"),
    ):
        with pytest.raises(PhoenixError, match=words):
            parse_overrides([wrong])


def test_settings_shown_in_a_notebook_escape_what_they_hold():
    settings = build_settings(SftSettings, {"model": "<script>alert(1)</script>"})
    assert "<script>" not in settings._repr_html_() and "&lt;script&gt;" in settings._repr_html_()
