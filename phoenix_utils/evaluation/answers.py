"""The answers of one model to the held-out prompts, and how any prompts are answered once and never again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from phoenix_utils import chat
from phoenix_utils.decoding import Completion, GenerationParams
from phoenix_utils.evaluation import similarity
from phoenix_utils.evaluation.form import obeyed
from phoenix_utils.evaluation.kept import Kept
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
        ("keeps_form", pa.bool_()),
        ("similarity", pa.float64()),
    ]
)
"""One answer of one model; `prompt` is the user's turn that it answers. `keeps_form` is null where the prompt asks for
no form that is known (see `form.py`), `similarity` where there is no reference."""


def answer_prompts(
    engine,
    model: str,
    prompts: Sequence[Prompt],
    params: GenerationParams,
    language: str,
    source_language: str,
    kept: Kept | None = None,
    fingerprint: str = "",
    on_answers: Callable[[int], None] | None = None,
) -> list[dict]:
    """Let a model answer every prompt behind the chat template; rows of the ANSWERS schema.

    `kept`, `fingerprint` and `on_answers` are those of `complete`.
    """
    rendered = [chat.render(engine.tokenizer, list(prompt.messages), add_generation_prompt=True) for prompt in prompts]
    completions = complete(engine, (model, fingerprint), rendered, params, kept, on_answers)
    near = iter(
        similarity.cosines(
            [completion.text for completion, prompt in zip(completions, prompts, strict=True) if prompt.reference],
            [prompt.reference for prompt in prompts if prompt.reference],
        )
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
            "keeps_form": obeyed(prompt.messages[-1]["content"], completion.text, language),
            "similarity": next(near) if prompt.reference else None,
        }
        for prompt, completion in zip(prompts, completions, strict=True)
    ]


def complete(
    engine: Any,
    names: tuple[str, str],
    rendered: Sequence[str],
    params: GenerationParams,
    kept: Kept | None = None,
    on_answers: Callable[[int], None] | None = None,
) -> list[Completion]:
    """Complete each prompt, unless `kept` holds what the same model said to the same words under the same settings.

    `names` are the model's name and a fingerprint of its weights. `on_answers` is told how many answers have just been
    finished. A prompt that leaves no room within what the model reads gets "" with the reason "too long".
    """
    keys = [Kept.key(model=names, prompt=prompt, params=str(params)) for prompt in rendered]
    found = {key: Completion(**value) for key in keys if kept and (value := kept.get(key)) is not None}
    if found and on_answers:
        on_answers(sum(key in found for key in keys))
    missing = {key: prompt for key, prompt in zip(keys, rendered, strict=True) if key not in found}
    room = _room(engine, params)
    for key, prompt in [*missing.items()] if room else ():
        if len(engine.tokenizer(prompt)["input_ids"]) > room:
            found[key] = Completion("", "too long", 0.0)
            del missing[key]
    order = list(missing)

    def store(places: list[int], completions: list[Completion]) -> None:
        told = {order[place]: completion for place, completion in zip(places, completions, strict=True)}
        found.update(told)
        if kept:
            kept.add({key: asdict(completion) for key, completion in told.items()})
        if on_answers:
            on_answers(len(told))

    if missing:
        engine.generate(list(missing.values()), params, store)
    return [found[key] for key in keys]


def _room(engine: Any, params: GenerationParams) -> int | None:
    """How long a prompt may be, None where the engine does not know its model's limit."""
    limit = getattr(getattr(getattr(engine, "model", None), "config", None), "max_position_embeddings", None)
    return limit - params.max_new_tokens if limit else None
