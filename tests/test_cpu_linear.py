"""oneDNN's linear layers give PyTorch's numbers, follow changed weights, and leave the model as it was."""

import pytest
import tiny_models
import torch
from peft import LoraConfig, get_peft_model

from phoenix_utils import cpu_linear

IDS = torch.arange(24)[None] % 50


def logits(model, fast: bool):
    with torch.inference_mode():
        if not fast:
            return model(IDS).logits
        with cpu_linear.packed(model):
            return model(IDS).logits


@pytest.fixture
def model():
    return tiny_models.tiny_llama(200).eval()


def test_the_same_numbers_by_another_library(model, monkeypatch):
    plain, calls = logits(model, fast=False), []
    real = torch.nn.functional.linear
    monkeypatch.setattr(torch.nn.functional, "linear", lambda *a: calls.append(1) or real(*a))
    assert torch.allclose(logits(model, fast=True), plain, atol=1e-5)
    assert not calls, "no layer went the usual way"
    logits(model, fast=False)
    assert calls and not any("forward" in layer.__dict__ for layer in model.modules())


def test_a_merged_adapter_is_seen_at_the_next_time(model):
    before = logits(model, fast=True)
    tuned = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)).eval()
    beside = logits(tuned, fast=True)
    assert torch.allclose(beside, logits(tuned, fast=False), atol=1e-4) and not torch.allclose(
        beside, before, atol=1e-2
    )
    tuned.merge_adapter()
    assert torch.allclose(logits(tuned, fast=True), beside, atol=1e-4)
    tuned.unmerge_adapter()
    with tuned.disable_adapter():
        assert torch.allclose(logits(tuned, fast=True), before, atol=1e-4)


def test_other_types_and_interruptions_leave_the_model_alone(model):
    half = tiny_models.tiny_llama(200).to(torch.bfloat16).eval()
    assert torch.equal(logits(half, fast=True), logits(half, fast=False))
    with pytest.raises(KeyboardInterrupt), cpu_linear.packed(model):
        raise KeyboardInterrupt
    assert not any("forward" in layer.__dict__ for layer in model.modules())
