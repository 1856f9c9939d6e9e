"""Two optimisations of attention, counted for any model's shapes and measured with this machine's kernels.

Fused attention (Flash Attention: Dao et al. 2022) never stores the table of scores; grouped-query attention (Ainslie
et al. 2023) lets several query heads share one head of keys and values. The paper names neither; its base model,
Mistral 7B, has both.
"""

from __future__ import annotations

import time

# Mistral 7B, the paper's base: layers, query heads, key and value heads, numbers in a head.
PAPER_BASE = {"layers": 32, "heads": 32, "kv_heads": 8, "head_size": 128}


def score_gb(length: int, heads: int, layers: int, value_bytes: int = 2) -> float:
    """GB of attention scores of one sequence, kept for the backward pass by attention that is not fused."""
    return layers * heads * length * length * value_bytes / 2**30


def kv_cache_gb(length: int, kv_heads: int, head_size: int, layers: int, value_bytes: int = 2) -> float:
    """GB of keys and values that generating holds for one sequence."""
    return 2 * layers * kv_heads * head_size * length * value_bytes / 2**30


def counted(lengths: tuple[int, ...] = (512, 2048, 8192)) -> dict[str, dict[str, float]]:
    """Scores and caches of the paper's base for one sequence of each length, in GB in 16 bits."""
    layers, heads, kv_heads, head_size = PAPER_BASE.values()
    return {
        f"{length:,} tokens": {
            "scores, not fused": score_gb(length, heads, layers),
            "scores, fused": 0.0,
            f"cache, {heads} heads": kv_cache_gb(length, heads, head_size, layers),
            f"cache, {kv_heads} shared heads": kv_cache_gb(length, kv_heads, head_size, layers),
        }
        for length in lengths
    }


def seconds(length: int, fused: bool, shared: bool, heads: int = 8, head_size: int = 128) -> float:
    """Time of one layer's attention, forward and backward, on a CPU: the better of two tries.

    `fused` chooses the kernel, `shared` a quarter of the heads for keys and values, as Mistral has them.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    generator = torch.Generator().manual_seed(0)
    sizes = (heads, heads // 4 if shared else heads, heads // 4 if shared else heads)
    best = float("inf")
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION if fused else SDPBackend.MATH):
        for _ in range(2):
            tensors = [torch.randn(1, count, length, head_size, generator=generator) for count in sizes]
            tensors = [tensor.requires_grad_() for tensor in tensors]
            started = time.perf_counter()
            # Shared heads are repeated first, since the CPU's fused kernel does not share them itself.
            query, key, value = (tensor.repeat_interleave(heads // tensor.shape[1], 1) for tensor in tensors)
            torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True).sum().backward()
            best = min(best, time.perf_counter() - started)
    return best


def measured(lengths: tuple[int, ...] = (256, 512, 1024)) -> dict[str, dict[str, float]]:
    """Milliseconds of one layer of eight heads by kernel and kind of heads, at each length."""
    kinds = {"not fused": (False, False), "fused": (True, False), "fused, shared heads": (True, True)}
    return {
        f"{length:,} tokens": {name: round(1000 * seconds(length, *choices), 1) for name, choices in kinds.items()}
        for length in lengths
    }
