"""The CPU's way to log-probabilities gives what TRL's gives: values, gradients, and the statistics beside them."""

import pytest
import tiny_models
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from trl.kernels import ChunkedLogProbFunction
from trl.trainer import utils as trl_utils

from phoenix_utils import lm_head

OUTPUTS = ("log_probs", "entropy", "mean_logits", "is_top1")


def both(hidden, weight, targets):
    """(results, gradients) of TRL's function and of ours on the same input."""
    found = []
    for function in (ChunkedLogProbFunction, lm_head.Chooser(None)):
        inputs = [tensor.clone().requires_grad_() for tensor in (hidden, weight)]
        results = function.apply(*inputs, None, targets, 1.0, 32, None, 1.0, OUTPUTS)
        (results[0] * torch.linspace(0.5, 2.0, len(targets))).sum().backward()
        found.append(([r.detach() for r in results if r is not None], [tensor.grad for tensor in inputs]))
    return found


@given(st.integers(1, 9), st.integers(2, 70), st.integers(0, 10**6), st.sampled_from([0.1, 1.0, 30.0]))
@settings(max_examples=60, deadline=None)
def test_results_and_gradients_are_trls(tokens, vocabulary, seed, scale):
    torch.manual_seed(seed)
    hidden, weight = torch.randn(tokens, 8) * scale, torch.randn(vocabulary, 8)
    targets = torch.randint(vocabulary, (tokens,))
    (theirs, their_gradients), (ours, our_gradients) = both(hidden, weight, targets)
    for expected, found in zip(theirs + their_gradients, ours + our_gradients, strict=True):
        # float32 logits of size L are off by about 1e-7 L, which the gradient multiplies by the hidden state.
        tolerance = 1e-4 * max(1.0, scale) ** 2
        assert torch.allclose(expected.float(), found.float(), atol=tolerance, rtol=1e-4)


def test_the_gradient_is_that_of_a_log_softmax():
    torch.manual_seed(0)
    hidden = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(7, 4, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(7, (5,))
    ours = torch.autograd.grad(lm_head.KeptProbabilities.apply(hidden, weight, targets)[0].sum(), (hidden, weight))
    exact = (hidden @ weight.T).log_softmax(-1)[torch.arange(5), targets]
    for found, expected in zip(ours, torch.autograd.grad(exact.sum(), (hidden, weight)), strict=True):
        assert torch.allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("change", ["bias", "softcap", "output", "large"])
def test_what_it_cannot_do_goes_to_trl(change, monkeypatch):
    class Tiled:
        @staticmethod
        def apply(*arguments):
            return "tiled"

    hidden, weight, targets = torch.randn(3, 4), torch.randn(6, 4), torch.tensor([0, 1, 2])
    bias, softcap, outputs = None, None, OUTPUTS
    if change == "bias":
        bias = torch.zeros(6)
    elif change == "softcap":
        softcap = 30.0
    elif change == "output":
        outputs = (*OUTPUTS, "log_sum_sq_probs")
    else:
        monkeypatch.setattr(lm_head, "MOST_BYTES", 10)
    chooser = lm_head.Chooser(Tiled)
    assert chooser.apply(hidden, weight, bias, targets, 1.0, 32, softcap, 1.0, outputs) == "tiled"


def test_a_model_with_it_computes_the_same_loss_and_gradient():
    results = {}
    for fast in (False, True):
        model = tiny_models.tiny_llama(300)
        trl_utils.add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
        ids = torch.arange(24).reshape(2, 12) + 7
        labels = ids.masked_fill(torch.arange(12) < 5, -100)
        labels[1, 9:] = -100
        if fast:
            with lm_head.fast_on_cpu():
                out = model(input_ids=ids, labels=labels, fused_lm_head=True)
        else:
            out = model(input_ids=ids, labels=labels, fused_lm_head=True)
        (-out.log_probs.sum()).backward()
        results[fast] = (out.log_probs, out.entropy, out.is_top1.int(), model.get_input_embeddings().weight.grad)
    for plain, kept in zip(results[False], results[True], strict=True):
        assert torch.allclose(plain, kept, atol=1e-5)


def test_under_autocast_both_compute_in_bfloat16():
    hidden, weight = torch.randn(7, 16, requires_grad=True), torch.randn(50, 16)
    targets = torch.arange(7)
    found = {}
    with torch.autocast("cpu", torch.bfloat16):
        for name, function in (("kept", lm_head.Chooser(ChunkedLogProbFunction)), ("tiled", ChunkedLogProbFunction)):
            log_probs = function.apply(hidden, weight, None, targets, 1.0, 32, None, 1.0, OUTPUTS)[0]
            (gradient,) = torch.autograd.grad(log_probs.sum(), hidden)
            found[name] = log_probs.detach(), gradient
    exact = (hidden @ weight.T).log_softmax(-1)[range(7), targets]
    for kept, tiled in zip(found["kept"], found["tiled"], strict=True):
        assert kept.dtype == torch.float32 and torch.allclose(kept, tiled, atol=0.05)
    assert 1e-6 < (found["kept"][0] - exact).abs().max() < 0.1


def test_trl_is_left_as_it_was():
    before = trl_utils._use_triton, trl_utils._ChunkedLogProbFunction
    with lm_head.fast_on_cpu():
        assert (trl_utils._use_triton, trl_utils._ChunkedLogProbFunction) != before
    assert (trl_utils._use_triton, trl_utils._ChunkedLogProbFunction) == before
    assert trl_utils._ChunkedLogProbFunction is ChunkedLogProbFunction
