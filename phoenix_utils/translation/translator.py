"""A model with the prompt and the adapter under which it translates, and the attempts that a segment gets.

A segment is tried with its protected text behind masks. A loop is tried again with a penalty on repetition; where a
mask got lost, the segment with its protected text in place; where that failed too, piece by piece between what is
protected, which nothing can break. What still fails keeps its reason.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from phoenix_utils import pairs
from phoenix_utils.alma import flat
from phoenix_utils.engines import Completion, Engine, GenerationParams, open_engine
from phoenix_utils.errors import PhoenixError
from phoenix_utils.models import packaged_adapter
from phoenix_utils.paths import expanded
from phoenix_utils.translation import prompts, protect
from phoenix_utils.translation.examples import EXAMPLES, SECOND_EXAMPLES
from phoenix_utils.translation.protect import Masked, mask
from phoenix_utils.translation.settings import TranslationSettings

if TYPE_CHECKING:
    from phoenix_utils.ray_workers import RayWorkers

# A translation of more tokens than this for each token of the request (its fixed words included) is a loop; cutting
# it there saves the rest of the batch from waiting, and its finish reason says what happened.
LONGEST_TRANSLATION = 1.5
# Segments handed to an engine at once: enough to sort by length, little enough to stay small in memory. On Ray fewer,
# since what is with a worker is lost with it, and so many for each worker at least that none is idle for long.
WINDOW, RAY_WINDOW, RAY_SHARES = 2048, 512, 4

EMPTY, CUT_OFF, COPIED, LOOPS = "empty", "cut off", "copied from the source", "says the same again and again"


@dataclass(frozen=True)
class Translation:
    """What became of a segment.

    `text` has its protected spans in place; `finish_reason` and `mean_logprob` (nats per token) are those of the
    completion behind it. `attempt` is "masked", "examples", "penalised", "unmasked" or "parts"; `fault` says in words
    why even the last attempt failed, "" where it did not. A failed text is kept for the audit, and `usable` says
    whether it may stand in a row all the same: one that was cut off may, one that broke code or says nothing may not.
    """

    text: str
    finish_reason: str
    mean_logprob: float
    attempt: str = "masked"
    fault: str = ""

    @property
    def usable(self) -> bool:
        """Whether the text can stand in a row."""
        return bool(self.text) and self.fault in ("", CUT_OFF, COPIED, LOOPS)


OnBatch = Callable[[list[int], list[Translation]], None]
Results = dict[int, Translation]
Keep = Callable[[Sequence[int], Sequence[Translation]], None]
Attempt = Callable[[list[Masked], list[int], Results, Keep], None]
# Strong enough to leave a loop, and weak enough to let a sentence say "die" twice.
LOOP_PENALTY = 1.2


class Translator:
    """A translation engine with its prompt, shared by the stage and `translate_texts`.

    The model is loaded when the first segment needs it, so a run that is finished already loads none. `engine`
    replaces the one that the settings name. Under engine ray, each worker of the cluster holds a Translator with
    `ray_engine` (or with a copy of `engine`), and this one hands segments out to them.
    """

    def __init__(self, settings: TranslationSettings, engine: Engine | None = None):
        self.settings, self._engine = settings, engine
        self.choice = choose_translator(settings)
        # An unknown language is a mistake that should not wait for the model to load.
        prompts.language_name(settings.source_language), prompts.language_name(settings.language)
        # ALMA answers in one line; a base model goes on with a next example, which begins with a new line.
        stop = () if self.choice.prompt in prompts.IN_CHAT_TEMPLATE else ("\n",)
        self.params = GenerationParams(
            max_new_tokens=settings.max_new_tokens,
            max_new_ratio=LONGEST_TRANSLATION,
            stop=stop,
            seed=settings.seed,
            num_beams=settings.num_beams,
        )

    @property
    def engine(self) -> Engine:
        """The engine, loaded on first use."""
        if self._engine is None:
            settings = self.settings
            self._engine = open_engine(
                settings.model_engine,
                settings.model,
                languages=(settings.source_language, settings.language),
                quantize=settings.load_in_4bit,
                batch_tokens=settings.batch_tokens,
                num_gpus=settings.num_gpus,
                adapter=self.choice.adapter,
                base_url=settings.base_url,
                concurrency=settings.concurrency,
            )
        return self._engine

    @functools.cached_property
    def workers(self) -> RayWorkers | None:
        """Where segments are translated under engine ray, opened on first use; None where this process does it."""
        settings = self.settings
        if settings.engine != "ray":
            return None
        from phoenix_utils.ray_workers import RayWorkers

        there = settings.model_copy(update={"engine": settings.ray_engine})
        make = functools.partial(Translator, there, self._engine)
        gpus = settings.num_gpus if settings.ray_engine == "vllm" else 1
        return RayWorkers(make, settings.ray_workers, settings.ray_cpus, gpus, settings.ray_address)

    @property
    def engine_name(self) -> str:
        """What translates, for the manifest; the model is loaded for it, or the cluster joined."""
        if self.workers:
            return self.settings.on_ray
        return type(self.engine).__name__

    def prompt(self, text: str, examples: dict[str, list[tuple[str, str]]] = EXAMPLES) -> str:
        """The prompt for one segment; a line break inside it would end the prompt's line, so it becomes a space."""
        pair = self.settings.source_language, self.settings.language
        if self.choice.prompt == "few_shot":
            return prompts.few_shot(flat(text), *pair, examples)
        request = prompts.STYLES[self.choice.prompt](flat(text), *pair)
        return self.engine.chat_prompt(request) if self.choice.prompt in prompts.IN_CHAT_TEMPLATE else request

    def window(self, segments: int) -> int:
        """How many of so many segments are translated at once."""
        if self.workers is None:
            return WINDOW
        return min(RAY_WINDOW, -(-segments // (RAY_SHARES * self.workers.number)) or 1)

    def translate_windows(
        self, windows: Iterable[list[str]], keep: Callable[[list[str], list[Translation]], None]
    ) -> None:
        """Translate lists of segments, on this machine one after the other, on Ray several at once and in any order.

        `keep(texts, translations)` hears of final translations as `translate_segments` tells of them; windows are read
        as they are needed. An interruption loses what `keep` has not heard of.
        """
        if self.workers:
            for texts, translations in self.workers.map("translate_segments", ((texts, texts) for texts in windows)):
                keep(texts, translations)
            return
        for texts in windows:
            self.translate_segments(texts, lambda at, done, texts=texts: keep([texts[i] for i in at], done))

    def translate_segments(self, texts: Sequence[str | Masked], on_batch: OnBatch | None = None) -> list[Translation]:
        """Translate segments, each until an attempt succeeds or none is left; one Translation each, in order.

        `on_batch(indices, translations)` hears of final translations only, as soon as their batch is done: an
        interruption cannot leave a first try behind as if it were the last.
        """
        if self.workers:
            return self._on_workers(list(texts), on_batch)
        segments = [mask(text) if isinstance(text, str) else text for text in texts]
        results: Results = {}

        def keep(indices: Sequence[int], found: Sequence[Translation], last: bool = False) -> None:
            results.update(zip(indices, found, strict=True))
            final = [index for index in indices if last or not results[index].fault]
            if on_batch and final:
                on_batch(final, [results[index] for index in final])

        self._attempt_masked(segments, keep)
        for attempt in self._further_attempts:
            if failed := [index for index in range(len(segments)) if results[index].fault]:
                attempt(segments, failed, results, keep)
        failed = [index for index in range(len(segments)) if results[index].fault]
        keep(failed, [results[index] for index in failed], last=True)
        return [results[index] for index in range(len(segments))]

    def _on_workers(self, texts: list[str | Masked], on_batch: OnBatch | None) -> list[Translation]:
        size = self.window(len(texts))
        results: Results = {}
        places = (range(start, min(start + size, len(texts))) for start in range(0, len(texts), size))
        pieces = ((place, texts[place.start : place.stop]) for place in places)
        for place, done in self.workers.map("translate_segments", pieces) if texts else ():
            results.update(zip(place, done, strict=True))
            if on_batch:
                on_batch(list(place), done)
        return [results[index] for index in range(len(texts))]

    def _complete(self, prompts: list[str], params: GenerationParams, on_batch=None) -> list[Completion]:
        """Completions of `prompts` in order; raises PhoenixError where the engine gives fewer or more."""
        done = self.engine.generate(prompts, params, on_batch)
        if len(done) != len(prompts):
            raise PhoenixError(
                f"the {type(self.engine).__name__} gave {len(done):,} answers to {len(prompts):,} prompts: what was "
                "finished is kept, so mend or change the engine and run the same command again"
            )
        return done

    @property
    def _further_attempts(self) -> tuple[Attempt, ...]:
        return self._attempt_examples, self._attempt_penalised, self._attempt_unmasked, self._attempt_parts

    def _attempt_masked(self, segments: list[Masked], keep: Keep) -> None:
        def judge(batch: list[int], completions: list[Completion]) -> None:
            keep(batch, [self.judged(segments[i], done) for i, done in zip(batch, completions, strict=True)])

        self._complete([self.prompt(segment.text) for segment in segments], self.params, judge)

    def _attempt_examples(self, segments: list[Masked], indices: list[int], results: Results, keep: Keep) -> None:
        """What a base model copies or never ends after one set of examples, it often translates after another."""
        if self.choice.prompt == "few_shot":
            asked = [self.prompt(segments[index].text, SECOND_EXAMPLES) for index in indices]
            self._keep_good(segments, indices, self._complete(asked, self.params), "examples", keep)

    def _attempt_penalised(self, segments: list[Masked], indices: list[int], results: Results, keep: Keep) -> None:
        """A loop is the likeliest next word, again and again; a penalty on words that stand there breaks it."""
        indices = [index for index in indices if results[index].fault in (CUT_OFF, LOOPS)]
        if indices:
            asked = [self.prompt(segments[index].text) for index in indices]
            params = replace(self.params, repetition_penalty=LOOP_PENALTY)
            self._keep_good(segments, indices, self._complete(asked, params), "penalised", keep)

    def _keep_good(
        self, segments: list[Masked], indices: list[int], done: list[Completion], attempt: str, keep: Keep
    ) -> None:
        judged = [self.judged(segments[i], completion, attempt) for i, completion in zip(indices, done, strict=True)]
        good = [at for at, translation in enumerate(judged) if not translation.fault]
        keep([indices[at] for at in good], [judged[at] for at in good])

    def _attempt_unmasked(self, segments: list[Masked], indices: list[int], results: Results, keep: Keep) -> None:
        indices = [index for index in indices if segments[index].spans]
        if not indices:
            return
        done = self._complete([self.prompt(segments[index].source) for index in indices], self.params)
        for index, completion in zip(indices, done, strict=True):
            source, text = segments[index].source, completion.text.strip()
            fault = self._plain_fault(source, completion) or protect.verify(source, text)
            if not fault:
                keep([index], [Translation(text, completion.finish_reason, completion.mean_logprob, "unmasked")])

    def _attempt_parts(self, segments: list[Masked], indices: list[int], results: Results, keep: Keep) -> None:
        """Between the protected spans, or sentence by sentence where there are none."""
        cut = {index: self._cut(segments[index].source) for index in indices}
        cut = {index: pieces for index, pieces in cut.items() if len(pieces) > 1}
        if not cut:
            return
        asked = [piece.strip() for pieces in cut.values() for piece, prose in pieces if prose]
        done = iter(self._complete([self.prompt(piece) for piece in asked], self.params))
        for index, pieces in cut.items():
            finished = [(piece, next(done) if prose else None) for piece, prose in pieces]
            made = [completion for _, completion in finished if completion]
            faults = (self._plain_fault(p.strip(), c) or protect.verify("", c.text) for p, c in finished if c)
            if not made or any(faults):
                continue
            text = "".join(_in_place(piece, c.text.strip()) if c else piece for piece, c in finished)
            mean = sum(completion.mean_logprob for completion in made) / len(made)
            keep([index], [Translation(text, "stop", mean, "parts")])

    def _cut(self, text: str) -> list[tuple[str, bool]]:
        """(piece, has something to translate) of a segment that failed as a whole."""
        pieces = [(piece, prose and pairs.letters(piece) > 0) for piece, prose in protect.parts(text)]
        if len(pieces) > 1:
            return pieces
        from sentencex import segment

        sentences = list(segment(self.settings.source_language, text))
        return [(sentence, pairs.letters(sentence) > 0) for sentence in sentences] if "".join(sentences) == text else []

    def judged(self, segment: Masked, completion: Completion, attempt: str = "masked") -> Translation:
        """A completion of a segment's prompt as a Translation, its protected text put back or its fault named."""
        hypothesis = completion.text.strip()
        text, fault = protect.restore(segment, hypothesis)
        fault = self._plain_fault(segment.text, completion) or fault
        return Translation(text or hypothesis, completion.finish_reason, completion.mean_logprob, attempt, fault)

    def _plain_fault(self, source: str, completion: Completion) -> str:
        """Whether a translation is plainly none: empty, cut off, a loop, or (from a base model) its source again."""
        if not completion.text.strip():
            return EMPTY
        if completion.finish_reason == "length":
            return CUT_OFF
        # Only a text much longer than its source can be a loop, and looking for one takes a while.
        if len(completion.text) > 1.3 * len(source) + 20 and pairs.repeated(source, completion.text):
            return LOOPS
        return COPIED if self.choice.prompt == "few_shot" and pairs.copied(source, completion.text) else ""


@dataclass(frozen=True)
class TranslatorChoice:
    """With which adapter and under which prompt a model translates, and why, for the manifest."""

    adapter: Path | None
    prompt: str
    reason: str


def packaged_card(source: str, target: str, model: str = "embedded:gemma-3-270m") -> str:
    """The card of that adapter: what it was made of, by which command, and its scores."""
    folder = packaged_adapter(model, source, target)
    return (folder / "README.md").read_text(encoding="utf-8") if folder else f"no adapter for {source}-{target}"


def packaged_curve(source: str, target: str, model: str = "embedded:gemma-3-270m") -> list[tuple[int, float]]:
    """(step, loss) of the run that made that adapter; empty where there is none."""
    folder = packaged_adapter(model, source, target)
    lines = (folder / "curve.csv").read_text(encoding="utf-8").splitlines()[1:] if folder else []
    return [(int(step), float(loss)) for step, loss in (line.split(",") for line in lines)]


def choose_translator(settings: TranslationSettings) -> TranslatorChoice:
    """What `adapter` and `prompt` mean for this model and these languages.

    The packaged adapter serves the embedded model from English to German, zero-shot. Without an adapter, "auto" goes
    by the model's name, and takes one that says nothing for a base model, which needs examples. Raises PhoenixError
    where the named adapter is missing.
    """
    pair = f"{settings.source_language}-{settings.language}"
    adapter, reason = None, "prompt set by hand"
    if settings.adapter == "auto":
        if settings.prompt in ("auto", "alma"):
            adapter = packaged_adapter(settings.model, settings.source_language, settings.language)
    elif settings.adapter != "none":
        adapter = expanded(settings.adapter)
        if not (adapter / "adapter_config.json").is_file():
            raise PhoenixError(
                f"translation.adapter is {settings.adapter!r}, where there is no adapter (no adapter_config.json): "
                "name the folder that `phoenix adapt` wrote, or auto, or none"
            )
    if settings.prompt != "auto":
        return TranslatorChoice(adapter, settings.prompt, reason)
    if adapter:
        return TranslatorChoice(adapter, "alma", f"the adapter {adapter.name} was trained for {pair}, zero-shot")
    if tuned := prompts.style_of(settings.model):
        return TranslatorChoice(None, *tuned)
    return TranslatorChoice(None, "few_shot", f"no adapter of {settings.model} for {pair}: a base model with examples")


def _in_place(source: str, translation: str) -> str:
    """A piece's translation between the white space that its source had around it."""
    core = source.strip()
    at = source.index(core)
    return source[:at] + translation + source[at + len(core) :]
