"""The answers of one model to the held-out prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa

from phoenix_utils import chat
from phoenix_utils.engines import GenerationParams
from phoenix_utils.evaluation.metrics import in_target_language, is_loop
from phoenix_utils.evaluation.prompts import Prompt

ANSWERS = pa.schema(
    [
        ("model", pa.string()),
        ("prompt_id", pa.string()),
        ("kind", pa.string()),
        ("category", pa.string()),
        ("turn", pa.int64()),
        ("prompt", pa.string()),
        ("reference", pa.string()),
        ("answer", pa.string()),
        ("finish_reason", pa.string()),
        ("mean_logprob", pa.float64()),
        ("in_target_language", pa.bool_()),
        ("is_loop", pa.bool_()),
    ]
)
"""One answer of one model; `prompt` is the user's turn that it answers."""


def answer_prompts(
    engine,
    model: str,
    prompts: Sequence[Prompt],
    params: GenerationParams,
    language: str,
    source_language: str,
    on_answers: Callable[[int], None] | None = None,
) -> list[dict]:
    """Let a model answer every prompt behind the chat template; rows of the ANSWERS schema.

    `on_answers` is told how many answers have just been finished.
    """
    rendered = [chat.render(engine.tokenizer, list(prompt.messages), add_generation_prompt=True) for prompt in prompts]
    completions = engine.generate(
        rendered, params, on_batch=(lambda places, _: on_answers(len(places))) if on_answers else None
    )
    return [
        {
            "model": model,
            "prompt_id": prompt.unit,
            "kind": prompt.kind,
            "category": prompt.category,
            "turn": prompt.turn,
            "prompt": prompt.messages[-1]["content"],
            "reference": prompt.reference,
            "answer": completion.text.strip(),
            "finish_reason": completion.finish_reason,
            "mean_logprob": completion.mean_logprob,
            "in_target_language": in_target_language(completion.text, language, source_language),
            "is_loop": is_loop(completion.text),
        }
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
