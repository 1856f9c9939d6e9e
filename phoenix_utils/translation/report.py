"""What the notebook shows of a translation: a text cut into segments, the audit as a table, the totals."""

from __future__ import annotations

import html
from collections import Counter
from pathlib import Path

from phoenix_utils.artifacts import read_json, read_rows
from phoenix_utils.translation.segments import Document

# Readable on light and dark pages alike, and apart for colour-blind readers.
TRANSLATED = "background:#9ecae155;border-bottom:2px solid #3182bd"
KEPT = "opacity:0.75"


def segment_view(document: Document) -> str:
    """HTML of a Document: translated pieces marked, kept pieces plain; the text is escaped."""
    pieces = "".join(
        f'<span style="{TRANSLATED if translatable else KEPT}">{html.escape(text)}</span>'
        for text, translatable in document.pieces
    )
    return f'<pre style="white-space:pre-wrap">{pieces}</pre>'


def segment_rows(folder: Path) -> list[dict]:
    """Every audited segment of a run's chat rows and pairs, each distinct text once."""
    seen: dict[str, dict] = {}
    for name in ("chat.parquet", "preferences.parquet"):
        for row in read_rows(folder / name):
            for segment in row["segments"]:
                seen.setdefault(segment["text"], segment)
    return list(seen.values())


def segment_table(segments: list[dict]) -> str:
    """HTML table of segments: source, translation, why it ended, mean log-probability; escaped."""
    head = "<tr><th>source</th><th>translation</th><th>ended by</th><th>mean log-probability</th></tr>"
    body = "".join(
        "<tr>"
        + "".join(
            f"<td style='text-align:left;vertical-align:top'>{html.escape(str(value))}</td>"
            for value in (
                segment["text"],
                segment["translation"],
                segment["finish_reason"],
                f"{segment['mean_logprob']:.2f}",
            )
        )
        + "</tr>"
        for segment in segments
    )
    return f"<table>{head}{body}</table>"


def translation_summary(folder: Path) -> dict[str, float | int]:
    """Totals of a finished run: rows, distinct segments, source characters, characters a second, cut-off share.

    `characters_per_second` leaves out what an earlier, interrupted attempt had translated.
    """
    manifest = read_json(folder / "manifest.json")
    counts = manifest["counts"]
    endings = Counter(segment["finish_reason"] for segment in segment_rows(folder))
    return {
        "conversations": counts["chat_rows"],
        "preference pairs": counts["preference_rows"],
        "distinct segments": counts["segments"],
        "source characters": counts["characters"],
        "seconds": manifest["seconds"],
        "characters per second": round(manifest["notes"].get("characters_per_second", 0.0), 1),
        "segments cut off at the token limit": endings["length"],
    }
