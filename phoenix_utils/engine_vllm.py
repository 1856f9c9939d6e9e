"""Text from a model that vLLM loads in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from phoenix_utils import decoding
from phoenix_utils.artifacts import read_json
from phoenix_utils.decoding import Completion, GenerationParams
from phoenix_utils.engines import ChatPrompts, common_prefix
from phoenix_utils.errors import PhoenixError


class VllmEngine(ChatPrompts):
    """Batched generation by vLLM in this process; `model` is a hub id or a folder.

    vLLM schedules continuously and caches common prefixes by itself, so all prompts are handed over at once.
    Its GPU is set free when the process ends, which is why the runner gives every stage a process of its own.
    """

    def __init__(self, model: str, num_gpus: int = 1, adapter: Path | None = None):
        try:
            from vllm import LLM
            from vllm.lora.request import LoRARequest
        except ImportError:
            raise PhoenixError(
                "engine is 'vllm', which is not installed: pip install 'phoenix-utils[vllm]' -c constraints/gpu.txt, "
                "or set translation.engine to transformers"
            ) from None
        options = {}
        self.lora = None
        if adapter is not None:
            rank = read_json(adapter / "adapter_config.json")["r"]
            options = {"enable_lora": True, "max_lora_rank": max(8, rank)}  # the least that vLLM takes is 8
            self.lora = LoRARequest("translator", 1, str(adapter))
        self.llm = LLM(model=model, tensor_parallel_size=num_gpus, enable_prefix_caching=True, **options)
        self.tokenizer = self.llm.get_tokenizer()

    def generate(
        self,
        prompts: Sequence[str],
        params: GenerationParams,
        on_batch: Callable[[list[int], list[Completion]], None] | None = None,
    ) -> list[Completion]:
        """Complete each prompt (see Engine)."""
        from vllm import SamplingParams

        ids = self.tokenizer(list(prompts))["input_ids"]
        shared = len(common_prefix(ids))
        sampling = [
            SamplingParams(
                max_tokens=decoding.Sequence(row).limit(params, shared),
                temperature=params.temperature,
                top_p=params.top_p,
                top_k=params.top_k,
                repetition_penalty=params.repetition_penalty,
                stop=list(params.stop),
                seed=params.seed,
                logprobs=0,
            )
            for row in ids
        ]
        outputs = self.llm.generate(list(prompts), sampling, use_tqdm=False, lora_request=self.lora)
        completions = [
            Completion(
                answer.text,
                "stop" if answer.finish_reason == "stop" else "length",
                answer.cumulative_logprob / max(1, len(answer.token_ids)),
            )
            for answer in (output.outputs[0] for output in outputs)
        ]
        if on_batch:
            on_batch(list(range(len(prompts))), completions)
        return completions

    def score(self, prompts: Sequence[str], targets: Sequence[str]) -> list[float]:
        """Mean log-probability per token (nats) of each target after its prompt."""
        from vllm import SamplingParams

        heads = [self.tokenizer(text)["input_ids"] for text in prompts]
        tails = [self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in targets]
        requests = [{"prompt_token_ids": head + tail} for head, tail in zip(heads, tails, strict=True)]
        outputs = self.llm.generate(
            requests, SamplingParams(max_tokens=1, prompt_logprobs=0), use_tqdm=False, lora_request=self.lora
        )
        return [
            sum(place[token].logprob for place, token in zip(output.prompt_logprobs[len(head) :], tail, strict=True))
            / max(1, len(tail))
            for output, head, tail in zip(outputs, heads, tails, strict=True)
        ]
