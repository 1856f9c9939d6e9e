"""What translating costs: arithmetic that can be checked by hand, the paper's three prices, and what check prints."""

import json
import math
from typing import get_args

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from manifests import manifest  # tests/manifests.py, beside this file
from test_pipeline import phoenix

from phoenix_utils import artifacts, corpora, models, pipeline
from phoenix_utils.errors import PhoenixError
from phoenix_utils.hardware import Hardware
from phoenix_utils.profile import GpuName, HardwareNeeds
from phoenix_utils.translation import TranslationSettings, cost, forecast

TWO_CORES = Hardware(cores=2, ram_gb=16)
HUB = {"chat": "HuggingFaceH4/ultrachat_200k:train_sft", "preferences": "argilla/ultrafeedback-binarized-preferences"}
A100 = HardwareNeeds(device="cuda", gpus=1, gpu="A100 80GB")
amounts = st.floats(0.001, 1e12)


# ---------------------------------------------------------------- arithmetic


def test_an_estimate_by_hand():
    job = cost.estimate(7_200_000, characters_per_second=1000, price_per_hour=1.5)
    assert (job.tokens, job.hours, job.euros) == (1_800_000, 2.0, 3.0)
    assert job.euros_per_million == pytest.approx(3.0 / 7.2)
    assert cost.power_price(500, 0.30) == pytest.approx(0.15)
    assert cost.tokens(1000, characters_per_token=2.5) == 400


@given(amounts, amounts, amounts, st.floats(1.01, 100))
def test_more_text_costs_more_and_more_speed_costs_less(characters, speed, price, factor):
    job = cost.estimate(characters, speed, price)
    assert cost.estimate(characters * factor, speed, price).euros > job.euros
    assert cost.estimate(characters, speed * factor, price).hours < job.hours
    assert cost.estimate(characters, speed, price * factor).hours == job.hours
    assert job.euros == pytest.approx(job.euros_per_million * characters / 1e6)


@given(amounts, amounts, amounts)
def test_a_bill_and_the_job_behind_it_are_inverse(characters, euros, price):
    job = cost.implied(characters, euros, price)
    assert job.euros == pytest.approx(euros)
    again = cost.estimate(characters, job.characters_per_second, price)
    assert again.hours == pytest.approx(euros / price)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: cost.estimate(-1, 1, 1), "characters is -1: give a finite number of 0 or more"),
        (lambda: cost.estimate(1, 0, 1), "characters_per_second is 0: give a finite number above 0"),
        (lambda: cost.estimate(1, 1, math.nan), "price_per_hour is nan"),
        (lambda: cost.implied(0, 1, 1), "characters is 0"),
        (lambda: cost.implied(1, 1, 0), "price_per_hour is 0"),
        (lambda: cost.power_price(-5), "watts is -5"),
        (lambda: cost.tokens(5, 0), "characters_per_token is 0"),
        (lambda: cost.cpu_speed(1, 0), "cores is 0"),
        (lambda: cost.gpu_speed("A100", 7), "unknown GPU 'A100'.*known: T4, L4"),
    ],
)
def test_impossible_amounts_are_one_clear_sentence(call, words):
    with pytest.raises(PhoenixError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_the_assumed_characters_per_token_are_those_of_the_packaged_corpora(trimmed_model_dir):
    tokenizer = models.load_tokenizer(str(trimmed_model_dir), ("en", "de"))

    def ratio(texts):
        return sum(map(len, texts)) / sum(map(len, tokenizer(texts, add_special_tokens=False)["input_ids"]))

    chats = [message["content"] for row in corpora.read_chat("package:conversations") for message in row["messages"]]
    pairs = [row[part][-1]["content"] for row in corpora.read_preferences("package:preferences") for part in
             ("chosen", "rejected")]  # fmt: skip
    sentences = corpora.sentence_pairs("en", "de") + corpora.training_pairs("en", "de")
    mixed, prose = ratio(chats + pairs), ratio([row["source_text"] for row in sentences])
    assert mixed < cost.CHARACTERS_PER_TOKEN < prose
    assert (mixed, prose) == (pytest.approx(3.7, abs=0.1), pytest.approx(4.2, abs=0.1))


# ---------------------------------------------------------------- speeds


def test_every_gpu_a_profile_may_name_has_an_offer():
    assert list(cost.GPUS) == list(get_args(GpuName))


def test_the_speed_is_anchored_at_the_papers_bill_and_scales_with_size_and_bandwidth():
    paper = cost.gpu_speed("A100 80GB", cost.PAPER_PARAMETERS_B)
    assert paper == pytest.approx(1.5e9 / (150 * 3600))  # 300 EUR at 2 EUR an hour
    assert cost.gpu_speed("A100 80GB", 6.5) == pytest.approx(2 * paper)
    assert cost.gpu_speed("A100 80GB", 13, count=4) == pytest.approx(4 * paper)
    assert cost.gpu_speed("H100 80GB", 13) == pytest.approx(paper * 3350 / 2039)
    assert cost.gpu_speed("T4", 0.1) == cost.gpu_speed("T4", 1.0)
    assert cost.cpu_speed(cost.CPU_PARAMETERS_B, 2) == 1400
    assert cost.cpu_speed(10 * cost.CPU_PARAMETERS_B, 4) == pytest.approx(280)


@given(st.sampled_from(get_args(GpuName)), st.floats(0.1, 100), st.floats(1.0, 10))
def test_a_larger_model_is_never_faster_nor_easier_to_fit(name, billions, factor):
    assert cost.gpu_speed(name, billions * factor) <= cost.gpu_speed(name, billions)
    assert cost.fits(name, billions) or not cost.fits(name, billions * factor)


# ---------------------------------------------------------------- the paper


def test_the_papers_three_figures_taken_apart():
    own, rented, service = cost.paper_figures()
    assert (own.euros, rented.euros, service.euros) == (30, 300, 30_000)
    # 500 W at 0.30 EUR per kWh are 0.15 EUR an hour; an A100 is 2 EUR.
    assert (own.job.hours, rented.job.hours, service.job) == (pytest.approx(200), pytest.approx(150), None)
    assert own.job.characters_per_second == pytest.approx(2083.3, abs=0.1)
    assert rented.job.characters_per_second == pytest.approx(2777.8, abs=0.1)
    assert [figure.euros_per_million for figure in (own, rented, service)] == pytest.approx([0.02, 0.2, 20])
    # DeepL's list price is the paper's figure exactly; the monthly fee makes it "over".
    assert service.euros_per_million == cost.SERVICE_EUROS_PER_MILLION


def test_a_hundred_times_cheaper_fits_the_rented_gpu_only():
    own, rented, service = (figure.euros for figure in cost.paper_figures())
    assert (service / own, service / rented) == pytest.approx((1000, 100))


def test_other_prices_imply_other_speeds_and_the_same_bill():
    cheap, dear = (cost.paper_figures(rent_per_hour=price)[1] for price in (1.0, 4.0))
    assert (cheap.job.hours, dear.job.hours) == (pytest.approx(300), pytest.approx(75))
    assert cheap.euros == dear.euros and "1.00 EUR per hour" in cheap.basis
    assert cost.paper_figures(watts=1000)[0].job.hours == pytest.approx(100)


def test_the_table_has_this_computer_every_gpu_and_the_service():
    rows = {row["where"]: row for row in cost.cost_table(1.5e9, measured=100.0, watts=50)}
    assert list(rows) == ["this computer", *cost.GPUS, "DeepL Pro"]
    assert len({tuple(row) for row in rows.values()}) == 1, "one set of columns"
    assert rows["this computer"]["hours"] == pytest.approx(1.5e9 / 100 / 3600)
    assert rows["this computer"]["EUR per hour"] == pytest.approx(0.05 * cost.EUROS_PER_KWH)
    assert rows["A100 80GB"]["EUR"] == pytest.approx(300)
    assert rows["DeepL Pro"]["EUR"] == 30_000 and rows["DeepL Pro"]["hours"] is None
    assert rows["T4"]["hours"] is None and "do not fit" in rows["T4"]["basis"]
    small = {row["where"]: row for row in cost.cost_table(1e6, parameters_b=1.7)}
    assert "this computer" not in small and small["T4"]["hours"] > 0


# ---------------------------------------------------------------- before a run


def lines(settings, needs=None, machine=TWO_CORES) -> str:
    return "\n".join(forecast.cost_lines(settings, needs or HardwareNeeds(), machine))


def test_local_sources_are_counted(tmp_path):
    chat, pairs = tmp_path / "c.jsonl", tmp_path / "p.jsonl"
    chat.write_text(json.dumps({"instruction": "a" * 100, "output": "b" * 50}) + "\n")
    pairs.write_text((json.dumps({"prompt": "a" * 10, "chosen": "b" * 20, "rejected": "c" * 30}) + "\n") * 3)
    settings = TranslationSettings(chat=str(chat), preferences=str(pairs), max_rows=2)
    assert forecast.volume(settings) == forecast.Volume(150 + 2 * 60, "counted")


def test_a_large_source_is_counted_in_part_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(forecast, "MOST_COUNTED", 2)
    chat, pairs = tmp_path / "c.jsonl", tmp_path / "p.jsonl"
    chat.write_text((json.dumps({"instruction": "ab", "output": "cd"}) + "\n") * 3)
    pairs.write_text((json.dumps({"prompt": "ab", "chosen": "c", "rejected": "d"}) + "\n") * 3)
    settings = TranslationSettings(chat=str(chat), preferences=str(pairs), max_rows=2)
    assert forecast.volume(settings) == forecast.Volume(16, "counted")
    part = forecast.volume(settings.model_copy(update={"max_rows": None}))
    assert part == forecast.Volume(16, "only the first 2 rows of a source counted")


def test_what_the_evaluation_needs_translated_counts_too():
    german, dutch = (TranslationSettings(language=language, held_out_rows=3) for language in ("de", "nl"))
    without = dutch.model_copy(update={"held_out_rows": 0})
    assert forecast.volume(without) == forecast.volume(german)
    asked = [corpora.spread(read("en"), 3) for read in (corpora.held_out_chat, corpora.held_out_preferences)]
    texts = [message["content"] for row in asked[0] for message in row["messages"]]
    texts += [
        text
        for row in asked[1]
        for text in (row["prompt"], *(row[side][-1]["content"] for side in ("chosen", "rejected")))
    ]
    texts += [text for row in corpora.spread(corpora.questions("en"), 3) for text in row["turns"] + row["reference"]]
    assert forecast.volume(dutch).characters - forecast.volume(german).characters == sum(map(len, texts))


def test_the_papers_sources_are_estimated_and_others_are_unknown():
    whole = forecast.volume(TranslationSettings(**HUB, max_rows=None))
    assert whole.characters == cost.PAPER_CHARACTERS and whole.basis.startswith("not read")
    part = forecast.volume(TranslationSettings(**HUB, max_rows=1000))
    assert part.characters == pytest.approx(2000 * cost.PAPER_CHARACTERS / 271_600, abs=2)
    for name in ("owner/name", "HuggingFaceH4/ultrachat_200k:test_sft"):
        assert forecast.volume(TranslationSettings(**{**HUB, "chat": name})) == forecast.Volume(None, name)
    text = lines(TranslationSettings(chat="owner/name", model="haoranxu/ALMA-13B", engine="vllm"), A100)
    assert "characters unknown, known after reading owner/name" in text
    assert "about 6 min for each million characters" in text and "0.20 EUR for each million characters" in text


def test_the_paper_profile_comes_to_the_papers_bill():
    plan = pipeline.make_plan("paper")
    text = lines(plan.settings("translation"), plan.profile.hardware)
    assert "about 1.5 billion source characters" in text and "380 million tokens" in text
    assert "about 150 h on 1 x A100 80GB at 2,800 characters/s" in text and "not measured here" in text
    assert "about 300 EUR at 2.00 EUR per hour (assumed, 2026-03: look up your own price)" in text


def test_a_price_of_ones_own_changes_the_bill_and_not_the_hours():
    settings = TranslationSettings(**HUB, max_rows=None, model="haoranxu/ALMA-13B", engine="vllm", num_gpus=2)
    text = lines(settings, A100.model_copy(update={"price_per_hour": 1.0}))
    assert "about 75 h on 2 x A100 80GB" in text and "about 150 EUR at the profile's 1.00 EUR per hour" in text


@pytest.mark.parametrize(
    "change, needs, words",
    [
        (
            {"engine": "server", "base_url": "http://localhost:1/v1"},
            {},
            "hours unknown (a server's speed is known once",
        ),
        ({"model": "org/nameless"}, {}, "hours unknown (org/nameless does not say how large it is)"),
        ({}, {"device": "cuda"}, "hours unknown (the profile's hardware.gpu names no GPU)"),
        ({}, {}, "1,400 characters/s (scaled from the embedded model's on 2 cores, not measured on this machine)"),
        ({}, {"price_per_hour": 0.5}, "at the profile's 0.50 EUR per hour"),
        ({}, {"gpu": "T4"}, "that is vLLM's speed, transformers is slower"),
    ],
)
def test_what_is_not_known_is_said(change, needs, words, tmp_path):
    assert words in lines(TranslationSettings(**change, run_dir=str(tmp_path)), HardwareNeeds(**needs))


def test_a_speed_that_was_measured_is_used_for_the_same_model_only(tmp_path):
    folder = tmp_path / "01_translation"
    folder.mkdir()
    made = {"model": "org/a", "engine": "transformers"}
    told = manifest(settings=made, notes={"characters_per_second": 12.5})
    (folder / "manifest.json").write_text(json.dumps(told))
    same = TranslationSettings(model="org/a", run_dir=str(tmp_path))
    assert forecast.speed(same, HardwareNeeds(), TWO_CORES).characters_per_second == 12.5
    assert "measured in" in lines(same)
    other = same.model_copy(update={"model": "org/b-1b"})
    assert forecast.speed(other, HardwareNeeds(), TWO_CORES).characters_per_second != 12.5
    two, three = (same.model_copy(update={"engine": "ray", "ray_workers": number}) for number in (2, 3))
    told["notes"]["engine"] = two.on_ray
    (folder / "manifest.json").write_text(json.dumps(told))
    found = [forecast.speed(each, HardwareNeeds(), TWO_CORES).characters_per_second for each in (same, two, three)]
    assert found == [None, 12.5, None]
    told["notes"] = {}
    (folder / "manifest.json").write_text(json.dumps(told))
    assert forecast.speed(same, HardwareNeeds(), TWO_CORES).characters_per_second is None


def test_check_prints_it_and_takes_a_price_on_the_command_line(tmp_path):
    done = phoenix("check", "mini", "--set", "hardware.gpu=L4", "--set", "hardware.price_per_hour=2.5",
                   "--out", str(tmp_path / "run"))  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "source characters (counted)" in done.stdout and "on 1 x L4 at" in done.stdout
    assert "at the profile's 2.50 EUR per hour" in done.stdout
    wrong = phoenix("check", "mini", "--set", "hardware.gpu=L5")
    assert wrong.returncode == 2 and "hardware.gpu is 'L5'" in wrong.stderr and "'A100 80GB'" in wrong.stderr


def test_profiles_for_a_gpu_name_it():
    paths = artifacts.data_folder("profiles").glob("*.yaml")
    needs = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")).get("hardware", {}) for path in paths}
    on_gpus = {name: found for name, found in needs.items() if found.get("device") == "cuda"}
    assert {"colab", "single_gpu", "paper"} == set(on_gpus)
    for found in on_gpus.values():
        assert cost.gpu_offer(found["gpu"]).memory_gb >= found["gpu_memory_gb"]
