"""Prompts that make a language model translate: ALMA's own, the same with examples, and a chat model's.

ALMA (Xu et al. 2023, arXiv 2309.11674) fine-tunes on `Translate this from English to German:` followed by the
labelled source and an open target label, without any chat template. A base model that was never tuned for
translation needs a few examples before it (`examples.py`).
"""

from __future__ import annotations

import re

from phoenix_utils.alma import alma, language_name
from phoenix_utils.translation.examples import EXAMPLES


def few_shot(text: str, source: str, target: str, examples: dict[str, list[tuple[str, str]]] = EXAMPLES) -> str:
    """ALMA's prompt behind worked examples; without examples where none are written for this pair."""
    if source != "en" or target not in examples:
        return alma(text, source, target)
    shots = (f"{alma(english, source, target)} {other}\n\n" for english, other in examples[target])
    return "".join(shots) + alma(text, source, target)


def tower(text: str, source: str, target: str) -> str:
    """What TowerInstruct was tuned on (model card of Unbabel/TowerInstruct-7B-v0.2), without its chat template."""
    names = language_name(source), language_name(target)
    return f"Translate the following text from {names[0]} into {names[1]}.\n{names[0]}: {text}\n{names[1]}:"


def eurollm(text: str, source: str, target: str) -> str:
    """What EuroLLM-Instruct was tuned on (model card of utter-project/EuroLLM-1.7B-Instruct), without its template."""
    names = language_name(source), language_name(target)
    return f"Translate the following {names[0]} source text to {names[1]}:\n{names[0]}: {text}\n{names[1]}:"


def chat(text: str, source: str, target: str) -> str:
    """The request put to any instruction-tuned model, without its chat template."""
    names = language_name(source), language_name(target)
    return f"Translate the following text from {names[0]} to {names[1]}. Answer with the translation only.\n\n{text}"


# X-ALMA is asked ALMA's sentence, but as a user's turn in its chat template; ALMA and ALMA-R know no template.
STYLES = {
    "few_shot": few_shot, "alma": alma, "x_alma": alma, "tower": tower, "eurollm": eurollm, "chat": chat,
}  # fmt: skip
IN_CHAT_TEMPLATE = frozenset({"x_alma", "tower", "eurollm", "chat"})
# The prompt that a family of translators was trained with, by what its hub ids contain; the first that fits counts.
FAMILIES = (
    (r"x-alma", "x_alma"),
    (r"(^|[/_-])alma-", "alma"),
    (r"towerinstruct", "tower"),
    (r"eurollm.*instruct", "eurollm"),
    (r"instruct|chat|-it$", "chat"),
)


def style_of(model: str) -> tuple[str, str] | None:
    """(prompt, reason) for a model whose name says how it was tuned; None for one that must be a base model."""
    name = model.rstrip("/").rpartition("/")[2]  # of a hub id or a folder
    for pattern, style in FAMILIES:
        if found := re.search(pattern, name, re.IGNORECASE):
            return style, f"{found[0].strip('/_-')!r} in the model's name: it was tuned on the {style} prompt"
    return None
