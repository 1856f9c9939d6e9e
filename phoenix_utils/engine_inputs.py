"""What every engine does with prompts before its model reads them: template, tokens, a shared beginning, refusals."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from phoenix_utils.decoding import GenerationParams
from phoenix_utils.errors import PhoenixError

# A common beginning is worth computing once when it has at least so many tokens: ALMA's fixed words have ten.
SHARED_PREFIX_MIN = 8


class ChatPrompts:
    """The chat template of an engine's own tokenizer."""

    tokenizer: Any

    def chat_prompt(self, text: str) -> str:
        """`text` as a user's turn in the model's own chat template, open for the answer."""
        if not self.tokenizer.chat_template:
            raise PhoenixError(
                "prompt is 'chat', but the translator's tokenizer has no chat template: set translation.prompt to "
                "few_shot or alma"
            )
        messages = [{"role": "user", "content": text}]
        return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def adds_bos(tokenizer) -> bool:
    """Whether the tokenizer puts a beginning-of-sequence token before a text."""
    bos = tokenizer.bos_token_id
    return bos is not None and tokenizer("a")["input_ids"][:1] == [bos]


def encode_prompts(tokenizer, prompts: Sequence[str], limit: int | None = None) -> list[list[int]]:
    """Token ids of each prompt, with one beginning-of-sequence token where the tokenizer wants one.

    A chat template may have written that token already. Raises PhoenixError for an empty prompt and for one that
    leaves no room within the `limit` tokens (None: unknown) that the model reads.
    """
    if not prompts:
        return []
    ids = tokenizer(list(prompts), add_special_tokens=False)["input_ids"]
    if adds_bos(tokenizer):
        bos = tokenizer.bos_token_id
        ids = [row if row[:1] == [bos] else [bos, *row] for row in ids]
    for index, row in enumerate(ids):
        if not row or (limit and len(row) >= limit):
            what = "is empty" if not row else f"has {len(row):,} tokens and the model reads {limit:,}"
            raise PhoenixError(f"prompt {index} {what}; shorten or drop it")
    return ids


def refuse_beams(params: GenerationParams, engine: str) -> None:
    """Raise PhoenixError where `params` ask an engine for beam search that has none."""
    if params.num_beams > 1:
        raise PhoenixError(
            f"num_beams is {params.num_beams}, but the {engine} engine has no beam search that knows stop texts: "
            "set num_beams to 1, or the engine to transformers"
        )


def common_prefix(ids: list[list[int]]) -> list[int]:
    """The beginning that all rows share, at least one token short of the shortest row; [] if not worth it."""
    if len(ids) < 2:
        return []
    prefix = os.path.commonprefix(ids)
    prefix = prefix[: min(map(len, ids)) - 1]
    return prefix if len(prefix) >= SHARED_PREFIX_MIN else []
