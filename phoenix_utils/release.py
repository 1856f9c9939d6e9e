"""Give a run's model away: one folder with the merged model, its training data, and cards that say what both are.

runs/NAME/release/
    release.json    what the release was made of and its files, by hash; stays here
    model/          safetensors, tokenizer with its chat template, generation config, README.md, NOTICE (and terms)
    dataset/        the kept rows as Parquet, README.md, NOTICE

    source = gate.find_source("runs/mini")
    folder = make_release(source)
    push(folder, "owner/name")

Nothing is written before the gate (`gate.py`) has let the run pass, and the folder appears only when it is whole.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phoenix_utils import __version__, artifacts, cards, embedded, gate, gguf_export, merging, models
from phoenix_utils.errors import PhoenixError
from phoenix_utils.gate import Source

RECORD = "release.json"
# May change: the model's card learns the data set's name when it is pushed, and whoever publishes may add words.
CARD = "README.md"
# Where each part goes on the hub: kind of repository, and what is put behind the name that the user gives.
PARTS = {"dataset": ("dataset", "-data"), "model": ("model", "")}


@dataclass(frozen=True)
class Wish:
    """How a release is to be made: "trimmed" keeps the run's vocabulary, "full" restores that of the base."""

    vocabulary: str = "trimmed"
    gguf: bool = False
    allowed_licenses: tuple[str, ...] = ()


def make_release(source: Source, target: Path | None = None, wish: Wish | None = None) -> Path:
    """Write the release of `source` to `target`, by default the run's folder `release`; returns it.

    A release that stands there already is kept if it was made of the same weights and in the same way and its files,
    but for the cards, are those that were written. Raises PhoenixError where the gate refuses the run, the target holds
    anything else, or the disk is full.
    """
    wish, target = wish or Wish(), target or source.run_dir / "release"
    gate.check_measured(source)
    parts = gate.check_licenses(source, wish.allowed_licenses)
    gate.check_secrets(source.tables.values())
    if wish.gguf:
        gguf_export.check_exportable(source.settings["model"])
    record = _record(source, wish)
    if target.exists():
        _check_same(target, record)
        gate.check_secrets(files_of(target))
        return target
    with _whole(target) as partial:
        languages = (source.settings["source_language"], source.settings["language"])
        built = _write_model(source, wish, languages, partial)
        name = f"{source.run_dir.name}-{source.stage}"
        (partial / "model" / CARD).write_text(cards.model_card(source, parts, name, built), encoding="utf-8")
        for kind, file in source.tables.items():
            (partial / "dataset").mkdir(exist_ok=True)
            shutil.copyfile(file, partial / "dataset" / f"{kind}.parquet")
        card = cards.dataset_card(source, parts, f"{name}-data")
        (partial / "dataset" / CARD).write_text(card, encoding="utf-8")
        _write_notices(partial, source, parts)
        if wish.gguf:
            _write_gguf(source, partial, name)
        gate.check_secrets(files_of(partial))
        artifacts.write_json(partial / RECORD, {**record, "files": _hashes(partial)})
    return target


def files_of(folder: Path) -> list[Path]:
    """The files of a release that would be published, in order."""
    return [path for part in sorted(PARTS) for path in sorted((folder / part).rglob("*")) if path.is_file()]


def listing(folder: Path, repo: str | None = None) -> list[str]:
    """One line for each file: its size in bytes, its name, and where on the hub it would go."""
    names = {part: f"{kind}s/{repo}{ending}" for part, (kind, ending) in PARTS.items()}
    lines = []
    for path in files_of(folder):
        part, inside = path.relative_to(folder).parts[0], path.relative_to(folder)
        place = f"  → {names[part]}" if repo else ""
        lines.append(f"{path.stat().st_size:>13,}  {inside.as_posix()}{place}")
    return [*lines, f"{sum(path.stat().st_size for path in files_of(folder)):>13,}  bytes in {len(lines)} files"]


@contextlib.contextmanager
def rehearsal(source: Source, target: Path | None, wish: Wish, repo: str | None = None) -> Iterator[Path]:
    """The release as `make_release` would write it, and `push` upload it to `repo`, for looking at.

    What was not there before is gone afterwards.
    """
    wanted = target or source.run_dir / "release"
    if wanted.exists():
        yield make_release(source, wanted, wish)
        return
    passing = wanted.with_name(f".{wanted.name}.rehearsal")
    shutil.rmtree(passing, ignore_errors=True)
    try:
        make_release(source, passing, wish)
        if repo:
            _link_data(passing, repo)
        yield passing
    finally:
        shutil.rmtree(passing, ignore_errors=True)


def check_push(repo: str, dry_run: bool) -> None:
    """Raise PhoenixError for a name that no repository can have, and where there is no token to push with."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", repo):
        raise PhoenixError(f"--push {repo!r} is no name on a hub; give owner/name")
    from huggingface_hub import constants, get_token

    if not dry_run and constants.HF_HUB_OFFLINE:
        raise PhoenixError("HF_HUB_OFFLINE is set, so nothing can be pushed: unset it, or try with --dry-run")
    if not dry_run and not get_token():
        raise PhoenixError("there is no token to push with: set HF_TOKEN to one that may write, or try with --dry-run")


def push(folder: Path, repo: str, public: bool = False) -> list[str]:
    """Upload a release: its model to `repo`, its data set to `repo`-data; returns their addresses.

    New repositories are private unless `public`. Raises PhoenixError where the hub refuses the token or cannot be
    reached; the folder stays, and the same call uploads what is missing.
    """
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    _link_data(folder, repo)
    addresses = []
    for part, (kind, ending) in PARTS.items():
        name = f"{repo}{ending}"
        try:
            address = HfApi().create_repo(name, repo_type=kind, private=not public, exist_ok=True)
            HfApi().upload_folder(
                repo_id=name, repo_type=kind, folder_path=folder / part, commit_message=f"Phoenix {__version__}"
            )
        except HfHubHTTPError as error:
            raise _refused(name, error.response.status_code, folder) from error
        except (httpx.HTTPError, OSError) as error:
            raise PhoenixError(
                f"the hub cannot be reached for {name} ({type(error).__name__}): check the network and run the same "
                f"command again; the release stays in {folder}"
            ) from error
        addresses.append(str(address))
    return addresses


def _link_data(folder: Path, repo: str) -> None:
    """Name the data set in the model's card, now that it has a name."""
    from huggingface_hub import ModelCard

    card = ModelCard.load(folder / "model" / CARD)
    card.data.datasets = [f"{repo}{PARTS['dataset'][1]}"]
    card.save(folder / "model" / CARD)


def _refused(name: str, status: int, folder: Path) -> PhoenixError:
    if status in (401, 403):
        return PhoenixError(
            f"the hub refuses the token for {name} (error {status}): set HF_TOKEN to one that may write there; the "
            f"release stays in {folder}"
        )
    return PhoenixError(
        f"the hub answers with error {status} for {name}: try again later; the release stays in {folder}"
    )


def _record(source: Source, wish: Wish) -> dict[str, Any]:
    """What a release is made of; the same record means the same release."""
    return {
        "phoenix": __version__,
        "stage": source.stage,
        "vocabulary": wish.vocabulary,
        "gguf": wish.gguf,
        "weights": artifacts.sha256_path(source.trained),
        "manifests": {
            stage: artifacts.sha256_file(artifacts.stage_path(str(source.run_dir), stage) / "manifest.json")
            for stage in source.stages
        },
    }


def _hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file that would be published, "" for the two cards."""
    cards_there = [folder / part / CARD for part in PARTS]
    return {
        path.relative_to(folder).as_posix(): "" if path in cards_there else artifacts.sha256_file(path)
        for path in files_of(folder)
    }


def _check_same(target: Path, record: dict[str, Any]) -> None:
    there = artifacts.read_json(target / RECORD) if (target / RECORD).is_file() else {}
    if other := sorted(key for key in record if there.get(key) != record[key]):
        what = f"a release with another {' and '.join(other)}" if there else "something else"
        raise PhoenixError(f"{target} holds {what}: remove it, or choose another folder with --to")
    written, found = there.get("files", {}), _hashes(target)
    if others := sorted(name for name in {*written, *found} if written.get(name) != found.get(name)):
        raise PhoenixError(
            f"{target} no longer holds the files that were written there ({', '.join(others[:5])} added, changed or "
            "missing): remove it, or choose another folder with --to"
        )


@contextlib.contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """A folder beside `target` that takes its name only when the block ends well."""
    from safetensors import SafetensorError

    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        partial.rename(target)
    except (OSError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or error
        raise PhoenixError(
            f"{target} cannot be written ({why}): free some disk, or give another folder with --to"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_model(source: Source, wish: Wish, languages: tuple[str, str], partial: Path) -> dict[str, Any]:
    """Merged weights and tokenizer as `model/`; returns what the card says of them."""
    from transformers import AutoConfig, AutoTokenizer

    base, folder = source.settings["model"], partial / "model"
    if source.trained.name == "model":
        shutil.copytree(source.trained, folder)
    else:
        stored = AutoConfig.from_pretrained(models.locate(base, languages), **models.NO_CODE).dtype
        merging.merge_adapter(
            source.trained, base, languages, folder, dtype=str(stored or "float32").removeprefix("torch.")
        )
    trimmed = embedded.is_embedded(base) and _vocabulary(folder) < embedded.TOKENS
    if trimmed and wish.vocabulary == "full":
        merging.restore_vocabulary(folder, embedded.ensure_full(base))
    _make_portable(folder, base)
    return {
        "vocabulary": wish.vocabulary if trimmed else "own",
        "tokens": _vocabulary(folder),
        "stop": AutoTokenizer.from_pretrained(folder).eos_token,
        "dtype": str(AutoConfig.from_pretrained(folder).dtype).removeprefix("torch."),
    }


def _vocabulary(folder: Path) -> int:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder).get_text_config().vocab_size


def _make_portable(folder: Path, base: str) -> None:
    """Take out of the written files what only says something about this machine or this version of transformers."""
    path = folder / "tokenizer_config.json"
    config = artifacts.read_json(path)
    for name in ("is_local", "local_files_only", "backend"):
        config.pop(name, None)
    if config.get("tokenizer_class") == "TokenizersBackend":  # transformers 5's name, which 4 does not know
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    artifacts.write_json(path, {**config, "padding_side": "left"})  # answers are written behind the prompt
    lineage = models.read_lineage(folder)
    artifacts.write_json(folder / models.LINEAGE, {**lineage, "base": models.public_name(base)})


def _write_notices(partial: Path, source: Source, parts: Sequence[gate.Part]) -> None:
    rows = [part for part in parts if part.rows is not None or "translator" in part.what]
    for folder, what, of in (("model", cards.MODEL, parts), ("dataset", cards.DATA, rows)):
        (partial / folder / "NOTICE").write_text(cards.notice(source, of, what), encoding="utf-8")
    if any(part.terms.hub_id == "gemma" for part in parts):
        terms = embedded.terms(f"{embedded.PREFIX}{embedded.MODELS[0]}")
        (partial / "model" / cards.TERMS).write_text(terms, encoding="utf-8")


def _write_gguf(source: Source, partial: Path, name: str) -> None:
    """The model as one GGUF file beside its safetensors, with the whole vocabulary, as its header wants it."""
    from phoenix_utils.gguf_file import GgufFile

    base, folder = source.settings["model"], partial / "model"
    origin, whole = GgufFile(embedded.gguf_content(base)), folder
    if _vocabulary(folder) < embedded.TOKENS:
        whole = partial / ".whole"
        shutil.copytree(folder, whole)
        merging.restore_vocabulary(whole, embedded.ensure_full(base))
    gguf_export.export(whole, folder / f"{name}-f32.gguf", origin, name)
    if whole != folder:
        shutil.rmtree(whole)
