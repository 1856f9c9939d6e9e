"""The same questions to the stages of one run: base, SFT and DPO side by side, for reading."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phoenix_utils import artifacts, chat, models
from phoenix_utils.errors import PhoenixError
from phoenix_utils.html_table import html_table

if TYPE_CHECKING:
    from phoenix_utils.engines import Completion
    from phoenix_utils.profile import StageSettings


def sample_answers(
    settings: StageSettings,
    prompts: Sequence[str],
    stages: Sequence[str] = ("base", "sft"),
    max_new_tokens: int = 80,
) -> list[dict[str, Any]]:
    """Greedy answers of each of `stages` ("base", "sft", "dpo") to each prompt, as {"prompt": ..., "base":
    ...}.

    Every stage reads the same tokens, those of the SFT stage's template. An answer is a `Completion`; one
    that ended by itself has the finish reason "stop".
    """
    from phoenix_utils.engine_transformers import TransformersEngine
    from phoenix_utils.engines import GenerationParams

    languages = settings.languages
    folders = {stage: trained_folder(settings.run_dir, stage) for stage in stages if stage != "base"}
    template = trained_folder(settings.run_dir, "sft")
    tokenizer = chat.saved_tokenizer(template, settings.model, languages)
    texts = [chat.render(tokenizer, [{"role": "user", "content": prompt}]) for prompt in prompts]
    params = GenerationParams(max_new_tokens=max_new_tokens, repetition_penalty=1.1)
    rows: list[dict[str, Any]] = [{"prompt": prompt} for prompt in prompts]
    base = None
    for stage in stages:
        folder = folders.get(stage)
        if folder is not None and folder.name == "model":
            model = models.load_model(str(folder), languages)
        else:
            base = base or models.load_model(settings.model, languages)
            model = models.load_adapter(base, folder, base=settings.model) if folder else base
        with models.merged(model):
            answers = TransformersEngine(model, tokenizer).generate(texts, params)
        for row, answer in zip(rows, answers, strict=True):
            row[stage] = answer
        if model is not base and folder.name == "adapter":
            base = model.unload()
    return rows


def trained_folder(run_dir: str, stage: str) -> Path:
    """Where a training stage has left its weights: `adapter`, or `model` after full fine-tuning."""
    found = artifacts.trained_weights(artifacts.stage_path(run_dir, stage))
    if not found.is_dir():
        raise PhoenixError(f"{found.parent} holds no trained weights: run the {stage} stage first")
    return found


def samples_html(rows: Sequence[dict[str, Any]]) -> str:
    """A table of `sample_answers`: prompts down, stages across, all text escaped."""
    stages = [name for name in rows[0] if name != "prompt"]
    cells = ([f"<b>{html.escape(row['prompt'])}</b>", *(_answer_html(row[stage]) for stage in stages)] for row in rows)
    return html_table(["prompt", *map(html.escape, stages)], cells)


def _answer_html(answer: Completion) -> str:
    ended = "■ stopped by itself" if answer.finish_reason == "stop" else "… cut off at the limit"
    return f"{html.escape(answer.text.strip()) or '(nothing)'}<br><small style='opacity:0.75'>{ended}</small>"
