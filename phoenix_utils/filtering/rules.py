"""Rules about one translated row: what is wrong with it, and where.

A row is judged by every rule, so that it carries all its reasons, not only the first, and no rule looks at what
another one found. The rules about a text and its translation are small functions of their own: those that the
translator's training shares are in :mod:`phoenix_utils.pairs`, what has to stay unchanged is in `content.py`, what is
said or no longer said in `wording.py`, and what makes a pair of answers worthless in `preferences.py`. Here are those
that need a whole row, and `findings`, which asks them all.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from phoenix_utils import pairs
from phoenix_utils.filtering import content, lexicon, preferences, wording
from phoenix_utils.filtering.settings import FilteringSettings


@dataclass(frozen=True)
class Finding:
    """One thing wrong with a row: rule, part ("0", ..., "prompt", "chosen", "rejected" or "row"), detail."""

    rule: str
    part: str
    detail: str


def findings(
    row: dict, settings: FilteringSettings, count_tokens: Callable[[list[dict]], int], centre: float | None = None
) -> list[Finding]:
    """Everything wrong with a chat or preference row; an empty list keeps it.

    Args:
        row: a row of 01_translation; where the columns with sources and segments are missing, the rules that
            compare with them abstain.
        settings: thresholds and the two languages. Rules in `skip_rules` speak too; the stage does not act on them.
        count_tokens: tokens of a conversation in the student's chat template.
        centre: the usual ratio of lengths for these languages (`stage.length_centre`); None for what is known of them.
    """
    centre = centre or lexicon.length_centre(settings.source_language, settings.language) or 1.0
    found = [*_license(row, settings), *_structure(row)]
    is_sound = len(found) == sum(finding.rule == "license" for finding in found)
    for part, source, text in parts(row):
        if text.strip():
            found += _text(part, source, text, settings, centre)
    found += [*_segments(row), *_address_forms(row, settings), *_task_undone(row, settings)]
    if "chosen" in row:
        found += [Finding(rule, "row", detail) for rule, detail in preferences.reasons(row, settings.max_gap_change)]
    if is_sound:  # a template needs turns in order
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


def _text(part: str, source: str | None, text: str, settings: FilteringSettings, centre: float) -> Iterator[Finding]:
    """What the rules about a text and its source say; without a source, what can be said of the text alone."""
    languages = settings.language, settings.source_language
    reasons = pairs.pair_reasons(source or "", text, *languages, _limits(settings, centre))
    if not source:
        for rule in ("length", "run_together"):  # these two only compare with a source
            reasons.pop(rule, None)
    reasons["address_form"] = wording.mixed_address(text, settings.language)
    if source:
        reasons.setdefault("truncation", wording.broken_off(source, text, *languages, centre))
        reasons |= {
            "chatter": wording.chatter(source, text, *languages),
            "remainder": wording.remainder(source, text, *languages),
            "lost_sentence": wording.lost_sentence(source, text, *languages, centre, settings.min_sentence_ratio),
            "repeated_sentence": wording.repeated_sentence(source, text),
            "numbers": content.numbers(source, text, *languages),
            "addresses": content.addresses(source, text),
            "code": content.code(source, text),
            "formulas": content.formulas(source, text),
            "shape": content.shape(source, text),
            "negation": wording.negation(source, text, *languages),
        }
    for rule, detail in reasons.items():
        if detail:
            yield Finding(rule, part, detail)


def _limits(settings: FilteringSettings, centre: float) -> pairs.PairLimits:
    return pairs.PairLimits(
        max_foreign_share=settings.max_foreign_share,
        max_copied_share=settings.max_copied_share,
        min_length_ratio=settings.min_length_ratio * centre,
        max_length_ratio=settings.max_length_ratio * centre,
        max_repeats=settings.max_repeats,
    )


def _segments(row: dict) -> Iterator[Finding]:
    for segment in row.get("segments") or ():
        fault = segment.get("fault") or ""
        if segment["finish_reason"] == "length":
            yield Finding("truncation", segment["part"], f"the translator ran out of room at {segment['text'][:60]!r}")
        if fault not in ("", "cut off", "copied from the source"):  # copies are judged over the whole text
            yield Finding("failed_segment", segment["part"], f"{fault}, at {segment['text'][:60]!r}")


def _license(row: dict, settings: FilteringSettings) -> Iterator[Finding]:
    """The licence must be stated and allowed; the paper left out Open-Platypus for parts that are for research only."""
    stated = (row.get("license") or "").strip()
    if stated.lower() in ("", "unknown", "other"):
        if not settings.allow_unknown_license:
            yield Finding("license", "row", "the source states no licence")
    elif stated.lower() not in {allowed.lower() for allowed in settings.allowed_licenses}:
        yield Finding("license", "row", f"the licence {stated[:100]!r} is not allowed")


def _address_forms(row: dict, settings: FilteringSettings) -> Iterator[Finding]:
    """A person who says du in one question says du in the next; answers may be letters to somebody else."""
    asked = [message["content"] or "" for message in row.get("messages") or () if message["role"] == "user"]
    forms = [wording.address_forms(text, settings.language) for text in asked]
    formal, familiar = (
        next((form[kind] for form in forms if form[kind] and not form[1 - kind]), "") for kind in (0, 1)
    )
    if formal and familiar:
        yield Finding("address_form", "row", f"the user says {formal!r} in one question and {familiar!r} in another")


def _task_undone(row: dict, settings: FilteringSettings) -> Iterator[Finding]:
    for place, asked, answered, asked_source, answered_source in _exchanges(row):
        if reason := wording.task_undone(
            asked_source, answered_source, asked, answered, settings.language, settings.source_language
        ):
            yield Finding("task_undone", "chosen" if "chosen" in row else str(place), reason)


def _exchanges(row: dict) -> Iterator[tuple[int, str, str, str, str]]:
    """Each answer's place, its question and itself, in the target and the source language; none without sources."""
    name = "chosen" if "chosen" in row else "messages"
    messages, sources = row[name] or [], row.get(f"{name}_source") or []
    if len(messages) != len(sources):
        return
    for place in range(len(messages) - 1):
        if [messages[place]["role"], messages[place + 1]["role"]] == ["user", "assistant"]:
            texts = (each[at]["content"] or "" for each in (messages, sources) for at in (place, place + 1))
            yield place + 1, *texts


def _too_long(row: dict, settings: FilteringSettings, count_tokens: Callable[[list[dict]], int]) -> Iterator[Finding]:
    for part in ("chosen", "rejected") if "chosen" in row else ("messages",):
        tokens = count_tokens(row[part])
        if tokens > settings.max_length:
            yield Finding(
                "too_long",
                part.replace("messages", "row"),
                f"{tokens:,} tokens (most: {settings.max_length:,})",
            )
