"""The three models that are compared, with the memory of one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from phoenix_utils import chat, models
from phoenix_utils.engine_transformers import TransformersEngine

CONTENDERS = ("base", "sft", "dpo")
# PEFT calls a model's first adapter "default".
_ADAPTER = {"sft": "default", "dpo": "dpo"}


class Contenders:
    """Base, SFT and DPO, each as an engine while it is its turn.

    Where SFT and DPO are adapters, the base is loaded once and they are switched on it; where full
    fine-tuning left a whole model, each is loaded when it plays.

    Args:
        model: the base, as settings name it.
        languages: source and target language (an embedded model is trimmed to them).
        sft, dpo: the folders of what was trained, called "adapter" or "model". The SFT folder also gives the
            tokenizer with the chat template, so that all three read the same tokens and stop at the same one.
        quantize: load the base in 4 bit, as QLoRA trained on it.

    Raises PhoenixError where a folder holds no adapter or model, or one that belongs to another base.
    """

    def __init__(self, model: str, languages: tuple[str, str], sft: Path, dpo: Path, quantize: bool = False):
        self.base, self.languages, self.quantize = model, languages, quantize
        self.trained = {"sft": sft, "dpo": dpo}
        self.tokenizer = chat.saved_tokenizer(sft, model, languages)
        self.shared = None
        if sft.name == dpo.name == "adapter":
            self.shared = self._load("sft")
            self.shared.load_adapter(str(dpo), adapter_name=_ADAPTER["dpo"])

    @contextlib.contextmanager
    def playing(self, name: str) -> Iterator[TransformersEngine]:
        """An engine that answers as `name` ("base", "sft" or "dpo") while the block lasts."""
        if self.shared is None:
            yield self._engine(self._load(name))
            return
        with contextlib.ExitStack() as stack:
            if name == "base":
                stack.enter_context(self.shared.disable_adapter())
            else:
                self.shared.set_adapter(_ADAPTER[name])
                stack.enter_context(models.merged(self.shared))
            yield self._engine(self.shared)

    def _load(self, name: str):
        folder = self.trained.get(name)
        if folder is None:
            return models.load_model(self.base, self.languages, quantize=self.quantize)
        if folder.name == "model":
            return models.load_model(str(folder), self.languages)
        return models.load_adapter(self._load("base"), folder, base=self.base)

    def _engine(self, model) -> TransformersEngine:
        chat.set_stop_token(model, self.tokenizer)
        return TransformersEngine(model.eval(), self.tokenizer)
