"""The corpus level of translation: rows in, translated rows with their audit out, resumable at any moment.

Three passes, each of them streaming: collect the distinct segments of all rows, translate those that are not
done, put the rows together. A segment that occurs in many rows (a pair's prompt, a repeated phrase) is
translated once.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from phoenix_utils import corpora, sources
from phoenix_utils.artifacts import STAGE_FOLDERS, StageRun, describe_inputs, fingerprint, open_stage
from phoenix_utils.tables import Shards
from phoenix_utils.translation import prompts
from phoenix_utils.translation.rows import tables_of
from phoenix_utils.translation.segments import Document, split
from phoenix_utils.translation.settings import TranslationSettings
from phoenix_utils.translation.store import SegmentStore
from phoenix_utils.translation.translator import Translation, Translator, choose_translator

# Rows whose segments are written to the index in one commit.
ROWS_AT_ONCE = 1000
# Rows of a full Parquet file: an interruption while rows are put together loses those of one file, seconds of work.
SHARD_ROWS = 10_000
STORE = "segments.sqlite"


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
    distinct = {segment.source: segment for document in documents for segment in document.segments}
    finished = 0

    def count(indices: list[int], _: list[Translation]) -> None:
        nonlocal finished
        finished += len(indices)
        if on_batch:
            on_batch(finished, len(distinct))

    done = dict(zip(distinct, translator.translate_segments(list(distinct.values()), count), strict=True))
    return [
        (
            _assemble(document, [done[segment.source] for segment in document.segments]),
            all(done[segment.source].finish_reason != "length" for segment in document.segments),
        )
        for document in documents
    ]


def _assemble(document: Document, translations: list[Translation]) -> str:
    """A document with its translations; where one is not usable, its source stands and the audit says why."""
    pairs_ = zip(translations, document.segments, strict=True)
    return document.assemble([done.text if done.usable else segment.source for done, segment in pairs_])


def stage_inputs(settings: TranslationSettings) -> dict[str, Path | str]:
    """What this stage reads, for the manifest: files by their hash, hub datasets by their name."""
    inputs = {"chat": _source(settings.chat), "preferences": _source(settings.preferences)}
    if settings.translates_held_out:
        rows = [corpora.held_out_chat("en"), corpora.held_out_preferences("en"), corpora.questions("en")]
        inputs["held_out"] = fingerprint(rows)
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
        if not sources.is_hub_name(source):
            next(read(source, 1))


def _source(name: str) -> Path | str:
    """The file or folder behind a source's name; a hub id stays a text, for it has no bytes to hash here."""
    if name.startswith("package:"):
        return sources.packaged(f"{name.removeprefix('package:')}.jsonl")
    return Path(name) if Path(name).exists() else f"hub:{name}"


def run(settings: TranslationSettings, translator: Translator | None = None) -> Path:
    """Translate both corpora into `01_translation/`; returns the folder.

    Writes `chat/` and `preferences/` (folders of Parquet shards, schemas in `corpora`), where the package has no
    evaluation in the language the `held_out_*` folders beside them, and `segments.sqlite`.
    Interrupted at any moment, it goes on where it stopped. Give `translator` to go on using the model it loads.
    """
    translator = translator or Translator(settings)
    with open_stage("translation", settings, stage_inputs(settings)) as stage:
        if stage.is_complete:
            return stage.folder
        with SegmentStore(stage.folder / STORE, translator_fingerprint(settings)) as store:
            store.drop_damaged()
            for kind, skipped in _collect(store, settings).items():
                stage.count(f"{kind}_rows_unusable", skipped.total())
                stage.note(f"{kind}_rows_unusable", dict(skipped.most_common()))
            reused = store.reuse(_stores_beside(stage.folder))
            stage.count("segments_reused", reused)
            if reused:
                store.drop_damaged()  # what another run's store has brought
            _translate_pending(store, translator, stage)
            good = 0
            for kind, table in tables_of(settings).items():
                shards = Shards(stage.folder / kind, table.schema, SHARD_ROWS)
                rest = islice(table.rows(settings), shards.rows, None)
                shards.append(_assembled(rest, store, settings, table.finish), stage.keep)
                stage.count(f"{kind}_rows", shards.rows)
                good += shards.total("good") if kind in ("chat", "preferences") else 0
            stage.count("rows_good", good)
            for name, number in store.totals().items():
                stage.count(name, number)
    return stage.folder


def _collect(store: SegmentStore, settings: TranslationSettings) -> dict[str, Counter]:
    """Put every segment of the corpora into the store; rows that cannot be used by table and reason, where any are."""
    unusable = {}
    for kind, table in tables_of(settings).items():
        skipped = Counter()
        rows = table.rows(settings, skipped)
        while window := list(islice(rows, ROWS_AT_ONCE)):
            texts = (text for _, parts in window for text in parts.values())
            store.add(segment.source for text in texts for segment in _split(text, settings).segments)
        if skipped:
            unusable[kind] = skipped
    return unusable


def translator_fingerprint(settings: TranslationSettings) -> str:
    """What two runs must have in common for one to take over the other's translations: all that decides them."""
    values = settings.fingerprint_values()
    names = ("source_language", "language", "model", "engine", "prompt")
    names += ("num_beams", "max_new_tokens", "load_in_4bit", "seed")
    adapter = choose_translator(settings).adapter
    described = describe_inputs({"adapter": adapter} if adapter else {})
    return fingerprint([{name: values[name] for name in names}, described])


def _stores_beside(folder: Path) -> list[Path]:
    """The segment stores of other runs in the folder that this run lies in."""
    found = folder.parent.parent.glob(f"*/{STAGE_FOLDERS['translation']}/{STORE}")
    return sorted(path for path in found if path.parent != folder)


def _split(text: str, settings: TranslationSettings):
    return split(text, settings.source_language, settings.max_segment_chars)


def _translate_pending(store: SegmentStore, translator: Translator, stage: StageRun) -> None:
    totals = store.totals()
    todo = totals["segments"] - totals["done"]
    progress = stage.progress(totals["characters"], "characters")
    if todo:
        stage.note("engine", translator.engine_name)
        stage.note("translator", translator.choice.reason)
        started, before = time.monotonic(), totals["characters_done"]
        done, price = before, translator.settings.price_per_hour
        progress.update(done)

        def keep(texts: list[str], translations: list[Translation]) -> None:
            nonlocal done
            store.put(texts, translations)
            done += sum(map(len, texts))
            seconds = time.monotonic() - started
            cost = {} if price is None else {"EUR so far": f"{price * seconds / 3600:.2f}"}
            progress.update(done, **{"characters/s": f"{(done - before) / seconds:.0f}"}, **cost)

        translator.translate_windows(store.pending(translator.window(todo)), keep)
        characters = totals["characters"] - before
        stage.note("characters_per_second", characters / (time.monotonic() - started))
        if price is not None:
            stage.note("euros", round(price * (time.monotonic() - started) / 3600, 4))
    progress.close(f"{totals['segments']:,} distinct segments, {todo:,} of them translated now")


def _assembled(rows: Iterable, store: SegmentStore, settings: TranslationSettings, finish) -> Iterator[dict[str, Any]]:
    for row, parts in rows:
        translated, audit = {}, []
        for part, text in parts.items():
            document = _split(text, settings)
            sources = [segment.source for segment in document.segments]
            done = store.get(sources)
            translated[part] = _assemble(document, done)
            audit += [
                {"part": part, "text": source, "translation": translation.text, **_audit(translation)}
                for source, translation in zip(sources, done, strict=True)
            ]
        good = not any(segment["fault"] for segment in audit)
        yield {**finish(row, translated), "segments": audit, "good": good}


def _audit(translation: Translation) -> dict[str, Any]:
    names = ("finish_reason", "mean_logprob", "attempt", "fault")
    return {name: getattr(translation, name) for name in names}
