"""What the translation stage translates: the two corpora, and what the evaluation asks where nobody has written it.

The package holds the evaluation's conversations, pairs and questions in German, written and not translated. For another
language they are translated here like everything else, into tables of their own, and the evaluation says that its
references are a machine's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pyarrow as pa

from phoenix_utils import corpora
from phoenix_utils.translation.settings import TranslationSettings


class Table(NamedTuple):
    """A corpus: its rows with the texts of each by name, how a translated row looks, and its schema.

    `rows` takes the settings and, to count rows that cannot be used by their reason, a Counter.
    """

    rows: Callable[..., Iterator[tuple[dict, dict[str, str]]]]
    finish: Callable[[dict, dict[str, str]], dict]
    schema: pa.Schema


def tables_of(settings: TranslationSettings) -> dict[str, Table]:
    """The tables of a run by the name of their folder: the two corpora, then what else has to be translated."""
    return _CORPORA | _HELD_OUT if settings.translates_held_out else _CORPORA


def _chat_rows(settings: TranslationSettings, skipped: Counter | None = None) -> Iterator[tuple[dict, dict[str, str]]]:
    yield from map(_with_messages, corpora.read_chat(settings.chat, settings.max_rows, skipped))


def _preference_rows(
    settings: TranslationSettings, skipped: Counter | None = None
) -> Iterator[tuple[dict, dict[str, str]]]:
    yield from map(_with_answers, corpora.read_preferences(settings.preferences, settings.max_rows, skipped))


def _held_out_chat(
    settings: TranslationSettings, skipped: Counter | None = None
) -> Iterator[tuple[dict, dict[str, str]]]:
    yield from map(_with_messages, corpora.spread(corpora.held_out_chat("en"), settings.held_out_rows))


def _held_out_preferences(
    settings: TranslationSettings, skipped: Counter | None = None
) -> Iterator[tuple[dict, dict[str, str]]]:
    yield from map(_with_answers, corpora.spread(corpora.held_out_preferences("en"), settings.held_out_rows))


def _held_out_questions(
    settings: TranslationSettings, skipped: Counter | None = None
) -> Iterator[tuple[dict, dict[str, str]]]:
    for row in corpora.spread(corpora.questions("en"), settings.held_out_rows):
        yield row, {f"{name}{place}": text for name in ("turns", "reference") for place, text in enumerate(row[name])}


def _with_messages(row: dict) -> tuple[dict, dict[str, str]]:
    return row, {str(place): message["content"] for place, message in enumerate(row["messages"])}


def _with_answers(row: dict) -> tuple[dict, dict[str, str]]:
    sides = {side: row[side][-1]["content"] for side in ("chosen", "rejected")}
    return row, {"prompt": row["prompt"], **sides}


def _finish_chat(row: dict, translated: dict[str, str]) -> dict:
    messages = [
        {"role": message["role"], "content": translated[str(place)]} for place, message in enumerate(row["messages"])
    ]
    return {**row, "messages": messages, "messages_source": row["messages"]}


def _finish_preference(row: dict, translated: dict[str, str]) -> dict:
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
    }


def _finish_question(row: dict, translated: dict[str, str]) -> dict:
    texts = {name: [translated[f"{name}{place}"] for place in range(len(row[name]))] for name in ("turns", "reference")}
    return {**row, **texts}


_CORPORA = {
    "chat": Table(_chat_rows, _finish_chat, corpora.TRANSLATED_CHAT),
    "preferences": Table(_preference_rows, _finish_preference, corpora.TRANSLATED_PREFERENCES),
}
_HELD_OUT = {
    "held_out_chat": Table(_held_out_chat, _finish_chat, corpora.TRANSLATED_CHAT),
    "held_out_preferences": Table(_held_out_preferences, _finish_preference, corpora.TRANSLATED_PREFERENCES),
    "held_out_questions": Table(_held_out_questions, _finish_question, corpora.TRANSLATED_QUESTIONS),
}
