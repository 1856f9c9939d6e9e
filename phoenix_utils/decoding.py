"""One decoding step: which token comes next in each row of a batch, and what a finished row says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class GenerationParams:
    """How to continue a prompt. Greedy unless `temperature` is above 0; `stop` texts end a completion.

    `num_beams` above 1 searches for the likeliest whole completion instead, where the engine can. `max_new_ratio`
    limits a completion to so many tokens for each token of its prompt as well; a beginning that all prompts share is
    not counted.
    """

    max_new_tokens: int = 256
    max_new_ratio: float | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int = 0
    num_beams: int = 1


@dataclass(frozen=True)
class Completion:
    """One completion: its text without the stop, why it ended, mean log-probability of its tokens (nats)."""

    text: str
    finish_reason: str
    mean_logprob: float


OnBatch = Callable[[list[int], list[Completion]], None]
"""Called as soon as a batch is done, with the places of its prompts and their completions."""


@dataclass
class Sequence:
    """A row while it is being generated."""

    prompt: list[int]
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: str = ""

    def has_text(self, tokenizer) -> bool:
        """Whether anything but white space has been written yet."""
        return bool(tokenizer.decode(self.tokens, skip_special_tokens=True).strip())

    def limit(self, params: GenerationParams, shared: int) -> int:
        """Most tokens this row may get, `shared` being the length of the common beginning."""
        if params.max_new_ratio is None:
            return params.max_new_tokens
        return min(params.max_new_tokens, int(params.max_new_ratio * (len(self.prompt) - shared)) + 8)

    def completion(self, tokenizer, stops: tuple[str, ...]) -> Completion:
        """The finished text, cut before the first stop."""
        text = tokenizer.decode(self.tokens, skip_special_tokens=True)
        if stops:
            text = text.lstrip("\n ")
            ends = [at for at in (text.find(stop) for stop in stops) if at >= 0]
            text = text[: min(ends)] if ends else text
        mean = sum(self.logprobs) / max(1, len(self.logprobs))
        return Completion(text, self.finish_reason or "length", mean)


def choose_tokens(logits, sequences: list[Sequence], params: GenerationParams, generator, stop_ids: set[int]):
    """Next token of each row and its log-probability under the model (before temperature and filters).

    The repetition penalty spares `stop_ids`: a chat prompt holds the stop token after every turn, and a model
    should not be kept from ending its answer because the question ended.
    """
    import torch

    raw = logits.log_softmax(-1)
    if params.repetition_penalty != 1.0:
        logits = logits.clone()
        for row, sequence in enumerate(sequences):
            seen = torch.tensor(sorted({*sequence.prompt, *sequence.tokens} - stop_ids), device=logits.device)
            values = logits[row, seen]
            logits[row, seen] = torch.where(
                values > 0, values / params.repetition_penalty, values * params.repetition_penalty
            )
    if params.temperature <= 0:
        chosen = logits.argmax(-1)
    else:
        probabilities = filtered_logits(logits / params.temperature, params).softmax(-1)
        chosen = torch.multinomial(probabilities.cpu(), 1, generator=generator)[:, 0].to(logits.device)
    return chosen, raw.gather(1, chosen[:, None])[:, 0]


def filtered_logits(logits, params: GenerationParams) -> torch.Tensor:
    """Logits outside top-k and outside the nucleus of `top_p` set to minus infinity."""
    if params.top_k:
        least = logits.topk(min(params.top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < least, float("-inf"))
    if params.top_p < 1.0:
        ordered, order = logits.sort(descending=True)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
        ordered = ordered.masked_fill(before >= params.top_p, float("-inf"))
        logits = logits.scatter(1, order, ordered)
    return logits
