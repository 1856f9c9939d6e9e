"""Finding models by name, tokenizers that can pad, adapters that go with their base only."""

import json

import pytest
import tiny_models
import torch
from peft import get_peft_model

from phoenix_utils import models, training
from phoenix_utils.errors import PhoenixError

LANGUAGES = ("en", "de")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_models.save_tiny(tmp_path_factory.mktemp("tiny"))


def adapter_on(model, folder, base, seed=1):
    """Save a LoRA adapter with random weights and its lineage; returns the model with the adapter on it."""
    torch.manual_seed(seed)
    adapted = get_peft_model(model, training.lora_config(model, lora_r=4, lora_alpha=8, lora_dropout=0.0))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.3)
    adapted.save_pretrained(folder)
    models.write_lineage(folder, adapted, base)
    return adapted.eval()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("gpt2", "neither a folder, nor a hub id"),
        ("./not/here", "neither a folder, nor a hub id"),
        ("a/b/c", "neither a folder, nor a hub id"),
        ("embedded:gemma-9", "is unknown"),
        ("owner/na me", "neither a folder, nor a hub id"),
    ],
)
def test_what_cannot_be_a_model_is_refused_by_name(name, sentence):
    with pytest.raises(PhoenixError, match=sentence):
        models.locate(name, LANGUAGES)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(PhoenixError, match="holds no model"):
        models.locate(str(tmp_path), LANGUAGES)


def test_hub_ids_and_folders_are_passed_on(folder):
    assert models.locate("LeoLM/leo-mistral-hessianai-7b", LANGUAGES) == "LeoLM/leo-mistral-hessianai-7b"
    assert models.locate(str(folder), LANGUAGES) == str(folder)


def test_a_hub_model_out_of_reach_is_one_sentence():
    with pytest.raises(PhoenixError, match="nobody/nothing could not be loaded"):
        models.load_tokenizer("nobody/nothing", LANGUAGES)
    with pytest.raises(PhoenixError, match="nobody/nothing could not be loaded"):
        models.load_model("nobody/nothing", LANGUAGES)


def test_a_folder_with_a_cut_off_model_is_one_sentence(folder, tmp_path):
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(PhoenixError, match="could not be loaded"):
        models.load_model(str(tmp_path), LANGUAGES)


def test_a_tokenizer_that_pads_with_its_end_gets_another_padding_token(tmp_path):
    tiny_models.gpt_like().save_pretrained(tmp_path)
    tokenizer = models.load_tokenizer(str(tmp_path), LANGUAGES)
    assert tokenizer.pad_token == "<|fim_pad|>" and tokenizer.pad_token_id != tokenizer.eos_token_id


def test_a_padding_token_of_its_own_stays(folder):
    tokenizer = models.load_tokenizer(str(folder), LANGUAGES)
    assert tokenizer.pad_token == "<pad>" and tokenizer.padding_side == "right"


def test_without_a_spare_token_there_is_no_padding(tmp_path):
    from transformers import PreTrainedTokenizerFast

    bare = tiny_models._bpe(["<|endoftext|>"])
    PreTrainedTokenizerFast(tokenizer_object=bare, eos_token="<|endoftext|>").save_pretrained(tmp_path)
    with pytest.raises(PhoenixError, match="no spare special token"):
        models.load_tokenizer(str(tmp_path), LANGUAGES)


def test_models_load_in_the_type_asked_for_with_fused_attention(folder):
    model = models.load_model(str(folder), LANGUAGES, dtype="bfloat16")
    assert model.dtype == torch.bfloat16
    assert model.config._attn_implementation == "sdpa"


def test_an_adapter_is_the_one_that_was_saved(folder, tmp_path):
    ids = torch.arange(5, 25)[None]
    adapted = adapter_on(models.load_model(str(folder), LANGUAGES, dtype="float32"), tmp_path, str(folder))
    fresh = models.load_model(str(folder), LANGUAGES, dtype="float32")
    with torch.no_grad():
        before = fresh(ids).logits.clone()
        loaded = models.load_adapter(fresh, tmp_path, base=str(folder))
        assert not torch.allclose(loaded(ids).logits, before, atol=1e-3)
        assert torch.allclose(loaded(ids).logits, adapted(ids).logits, atol=1e-5)
    assert not any(p.requires_grad for p in loaded.parameters())


def test_a_trainable_adapter_trains_nothing_but_itself(folder, tmp_path):
    adapter_on(models.load_model(str(folder), LANGUAGES, dtype="float32"), tmp_path, str(folder))
    base = models.load_model(str(folder), LANGUAGES, dtype="float32")
    loaded = models.load_adapter(base, tmp_path, trainable=True)
    assert {name for name, p in loaded.named_parameters() if p.requires_grad} == {
        name for name, _ in loaded.named_parameters() if "lora_" in name
    }


@pytest.fixture
def other(tmp_path_factory):
    return tiny_models.save_tiny(tmp_path_factory.mktemp("other"), hidden_size=128)


def test_an_adapter_of_another_base_is_refused_by_its_recorded_shape(folder, other, tmp_path):
    adapter_on(models.load_model(str(folder), LANGUAGES, dtype="float32"), tmp_path, "owner/small")
    with pytest.raises(PhoenixError, match="was trained on owner/small"):
        models.load_adapter(models.load_model(str(other), LANGUAGES, dtype="float32"), tmp_path)


def test_an_adapter_of_another_base_is_refused_by_its_recorded_name(folder, tmp_path):
    model = models.load_model(str(folder), LANGUAGES, dtype="float32")
    adapter_on(model, tmp_path, "owner/one-7b")
    fresh = models.load_model(str(folder), LANGUAGES, dtype="float32")
    with pytest.raises(PhoenixError, match="was trained on owner/one-7b, not on owner/two-7b"):
        models.load_adapter(fresh, tmp_path, base="owner/two-7b")


@pytest.mark.parametrize("change", ["shape", "layers"])
def test_an_adapter_without_lineage_is_refused_where_its_weights_do_not_fit(folder, other, tmp_path, change):
    adapter_on(models.load_model(str(folder), LANGUAGES, dtype="float32"), tmp_path, "owner/small")
    (tmp_path / models.LINEAGE).unlink()
    if change == "shape":
        base = models.load_model(str(other), LANGUAGES, dtype="float32")
    else:
        # As if other layers had been adapted: PEFT would only warn and start these from random values.
        config = json.loads((tmp_path / "adapter_config.json").read_text())
        base = models.load_model(str(folder), LANGUAGES, dtype="float32")
        weights = tmp_path / "adapter_model.safetensors"
        from safetensors.torch import load_file, save_file

        kept = {name: value for name, value in load_file(weights).items() if "q_proj" not in name}
        save_file(kept, weights)
        assert "q_proj" in config["target_modules"]
    with pytest.raises(PhoenixError, match="does not fit"):
        models.load_adapter(base, tmp_path)


def test_a_folder_without_an_adapter_is_refused(folder, tmp_path):
    with pytest.raises(PhoenixError, match="holds no adapter"):
        models.load_adapter(models.load_model(str(folder), LANGUAGES, dtype="float32"), tmp_path)


def test_four_bit_weights_load_on_this_machine_and_compute(folder):
    pytest.importorskip("bitsandbytes")
    model = models.load_model(str(folder), LANGUAGES, dtype="float32", quantize=True)
    assert model.is_loaded_in_4bit
    assert type(model.model.layers[0].self_attn.q_proj).__name__ == "Linear4bit"
    exact = models.load_model(str(folder), LANGUAGES, dtype="float32")
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        close = torch.nn.functional.cosine_similarity(model(ids).logits[0], exact(ids).logits[0])
    assert close.mean() > 0.9
