"""Text from a model, for every stage that needs it: generate completions, score given targets.

An engine has two methods, `generate(prompts, params) -> [Completion]` and
`score(prompts, targets) -> [mean log-probability]`, whatever runs below: transformers
(`engine_transformers.py`), vLLM in this process (`engine_vllm.py`), or a server (`engine_server.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from phoenix_utils.decoding import Completion, GenerationParams, OnBatch


class Engine(Protocol):
    """What translation, filtering and evaluation ask of a model."""

    def generate(
        self, prompts: Sequence[str], params: GenerationParams, on_batch: OnBatch | None = None
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
