"""Text from a model, for every stage that needs it: generate completions, score given targets.

An engine has two methods, `generate(prompts, params) -> [Completion]` and
`score(prompts, targets) -> [mean log-probability]`, whatever runs below: transformers
(`engine_transformers.py`), vLLM in this process (`engine_vllm.py`), or a server (`engine_server.py`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from phoenix_utils.decoding import Completion, GenerationParams
from phoenix_utils.errors import PhoenixError

# A common beginning is worth computing once when it has at least so many tokens: ALMA's fixed words have ten.
SHARED_PREFIX_MIN = 8


class Engine(Protocol):
    """What translation, filtering and evaluation ask of a model."""

    def generate(
        self,
        prompts: Sequence[str],
        params: GenerationParams,
        on_batch: Callable[[list[int], list[Completion]], None] | None = None,
    ) -> list[Completion]:
        """Complete each prompt; `on_batch(indices, completions)` is called as soon as a batch is done."""

    def score(self, prompts: Sequence[str], targets: Sequence[str]) -> list[float]:
        """Mean log-probability per token (nats) of each target after its prompt."""

    def chat_prompt(self, text: str) -> str:
        """`text` as a user's turn in the model's own chat template, open for the answer."""


def open_engine(
    kind: str,
    model: str,
    *,
    languages: tuple[str, str],
    quantize: bool = False,
    batch_tokens: int = 32768,
    num_gpus: int = 1,
    adapter: Path | None = None,
    base_url: str | None = None,
    concurrency: int = 32,
) -> Engine:
    """Load `model`, with the LoRA adapter in the folder `adapter`, into the engine "transformers", "vllm" or "server".

    `quantize` loads NF4 weights and `batch_tokens` limits a batch (both transformers only), `num_gpus` is vLLM's
    tensor parallelism; a server at `base_url` has loaded its model already and answers `concurrency` requests at once.
    A server serves an adapter under a name of its own, which has to be the name of the folder.
    Raises PhoenixError where the model cannot be found, the adapter does not fit or the engine is not installed.
    """
    from phoenix_utils.models import load_adapter, load_model, load_tokenizer, locate

    if kind == "server":
        from phoenix_utils.engine_server import ServerEngine

        served = adapter.name if adapter is not None else model
        return ServerEngine(base_url, served, load_tokenizer(model, languages), concurrency=concurrency)
    if kind == "vllm":
        from phoenix_utils.engine_vllm import VllmEngine

        return VllmEngine(locate(model, languages), num_gpus=num_gpus, adapter=adapter)
    from phoenix_utils.engine_transformers import TransformersEngine

    loaded = load_model(model, languages, quantize=quantize)
    if adapter is not None:
        loaded = load_adapter(loaded, adapter, base=model)
        if not quantize:  # a merged layer costs nothing while decoding; 4-bit weights would be rounded anew
            loaded = loaded.merge_and_unload()
    return TransformersEngine(loaded, load_tokenizer(model, languages), batch_tokens=batch_tokens)


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
