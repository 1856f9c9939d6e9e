"""The corpus level of translation: rows in, translated rows with their audit out, resumable at any moment.

Three passes, each of them streaming: collect the distinct segments of all rows, translate those that are not
done, put the rows together. A segment that occurs in many rows (a pair's prompt, a repeated phrase) is
translated once.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from phoenix_utils import corpora, pairs
from phoenix_utils.artifacts import StageRun, open_stage, write_rows
from phoenix_utils.engines import Completion, Engine, GenerationParams, open_engine
from phoenix_utils.errors import PhoenixError
from phoenix_utils.translation import prompts
from phoenix_utils.translation.segments import split
from phoenix_utils.translation.settings import TranslationSettings
from phoenix_utils.translation.store import SegmentStore

_PACKAGED = Path(__file__).resolve().parent.parent / "data" / "adapters"
# Segments handed to the engine at once: enough to sort by length, little enough to stay small in memory.
WINDOW = 2048
# A translation of more tokens than this for each token of the request (its fixed words included) is a loop; cutting
# it there saves the rest of the batch from waiting, and its finish reason says what happened.
LONGEST_TRANSLATION = 1.5


class Translator:
    """A translation engine with its prompt, shared by the stage and `translate_texts`.

    The model is loaded when the first segment needs it, so a run that is finished already loads none. `engine`
    replaces the one that the settings name.
    """

    def __init__(self, settings: TranslationSettings, engine: Engine | None = None):
        self.settings, self._engine = settings, engine
        self.choice = choose_translator(settings)
        # An unknown language is a mistake that should not wait for the model to load.
        prompts.language_name(settings.source_language), prompts.language_name(settings.language)
        # ALMA answers in one line; a base model goes on with a next example, which begins with a new line.
        stop = () if self.choice.prompt == "chat" else ("\n",)
        self.params = GenerationParams(
            max_new_tokens=settings.max_new_tokens,
            max_new_ratio=LONGEST_TRANSLATION,
            stop=stop,
            seed=settings.seed,
        )

    @property
    def engine(self) -> Engine:
        """The engine, loaded on first use."""
        if self._engine is None:
            settings = self.settings
            self._engine = open_engine(
                settings.engine,
                settings.model,
                languages=(settings.source_language, settings.language),
                quantize=settings.load_in_4bit,
                batch_tokens=settings.batch_tokens,
                num_gpus=settings.num_gpus,
                adapter=self.choice.adapter,
            )
        return self._engine

    def prompt(self, text: str) -> str:
        """The prompt for one segment; a line break inside it would end the prompt's line, so it becomes a space."""
        build = prompts.STYLES[self.choice.prompt]
        request = build(prompts.flat(text), self.settings.source_language, self.settings.language)
        return self.engine.chat_prompt(request) if self.choice.prompt == "chat" else request

    def translate_segments(self, texts: list[str], on_batch=None) -> list[Completion]:
        """Translate segments as they are.

        `on_batch(indices, completions)` is called as soon as a batch has its final translations. A few-shot
        translation that copies its source or never ends is tried once more behind other examples; it is reported
        after that, so that an interruption cannot leave the first try behind as if it were the last.
        """
        results: dict[int, Completion] = {}
        again: list[int] = []

        def keep(indices: list[int], completions: list[Completion]) -> None:
            tidy = {index: _tidy(completion) for index, completion in zip(indices, completions, strict=True)}
            results.update(tidy)
            failed = [i for i in indices if self.choice.prompt == "few_shot" and _failed(texts[i], tidy[i])]
            again.extend(failed)
            good = [index for index in indices if index not in failed]
            if on_batch and good:
                on_batch(good, [results[index] for index in good])

        self.engine.generate([self.prompt(text) for text in texts], self.params, keep)
        pair = self.settings.source_language, self.settings.language
        second = [prompts.few_shot(prompts.flat(texts[i]), *pair, prompts.SECOND_EXAMPLES) for i in again]
        for index, completion in zip(again, self.engine.generate(second, self.params), strict=True):
            if not _failed(texts[index], _tidy(completion)):
                results[index] = _tidy(completion)
        if on_batch and again:
            on_batch(again, [results[index] for index in again])
        return [results[index] for index in range(len(texts))]


@dataclass(frozen=True)
class TranslatorChoice:
    """With which adapter and under which prompt a model translates, and why, for the manifest."""

    adapter: Path | None
    prompt: str
    reason: str


def packaged_adapter(model: str, source: str, target: str) -> Path | None:
    """Folder of the adapter that comes with the package for an embedded model and a direction, if there is one."""
    folder = _PACKAGED / f"{model.removeprefix('embedded:')}.{source}-{target}"
    return folder if model.startswith("embedded:") and folder.is_dir() else None


def packaged_card(source: str, target: str, model: str = "embedded:gemma-3-270m") -> str:
    """The card of that adapter: what it was made of, by which command, and its scores."""
    folder = packaged_adapter(model, source, target)
    return (folder / "README.md").read_text(encoding="utf-8") if folder else f"no adapter for {source}-{target}"


def choose_translator(settings: TranslationSettings) -> TranslatorChoice:
    """What `adapter` and `prompt` mean for this model and these languages.

    The packaged adapter serves the embedded model from English to German, zero-shot. Anything else that says
    "auto" is taken for a base model, which needs examples. Raises PhoenixError where the named adapter is missing.
    """
    pair = f"{settings.source_language}-{settings.language}"
    adapter, reason = None, "prompt set by hand"
    if settings.adapter == "auto":
        if settings.prompt in ("auto", "alma"):
            adapter = packaged_adapter(settings.model, settings.source_language, settings.language)
    elif settings.adapter != "none":
        adapter = Path(settings.adapter).expanduser()
        if not (adapter / "adapter_config.json").is_file():
            raise PhoenixError(
                f"translation.adapter is {settings.adapter!r}, where there is no adapter (no adapter_config.json): "
                "name the folder that `phoenix adapt` wrote, or auto, or none"
            )
    if settings.prompt != "auto":
        return TranslatorChoice(adapter, settings.prompt, reason)
    if adapter:
        return TranslatorChoice(adapter, "alma", f"the adapter {adapter.name} was trained for {pair}, zero-shot")
    return TranslatorChoice(None, "few_shot", f"no adapter of {settings.model} for {pair}: a base model with examples")


def _failed(source: str, completion: Completion) -> bool:
    """Whether a translation is plainly none: cut off, empty, or its source again."""
    return completion.finish_reason == "length" or not completion.text or bool(pairs.copied(source, completion.text))


def _tidy(completion: Completion) -> Completion:
    return Completion(completion.text.strip(), completion.finish_reason, completion.mean_logprob)


def translate_texts(
    texts: list[str], source: str = "en", target: str = "de", translator: Translator | None = None
) -> list[str]:
    """Translate whole texts (several lines, lists, code) with `mini`'s translator.

    Returns one translation a text, in order; code and everything without letters comes back as it was. Raises
    PhoenixError for a language code that does not exist. Give `translator` to reuse a loaded one.
    """
    translator = translator or Translator(TranslationSettings(source_language=source, language=target))
    return [text for text, _ in translate_documents(texts, translator)]


def translate_documents(texts: list[str], translator: Translator, on_batch=None) -> list[tuple[str, bool]]:
    """Translate whole texts; each comes with whether all of its segments ended by themselves.

    `on_batch(done, of)` is called with numbers of distinct segments as they are finished.
    """
    settings = translator.settings
    documents = [split(text, settings.source_language, settings.max_segment_chars) for text in texts]
    distinct = list(dict.fromkeys(chain.from_iterable(document.texts for document in documents)))
    finished = 0

    def count(indices: list[int], completions: list[Completion]) -> None:
        nonlocal finished
        finished += len(indices)
        if on_batch:
            on_batch(finished, len(distinct))

    done = dict(zip(distinct, translator.translate_segments(distinct, count), strict=True)) if distinct else {}
    return [
        (
            document.join([done[text].text or text for text in document.texts]),
            all(done[text].finish_reason != "length" for text in document.texts),
        )
        for document in documents
    ]


def stage_inputs(settings: TranslationSettings) -> dict[str, Path | str]:
    """What this stage reads, for the manifest: files by their hash, hub datasets by their name."""
    inputs = {"chat": _source(settings.chat), "preferences": _source(settings.preferences)}
    adapter = choose_translator(settings).adapter
    return {**inputs, "adapter": adapter} if adapter else inputs


def check_sources(settings: TranslationSettings) -> None:
    """Read the first row of each local source, so that a wrong file is refused before anything starts.

    Raises PhoenixError where a file is missing, empty, damaged or of an unknown layout, or a language code
    does not exist. Hub datasets are not read.
    """
    prompts.language_name(settings.source_language), prompts.language_name(settings.language)
    readers = {"chat": corpora.read_chat, "preferences": corpora.read_preferences}
    for name, read in readers.items():
        source = getattr(settings, name)
        if not corpora.is_hub_name(source):
            next(read(source, 1))


def _source(name: str) -> Path | str:
    """The file or folder behind a source's name; a hub id stays a text, for it has no bytes to hash here."""
    if name.startswith("package:"):
        return corpora.packaged(f"{name.removeprefix('package:')}.jsonl")
    return Path(name) if Path(name).exists() else f"hub:{name}"


def run(settings: TranslationSettings, translator: Translator | None = None) -> Path:
    """Translate both corpora into `01_translation/`; returns the folder.

    Writes `chat.parquet`, `preferences.parquet` (schemas in `corpora`) and `segments.sqlite`. Interrupted at any
    moment, it goes on where it stopped. Give `translator` to go on using the model it loads.
    """
    translator = translator or Translator(settings)
    with open_stage("translation", settings, stage_inputs(settings)) as stage:
        if stage.is_complete:
            return stage.folder
        with SegmentStore(stage.folder / "segments.sqlite") as store:
            _collect(store, settings)
            _translate_pending(store, translator, stage)
            chat = _assembled(_chat_rows(settings), store, settings, _finish_chat)
            stage.count("chat_rows", write_rows(stage.folder / "chat.parquet", chat, corpora.TRANSLATED_CHAT))
            pairs = _assembled(_preference_rows(settings), store, settings, _finish_preference)
            stage.count(
                "preference_rows",
                write_rows(stage.folder / "preferences.parquet", pairs, corpora.TRANSLATED_PREFERENCES),
            )
            for name, number in store.totals().items():
                stage.count(name, number)
    return stage.folder


def _chat_rows(settings: TranslationSettings) -> Iterator[tuple[dict, dict[str, str]]]:
    for row in corpora.read_chat(settings.chat, settings.max_rows):
        yield row, {str(place): message["content"] for place, message in enumerate(row["messages"])}


def _preference_rows(settings: TranslationSettings) -> Iterator[tuple[dict, dict[str, str]]]:
    for row in corpora.read_preferences(settings.preferences, settings.max_rows):
        yield (
            row,
            {
                "prompt": row["prompt"],
                "chosen": row["chosen"][-1]["content"],
                "rejected": row["rejected"][-1]["content"],
            },
        )


def _collect(store: SegmentStore, settings: TranslationSettings) -> None:
    for rows in (_chat_rows(settings), _preference_rows(settings)):
        for _, parts in rows:
            store.add(chain.from_iterable(_split(text, settings).texts for text in parts.values()))


def _split(text: str, settings: TranslationSettings):
    return split(text, settings.source_language, settings.max_segment_chars)


def _translate_pending(store: SegmentStore, translator: Translator, stage: StageRun) -> None:
    totals = store.totals()
    todo = totals["segments"] - totals["done"]
    progress = stage.progress(totals["characters"], "characters")
    if todo:
        stage.note("engine", type(translator.engine).__name__)
        stage.note("translator", translator.choice.reason)
        started, before = time.monotonic(), totals["characters_done"]
        done = before
        progress.update(done)
        while texts := store.pending(WINDOW):

            def keep(indices: list[int], completions: list[Completion], texts=texts) -> None:
                nonlocal done
                store.put([texts[index] for index in indices], completions)
                done += sum(len(texts[index]) for index in indices)
                rate = (done - before) / (time.monotonic() - started)
                progress.update(done, **{"characters/s": f"{rate:.0f}"})

            translator.translate_segments(texts, keep)
        characters = totals["characters"] - before
        stage.note("characters_per_second", characters / (time.monotonic() - started))
    progress.close(f"{totals['segments']:,} distinct segments, {todo:,} of them translated now")


def _assembled(rows: Iterable, store: SegmentStore, settings: TranslationSettings, finish) -> Iterator[dict[str, Any]]:
    for row, parts in rows:
        translated, segments = {}, []
        for part, text in parts.items():
            document = _split(text, settings)
            done = [store.get(piece) for piece in document.texts]
            # An empty translation would silently drop a sentence; the audit keeps it, the text keeps the source.
            translated[part] = document.join(
                [completion.text or piece for completion, piece in zip(done, document.texts, strict=True)]
            )
            segments += [
                {
                    "part": part,
                    "text": piece,
                    "translation": completion.text,
                    "finish_reason": completion.finish_reason,
                    "mean_logprob": completion.mean_logprob,
                }
                for completion, piece in zip(done, document.texts, strict=True)
            ]
        yield finish(row, translated, segments)


def _finish_chat(row: dict, translated: dict[str, str], segments: list[dict]) -> dict:
    messages = [
        {"role": message["role"], "content": translated[str(place)]} for place, message in enumerate(row["messages"])
    ]
    return {**row, "messages": messages, "messages_source": row["messages"], "segments": segments}


def _finish_preference(row: dict, translated: dict[str, str], segments: list[dict]) -> dict:
    def answer(part: str) -> list[dict]:
        return [
            {"role": "user", "content": translated["prompt"]},
            {"role": "assistant", "content": translated[part]},
        ]

    return {
        **row,
        "prompt": translated["prompt"],
        "chosen": answer("chosen"),
        "rejected": answer("rejected"),
        "prompt_source": row["prompt"],
        "chosen_source": row["chosen"],
        "rejected_source": row["rejected"],
        "segments": segments,
    }
