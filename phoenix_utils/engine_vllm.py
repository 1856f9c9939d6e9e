"""Text from a model that vLLM loads on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from phoenix_utils import decoding
from phoenix_utils.artifacts import read_json
from phoenix_utils.decoding import Completion, GenerationParams, OnBatch
from phoenix_utils.engine_inputs import ChatPrompts, common_prefix, encode_prompts, refuse_beams
from phoenix_utils.errors import PhoenixError
from phoenix_utils.hardware import choose_dtype, describe
from phoenix_utils.models import ADAPTER_WEIGHTS, refuse_pickles

if TYPE_CHECKING:
    from vllm.outputs import CompletionOutput, RequestOutput

# vLLM reads these when it is imported. What the user has set stays.
ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",  # it reports to its makers unless told not to
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_CPU_KVCACHE_SPACE": "4",  # GB; on a CPU it would take most of the memory
}


class VllmEngine(ChatPrompts):
    """Batched generation by vLLM on this machine; `model` is a hub id or a folder.

    vLLM schedules continuously and caches common prefixes by itself, so all prompts are handed over at once, and
    each is reported in the step that ends it. It computes in the number type of `choose_dtype`, as the transformers
    engine does. `num_gpus` is its tensor parallelism; the LoRA adapter in the folder `adapter` is applied beside the
    weights. Its GPU is set free when the process ends, which is why the runner gives every stage a process of its own.
    Raises PhoenixError where vLLM is not installed or cannot load the model.
    """

    def __init__(self, model: str, num_gpus: int = 1, adapter: Path | None = None):
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        try:
            from vllm import LLM
            from vllm.lora.request import LoRARequest
        except ImportError:
            raise PhoenixError(
                "engine is 'vllm', which is not installed: pip install 'phoenix-utils[vllm]' -c constraints/gpu.txt, "
                "or set translation.engine to transformers"
            ) from None
        hardware = describe()
        options = {
            "dtype": choose_dtype(hardware).name,
            "load_format": "safetensors",  # by default it falls back on pickles
            "tensor_parallel_size": num_gpus,
            "enable_prefix_caching": True,
            # The longest context whose cache fits: what a model was made for often does not fit a small card.
            "max_model_len": -1,
            # Compiling for a CPU takes longer than the translation of a small corpus.
            "enforce_eager": hardware.device == "cpu",
        }
        self.lora = None
        if adapter is not None:
            refuse_pickles(adapter, ADAPTER_WEIGHTS)
            rank = read_json(adapter / "adapter_config.json")["r"]
            options |= {"enable_lora": True, "max_lora_rank": max(8, 2 ** (rank - 1).bit_length())}  # 8, 16, 32, …
            self.lora = LoRARequest("translator", 1, str(adapter))
        try:
            self.llm = LLM(model=model, **options)
        except (OSError, ValueError, RuntimeError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise PhoenixError(
                f"vLLM could not load {model} ({reason}): its messages above say why; mend that, or set "
                "translation.engine to transformers"
            ) from error
        self.tokenizer = self.llm.get_tokenizer()

    def generate(
        self, prompts: Sequence[str], params: GenerationParams, on_batch: OnBatch | None = None
    ) -> list[Completion]:
        """Complete each prompt (see Engine); results come in the order of `prompts`."""
        refuse_beams(params, "vllm")
        rows = self._encode(prompts)
        shared = len(common_prefix(rows))
        state = [decoding.Sequence(row) for row in rows]
        limits = [sequence.limit(params, shared) for sequence in state]
        results: list[Completion | None] = [None] * len(rows)
        todo = list(range(len(rows)))
        while todo:
            requests = [state[index].prompt + state[index].tokens for index in todo]
            sampling = [_sampling(params, index, limits[index] - len(state[index].tokens)) for index in todo]
            again: list[int] = []
            for step in self._run(requests, sampling):
                done: list[int] = []
                for place, output in step:
                    index = todo[place]
                    whole = self._extend(state[index], output.outputs[0], limits[index], params.stop)
                    (done if whole else again).append(index)
                finished = [state[index].completion(self.tokenizer, params.stop) for index in done]
                for index, completion in zip(done, finished, strict=True):
                    results[index] = completion
                if on_batch and done:
                    on_batch(done, finished)
            todo = again
        return results  # type: ignore[return-value]

    def score(self, prompts: Sequence[str], targets: Sequence[str]) -> list[float]:
        """Mean log-probability per token (nats) of each target after its prompt."""
        from vllm import SamplingParams

        heads = self._encode(prompts)
        tails = [self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in targets]
        rows = [head + tail for head, tail in zip(heads, tails, strict=True)]
        results = [0.0] * len(rows)
        # One token has to be generated, since vLLM generates at least one.
        for step in self._run(rows, [SamplingParams(max_tokens=1, prompt_logprobs=0)] * len(rows)):
            for place, output in step:
                tail = tails[place]
                found = output.prompt_logprobs[len(heads[place]) :]
                values = [each[token].logprob for each, token in zip(found, tail, strict=True)]
                results[place] = sum(values) / max(1, len(values))
        return results

    def _encode(self, prompts: Sequence[str]) -> list[list[int]]:
        return encode_prompts(self.tokenizer, prompts, self.llm.model_config.max_model_len)

    def _run(self, rows: list[list[int]], sampling: list) -> Iterator[list[tuple[int, RequestOutput]]]:
        """Hand rows of tokens to vLLM; yields, after each of its steps, what is finished as (place, output).

        `LLM.generate` is these same calls, but returns only when the last row is finished.
        """
        if not rows:
            return
        engine = self.llm.llm_engine
        prompts = [{"prompt_token_ids": row} for row in rows]
        names = self.llm.enqueue(prompts, sampling, lora_request=self.lora, use_tqdm=False)
        # vLLM numbers requests, and puts something random behind the number only inside.
        places = {name.partition("-")[0]: place for place, name in enumerate(names)}
        try:
            while engine.has_unfinished_requests():
                yield [(places[output.request_id], output) for output in engine.step() if output.finished]
        finally:
            # After an interruption the next call would get the answers of this one.
            engine.abort_request(names, internal=True)

    def _extend(
        self, sequence: decoding.Sequence, answer: CompletionOutput, limit: int, stops: tuple[str, ...]
    ) -> bool:
        """Add an answer to its row. False where it has to go on: vLLM stops at a stop text before the answer too,
        where models put a newline."""
        sequence.tokens += answer.token_ids
        sequence.logprobs += [
            each[token].logprob for each, token in zip(answer.logprobs, answer.token_ids, strict=True)
        ]
        sequence.finish_reason = "stop" if answer.finish_reason == "stop" else "length"
        if not isinstance(answer.stop_reason, str):
            return True
        text = self.tokenizer.decode(sequence.tokens, skip_special_tokens=True).lstrip("\n ")
        if any(stop in text for stop in stops):
            return True
        sequence.finish_reason = "length"
        return len(sequence.tokens) >= limit


def _sampling(params: GenerationParams, index: int, room: int):
    from vllm import SamplingParams

    return SamplingParams(
        max_tokens=room,
        temperature=params.temperature,
        top_p=params.top_p,
        top_k=params.top_k,
        repetition_penalty=params.repetition_penalty,
        stop=list(params.stop),
        seed=params.seed + index,  # the same prompt twice is to give two samples
        logprobs=0,
    )
