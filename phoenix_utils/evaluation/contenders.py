"""The models that are compared: a run's three with the memory of one, and others one at a time."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from phoenix_utils import chat, models
from phoenix_utils.engine_transformers import TransformersEngine

# PEFT calls a model's first adapter "default".
_ADAPTER = {"sft": "default", "dpo": "dpo"}
OF_THE_RUN = ("base", "sft", "dpo")


def comparisons(names: Sequence[str]) -> list[tuple[str, str]]:
    """Which models to compare, as (earlier, later): base, SFT and DPO in the order of training, and every other model
    with the last of them, or with the first other one where there is none of the run's."""
    ours = [name for name in OF_THE_RUN if name in names]
    others = [name for name in names if name not in OF_THE_RUN]
    against = ours[-1:] or others[:1]
    return [*itertools.pairwise(ours), *((against[0], name) for name in others if name not in against)]


class Contenders:
    """Base, SFT and DPO of a run, and other models, each as an engine while it is its turn.

    Where SFT and DPO are adapters, the base is loaded once and they are switched on it; where full
    fine-tuning left a whole model, each is loaded when it plays.

    Args:
        model: the base, as settings name it.
        languages: source and target language (an embedded model is trimmed to them).
        trained: the folders of what was trained ("sft", "dpo"), called "adapter" or "model". The SFT folder also
            gives the tokenizer with the chat template, so that all three read the same tokens and stop at the same
            one; a model from elsewhere keeps its own, or gets ours where it has none.
        quantize: load the base in 4 bit, as QLoRA trained on it.
        merge: add an adapter to the weights while it plays, which decodes faster. Each time leaves some rounding
            behind, so who switches often does without.

    Raises PhoenixError where a folder holds no adapter or model, or one that belongs to another base.
    """

    def __init__(
        self,
        model: str,
        languages: tuple[str, str],
        trained: Mapping[str, Path],
        quantize: bool = False,
        merge: bool = True,
    ):
        self.base, self.languages, self.quantize, self.merge = model, languages, quantize, merge
        self.trained = dict(trained)
        self.tokenizer = self.shared = None
        if "sft" in self.trained:
            self.tokenizer = chat.saved_tokenizer(self.trained["sft"], model, languages)
        if self.trained and {folder.name for folder in self.trained.values()} == {"adapter"}:
            self.shared = self._load("sft")
            if "dpo" in self.trained:
                self.shared.load_adapter(str(self.trained["dpo"]), adapter_name=_ADAPTER["dpo"])

    @contextlib.contextmanager
    def playing(self, name: str) -> Iterator[TransformersEngine]:
        """An engine that answers as `name` ("base", "sft", "dpo" or another model's) while the block lasts."""
        if name not in OF_THE_RUN:
            yield self._other(name)
        elif self.shared is None:
            yield self._engine(self._load(name))
        else:
            with contextlib.ExitStack() as stack:
                if name == "base":
                    stack.enter_context(self.shared.disable_adapter())
                else:
                    self.shared.set_adapter(_ADAPTER[name])
                    if self.merge:
                        stack.enter_context(models.merged(self.shared))
                yield self._engine(self.shared)

    def _load(self, name: str):
        folder = self.trained.get(name)
        if folder is None:
            return models.load_model(self.base, self.languages, quantize=self.quantize)
        if folder.name == "model":
            return models.load_model(str(folder), self.languages)
        return models.load_adapter(self._load("base"), folder, base=self.base)

    def _other(self, name: str) -> TransformersEngine:
        model = models.load_model(name, self.languages)
        tokenizer = models.load_tokenizer(name, self.languages)
        if not chat.keep_own_template(tokenizer):
            chat.set_stop_token(model, chat.apply_template(tokenizer))
        return TransformersEngine(model.eval(), tokenizer)

    def _engine(self, model) -> TransformersEngine:
        if self.tokenizer is None:
            self.tokenizer = chat.apply_template(models.load_tokenizer(self.base, self.languages))
        chat.set_stop_token(model, self.tokenizer)
        return TransformersEngine(model.eval(), self.tokenizer)
