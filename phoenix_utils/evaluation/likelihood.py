"""How likely a model finds given answers: held-out references, and both sides of held-out preferences.

Only the answer's own tokens count ("content tokens"). The template before it is part of the condition, and
the stop token after it is left out: a base model has never seen the template, and would otherwise be charged
for not knowing a convention rather than for not knowing German.

A base model may still find the template strange enough to predict worse behind it. So the base is also scored
behind a plain "Frage: … Antwort:" prompt, and `scores.py` takes the better one for it.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from phoenix_utils import chat
from phoenix_utils.engine_transformers import TransformersEngine
from phoenix_utils.evaluation.prompts import Pair, Prompt, plain_prompt

# Measured on two cores with a vocabulary of 76,000: batches of 8,192 tokens take 1.4 times as long (their logits
# are gigabytes that must be fetched from the system), batches of 512 to 2,048 the same.
SCORED_TOKENS = 2048

LOGPROBS = pa.schema(
    [
        ("model", pa.string()),
        ("kind", pa.string()),
        ("template", pa.string()),
        ("prompt_id", pa.string()),
        ("turn", pa.int64()),
        ("tokens", pa.int64()),
        ("logprob", pa.float64()),
    ]
)
"""One scored answer: `kind` is "reference", "chosen" or "rejected", `template` "chat" or "plain"; `logprob`
is the sum over its `tokens` content tokens, in nats."""


def scorer(engine: TransformersEngine) -> TransformersEngine:
    """The same model in smaller batches: logits of many positions at once cost more time than they save."""
    return TransformersEngine(engine.model, engine.tokenizer, batch_tokens=SCORED_TOKENS)


def score_references(
    engine, model: str, prompts: Sequence[Prompt], language: str, templates: Sequence[str]
) -> list[dict]:
    """Log-probability of every prompt's reference answer behind each of `templates` ("chat", "plain")."""
    jobs = [
        (
            _condition(engine, prompt.messages, template, language),
            prompt.reference,
            {"kind": "reference", "template": template, "prompt_id": prompt.unit, "turn": prompt.turn},
        )
        for template in templates
        for prompt in prompts
    ]
    return _score(engine, model, jobs)


def score_base_references(engine, model: str, prompts: Sequence[Prompt], language: str) -> list[dict]:
    """References for a model that may do better without the chat template: all of them behind the better prompt.

    Both prompts are tried on every third conversation, the better one is then used for the rest: scoring references is
    what takes longest in a small evaluation.
    """
    units = sorted({prompt.unit for prompt in prompts})
    tried = {*units[::3]}
    some = [prompt for prompt in prompts if prompt.unit in tried]
    rest = [prompt for prompt in prompts if prompt.unit not in tried]
    rows = score_references(engine, model, some, language, ("chat", "plain"))
    sums = {t: sum(row["logprob"] for row in rows if row["template"] == t) for t in ("chat", "plain")}
    return rows + score_references(engine, model, rest, language, (max(sums, key=sums.get),))


def score_pairs(engine, model: str, pairs: Sequence[Pair], language: str) -> list[dict]:
    """Log-probability of the chosen and the rejected answer of every pair, behind the chat template."""
    jobs = [
        (
            _condition(engine, pair.messages, "chat", language),
            getattr(pair, side),
            {"kind": side, "template": "chat", "prompt_id": pair.unit, "turn": 0},
        )
        for side in ("chosen", "rejected")
        for pair in pairs
    ]
    return _score(engine, model, jobs)


def _condition(engine, messages: Sequence[dict], template: str, language: str) -> str:
    if template == "plain":
        return plain_prompt(chat.escape_messages(engine.tokenizer, messages), language)
    return chat.render(engine.tokenizer, messages, add_generation_prompt=True)


def _score(engine, model: str, jobs: list[tuple[str, str, dict]]) -> list[dict]:
    # The same text that training sees: the template trims it, and special tokens in it are taken apart.
    targets = [chat.escape_special(engine.tokenizer, answer.strip()) for _, answer, _ in jobs]
    logprobs = engine.token_logprobs([condition for condition, _, _ in jobs], targets)
    return [
        {"model": model, **about, "tokens": len(values), "logprob": float(sum(values))}
        for (_, _, about), values in zip(jobs, logprobs, strict=True)
    ]
