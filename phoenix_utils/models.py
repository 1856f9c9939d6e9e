"""Finding and loading models, tokenizers and adapters, by whatever name the settings give them.

A model is a hub id (`owner/name`), a local folder, or `embedded:gemma-3-270m`. Importing this module is
cheap; torch and transformers load with the first model.
"""

from __future__ import annotations

import contextlib
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from phoenix_utils import artifacts, processes
from phoenix_utils.errors import PhoenixError
from phoenix_utils.hardware import Hardware, choose_dtype, describe
from phoenix_utils.paths import expanded

# Asked for safetensors alone, transformers has a service on the hub convert a repository's pickles, unless told not to.
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LINEAGE = "lineage.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# What the weights of an adapter depend on; the vocabulary is not among it, since trimming leaves the layers
# alone.
_SHAPE = ("model_type", "hidden_size", "num_hidden_layers", "intermediate_size")
# For every `from_pretrained` of a name from the settings. Left open, transformers asks at the keyboard whether to run
# a model's own code.
NO_CODE = {"trust_remote_code": False}
WEIGHTS_ONLY = {**NO_CODE, "use_safetensors": True}
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
_REFUSED = (
    "which are refused since loading one can run code: take a safetensors version of it, or convert it in a sandbox"
)


def check_reachable(model: str) -> None:
    """Check the name of a model without loading it and without the network.

    Raises PhoenixError for what cannot be a model: no hub id, no folder with a model in it, an unknown
    embedded one. Whether the hub has a model of that id is `hub.unreachable`'s question.
    """
    if model.startswith("embedded:"):
        from phoenix_utils import embedded

        if model.removeprefix("embedded:") not in embedded.MODELS:
            known = ", ".join(f"embedded:{name}" for name in embedded.MODELS)
            raise PhoenixError(f"{model!r} is unknown; what comes along is {known}")
        return
    if os.path.isdir(folder := expanded(model)):  # unlike Path's, it takes any text
        if not any((Path(folder) / name).is_file() for name in ("config.json", "tokenizer_config.json")):
            raise PhoenixError(f"the folder {model!r} holds no model (no config.json); give the folder that holds it")
        refuse_pickles(Path(folder))
        return
    if not _HUB_ID.fullmatch(model):
        raise PhoenixError(f"model {model!r} is neither a folder, nor a hub id (owner/name), nor embedded:gemma-3-270m")


def refuse_pickles(folder: Path, weights: str = "*.safetensors") -> None:
    """Raise PhoenixError for a folder that has pickles and nothing named as `weights` (of an adapter: its one file)."""
    found = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if found and not any(folder.glob(weights)):
        raise PhoenixError(f"the weights in {folder} are pickles ({found[0]}), {_REFUSED}")


def locate(model: str, languages: tuple[str, ...]) -> str:
    """What transformers can load: a local folder or a hub id. The embedded model is unpacked if need be.

    `languages` are the source and target language, to which an embedded model's vocabulary is trimmed.
    """
    check_reachable(model)
    if model.startswith("embedded:"):
        from phoenix_utils import embedded

        return str(embedded.ensure(model, languages))
    folder = expanded(model)
    return str(folder) if folder.is_dir() else model


def public_name(model: str) -> str:
    """What to call a model before others: a folder loses its path, which says more about a machine than about it."""
    return Path(model).name if os.path.isdir(expanded(model)) else model


def packaged_adapter(model: str, source: str, target: str) -> Path | None:
    """Folder of the adapter that comes with the package for an embedded model and a direction, if there is one."""
    folder = Path(__file__).parent / "data" / "adapters" / f"{model.removeprefix('embedded:')}.{source}-{target}"
    return folder if model.startswith("embedded:") and folder.is_dir() else None


def load_tokenizer(model: str, languages: tuple[str, ...]) -> PreTrainedTokenizerBase:
    """The model's tokenizer, with a padding token that is not its end-of-sequence token.

    Where both are the same, the stop token is masked out of the loss together with the padding, and the model
    never learns to stop. A token that text never contains takes the part.
    """
    from transformers import AutoTokenizer

    place = locate(model, languages)
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, **NO_CODE)
    except (OSError, ValueError) as error:
        raise not_loadable(model, error) from error
    if tokenizer.pad_token is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.pad_token = _padding_token(tokenizer, model)
    tokenizer.padding_side = "right"
    return tokenizer


def _padding_token(tokenizer: PreTrainedTokenizerBase, model: str) -> str:
    in_use = {tokenizer.bos_token, tokenizer.eos_token}
    spare = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    spare = [token for token in spare if token not in in_use]
    if not spare:
        raise PhoenixError(f"the tokenizer of {model} has no spare special token to pad with; choose another model")
    named = [token for token in spare if "pad" in token.lower()]
    if tokenizer.unk_token in spare:
        named.append(tokenizer.unk_token)
    return (named or spare)[0]


def load_model(
    model: str,
    languages: tuple[str, ...],
    *,
    dtype: str | None = None,
    quantize: bool = False,
    hardware: Hardware | None = None,
) -> PreTrainedModel:
    """Load a causal language model onto this machine's device, with PyTorch's fused attention.

    `dtype` is "float32", "bfloat16" or "float16"; by default the one that `choose_dtype` gives for `hardware`
    (by default this machine). `quantize` loads the linear layers in 4 bit (NF4 with double quantisation,
    Dettmers et al. 2023) and computes in `dtype`. Raises PhoenixError where the model cannot be found or
    read.
    """
    import torch
    from transformers import AutoModelForCausalLM

    hardware = hardware or describe()
    kind = getattr(torch, dtype or choose_dtype(hardware).name)
    options: dict = {"dtype": kind, "attn_implementation": "sdpa", **WEIGHTS_ONLY}
    if quantize:
        options["quantization_config"] = _nf4(kind)
    if hardware.device == "cuda" and not processes.shards():
        from accelerate import PartialState

        options["device_map"] = {"": PartialState().local_process_index}
    place = locate(model, languages)
    try:
        with without_bars():
            loaded = AutoModelForCausalLM.from_pretrained(place, **options)
    except (OSError, ValueError) as error:
        raise not_loadable(model, error) from error
    if hardware.device == "mps":
        loaded = loaded.to("mps")
    return loaded


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """Keep transformers' bars for loading and saving weights out of notebooks and logs."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _nf4(compute_dtype):
    import importlib.util

    from transformers import BitsAndBytesConfig

    if importlib.util.find_spec("bitsandbytes") is None:
        raise PhoenixError("4-bit weights need the package bitsandbytes: install it, or use method lora")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype,
    )


def not_loadable(model: str, error: Exception) -> PhoenixError:
    """The sentence for what transformers raises where it finds no model, only pickles, or a model with its own code."""
    if "trust_remote_code" in str(error):
        return PhoenixError(
            f"{model} brings Python code of its own (auto_map in its config), which is never run here: choose a model "
            "whose architecture transformers has"
        )
    if "loaded with `safetensors`" in str(error):
        return PhoenixError(f"{model} has no weights as safetensors; what it may have are pickles, {_REFUSED}")
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return PhoenixError(
        f"{model} could not be loaded ({reason}); check the name, the network and, for a model behind a "
        "licence, HF_TOKEN"
    )


@contextlib.contextmanager
def merged(model: PreTrainedModel) -> Iterator[None]:
    """Add the active adapter to the base weights while the block lasts, so that decoding pays for no extra layers.

    Nothing happens to a model without adapters, nor to a quantised one, whose rounding a merge would change.
    Afterwards the base weights are as before up to float rounding.
    """
    active = hasattr(model, "merge_adapter") and not getattr(model, "is_quantized", False)
    if active:
        model.merge_adapter()
    try:
        yield
    finally:
        if active:
            model.unmerge_adapter()


def write_lineage(folder: Path, model: PreTrainedModel, base: str, **facts: object) -> None:
    """Write beside an adapter which base it belongs to, and whatever else explains where it comes from."""
    shape = {name: getattr(model.config, name, None) for name in _SHAPE}
    artifacts.write_json(folder / LINEAGE, {"base": base, "base_shape": shape, **facts})


def read_lineage(folder: Path) -> dict:
    """What `write_lineage` wrote; empty for an adapter that another tool has made."""
    return artifacts.read_json(folder / LINEAGE) if (folder / LINEAGE).is_file() else {}


def load_adapter(
    model: PreTrainedModel, folder: Path | str, *, base: str | None = None, trainable: bool = False
) -> PeftModel:
    """Put the adapter in `folder` on `model`, frozen unless `trainable`.

    Raises PhoenixError where there is no adapter, or it was made for another base: by its recorded shape, by
    its recorded name where `base` (the name in the settings) is given too, or because its weights do not fit.
    """
    from peft import PeftModel

    folder = Path(folder)
    if not (folder / "adapter_config.json").is_file():
        raise PhoenixError(f"{folder} holds no adapter: run the stage that makes it first")
    refuse_pickles(folder, ADAPTER_WEIGHTS)
    lineage = read_lineage(folder)
    shape = {name: getattr(model.config, name, None) for name in _SHAPE}
    made_for = lineage.get("base", "another model")
    if lineage.get("base_shape", shape) != shape or _other_name(base, lineage.get("base")):
        raise PhoenixError(
            f"the adapter in {folder} was trained on {made_for}, not on {base or model.name_or_path}; "
            "use that model, or train the adapter again"
        )
    try:
        with warnings.catch_warnings():
            # PEFT only warns when an adapter's layers are not found in the model, and leaves them at random
            # values.
            warnings.filterwarnings("error", message="Found missing adapter keys")
            return PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)
    except (RuntimeError, ValueError, UserWarning) as error:
        raise PhoenixError(
            f"the adapter in {folder} does not fit {base or model.name_or_path}; it was trained on {made_for}"
        ) from error


def _other_name(base: str | None, recorded: str | None) -> bool:
    """Whether two names mean different models; a local folder may hold any model, so it never contradicts."""
    if base is None or recorded is None or base == recorded:
        return False
    return not (os.path.isdir(expanded(base)) or os.path.isdir(expanded(recorded)))
