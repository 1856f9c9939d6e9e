"""Scores of a whole run: every text once, into scores.parquet, before the rules judge a row; then the thresholds.

A threshold by keep rate needs all scores of a run, so they come first; the rows are read again afterwards. Texts are
scored whether or not a rule rejects their row, so that switching a rule changes no threshold.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa

from phoenix_utils import artifacts, engines, models, pairs, tables
from phoenix_utils.alma import alma
from phoenix_utils.embeddings import open_embedder
from phoenix_utils.errors import PhoenixError
from phoenix_utils.filtering import scores
from phoenix_utils.filtering.rules import Finding, parts
from phoenix_utils.filtering.settings import FilteringSettings
from phoenix_utils.paths import expanded

NAMES = {
    "forward": "log-probability of the translation, nats per token",
    "dual": "dual conditional cross-entropy, nats per token",
    "cosine": "cosine of both sides' embeddings",
}
"""What each score is, with its unit; all but "dual" are better the higher they are."""

SCORES = pa.schema(
    [*((name, pa.string()) for name in ("kind", "prompt_id", "part")), *((name, pa.float64()) for name in NAMES)]
)
"""A line for each text of each row, in their order; None where a score was not asked for or the text is too short."""

ROW_SCORES = pa.list_(pa.struct([("part", pa.string()), *((name, pa.float64()) for name in NAMES)]))
LEAST_LETTERS = 20
Score = Callable[[list[dict]], list[float]]


def write(path: Path, inputs: dict[str, Path], settings: FilteringSettings, report: Callable[[int], None]) -> None:
    """Score every text of the inputs and write scores.parquet; one that is there already is whole and stays.

    `report` hears how many rows are done. Raises PhoenixError where the translator or the embedder cannot be had.
    """
    if path.is_file():
        return
    rows = ((kind, row) for kind, place in inputs.items() for row in tables.read_rows(place))
    texts = (text for number, (kind, row) in enumerate(rows) for text in _texts(number, kind, row))
    batches = iter(lambda: list(islice(texts, settings.score_batch)), [])
    make = functools.partial(Scorers, settings, run_translator(settings))

    def lines() -> Iterator[dict]:
        for scored in _on_workers(make, batches, settings) if settings.ray_workers else map(make().scored, batches):
            yield from scored
            report(scored[-1]["number"])  # the row before the last is done

    tables.write_rows(path, lines(), SCORES)


def _on_workers(make: functools.partial, batches: Iterable, settings: FilteringSettings) -> Iterator[list[dict]]:
    from phoenix_utils.ray_workers import RayWorkers

    gpus = make.args[1].get("num_gpus", 0)  # embeddings are computed on CPUs
    return RayWorkers(make, settings.ray_workers, gpus=gpus, address=settings.ray_address).map_in_order(
        "scored", batches
    )


def _texts(number: int, kind: str, row: dict) -> Iterator[dict]:
    """What is scored of row `number`: both sides of each text, and the pairs of segments that it was translated in."""
    segments = row.get("segments") or ()
    for part, source, text in parts(row):
        pieces = [(each["text"], each["translation"]) for each in segments if each["part"] == part]
        pieces = [piece for piece in pieces if all(piece)] or [(source or "", text)]
        pieces = [(one[:1000], other[:1000]) for one, other in pieces]
        yield {"number": number, "kind": kind, "prompt_id": row.get("prompt_id"), "part": part,
               "pair": (source or "", text), "pieces": pieces}  # fmt: skip


class Scorers:
    """What one process scores with: the scores that the settings ask for, their models loaded when it is made."""

    def __init__(self, settings: FilteringSettings, translator: dict):
        self.scorers = open_scorers(settings, translator)

    def scored(self, texts: list[dict]) -> list[dict]:
        """The lines of scores.parquet for some texts (see `_texts`), each with the number of its row."""
        long = [text for text in texts if min(map(pairs.letters, text["pair"])) >= LEAST_LETTERS]
        for name, score in self.scorers.items():
            for text, value in zip(long, score(long) if long else (), strict=True):
                text[name] = value
        return [{name: text.get(name) for name in ("number", *SCORES.names)} for text in texts]


def open_scorers(settings: FilteringSettings, translator: dict) -> dict[str, Score]:
    """The scores that the settings ask for, as functions of texts; `translator` is `run_translator`'s."""
    made: dict[str, Score] = {}
    if translator:
        engine = open_translator(settings, translator)
        one, other = settings.source_language, settings.language
        there = functools.partial(alma, source=one, target=other)
        back = functools.partial(alma, source=other, target=one)

        @functools.lru_cache(maxsize=1)  # both scores need it for the same texts, one after the other
        def ahead(found: tuple[scores.Pair, ...]) -> list[float]:
            return scores.forward(found, engine, there)

        def dual(found: tuple[scores.Pair, ...]) -> list[float]:
            behind = scores.forward([(text, source) for source, text in found], engine, back)
            return scores.dual_cross_entropy(ahead(found), behind)

        made |= {"forward": _by_pieces(ahead), "dual": _by_pieces(dual)}
    if "cosine" in settings.scores:
        embed = open_embedder(settings.embedder)
        made["cosine"] = lambda texts: scores.cosines([text["pair"] for text in texts], embed)
    return {name: made[name] for name in NAMES if name in settings.scores}


def _by_pieces(score: Callable[[tuple[scores.Pair, ...]], list[float]]) -> Score:
    """The score of a text as the mean over its segments, each counted by its length: translators read sentences."""

    def whole(texts: list[dict]) -> list[float]:
        found = iter(score(tuple(piece for text in texts for piece in text["pieces"])))
        values = []
        for text in texts:
            lengths = [len(source) for source, _ in text["pieces"]]
            total = sum(length * next(found) for length in lengths)
            values.append(total / sum(lengths))
        return values

    return whole


def run_translator(settings: FilteringSettings) -> dict:
    """The settings of the translation that made this run, by its manifest; empty where no score needs its model.

    Raises PhoenixError where the rows come from elsewhere, or from a server, whose address no manifest keeps.
    """
    if not set(settings.scores) - {"cosine"}:
        return {}
    path = artifacts.stage_path(settings.run_dir, "translation") / "manifest.json"
    made = artifacts.read_manifest(path)["settings"] if path.is_file() else {}
    if not made or made.get("engine") == "server":
        raise PhoenixError(
            "filtering.scores asks for the run's own translator, which "
            + (f"{path} does not name" if not made else "stands behind a server")
            + ": leave forward and dual out, cosine needs none"
        )
    return made


def open_translator(settings: FilteringSettings, made: dict) -> engines.Engine:
    """The model that translated this run with the settings `made`; it scores both ways under ALMA's prompt."""
    adapter = made["adapter"]
    if adapter == "auto":
        found = models.packaged_adapter(made["model"], settings.source_language, settings.language)
    else:
        found = None if adapter == "none" else expanded(adapter)
    return engines.open_engine(
        made["engine"],
        made["model"],
        languages=settings.languages,
        quantize=made["load_in_4bit"],
        batch_tokens=made["batch_tokens"],
        num_gpus=made["num_gpus"],
        adapter=found,
    )


def values(path: Path, name: str) -> list[float]:
    """All values of one score."""
    import pyarrow.parquet as pq

    return pq.read_table(path, columns=[name])[name].drop_null().to_pylist()


def thresholds(path: Path, settings: FilteringSettings) -> dict[str, float]:
    """The threshold of each score that was asked for: the one that is set, or the one that keeps the keep rate."""
    found = {}
    for name in settings.scores:
        limit, known = settings.threshold(name), values(path, name)
        if limit is None and known:
            limit = scores.threshold(known, settings.score_keep_rate, high_is_good=name != "dual")
        if limit is not None:
            found[name] = limit
    return found


def findings(lines: list[dict], limits: dict[str, float]) -> Iterator[Finding]:
    """What the scores of one row's texts say."""
    for line in lines:
        for name, limit in limits.items():
            value = line[name]
            if value is not None and (value > limit if name == "dual" else value < limit):
                bound = "most" if name == "dual" else "least"
                yield Finding("score", line["part"], f"{name} {value:.3f} ({bound}: {limit:.3f})")


def by_row(path: Path | None, rows: Iterable[dict], kind: str) -> Iterator[tuple[dict, list[dict]]]:
    """Each row with the scores of its texts; without a file, with none."""
    lines = (line for line in tables.read_rows(path) if line["kind"] == kind) if path else iter(())
    for row in rows:
        own = [next(lines) for _ in parts(row)] if path else []
        yield row, [{"part": line["part"], **{name: line[name] for name in NAMES}} for line in own]
