"""What makes a translated pair of answers worthless although each answer may be fine by itself.

DPO learns from the difference between two answers. A difference that translation has removed teaches nothing, one
that it has made teaches the translator's faults.
"""

import math
import re
from collections.abc import Iterator

_WORD = re.compile(r"\w+")
_MARKS = re.compile(r"\*\*|^[ \t]*(?:[-*+•]|\d{1,3}[.)]|#{1,6}|\|)[ \t]|\n\s*\n|```", re.MULTILINE)


def reasons(row: dict, max_gap_change: float) -> Iterator[tuple[str, str]]:
    """(rule, reason) for each rule that a preference row breaks; rules that need missing columns abstain."""
    chosen, rejected = (last(row[side]) for side in ("chosen", "rejected"))
    sources = [last(row.get(f"{side}_source")) for side in ("chosen", "rejected")]
    found = {"same_answers": same_answers(chosen, rejected), "one_side": one_side(row.get("segments") or ())}
    if all(sources) and chosen and rejected:
        found["length_gap"] = length_gap(*sources, chosen, rejected, max_gap_change)
        found["format_lost"] = format_lost(*sources, chosen, rejected)
    yield from ((rule, reason) for rule, reason in found.items() if reason)


def last(messages: list[dict] | None) -> str:
    """The answer: the last message's text, "" if there is none."""
    return (messages[-1]["content"] or "") if messages else ""


def same_answers(chosen: str, rejected: str) -> str | None:
    """Reason if both answers say the same words: a pair of a typo and its correction, which translation levels."""
    if _words(chosen) == _words(rejected) and _marks(chosen) == _marks(rejected):
        return "chosen and rejected say the same"
    return None


def one_side(segments: list[dict], most: float = 0.2) -> str | None:
    """Reason if failed segments make up a larger share of one answer than of the other.

    Then "rejected" means "badly translated", and the student learns to tell translations apart instead of answers.
    """
    shares = {}
    for side in ("chosen", "rejected"):
        lengths = [
            (len(segment["text"]), bool(segment.get("fault"))) for segment in segments if segment["part"] == side
        ]
        shares[side] = sum(length for length, failed in lengths if failed) / (sum(n for n, _ in lengths) or 1)
    if abs(shares["chosen"] - shares["rejected"]) <= most:
        return None
    return f"failed segments make up {shares['chosen']:.0%} of the chosen and {shares['rejected']:.0%} of the rejected"


def length_gap(source_chosen: str, source_rejected: str, chosen: str, rejected: str, most: float) -> str | None:
    """Reason if the ratio of both lengths differs from the original's by more than the factor `most`.

    Length is the first thing that DPO picks up; a pair whose longer answer was cut teaches brevity by accident.
    """
    before, after = _log_ratio(source_chosen, source_rejected), _log_ratio(chosen, rejected)
    if abs(after - before) <= math.log(most):
        return None
    inverted = before * after < 0 and min(abs(before), abs(after)) > math.log(1.2)
    what = "inverted" if inverted else "collapsed" if abs(after) < abs(before) else "widened"
    return f"{what}: the chosen was {math.exp(before):.2f} times as long as the rejected and is {math.exp(after):.2f}"


def format_lost(source_chosen: str, source_rejected: str, chosen: str, rejected: str) -> str | None:
    """Reason if both originals had the same words in another format and the translations have the same format."""
    if _words(source_chosen) != _words(source_rejected) or _marks(source_chosen) == _marks(source_rejected):
        return None
    return "only the format differed, and it is the same now" if _marks(chosen) == _marks(rejected) else None


def _log_ratio(one: str, other: str) -> float:
    return math.log((len(one) + 20) / (len(other) + 20))


def _words(text: str) -> list[str]:
    return _WORD.findall(_MARKS.sub(" ", text).casefold())


def _marks(text: str) -> list[str]:
    return [" ".join(found.split()) if found.strip() else "¶" for found in _MARKS.findall(text)]
