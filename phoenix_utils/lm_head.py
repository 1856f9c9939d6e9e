"""Log-probabilities on a CPU, where TRL's memory-saving way of computing them costs more than it saves.

TRL 1.16 never keeps the logits: it computes them in tiles, throws them away, and computes them again for the
backward pass. On a GPU that saves gigabytes, and its kernels skip every position without loss. On a CPU, for
rows of a few hundred tokens, the logits are small and the time is not: a vocabulary is as wide as half of a
small model. So on CPUs the probabilities of the positions *with* loss are kept, and nothing is computed twice.
The results are the same (tested); everything else stays TRL's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

# Where the probabilities would take more than this, TRL's tiles are the better choice on a CPU too.
MOST_BYTES = 2**30


class KeptProbabilities(torch.autograd.Function):
    """Log-probability of each target under softmax(hidden @ weight.T), the probabilities kept for backward.

    Shapes: `hidden` (tokens, width), `weight` (vocabulary, width), `targets` (tokens,). Returns what TRL's
    function returns, each of shape (tokens,): log-probabilities in nats, entropy, None, mean logit, whether
    the target is the likeliest token. Only the first has a gradient.
    """

    @staticmethod
    def forward(ctx, hidden, weight, targets):
        """One product, one pass for each statistic, and the probabilities in place of the exponentials."""
        ctx.set_materialize_grads(False)
        # The product runs in autocast's type, as TRL's does; what follows it needs float32's digits.
        kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else hidden.dtype
        logits = hidden.to(kind) @ weight.to(kind).T
        logits = logits.float() if logits.dtype.itemsize == 2 else logits
        mean_logits = logits.mean(-1)
        highest, likeliest = logits.max(-1)
        logits.sub_(highest[:, None])
        of_target = logits.gather(-1, targets[:, None])[:, 0]
        exponentials = logits.exp()
        total = exponentials.sum(-1)
        log_total = total.log()
        entropy = log_total - torch.einsum("tv,tv->t", exponentials, logits) / total
        is_top1 = likeliest == targets
        if any(ctx.needs_input_grad):
            ctx.kind, ctx.probabilities = kind, exponentials.div_(total[:, None])
            ctx.save_for_backward(hidden, weight, targets)
        ctx.mark_non_differentiable(entropy, mean_logits, is_top1)
        return of_target - log_total, entropy, mean_logits, is_top1

    @staticmethod
    def backward(ctx, gradient, *_):
        """d log p(target) / d logits = onehot(target) - p."""
        hidden, weight, targets = ctx.saved_tensors
        logits = ctx.probabilities.mul_(-gradient[:, None])
        del ctx.probabilities
        logits.scatter_add_(-1, targets[:, None], gradient[:, None])
        logits = logits.to(ctx.kind)
        to_hidden = (logits @ weight.to(ctx.kind)).to(hidden.dtype) if ctx.needs_input_grad[0] else None
        to_weight = (logits.T @ hidden.to(ctx.kind)).to(weight.dtype) if ctx.needs_input_grad[1] else None
        return to_hidden, to_weight, None


class Chooser:
    """Stands where TRL calls its tiled function; takes the kept one for everything that it can do."""

    def __init__(self, tiled: Any):
        self.tiled = tiled

    def apply(self, hidden, weight, bias, targets, temperature, chunk_size, softcap=None, scale=1.0, outputs=()):
        """Arguments and results are those of TRL's ChunkedLogProbFunction.apply."""
        plain = bias is None and softcap is None and scale == 1.0 and temperature == 1.0
        small = len(hidden) * len(weight) * 4 <= MOST_BYTES
        known = set(outputs) <= {"log_probs", "entropy", "mean_logits", "is_top1"}
        if not (hidden.device.type == "cpu" and plain and small and known):
            arguments = (hidden, weight, bias, targets, temperature, chunk_size, softcap, scale, outputs)
            return self.tiled.apply(*arguments)
        log_probs, entropy, mean_logits, is_top1 = KeptProbabilities.apply(hidden, weight, targets)
        return log_probs, entropy, None, mean_logits, is_top1


@contextlib.contextmanager
def fast_on_cpu() -> Iterator[None]:
    """Let TRL's trainers look at positions with loss only, on every device, and keep probabilities on CPUs.

    Where there is no Triton, TRL computes log-probabilities for prompts and padding as well and drops them,
    since some accelerators want tensors whose shape never changes.
    """
    import trl.trainer.utils as trl_utils

    original = trl_utils._use_triton, trl_utils._ChunkedLogProbFunction
    trl_utils._use_triton = lambda device: True
    trl_utils._ChunkedLogProbFunction = Chooser(original[1])
    try:
        yield
    finally:
        trl_utils._use_triton, trl_utils._ChunkedLogProbFunction = original
