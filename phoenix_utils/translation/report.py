"""What the notebook shows of a translation: a text cut into segments, the audit as a table, the totals."""

from __future__ import annotations

import html
from collections import Counter
from pathlib import Path

from phoenix_utils.artifacts import read_manifest
from phoenix_utils.html_table import html_table
from phoenix_utils.tables import read_rows
from phoenix_utils.translation.protect import protected_spans
from phoenix_utils.translation.segments import Document

# Readable on light and dark pages alike, and apart for colour-blind readers.
TRANSLATED = "background:#9ecae133;border-bottom:2px solid #3182bd"
PROTECTED = "background:#fdae6b33;border-bottom:2px dotted #e6550d"
KEPT = "opacity:0.75"


def segment_view(document: Document) -> str:
    """HTML of a Document: segments marked, what is hidden inside them marked otherwise, the rest plain; escaped."""
    shown = []
    for piece in document.pieces:
        if isinstance(piece, str):
            shown.append(_span(KEPT, piece))
            continue
        at = 0
        for start, end in protected_spans(piece.source):
            shown += [_span(TRANSLATED, piece.source[at:start]), _span(PROTECTED, piece.source[start:end])]
            at = end
        shown.append(_span(TRANSLATED, piece.source[at:]))
    return f'<pre style="white-space:pre-wrap">{"".join(shown)}</pre>'


def _span(style: str, text: str) -> str:
    return f'<span style="{style}">{html.escape(text)}</span>' if text else ""


def segment_rows(folder: Path) -> list[dict]:
    """Every audited segment of a run's chat rows and pairs, each distinct text once."""
    seen: dict[str, dict] = {}
    for name in ("chat", "preferences"):
        for row in read_rows(folder / name):
            for segment in row["segments"]:
                seen.setdefault(segment["text"], segment)
    return list(seen.values())


def segment_table(segments: list[dict]) -> str:
    """HTML table of segments: source, translation, why it ended, mean log-probability, attempt, fault; escaped."""
    columns = {"source": "text", "translation": "translation", "ended by": "finish_reason",
               "mean log-probability": "mean_logprob", "attempt": "attempt", "fault": "fault"}  # fmt: skip
    rows = ({**segment, "mean_logprob": f"{segment['mean_logprob']:.2f}"} for segment in segments)
    return html_table(list(columns), ([html.escape(str(row[name])) for name in columns.values()] for row in rows))


def translation_summary(folder: Path) -> dict[str, float | int]:
    """Totals of a finished run: rows, good ones, distinct segments, source characters, speed, attempts, faults.

    `characters_per_second` leaves out what an earlier, interrupted attempt or a run beside it had translated.
    """
    manifest = read_manifest(folder / "manifest.json")
    counts = manifest["counts"]
    segments = segment_rows(folder)
    attempts = Counter(segment["attempt"] for segment in segments if not segment["fault"])
    unusable = sum(counts.get(f"{kind}_rows_unusable", 0) for kind in ("chat", "preferences"))
    return {
        **({"rows of the corpora that cannot be used": unusable} if unusable else {}),
        "conversations": counts["chat_rows"],
        "preference pairs": counts["preferences_rows"],
        "rows without a failed segment": counts["rows_good"],
        "distinct segments": counts["segments"],
        "source characters": counts["characters"],
        "seconds": manifest["seconds"],
        "characters per second": round(manifest["notes"].get("characters_per_second", 0.0), 1),
        "segments right at the second attempt or later": len(segments) - attempts["masked"] - _failed(segments),
        "segments failed": _failed(segments),
        "of them cut off at the token limit": sum(segment["finish_reason"] == "length" for segment in segments),
    }


def _failed(segments: list[dict]) -> int:
    return sum(bool(segment["fault"]) for segment in segments)
