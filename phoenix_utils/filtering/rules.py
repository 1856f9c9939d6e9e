"""Rules about one translated row: what is wrong with it, and where.

A row is judged by every rule, so that it carries all its reasons, not only the first. The rules about a text
and its translation are shared with the translator's training and live in :mod:`phoenix_utils.pairs`; here are
those that need a whole row: its turns, its two answers, its length in the student's tokens, and the
translator's own report that it ran out of room.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from phoenix_utils import pairs
from phoenix_utils.filtering.settings import FilteringSettings

RULES = {
    "structure": "a turn is empty, or the roles are out of order",
    "language": "the text is not in the target language",
    "copied": "the text repeats the source's words instead of translating them",
    "length": "the text is much shorter or longer than its source",
    "truncation": "the translator ran out of room, or the text breaks off",
    "failed_segment": "the translator lost code, a formula, an address or a placeholder, or said nothing",
    "repetition": "a phrase loops",
    "run_together": "two words are written as one",
    "same_answers": "the chosen and the rejected answer are the same after translation",
    "too_long": "the row has more tokens than the student is trained on",
}
"""Name and meaning of each rule, in the order of the waterfall: the first that applies gets the row."""


@dataclass(frozen=True)
class Finding:
    """One thing wrong with a row: rule, part ("0", ..., "prompt", "chosen", "rejected" or "row"), detail."""

    rule: str
    part: str
    detail: str


def findings(row: dict, settings: FilteringSettings, count_tokens: Callable[[list[dict]], int]) -> list[Finding]:
    """Everything wrong with a chat or preference row; an empty list keeps it.

    Args:
        row: a row of 01_translation; where the columns with sources and segments are missing, the rules that
            compare with them abstain.
        settings: thresholds and the two languages.
        count_tokens: tokens of a conversation in the student's chat template.
    """
    found = list(_structure(row))
    for part, source, text in parts(row):
        if text.strip():
            found += _pair(part, source, text, settings)
    found += _segments(row)
    if "chosen" in row:
        found += _same_answers(row)
    if not any(finding.rule == "structure" for finding in found):  # a template needs turns in order
        found += _too_long(row, settings, count_tokens)
    return found


def parts(row: dict) -> list[tuple[str, str | None, str]]:
    """The texts of a row that were translated, as (part, source or None, text)."""
    if "chosen" not in row:
        sources = [message["content"] for message in row.get("messages_source") or ()]
        messages = row["messages"] or ()
        if len(sources) != len(messages):
            sources = [None] * len(messages)
        return [
            (str(index), source, message["content"] or "")
            for index, (source, message) in enumerate(zip(sources, messages, strict=True))
        ]
    return [
        ("prompt", row.get("prompt_source"), row["prompt"] or ""),
        *((side, _answer(row.get(f"{side}_source")), _answer(row[side]) or "") for side in ("chosen", "rejected")),
    ]


def _answer(messages: list[dict] | None) -> str | None:
    return messages[-1]["content"] if messages else None


def _structure(row: dict) -> Iterator[Finding]:
    """Turns must hold text and alternate: perhaps a system message, then user, assistant, ..., assistant."""
    if "chosen" not in row:
        yield from _turns("row", row["messages"] or [])
        source = row.get("messages_source")
        if source and [m["role"] for m in source] != [m["role"] for m in row["messages"] or []]:
            yield Finding("structure", "row", "the translation has other turns than its source")
        return
    if not (row["prompt"] or "").strip():
        yield Finding("structure", "prompt", "the prompt is empty")
    for side in ("chosen", "rejected"):
        yield from _turns(side, row[side] or [])
        if row[side] and row[side][0]["content"] != row["prompt"]:
            yield Finding("structure", side, "the first message is not the prompt")


def _turns(part: str, messages: list[dict]) -> Iterator[Finding]:
    for index, message in enumerate(messages):
        if not (message["content"] or "").strip():
            yield Finding("structure", part, f"message {index} ({message['role']}) is empty")
    roles = [message["role"] for message in messages]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if not turns or len(turns) % 2 or turns != ["user", "assistant"] * (len(turns) // 2):
        yield Finding("structure", part, f"roles are out of order: {', '.join(map(str, roles)) or 'no message'}")


def _pair(part: str, source: str | None, text: str, settings: FilteringSettings) -> Iterator[Finding]:
    limits = pairs.PairLimits(
        max_foreign_share=settings.max_foreign_share,
        max_copied_share=settings.max_copied_share,
        min_length_ratio=settings.min_length_ratio,
        max_length_ratio=settings.max_length_ratio,
        max_repeats=settings.max_repeats,
    )
    reasons = pairs.pair_reasons(source or "", text, settings.language, settings.source_language, limits)
    for rule, detail in reasons.items():
        if rule not in ("length", "run_together") or source:  # these two only compare with a source
            yield Finding(rule, part, detail)


def _segments(row: dict) -> Iterator[Finding]:
    for segment in row.get("segments") or ():
        fault = segment.get("fault") or ""
        if segment["finish_reason"] == "length":
            yield Finding("truncation", segment["part"], f"the translator ran out of room at {segment['text'][:60]!r}")
        if fault not in ("", "cut off", "copied from the source"):  # copies are judged over the whole text
            yield Finding("failed_segment", segment["part"], f"{fault}, at {segment['text'][:60]!r}")


def _same_answers(row: dict) -> Iterator[Finding]:
    chosen, rejected = (" ".join((_answer(row[side]) or "").split()).casefold() for side in ("chosen", "rejected"))
    if chosen == rejected:
        yield Finding("same_answers", "row", "chosen and rejected say the same")


def _too_long(row: dict, settings: FilteringSettings, count_tokens: Callable[[list[dict]], int]) -> Iterator[Finding]:
    for part in ("chosen", "rejected") if "chosen" in row else ("messages",):
        tokens = count_tokens(row[part])
        if tokens > settings.max_length:
            yield Finding(
                "too_long",
                part.replace("messages", "row"),
                f"{tokens:,} tokens (most: {settings.max_length:,})",
            )
