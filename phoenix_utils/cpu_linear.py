"""Linear layers on a CPU by oneDNN: the same float32 numbers, two to four times as fast where MKL is slow.

PyTorch multiplies float32 matrices with Intel's MKL, which takes its slower path on processors of other makers, and
reorders the weights anew at each call. oneDNN, which comes with PyTorch as well, takes the widest instructions there
are, and its weights can be put in order once. Measured on two cores of an AMD EPYC (Zen 5), weights of 640 x 2048: 24
rows 142 GFLOP/s by MKL and 420 by oneDNN, 2,048 rows 122 and 460. Only for inference: there is no gradient.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

# Rows that the order of the weights is chosen for: what a batch of answers has.
ROWS = 64


@contextlib.contextmanager
def packed(model: torch.nn.Module) -> Iterator[None]:
    """Let oneDNN compute the model's float32 linear layers while the block lasts.

    Weights are put in order at the beginning, since an adapter may have been merged into them since the last time, and
    are forgotten at the end. Nothing happens to a model on another device, of another type or in 4 bit, nor where
    PyTorch was built without oneDNN. Layers inside the block must not be trained or changed.
    """
    layers = [layer for layer in model.modules() if _can(layer)]
    try:
        for layer in layers:
            layer.forward = _forward(layer)
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)


def _can(layer: torch.nn.Module) -> bool:
    # Subclasses (4-bit layers) and layers that someone else has given another forward keep theirs.
    return (
        type(layer) is torch.nn.Linear
        and "forward" not in layer.__dict__
        and layer.weight.device.type == "cpu"
        and layer.weight.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )


def _forward(layer: torch.nn.Linear):
    weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), ROWS)
    bias = layer.bias

    def forward(states: torch.Tensor) -> torch.Tensor:
        if states.dtype != torch.float32 or not states.numel():
            return torch.nn.functional.linear(states, layer.weight, bias)
        return torch.ops.mkldnn._linear_pointwise(states, weight, bias, "none", [], "")

    return forward
