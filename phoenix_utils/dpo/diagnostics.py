"""The safety net: signs of a healthy run with their ranges, and a stop where the model falls behind the SFT model.

A training loss says little about DPO: it falls while the answers get worse. So on the way the model is looked at where
it was not trained: pairs set aside (`eval_share`), and answers of its own (`watch_prompts`). Both are compared with the
SFT model's, pair by pair and prompt by prompt.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from phoenix_utils import artifacts, chat, pairs
from phoenix_utils.dpo.data import read_pairs
from phoenix_utils.dpo.settings import DpoSettings, stage_inputs
from phoenix_utils.errors import PhoenixError
from phoenix_utils.statistics import paired_difference

WATCH = "watch.jsonl"
ANSWER_TOKENS = 48


@dataclass(frozen=True)
class Sign:
    """One quantity of a run: where it is logged, the range that is healthy, and what a value outside of it means."""

    key: str
    title: str
    low: float | None
    high: float | None
    healthy: str
    red_flag: str


# Rules of thumb for one epoch with beta 0.1, read off runs and not derived: a reason to look, no verdict.
SIGNS = (
    Sign("rewards/margins", "reward margin", 0.0, 5.0, "rises steadily, 0.1 to a few",
         "exactly 0: nothing is trained; above 10: the model has run away"),
    Sign("rewards/accuracies", "accuracy on the batch", 0.5, 0.95, "65 to 90 %",
         "50 % throughout: nothing is learnt; 100 % early: learnt by heart"),
    Sign("logps/chosen", "log-probability of chosen answers", None, None, "a little up or down; other rows each step",
         "down by a third: the model forgets how to speak"),
    Sign("logps/rejected", "log-probability of rejected answers", None, None, "falls slowly",
         "falls together with the chosen ones, faster and faster"),
    Sign("kl", "KL estimate, nats per answer", -1.0, 20.0, "0 to about 20, slower and slower",
         "tens and rising: far from the SFT model; raise beta or lower the rate"),
    Sign("answer_tokens", "length of answers in tokens", None, None, "near the SFT model's",
         "at the limit: the model no longer stops; near 0: it says nothing"),
)  # fmt: skip


def read_watch(folder: Path) -> list[dict[str, Any]]:
    """The looks of a run, first the SFT model's at step 0; empty where nothing was watched."""
    path = folder / WATCH
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def fallen(before: dict[str, Any], now: dict[str, Any], seed: int = 0) -> str | None:
    """In words, what has become worse than at the SFT model; None while nothing surely has.

    Worse means that the whole 95 % interval of the paired difference lies below zero: a few prompts always move.
    """
    names = {
        "preferred": "share of held-out pairs whose chosen answer is the likelier one",
        "in_language": "share of answers in the target language",
    }
    for key, name in names.items():
        then, current = before.get(key) or [], now.get(key) or []
        if then and paired_difference(then, current, seed=seed).high < 0:
            was, is_now = sum(then) / len(then), sum(current) / len(current)
            return f"the {name} fell from {was:.0%} (SFT model) to {is_now:.0%} ({len(then)} measured)"
    return None


class Watch(TrainerCallback):
    """Looks at the model every `eval_steps` steps and at the end, and stops a run that falls behind the SFT model."""

    def __init__(self, trainer: Any, settings: DpoSettings, stage: artifacts.StageRun):
        self.trainer, self.settings, self.path = trainer, settings, stage.folder / WATCH
        self.tokenizer = trainer.processing_class
        asked = islice(read_pairs(stage_inputs(settings)["preferences"]), settings.watch_prompts)
        self.prompts = [chat.render(self.tokenizer, pair["prompt"], add_generation_prompt=True) for pair in asked]

    def on_train_begin(self, args, state, control, **kwargs):
        """Look at the SFT model, or go on from the looks of the run that was cut off."""
        self.looks = [look for look in read_watch(self.path.parent) if look["step"] <= state.global_step]
        if not self.looks and state.global_step:
            return  # resumed without a first look: nothing to compare with
        if not self.looks:
            self._look(0)

    def on_step_end(self, args, state, control, **kwargs):
        """Look where it is time; raises PhoenixError where the model has fallen behind."""
        due = state.global_step % self.settings.eval_steps == 0 or state.global_step == state.max_steps
        if not due or not self.looks:
            return
        self._look(state.global_step)
        if trouble := fallen(self.looks[0], self.looks[-1], self.settings.seed):
            raise PhoenixError(
                f"step {state.global_step}: {trouble}: lower dpo.learning_rate, raise dpo.beta or take fewer steps, "
                "then run again with redo; to see it through, set watch_prompts and eval_share to 0"
            )

    def _look(self, step: int) -> None:
        with _looking(self.trainer.model):
            look = {"step": step, **self._answers(), **self._preferences()}
        self.looks.append(look)
        with artifacts.write_atomic(self.path) as partial:
            partial.write_text("".join(json.dumps(item) + "\n" for item in self.looks), encoding="utf-8")

    def _answers(self) -> dict[str, Any]:
        """Greedy answers: whether each is in the language, their mean length, and how far they are from the reference.

        The KL estimate is the mean of log policy - log reference over the policy's own answers (none after full
        fine-tuning, where no reference is in memory).
        """
        from trl.trainer.utils import use_adapter

        from phoenix_utils.engine_transformers import TransformersEngine
        from phoenix_utils.engines import GenerationParams

        if not self.prompts:
            return {}
        model, settings = self.trainer.model, self.settings
        engine = TransformersEngine(model, self.tokenizer)
        answers = engine.generate(self.prompts, GenerationParams(max_new_tokens=ANSWER_TOKENS, repetition_penalty=1.1))
        texts = [answer.text for answer in answers]
        spoken = [(prompt, text) for prompt, text in zip(self.prompts, texts, strict=True) if text.strip()]
        found = {
            "in_language": [
                float(
                    pairs.letters(pairs.prose(text)) > 0
                    and pairs.wrong_language(text, settings.language, settings.source_language) is None
                )
                for text in texts
            ],
            "answer_tokens": sum(len(self.tokenizer(text)["input_ids"]) for text in texts) / len(texts),
        }
        if spoken and "ref" in getattr(model, "peft_config", {}):
            policy = [sum(row) for row in engine.token_logprobs(*zip(*spoken, strict=True))]
            with use_adapter(model, "ref"):
                reference = [sum(row) for row in engine.token_logprobs(*zip(*spoken, strict=True))]
            found["kl"] = sum(p - r for p, r in zip(policy, reference, strict=True)) / len(spoken)
        return found

    def _preferences(self) -> dict[str, Any]:
        """For each pair set aside, whether the chosen answer is the likelier one per token."""
        from phoenix_utils.dpo.handover import answer_logprobs

        rows, found = self.trainer.eval_dataset, []
        if rows is None:
            return {}
        size = self.trainer.args.per_device_train_batch_size
        for start in range(0, len(rows), size):
            batch = self.trainer.data_collator([rows[index] for index in range(start, min(start + size, len(rows)))])
            batch = {name: value.to(self.trainer.model.device) for name, value in batch.items()}
            with torch.no_grad(), self.trainer.accelerator.autocast():
                sums = torch.cat(answer_logprobs(self.trainer.model, batch))
            chosen, rejected = (sums / batch["completion_mask"].sum(1)).chunk(2)
            found += (chosen > rejected).float().tolist()
        return {"preferred": found}


@contextlib.contextmanager
def _looking(model: torch.nn.Module) -> Iterator[None]:
    """The model without dropout, and afterwards as it was: mode, attention and random numbers."""
    training, attention = model.training, model.config._attn_implementation
    model.eval()
    with torch.random.fork_rng(), torch.no_grad():
        yield
    model.set_attn_implementation(attention)
    model.train(training)
