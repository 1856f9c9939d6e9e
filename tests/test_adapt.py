"""The translator's training: which pairs, which tokens, which batches, and a run that resumes to the same adapter."""

import json
import shutil

import pytest
import tiny_models
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import TrainerCallback

from phoenix_utils import artifacts, corpora, models, tables
from phoenix_utils.batches import IGNORED
from phoenix_utils.errors import PhoenixError
from phoenix_utils.translation import adapt, adapt_data, measure, parallel, prompts
from phoenix_utils.translation.adapt_settings import AdaptSettings, stage_inputs
from phoenix_utils.translation.measure import Hypothesis

PAIRS = [(row["source_text"], row["target_text"]) for row in corpora.sentence_pairs("en", "de")]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny_models.save_tiny(tmp_path_factory.mktemp("tiny")))


@pytest.fixture
def chosen_settings(tmp_path, model):
    """A run on a file of pairs whose pages are held out or not by their names."""
    path = tmp_path / "pairs.tsv"
    path.write_text(
        "document\ten\tde\n" + "".join(f"page {n // 3}\t{a}\t{b}\n" for n, (a, b) in enumerate(PAIRS)), encoding="utf-8"
    )
    return AdaptSettings(
        run_dir=str(tmp_path / "run"), model=model, pairs=[str(path), "package:pairs"], max_pairs=20,
        max_instruction_pairs=6, instruction_repeats=2, sample_pairs=2, measure_rows=3, max_length=900,
        batch_tokens=1500, save_steps=2, lora_r=4, lora_alpha=8,
    )  # fmt: skip


def pages(rows):
    return {row.document for row in rows}


def test_the_split_is_by_page_and_nothing_is_in_two_parts(chosen_settings):
    chosen = adapt_data.choose_pairs(chosen_settings.model_copy(update={"max_pairs": None, "monolingual_rows": 0}))
    assert chosen.held_out and chosen.other
    assert all(map(parallel.held_out_page, pages(chosen.held_out)))
    assert not any(map(parallel.held_out_page, pages(chosen.other)))
    parts = [chosen.instruction, chosen.other, chosen.samples, chosen.held_out]
    sources = [row.source_text for part in parts for row in part]
    assert len(set(sources)) == len(sources)
    assert (len(chosen.instruction), len(chosen.samples)) == (6, 2)


def test_the_same_settings_choose_the_same_pairs(chosen_settings):
    first, second = (adapt_data.choose_pairs(chosen_settings) for _ in range(2))
    assert vars(first) == vars(second)
    other = adapt_data.choose_pairs(chosen_settings.model_copy(update={"seed": 1}))
    assert [row.place for row in other.other] != [row.place for row in first.other]


def test_a_sentence_of_a_held_out_page_is_not_trained_on(tmp_path, chosen_settings):
    held = next(f"page {n}" for n in range(99) if parallel.held_out_page(f"page {n}"))
    free = next(f"page {n}" for n in range(99) if not parallel.held_out_page(f"page {n}"))
    paths = [tmp_path / "free.tsv", tmp_path / "held.tsv"]
    (one, german), (two, other), (three, third) = PAIRS[:3]
    rows = (
        [(free, two, other), (free, three, third), (free, *PAIRS[3]), (free, one.upper(), german)],
        [(held, one, german)],
    )
    for path, part in zip(paths, rows, strict=True):
        path.write_text("document\ten\tde\n" + "".join("\t".join(row) + "\n" for row in part), encoding="utf-8")
    found = adapt_data.choose_pairs(chosen_settings.model_copy(update={"pairs": [str(path) for path in paths]}))
    trained = [row.source_text for row in found.other + found.samples]
    assert sorted(trained) == sorted([two, three, PAIRS[3][0]]) and [row.source_text for row in found.held_out] == [one]
    assert [rejected.rule for rejected in found.rejected] == ["held_out"]


def test_instruction_pairs_can_be_left_out_and_monolingual_text_is_none_of_the_pairs(chosen_settings):
    found = adapt_data.choose_pairs(
        chosen_settings.model_copy(update={"instruction_repeats": 0, "monolingual_rows": 9})
    )
    assert not found.instruction and len(found.monolingual) == 9
    assert not set(found.monolingual) & {row.target_text for row in found.other}
    with pytest.raises(PhoenixError, match="monolingual_rows is 9000, but only"):
        adapt_data.choose_pairs(chosen_settings.model_copy(update={"monolingual_rows": 9000}))


def test_a_source_without_a_usable_pair_is_refused(tmp_path, chosen_settings):
    path = tmp_path / "bad.tsv"
    path.write_text("A lamp.\t\n" * 3)
    with pytest.raises(PhoenixError, match=r"bad.tsv has no usable pair of en and de: bad.tsv line 3: the target side"):
        adapt_data.choose_pairs(chosen_settings.model_copy(update={"pairs": [str(path)]}))


def test_only_the_translation_and_the_stop_token_carry_loss(model):
    tokenizer = models.load_tokenizer(model, ("en", "de"))
    ids, labels = adapt_data.pair_tokens(tokenizer, "Two\nlines", "Zwei Zeilen", "en", "de")
    start = labels.count(IGNORED)
    assert labels == [IGNORED] * start + ids[start:]
    assert tokenizer.decode(ids[start:-1]) == " Zwei Zeilen" and ids[-1] == tokenizer.eos_token_id
    assert ids[:start] == tokenizer(prompts.alma("Two lines", "en", "de"))["input_ids"]
    assert ids[0] == tokenizer.bos_token_id


def test_a_language_that_the_tokenizer_spells_in_bytes_is_refused(trimmed_model_dir, chosen_settings):
    tokenizer = models.load_tokenizer("embedded:gemma-3-270m", ("en", "de"))
    row = parallel.ParallelRow("Bread needs time.", "ዳቦ ጊዜ ይፈልጋል ብዬ አስባለሁ", "", "row 1")
    chosen = adapt_data.ChosenPairs()
    chosen.other = [row] * 3
    with pytest.raises(PhoenixError, match="does not know the language 'am': its tokenizer spells"):
        adapt_data.training_rows(chosen, tokenizer, chosen_settings.model_copy(update={"language": "am"}))


@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=80),
    st.integers(0, 20),
    st.integers(60, 200),
    st.integers(1, 3),
    st.integers(0, 5),
)
@settings(max_examples=80, deadline=None)
def test_batches_hold_every_row_under_the_budget(lengths, monolingual, budget, epochs, seed):
    monolingual = min(monolingual, len(lengths) - 1)
    sampler = adapt_data.TokenBatches(lengths, budget, epochs=epochs, seed=seed, monolingual=monolingual)
    batches = list(sampler)
    assert len(batches) == len(sampler) and all(batches)
    assert all(len(batch) * max(lengths[row] for row in batch) <= budget for batch in batches)
    seen = [row for batch in batches for row in batch]
    assert sorted(seen[:monolingual]) == list(range(monolingual))
    assert sorted(seen[monolingual:]) == sorted(list(range(monolingual, len(lengths))) * epochs)
    assert batches == list(adapt_data.TokenBatches(lengths, budget, epochs=epochs, seed=seed, monolingual=monolingual))


class Stop(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


def test_a_run_that_is_cut_off_ends_with_the_same_adapter(chosen_settings, tmp_path, monkeypatch):
    whole = adapt.adapt_and_measure(chosen_settings)
    build = adapt.build_trainer

    def build_and_stop(*arguments):
        trainer = build(*arguments)
        trainer.add_callback(Stop(5))
        return trainer

    cut = chosen_settings.model_copy(update={"run_dir": str(tmp_path / "cut")})
    with monkeypatch.context() as patch:
        patch.setattr(adapt, "build_trainer", build_and_stop)
        with pytest.raises(KeyboardInterrupt):
            adapt.adapt_and_measure(cut)
    again = adapt.adapt_and_measure(cut)
    assert whole["training"]["resumed_from_step"] == 0 and again["training"]["resumed_from_step"] == 4
    folders = [artifacts.stage_path(each.run_dir, "adapt") for each in (chosen_settings, cut)]
    first, second = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in folders)
    assert {value.dtype for value in first.values()} == {torch.float16}
    assert all(torch.allclose(first[name].float(), second[name].float(), atol=2e-3) for name in first)
    assert any(value.abs().max() > 0 for name, value in first.items() if "lora_B" in name)
    samples = [[(row["step"], row["source"]) for row in adapt.read_samples(folder)] for folder in folders]
    assert samples[0] == samples[1] and samples[0][0][0] == 0
    curves = [[row["step"] for row in tables.read_lines(folder / "log.jsonl")] for folder in folders]
    assert curves[0] == curves[1] == list(range(1, whole["training"]["steps"] + 1))
    # What is finished is not done again.
    monkeypatch.setattr(adapt, "choose_pairs", lambda settings: pytest.fail("a finished run chose pairs again"))
    assert adapt.adapt_and_measure(cut) == again


def test_products_of_a_run(chosen_settings):
    source = "Open the menu and choose Save."
    with open(chosen_settings.pairs[0], "a", encoding="utf-8") as file:
        file.write(f"page x\t{source}\t{source}\n")
    scores = adapt.adapt_and_measure(chosen_settings)
    folder = artifacts.stage_path(chosen_settings.run_dir, "adapt")
    assert set(scores) == {"training", "held_out", "project", "signatures"}
    assert {"chrf", "bleu", "copied", "loop", "truncated", "wrong_language"} == set(scores["project"]["after"])
    measured = tables.read_lines(folder / "measured.jsonl")
    assert [row["set"] for row in measured] == ["held_out"] * 3 + ["project"] * 3
    lineage = models.read_lineage(folder / "adapter")
    assert (lineage["prompt"], lineage["languages"], lineage["seed"]) == ("alma", ["en", "de"], 42)
    assert not (folder / "checkpoints").exists()
    manifest = json.loads((folder / "manifest.json").read_text())
    [rejected] = tables.read_lines(folder / "rejected.jsonl")
    assert set(rejected) == {"rule", "reason", "source", "target"} and rejected["source"] == source
    assert manifest["counts"]["rejected"] == 1
    assert manifest["counts"]["other"] == 20 and manifest["inputs"]["pairs_1"].startswith("sha256:")


class Trained(Exception):
    """A training is about to begin."""


def test_what_is_damaged_of_a_finished_translator_is_made_again(chosen_settings, tmp_path, monkeypatch):
    scores = adapt.adapt_and_measure(chosen_settings)
    folder, whole = artifacts.stage_path(chosen_settings.run_dir, "adapt"), tmp_path / "whole"
    shutil.copytree(folder, whole)

    def begin(*arguments):
        raise Trained

    def changed(name):
        shutil.rmtree(folder)
        shutil.copytree(whole, folder)
        content = bytearray((folder / name).read_bytes())
        content[-5] ^= 1
        (folder / name).write_bytes(content)

    with monkeypatch.context() as patch:
        patch.setattr(adapt, "build_trainer", begin)
        changed("scores.json")
        assert adapt.adapt_and_measure(chosen_settings) == scores
        for name in ("metrics.json", "adapter/adapter_config.json", "adapter/adapter_model.safetensors"):
            changed(name)
            for _ in range(2):
                with pytest.raises(Trained):
                    adapt.adapt_and_measure(chosen_settings)
    again = adapt.adapt_and_measure(chosen_settings)
    assert again["project"] == scores["project"] and again["training"]["steps"] == scores["training"]["steps"]
    first, second = (load_file(each / "adapter" / "adapter_model.safetensors") for each in (whole, folder))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert (folder / "rejected.jsonl").is_file()


def test_inputs_are_files_or_names():
    inputs = stage_inputs(AdaptSettings(pairs=["package:pairs", "owner/corpus", "debian:libreoffice-help"]))
    assert inputs["pairs_0"].name == "pairs_train.en-de.jsonl"
    assert (inputs["pairs_1"], inputs["pairs_2"]) == ("owner/corpus", "debian:libreoffice-help")


SOURCE = "Let the dough rest over night in a cool place, then bake it very hot."


@pytest.mark.parametrize(
    "text, finished, fault",
    [
        ("Lass den Teig über Nacht an einem kühlen Ort ruhen und back ihn dann sehr heiß.", True, None),
        (SOURCE, True, "copied"),
        ("Lass den Teig und dann und dann und dann und dann und dann und dann und dann ruhen.", True, "loop"),
        ("Lass den Teig über Nacht an einem kühlen Ort ruhen", False, "truncated"),
        ("Laat het deeg een nacht op een koele plek rusten en bak het daarna heel heet.", True, "wrong_language"),
    ],
)
def test_plain_failures_are_counted(text, finished, fault):
    found = measure.faults(SOURCE, Hypothesis(text, finished), "de", "en")
    assert found[fault] if fault else not any(found.values())
    assert sum(found.values()) <= 2


def test_scores_tell_better_from_worse():
    references = [(source, target) for source, target in PAIRS[:12]]
    right = [Hypothesis(target, True) for _, target in references]
    copied = [Hypothesis(source, True) for source, _ in references]
    scores = measure.compare({"s": references}, {"s": copied}, {"s": right}, "de", "en")
    assert scores["s"]["after"]["chrf"]["value"] == pytest.approx(100)
    assert scores["s"]["before"]["copied"]["value"] > 0.8 and scores["s"]["after"]["copied"]["value"] == 0
    assert scores["s"]["chrf_gain"]["low"] > 0
