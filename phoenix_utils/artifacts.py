"""The run directory: where each stage leaves its products, and how nothing in it is ever lost.

Every file is written beside its final name and renamed when whole. A stage folder's `manifest.json` says which
settings and which inputs (by SHA-256) made it; `open_stage` compares it before any work, so that a finished
stage is skipped, a cut-off one resumes, and results of other settings are refused rather than mixed.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from phoenix_utils import __version__, strict_json
from phoenix_utils.errors import PhoenixError, machine_trouble
from phoenix_utils.hardware import peak_memory_gb
from phoenix_utils.hashes import fingerprint, sha256_file, sha256_path
from phoenix_utils.paths import expanded
from phoenix_utils.progress import Progress

if TYPE_CHECKING:
    from phoenix_utils.profile import StageSettings

STAGE_FOLDERS = {
    "adapt": "00_own_translator",  # optional: a run begins with translation
    "translation": "01_translation",
    "filtering": "02_filtering",
    "sft": "03_sft",
    "dpo": "04_dpo",
    "evaluation": "05_evaluation",
}
# Files that grow while a stage works and check themselves row by row: one damaged row is no reason to throw away what
# was paid for, and no manifest could keep up with them.
GROWING = (
    *("answers_kept.jsonl", "judge_kept.jsonl", "votes.jsonl"),
    *("segments.sqlite", "segments.sqlite-wal", "segments.sqlite-shm"),
)
RECORDED_PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "vllm", "bitsandbytes", "ray")


def project_root() -> Path | None:
    """The checkout that the working directory lies in, or None outside one."""
    start = Path.cwd().resolve()
    for folder in (start, *start.parents):
        if (folder / "_config.yml").is_file() and (folder / "phoenix_utils").is_dir():
            return folder
    return None


def resolve_run_dir(run_dir: str) -> Path:
    """A relative run directory lies below the project, so notebook and command line mean the same one."""
    path = expanded(run_dir)
    return path if path.is_absolute() else (project_root() or Path.cwd()) / path


def data_folder(name: str) -> Path:
    """`profiles` or `notebooks` of the checkout that the package or the working directory belongs to."""
    for root in (Path(__file__).resolve().parent.parent, project_root()):
        if root is not None and (root / name).is_dir():
            return root / name
    raise PhoenixError(f"the folder {name!r} was not found: run from a checkout of the project")


def stage_path(run_dir: str, stage: str) -> Path:
    """The folder of a stage's products, for example `runs/mini/03_sft`."""
    return resolve_run_dir(run_dir) / STAGE_FOLDERS[stage]


def trained_weights(folder: Path) -> Path:
    """What a training stage's folder holds: `adapter`, or `model` after full fine-tuning."""
    return folder / ("model" if (folder / "model").is_dir() else "adapter")


def stored_result(name: str) -> str:
    """Markdown of a long comparison's table that the checkout keeps (book/results), or where to find it."""
    root = project_root() or Path(__file__).resolve().parent.parent
    path = root / "book" / "results" / f"{name}.md"
    return (
        path.read_text(encoding="utf-8") if path.is_file() else f"*The table `{name}` is not stored here: `make lab`.*"
    )


@contextlib.contextmanager
def write_atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it takes the final name only when the block ends well.

    Raises PhoenixError when the disk is full or the folder cannot be written; nothing half-written stays.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        with open(partial, "rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(partial, path)
    except OSError as error:
        if sentence := machine_trouble(error, path):
            raise PhoenixError(sentence) from error
        raise
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically; a key `checksum` gets the fingerprint of all the others."""
    if isinstance(value, dict) and "checksum" in value:
        value = {**value, "checksum": _checksum(value)}
    with write_atomic(path) as partial:
        partial.write_text(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file of a run; raises PhoenixError where it is damaged."""
    trouble = "not valid JSON"
    try:
        value = strict_json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(value, dict) or value.get("checksum", "") in ("", _checksum(value)):
            return value
        trouble = "its checksum is another"
    except ValueError:
        pass
    raise PhoenixError(f"{path} is damaged ({trouble}): move that stage's folder away and run again")


def read_manifest(path: Path) -> dict[str, Any]:
    """A stage's manifest; raises PhoenixError where it is damaged or lacks what every manifest has."""
    manifest = read_json(path)
    kinds = {"status": str, "settings": dict, "inputs": dict, "outputs": dict, "counts": dict, "notes": dict}
    whole = isinstance(manifest, dict) and all(isinstance(manifest.get(key), kind) for key, kind in kinds.items())
    products = manifest["outputs"] if whole else {}
    # Damaged products are moved, and a manifest may come from anybody: they lie in the stage's folder.
    inside = all(not Path(name).anchor and ".." not in Path(name).parts for name in products)
    if not (whole and inside and all(isinstance(of, dict) and "sha256" in of for of in products.values())):
        raise PhoenixError(f"{path} is damaged (no manifest): move that stage's folder away and run again")
    return manifest


def _checksum(value: dict[str, Any]) -> str:
    rest = {key: item for key, item in value.items() if key != "checksum"}
    return fingerprint(json.loads(json.dumps(rest, default=str)))


def describe_inputs(inputs: dict[str, Path | str]) -> dict[str, str]:
    """A path becomes the hash of its contents; a text (a hub id, a package) stands for itself.

    Raises PhoenixError where a path does not exist or is not what the stage that makes it has finished.
    """
    described = {}
    for name, value in inputs.items():
        if isinstance(value, Path):
            check_products(value)
            if not value.exists():
                raise PhoenixError(f"{value} does not exist: run the stage that makes it first")
            described[name] = f"sha256:{sha256_path(value)}"
        else:
            described[name] = value
    return described


def check_products(path: Path) -> None:
    """Raise PhoenixError where products of a stage, at or below `path`, are unfinished, missing or damaged."""
    folders = (folder for folder in (path, *path.parents) if folder.name in STAGE_FOLDERS.values())
    folder = next((folder for folder in folders if (folder / "manifest.json").is_file()), None)
    if folder is None:
        return
    manifest = read_manifest(folder / "manifest.json")
    if manifest["status"] != "complete":
        raise PhoenixError(f"{folder} is not finished: run that stage first")
    if names := damaged_products(folder, manifest, path):
        raise PhoenixError(
            f"{folder / names[0]} is missing or damaged (manifest.json has another SHA-256): run the stage that made "
            "it again, which makes it anew"
        )


def damaged_products(folder: Path, manifest: dict[str, Any], below: Path | None = None) -> list[str]:
    """Names of the products, at or below a path, that are missing or not what the stage has written."""
    return [
        name
        for name, product in manifest.get("outputs", {}).items()
        if (folder / name).name not in GROWING  # manifests of earlier versions name them
        and (below is None or (folder / name).is_relative_to(below))
        and not ((folder / name).is_file() and sha256_file(folder / name) == product["sha256"])
    ]


class StageRun:
    """One stage at work in its folder; made by `open_stage`."""

    def __init__(self, stage: str, folder: Path, manifest: dict[str, Any]):
        self.stage, self.folder, self.manifest = stage, folder, manifest
        self.is_complete = manifest["status"] == "complete"

    def count(self, name: str, number: int) -> None:
        """Keep a count (rows in, rows out) in the manifest."""
        self.manifest["counts"][name] = number

    def note(self, key: str, value: Any) -> None:
        """Keep any other fact (dtype and its reason, lineage) in the manifest."""
        self.manifest["notes"][key] = value

    def keep(self, *paths: Path) -> None:
        """Record finished pieces of an unfinished stage: whoever resumes knows whether they are what was written."""
        self.manifest["outputs"] |= _described(self.folder, paths)
        write_json(self.folder / "manifest.json", self.manifest)

    def forget(self, path: Path) -> None:
        """Call it before a kept piece is written anew: a kill before it is kept again must not make it look damaged."""
        if self.manifest["outputs"].pop(str(path.relative_to(self.folder)), None):
            write_json(self.folder / "manifest.json", self.manifest)

    def progress(self, total: int, unit: str) -> Progress:
        """A progress line for `total` units of work."""
        return Progress(self.folder, total, unit)


@contextlib.contextmanager
def open_stage(stage: str, settings: StageSettings, inputs: dict[str, Path | str]) -> Iterator[StageRun]:
    """Enter a stage's folder: skip, resume, start afresh, or refuse.

    Yields a StageRun whose `is_complete` is true where the same settings and inputs have been finished before
    (the caller returns at once). Otherwise the folder holds whatever an interrupted attempt left, made by the
    same settings, and the caller resumes. Raises PhoenixError where the folder belongs to other settings or
    inputs (unless `settings.redo`, which moves it to `replaced/`), and where another process is at work in it.
    """
    folder = stage_path(settings.run_dir, stage)
    try:
        with only_one(folder.parent / f".{stage}.lock", folder):
            folder.mkdir(exist_ok=True)
            described = describe_inputs(inputs)
            changes = changed_since(folder, settings, described)
            if changes and not settings.redo:
                raise PhoenixError(refusal(folder, changes))
            if changes:
                shutil.move(folder, _place_aside(folder))
                folder.mkdir()
            run = StageRun(stage, folder, _begin_manifest(folder, stage, settings, described))
            started = time.monotonic()
            yield run
            if not run.is_complete:
                _finish_manifest(run, time.monotonic() - started)
    except PhoenixError:
        raise
    except Exception as error:
        if sentence := machine_trouble(error, folder):
            raise PhoenixError(sentence) from error
        raise


@contextlib.contextmanager
def only_one(lock: Path, place: Path) -> Iterator[None]:
    """Hold `lock` for the block; raises PhoenixError where another process works on `place`, or it cannot be made."""
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        held = FileLock(lock)
        held.acquire(timeout=0)
    except Timeout:
        raise PhoenixError(f"another process is working on {place}: wait for it or choose another --out") from None
    except OSError as error:
        raise PhoenixError(f"{place} cannot be made ({error.strerror}): choose another folder with --out") from None
    try:
        yield
    finally:
        held.release()


def changed_since(folder: Path, settings: StageSettings, described: dict[str, str]) -> str | None:
    """What differs between a stage folder's manifest and the run asked for, in words; None if nothing does."""
    path = folder / "manifest.json"
    if not path.is_file():
        return None
    manifest = read_manifest(path)
    asked, made = settings.fingerprint_values(), manifest["settings"]
    asked = json.loads(json.dumps(asked))
    free = type(settings).model_fields.keys() - asked  # earlier versions wrote some that decide nothing
    words = [
        f"{key} {made.get(key)!r} (now {asked.get(key)!r})"
        for key in sorted({*asked, *made} - free)
        if asked.get(key) != made.get(key)
    ]
    words += [
        f"another {name}"
        for name in sorted({*described, *manifest["inputs"]})
        if described.get(name) != manifest["inputs"].get(name)
    ]
    return ", ".join(words) or None


def refusal(folder: Path, changes: str) -> str:
    """The sentence for a folder that belongs to another run."""
    return (
        f"{folder} was made with {changes}: choose another folder with --out, or replace it with --redo "
        "(in a notebook: another run_dir, or redo = True)"
    )


def is_current(stage: str, settings: StageSettings, inputs: dict[str, Path | str]) -> bool:
    """Whether a stage has been finished with these settings and inputs and its products are all there."""
    folder = stage_path(settings.run_dir, stage)
    path = folder / "manifest.json"
    if not path.is_file():
        return False
    manifest = read_manifest(path)
    if manifest["status"] != "complete" or damaged_products(folder, manifest):
        return False
    return changed_since(folder, settings, describe_inputs(inputs)) is None


def _place_aside(folder: Path) -> Path:
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S-%f")
    target = folder.parent / "replaced" / f"{folder.name}-{stamp}"
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def _begin_manifest(folder: Path, stage: str, settings: StageSettings, described: dict[str, str]) -> dict[str, Any]:
    path = folder / "manifest.json"
    for partial in folder.rglob(".*.partial"):  # of a process that was killed while it wrote
        shutil.rmtree(partial) if partial.is_dir() else partial.unlink()
    if path.is_file():
        manifest = read_manifest(path)
        if damaged := damaged_products(folder, manifest):
            # The stage is not done after all. What is damaged must not pass for something to resume from.
            aside = _place_aside(folder)
            for name in damaged:
                if (folder / name).is_file():
                    (aside / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.move(folder / name, aside / name)
            outputs = {name: product for name, product in manifest["outputs"].items() if name not in damaged}
            manifest = {**manifest, "status": "running", "outputs": outputs}
            write_json(path, manifest)
        return manifest
    manifest = {
        "stage": stage,
        "status": "running",
        "phoenix": __version__,
        "settings": settings.fingerprint_values(),
        "inputs": described,
        "seed": settings.seed,
        "seconds": 0.0,
        "counts": {},
        "notes": {},
        "outputs": {},
        "checksum": "",
    }
    write_json(path, manifest)
    return manifest


def _finish_manifest(run: StageRun, seconds: float) -> None:
    manifest = run.manifest
    manifest["status"] = "complete"
    manifest["seconds"] = round(manifest["seconds"] + seconds, 1)
    manifest["peak_memory_gb"] = peak_memory_gb()
    manifest["versions"] = installed_versions()
    manifest["machine"] = {
        "python": platform.python_version(),
        "system": platform.system(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
    }
    manifest["finished"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    products = (
        path
        for path in sorted(run.folder.rglob("*"))
        if path.is_file()
        and path.name not in ("manifest.json", "progress.json", *GROWING)
        and "checkpoints" not in path.relative_to(run.folder).parts
        and not path.name.startswith(".")
    )
    manifest["outputs"] = _described(run.folder, products)
    write_json(run.folder / "manifest.json", manifest)


def _described(folder: Path, files: Iterable[Path]) -> dict[str, dict[str, Any]]:
    return {
        str(path.relative_to(folder)): {"sha256": sha256_file(path), "bytes": path.stat().st_size} for path in files
    }


def installed_versions() -> dict[str, str]:
    """Versions of the packages that decide results, without importing them."""
    found = {}
    for name in RECORDED_PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
