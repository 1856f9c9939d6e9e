"""What stands between a run and the public: is it measured, may it be given away, does it hold a secret?"""

from __future__ import annotations

import os.path
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from phoenix_utils import artifacts, licenses, models, secrecy, tables
from phoenix_utils.errors import PhoenixError
from phoenix_utils.licenses import License

# What a stage's training read, as its manifest calls it, and the kept rows that it names.
_DATA = {"sft": "chat", "dpo": "preferences"}


@dataclass(frozen=True)
class Source:
    """A finished run and which of its stages is released: "sft" or "dpo"."""

    run_dir: Path
    stage: str

    @property
    def trained(self) -> Path:
        """The folder of the weights: `adapter`, or `model` after full fine-tuning."""
        return artifacts.trained_weights(artifacts.stage_path(str(self.run_dir), self.stage))

    @property
    def stages(self) -> list[str]:
        """The stages that the weights went through, and their evaluation."""
        return ["translation", "filtering", "sft", *(["dpo"] if self.stage == "dpo" else []), "evaluation"]

    @cached_property
    def manifests(self) -> dict[str, dict[str, Any]]:
        """The manifest of each of those stages; raises PhoenixError where one is missing or unfinished."""
        found = {}
        for stage in self.stages:
            path = artifacts.stage_path(str(self.run_dir), stage) / "manifest.json"
            found[stage] = artifacts.read_manifest(path) if path.is_file() else {"status": "missing"}
            if found[stage]["status"] != "complete":
                why = "without an evaluation nobody knows what would be given away" if stage == "evaluation" else ""
                raise PhoenixError(
                    f"{self.run_dir} has no finished {stage} stage{': ' if why else ''}{why}; run "
                    f"`phoenix run PROFILE --from {stage} --out {self.run_dir}` first"
                )
        return found

    @property
    def settings(self) -> dict[str, Any]:
        """The training settings, `model`, `language` and `source_language` among them."""
        return self.manifests[self.stage]["settings"]

    @property
    def tables(self) -> dict[str, Path]:
        """The kept rows that the weights were trained on, by kind."""
        folder = artifacts.stage_path(str(self.run_dir), "filtering")
        return {kind: folder / f"{kind}.parquet" for stage, kind in _DATA.items() if stage in self.stages}

    @property
    def evaluation(self) -> Path:
        """The folder of the scores."""
        return artifacts.stage_path(str(self.run_dir), "evaluation")


def find_source(run: str, stage: str | None = None) -> Source:
    """The run in the folder `run` and its last trained stage, or the one named.

    Raises PhoenixError where there is no such folder or nothing trained in it.
    """
    folder = artifacts.resolve_run_dir(run)
    if not os.path.isdir(folder):  # which takes names of any length
        raise PhoenixError(f"{run!r} is no folder; give that of a finished run, for example runs/mini")
    for name in (stage,) if stage else ("dpo", "sft"):
        source = Source(folder, name)
        if source.trained.is_dir():
            return source
    raise PhoenixError(f"{folder} holds no trained weights of {stage or 'sft or dpo'}: run that stage first")


def check_measured(source: Source) -> None:
    """Raise PhoenixError unless evaluation and training data are those of the weights that would be released."""
    evaluation, stage = source.manifests["evaluation"], source.stage
    again = f"run `phoenix evaluation PROFILE --redo --out {source.run_dir}`"
    models = evaluation["settings"].get("models", [])
    if stage not in models:
        measured = ", ".join(models) or "nothing"
        raise PhoenixError(f"the evaluation of {source.run_dir} measured {measured} and not {stage}: {again}")
    now = artifacts.describe_inputs({stage: source.trained})[stage]
    if evaluation["inputs"].get(stage) != now:
        raise PhoenixError(f"the evaluation of {source.run_dir} measured other weights than {source.trained}: {again}")
    for name in ("scores.json", "differences.json"):
        if artifacts.sha256_file(source.evaluation / name) != evaluation["outputs"].get(name, {}).get("sha256"):
            raise PhoenixError(f"{source.evaluation / name} was changed after the evaluation: {again}")
    for trained, kind in _DATA.items():
        if kind in source.tables:
            read = source.manifests[trained]["inputs"].get(kind)
            if read != artifacts.describe_inputs({kind: source.tables[kind]})[kind]:
                raise PhoenixError(
                    f"the {trained} stage was trained on other rows than {source.tables[kind]} holds now: train again, "
                    "so that what is published is what was used"
                )


@dataclass(frozen=True)
class Part:
    """Something with a licence that went into a release; `rows` of a corpus, None for a model."""

    what: str
    license: str
    rows: int | None
    terms: License


def check_licenses(source: Source, allowed: Iterable[str] = ()) -> list[Part]:
    """What went into the release and under which licences; PhoenixError where one forbids it or is not known.

    `allowed` are licences that the table does not know ("unknown" for none stated) and that the user vouches for.
    """
    vouched = {name.strip().lower() for name in allowed}
    translator = source.manifests["translation"]["settings"]["model"]
    found = [("the base model", source.settings["model"], None), ("the translator", translator, None)]
    stated = [(f"{what} {models.public_name(model)}", licenses.of_model(model), rows) for what, model, rows in found]
    for kind, path in source.tables.items():
        names = Counter((row["license"] or "").strip() or "unknown" for row in tables.read_rows(path))
        stated += [(f"{rows:,} rows of {kind}", name, rows) for name, rows in sorted(names.items())]
    parts = []
    for what, name, rows in stated:
        terms = licenses.find(name)
        if terms is None and name.lower() in vouched:
            terms = License(name, "what the publisher of this release has looked up")
        if terms is None:
            raise PhoenixError(
                f"the licence of {what} is {name!r}, and whether it lets you publish is not known here: look it up, "
                f"and if it does, add --allow-license {name!r}"
            )
        if not terms.publish:
            raise PhoenixError(
                f"the licence of {what} is {name!r}, which asks to {terms.asks}: keep the model to yourself, or train "
                "it without them (filtering.allowed_licenses)"
            )
        parts.append(Part(what, name, rows, terms))
    return parts


def check_secrets(files: Iterable[Path]) -> None:
    """Raise PhoenixError where a file, or a row of a Parquet file, holds what looks like a token or a private key.

    Weights are left out: they are numbers, and hold no text but what stands in other files too. The sentence names the
    place and never the secret.
    """
    for file in files:
        if _is_weights(file):
            continue
        for place, text in _texts(file):
            if kind := secrecy.kind(text):
                raise PhoenixError(
                    f"{place} of {file.name} holds what looks like {kind}: take it out where it comes from, make it "
                    "invalid, and release again"
                )


def _is_weights(file: Path) -> bool:
    """Whether a file is what its ending says, since any text can have the name of weights."""
    if file.suffix == ".gguf":
        with file.open("rb") as begin:
            return begin.read(4) == b"GGUF"
    if file.suffix != ".safetensors":
        return False
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np"):
            return True
    except SafetensorError:
        return False


def _texts(file: Path) -> Iterator[tuple[str, str]]:
    """Pieces of a file with the place of each."""
    if file.suffix == ".parquet":
        for row in tables.read_rows(file):
            for text in _strings(row):
                yield f"the row {row['prompt_id']}", text
    else:
        with file.open(encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines, 1):
                yield f"line {number}", line


def _strings(value: Any) -> Iterator[str]:
    """Every string in a row, however deep, as it is: escaped as JSON, a tab before a secret would be a letter."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)
