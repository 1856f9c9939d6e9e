"""Filter a run's translated rows: every row goes in once and comes out once, kept or with reasons.

Reads   01_translation/chat, preferences
Writes  02_filtering/chat.parquet, preferences.parquet   kept rows, plain schemas
        02_filtering/rejected.parquet                    every other row, whole, with all its reasons
        02_filtering/summary.json                        counts by rule, licence and source; the waterfall
        02_filtering/scores.parquet                      the scores of each text, where the settings ask for some
        02_filtering/report.html                         all of it on one page that needs nothing else
"""

import json
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, combinations, islice
from pathlib import Path
from typing import IO

import pyarrow as pa

from phoenix_utils import artifacts, chat, corpora, models, pairs, tables
from phoenix_utils.errors import PhoenixError
from phoenix_utils.filtering import lexicon, page, scoring
from phoenix_utils.filtering.near import Contamination, NearDuplicates, evaluation_texts
from phoenix_utils.filtering.rules import Finding, findings, parts
from phoenix_utils.filtering.settings import RULES, FilteringSettings, stage_inputs

REJECTED = pa.schema(
    [
        ("kind", pa.string()),
        ("prompt_id", pa.string()),
        ("source", pa.string()),
        ("license", pa.string()),
        ("rules", pa.list_(pa.string())),
        ("findings", pa.list_(pa.struct([(name, pa.string()) for name in ("rule", "part", "detail")]))),
        ("row", pa.string()),
    ]
)
"""A rejected row: ``kind`` is "chat" or "preferences", ``row`` the whole translated row as JSON."""

_SCHEMAS = {"chat": corpora.CHAT, "preferences": corpora.PREFERENCES}


def run(settings: FilteringSettings, count_tokens: Callable[[list[dict]], int] | None = None) -> dict:
    """Filter both corpora of a run and return the summary (what summary.json holds).

    Give ``count_tokens`` (made by :func:`token_counter`) to filter several runs with one loaded tokenizer.

    Raises:
        PhoenixError: an input is missing, or no row of a corpus passes; then rejected.parquet tells why.
    """
    inputs = stage_inputs(settings)
    with artifacts.open_stage("filtering", settings, inputs=inputs) as stage:
        summary_path = stage.folder / "summary.json"
        if stage.is_complete:
            return artifacts.read_json(summary_path)
        total = sum(tables.row_count(path) for path in inputs.values())
        progress = stage.progress(total, "rows")
        scored = stage.folder / "scores.parquet" if settings.scores else None
        if scored:
            scoring.write(scored, inputs, settings, lambda done: progress.update(done, step="scores"))
            stage.keep(scored)
        tallies = {}
        judge = Judge(settings, count_tokens or token_counter(settings), inputs, scored)
        with tempfile.TemporaryFile("w+", dir=stage.folder, encoding="utf-8") as spool:
            for kind, path in inputs.items():
                done = sum(tally.rows_in for tally in tallies.values())
                tallies[kind] = Tally()
                judged = _judge(path, kind, judge, spool, tallies[kind])
                kept = _watched(judged, tallies[kind], progress, done)
                _write_kept(stage.folder / f"{kind}.parquet", kept, kept_schema(kind, settings))
            spool.seek(0)
            tables.write_rows(stage.folder / "rejected.parquet", map(json.loads, spool), REJECTED)
        summary = {kind: tally.summary() for kind, tally in tallies.items()}
        artifacts.write_json(summary_path, summary)
        with artifacts.write_atomic(stage.folder / "report.html") as partial:
            partial.write_text(page.render(stage.folder, settings, summary), encoding="utf-8")
        _refuse_nothing_kept(summary, stage.folder)
        for kind, part in summary.items():
            stage.count(f"{kind}_in", part["rows_in"])
            stage.count(f"{kind}_out", part["kept"])
        stage.note("length_centre", str(round(judge.centre, 3)))
        stage.note("language_rule", "on" if pairs.known_language(settings.language) else "off: unknown to lingua")
        for name, limit in judge.limits.items():
            stage.note(f"threshold_{name}", str(round(limit, 4)))
        kept = sum(part["kept"] for part in summary.values())
        progress.close(f"kept {kept:,} of {total:,} rows")
    return summary


def token_counter(settings: FilteringSettings) -> Callable[[list[dict]], int]:
    """A function that counts a conversation's tokens in the student's chat template."""
    languages = settings.languages
    tokenizer = chat.apply_template(models.load_tokenizer(settings.model, languages))

    def count(messages: list[dict]) -> int:
        text = chat.render(tokenizer, messages, add_generation_prompt=False)
        # Not verbose: a row that is too long is a finding here, not a warning.
        return len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    return count


class Judge:
    """Everything that judging a row needs, made once for a stage."""

    def __init__(
        self, settings: FilteringSettings, count_tokens: Callable, inputs: dict[str, Path], scored: Path | None = None
    ):
        self.settings, self.count_tokens, self.scored = settings, count_tokens, scored
        self.limits = scoring.thresholds(scored, settings) if scored else {}
        self.centre = length_centre(settings, inputs)
        self.contamination = Contamination(evaluation_texts(settings), settings.max_overlap)
        self.near = {kind: NearDuplicates(settings.duplicate_similarity) for kind in inputs}

    def findings(self, row: dict, kind: str, scores: list[dict] = ()) -> list[Finding]:
        """All findings about a row, those of rules that are switched off too; `scores` are those of its texts."""
        found = findings(row, self.settings, self.count_tokens, self.centre)
        texts = [text for _, source, text in parts(row)]
        sources = [source or "" for _, source, _ in parts(row)]
        if reason := self.contamination.question_in([*texts, *sources]):
            found.append(Finding("contaminated", "row", reason))
        if reason := self.near[kind].seen(row.get("prompt_id") or "a row without an id", "\n".join(texts)):
            found.append(Finding("duplicate", "row", reason))
        return found + list(scoring.findings(scores, self.limits))


def length_centre(settings: FilteringSettings, inputs: dict[str, Path], least: int = 100, most: int = 2000) -> float:
    """The usual ratio of lengths, translation to source, for this run's languages.

    What is known from human pairs where there are some (`lexicon.length_centre`); else the median of the run's own
    texts, within 2/3 and 3/2, so that a corpus of broken translations cannot call itself normal.
    """
    known = lexicon.length_centre(*settings.languages)
    if known is not None:
        return known
    ratios = []
    for path in inputs.values():
        for row in islice(tables.read_rows(path), most):
            texts = ((source, text) for _, source, text in parts(row) if source and text.strip())
            ratios += [pairs.length_ratio(*each, settings.language, settings.source_language) for each in texts]
    return min(max(statistics.median(ratios), 2 / 3), 3 / 2) if len(ratios) >= least else 1.0


class Tally:
    """Counts of one corpus while its rows pass."""

    def __init__(self) -> None:
        self.rows_in = self.kept = 0
        self.rules: Counter[str] = Counter()
        self.first: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()
        self.pairs: Counter[tuple[str, str]] = Counter()
        self.origins: dict[str, dict[str, Counter]] = {"licenses": {}, "sources": {}}

    def add(self, row: dict, rules: list[str], skipped: Iterable[str] = ()) -> None:
        """Count one row; ``rules`` are those it breaks, in the waterfall's order, ``skipped`` those switched off."""
        self.skipped.update(skipped)
        self.pairs.update(combinations(rules, 2))
        self.rows_in += 1
        self.kept += not rules
        self.rules.update(rules)
        self.first.update(rules[:1])
        for name, column in (("licenses", "license"), ("sources", "source")):
            counts = self.origins[name].setdefault(row.get(column) or "unknown", Counter(rows_in=0, kept=0))
            counts.update(rows_in=1, kept=int(not rules))

    def summary(self) -> dict:
        """The counts as plain values; "waterfall" says how many rows are left after each rule."""
        left, waterfall = self.rows_in, []
        for rule in RULES:
            left -= self.first[rule]
            waterfall.append({"rule": rule, "removed": self.first[rule], "left": left})
        return {
            "rows_in": self.rows_in,
            "kept": self.kept,
            "rejected": self.rows_in - self.kept,
            "rules": {rule: self.rules[rule] for rule in RULES},
            "skipped": dict(sorted(self.skipped.items())),
            "overlap": [{"rules": list(rules), "rows": rows} for rules, rows in sorted(self.pairs.items())],
            "waterfall": waterfall,
            **{name: {key: dict(n) for key, n in sorted(found.items())} for name, found in self.origins.items()},
        }


def _judge(path: Path, kind: str, judge: Judge, spool: IO[str], tally: Tally) -> Iterator[dict]:
    """Yield the kept rows; rejected ones go to ``spool``, one JSON line each, so that memory stays flat."""
    off = set(judge.settings.skip_rules)
    for row, scores in scoring.by_row(judge.scored, tables.read_rows(path), kind):
        found = judge.findings(row, kind, scores)
        if judge.scored:
            row["scores"] = scores
        broken = {finding.rule for finding in found}
        rules = [rule for rule in RULES if rule in broken - off]
        tally.add(row, rules, broken & off)
        if not rules:
            yield {name: row.get(name) for name in kept_schema(kind, judge.settings).names}
            continue
        rejected = {name: row.get(name) for name in ("prompt_id", "source", "license")}
        findings_on = [vars(finding) for finding in found if finding.rule not in off]
        rejected |= {"kind": kind, "rules": rules, "findings": findings_on}
        rejected["row"] = json.dumps(row, ensure_ascii=False)
        spool.write(json.dumps(rejected, ensure_ascii=False) + "\n")


def _watched(rows: Iterator[dict], tally: Tally, progress: artifacts.Progress, done: int) -> Iterator[dict]:
    for row in rows:
        progress.update(done + tally.rows_in, kept=tally.kept)
        yield row


def kept_schema(kind: str, settings: FilteringSettings) -> pa.Schema:
    """The plain schema of a kept row; with the scores of its texts where the settings ask for some."""
    return _SCHEMAS[kind].append(pa.field("scores", scoring.ROW_SCORES)) if settings.scores else _SCHEMAS[kind]


def _write_kept(path: Path, rows: Iterator[dict], schema: pa.Schema) -> None:
    """Write the kept rows; without any there is no file, so that no later stage trains on nothing."""
    path.unlink(missing_ok=True)  # left by an attempt that was cut off
    first = next(rows, None)
    if first is not None:
        tables.write_rows(path, chain([first], rows), schema)


def _refuse_nothing_kept(summary: dict, folder: Path) -> None:
    for kind, part in summary.items():
        if part["kept"]:
            continue
        if not part["rows_in"]:
            raise PhoenixError(
                f"the translated {kind} corpus has no rows: look at the translation stage, there is nothing to filter"
            )
        reasons = ", ".join(f"{rule} {count}" for rule, count in part["rules"].items() if count)
        steps = [f"{step['left']:,} after {step['rule']}" for step in part["waterfall"] if step["removed"]]
        raise PhoenixError(
            f"none of the {part['rows_in']:,} translated {kind} rows passes the filters ({reasons}; left are "
            f"{', '.join(steps)}): look at {folder / 'report.html'}, and mend the translation, or loosen the rule that "
            "is too strict"
        )
