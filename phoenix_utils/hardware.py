"""What this machine is, which number type to train in, and how much memory a run will take.

Nothing here imports torch, so that `phoenix check` and `phoenix doctor` answer at once; where torch has been
imported already, its own view of the GPUs is used.
"""

from __future__ import annotations

import csv
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# NF4 weights: half a byte each, and 0.127 bit of doubly quantised scales (Dettmers et al. 2023, section 3).
NF4_BYTES = 0.5 + 0.127 / 8
# TRL computes log-probabilities in tiles of at most so many tokens by so many vocabulary entries.
TILE_TOKENS, TILE_VOCABULARY = 4096, 32768
# Numbers kept for the backward pass, for each token, layer and hidden unit. A GPT block needs 17 (Korthikanti
# et al. 2022, without attention scores, which fused attention never stores); gated feed-forward layers, norms
# computed in float32 and the adapters' own inputs bring it to 50 on the embedded model, measured.
ACTIVATION_VALUES = 50


@dataclass(frozen=True)
class Gpu:
    """One CUDA device: its name, memory in GB, and compute capability, (7, 5) for a T4."""

    name: str
    memory_gb: float
    capability: tuple[int, int]


@dataclass(frozen=True)
class Hardware:
    """A machine: usable CPU cores, main memory in GB, CUDA devices, whether it has an Apple GPU, and whether its
    CPU multiplies bfloat16 natively (AVX512-BF16, AMX, or Arm's BF16)."""

    cores: int
    ram_gb: float
    gpus: tuple[Gpu, ...] = ()
    mps: bool = False
    cpu_bf16: bool = False

    @property
    def device(self) -> str:
        """Where models run: "cuda", "mps" or "cpu"."""
        return "cuda" if self.gpus else "mps" if self.mps else "cpu"


@dataclass(frozen=True)
class DtypeChoice:
    """A number type ("float32", "bfloat16" or "float16") and the reason for it, which manifests keep."""

    name: str
    reason: str


def describe() -> Hardware:
    """This machine as this process sees it (CPU affinity, container limits, CUDA_VISIBLE_DEVICES)."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    apple = platform.system() == "Darwin" and platform.machine() == "arm64"
    return Hardware(cores=cores, ram_gb=_ram_gb(), gpus=_gpus(), mps=apple, cpu_bf16=native_bf16(_cpu_flags()))


def native_bf16(flags: set[str]) -> bool:
    """Whether a CPU with these flags of /proc/cpuinfo has units for bfloat16 products."""
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})


def _cpu_flags() -> set[str]:
    """The first core's flags as Linux lists them (`flags` on x86, `Features` on Arm); empty elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return set()
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return set(found[1].split()) if found else set()


def choose_dtype(hardware: Hardware) -> DtypeChoice:
    """The number type to load and train models in. Pure: the answer depends on the description alone.

    Ampere and later have bfloat16, which has float32's range and needs no loss scaling. Older cards (the T4
    of Colab) emulate it slowly, so they get float16, with adapters kept in float32.
    """
    if not hardware.gpus:
        if hardware.mps:
            return DtypeChoice("float32", "Apple GPU: half precision is slower to converge there than it saves")
        return DtypeChoice("float32", "CPU: decoding in half precision is slower and takes several times the memory")
    weakest = min(hardware.gpus, key=lambda gpu: gpu.capability)
    version = ".".join(map(str, weakest.capability))
    if weakest.capability >= (8, 0):
        return DtypeChoice("bfloat16", f"{weakest.name}: compute capability {version} has native bfloat16")
    if weakest.capability >= (7, 0) or weakest.capability == (6, 0):
        return DtypeChoice("float16", f"{weakest.name}: compute capability {version} is below 8.0, no native bfloat16")
    return DtypeChoice("float32", f"{weakest.name}: compute capability {version} has no fast half precision")


def choose_training_dtype(hardware: Hardware) -> DtypeChoice:
    """The number type to compute training steps in: as `choose_dtype`, but a CPU uses bfloat16 units if it has any.

    Weights stay float32 on a CPU; autocast rounds them for the products only.
    """
    if hardware.device != "cpu":
        return choose_dtype(hardware)
    if hardware.cpu_bf16:
        return DtypeChoice("bfloat16", "CPU: its native bfloat16 units train about twice as fast as float32")
    return DtypeChoice("float32", "CPU: without native bfloat16 units, half precision is many times slower")


def known_parameters(model: str) -> float | None:
    """Billions of parameters of a model, from its local weights or else from its name; None if neither tells.

    `7b`, `1.7B`, `270m` and `8x7b` (as 56) are read from names such as `LeoLM/leo-mistral-hessianai-7b`.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        counted = sum(_safetensors_elements(file) for file in folder.glob("*.safetensors"))
        if counted:
            return counted / 1e9
    found = re.findall(r"(?<![\w.])(?:(\d+)x)?(\d+(?:\.\d+)?)([bm])(?![a-z0-9])", model.lower())
    if not found:
        return None
    experts, number, unit = found[-1]
    return float(number) * int(experts or 1) / (1 if unit == "b" else 1000)


def memory_parts(
    parameters_b: float,
    method: str,
    max_length: int,
    per_device_batch: int,
    vocab_size: int = 32_000,
    hidden_size: int | None = None,
    num_layers: int | None = None,
    *,
    dtype: str = "float32",
    lora_r: int = 16,
    gradient_checkpointing: bool = False,
    sequences_per_row: int = 1,
    devices: int = 1,
) -> dict[str, float]:
    """Peak memory in GB of one training step on one device, part by part. An estimate, not a promise.

    `method` is "full", "lora" or "qlora"; `sequences_per_row` is 2 for DPO (chosen and rejected together);
    `devices` above 1 assumes that full fine-tuning is sharded (FSDP, ZeRO-3). Unknown shapes are guessed from
    the parameter count as a transformer with heads of 128 (parameters = 12 x layers x hidden²).

    weights: 4-bit for QLoRA except the embeddings, `dtype` for LoRA, float32 masters for full fine-tuning.
    gradients, optimizer: 4 and 8 bytes (two Adam moments) for each trained parameter.
    activations: ACTIVATION_VALUES x hidden numbers for each token and layer; with checkpointing those of one
    layer, and every layer's input.
    logits: TRL's tiles, six arrays of float32 at once.
    """
    parameters = parameters_b * 1e9
    hidden = hidden_size or round((parameters * 128 / 12) ** (1 / 3))
    layers = num_layers or max(1, round(parameters / (12 * hidden * hidden)))
    size = BYTES[dtype]
    trained = parameters if method == "full" else min(parameters, 21.5 * lora_r * layers * hidden)
    shards = devices if method == "full" else 1
    embeddings = min(parameters, vocab_size * hidden)
    weights = {
        "full": parameters * 4,
        "lora": parameters * size + trained * 4,
        "qlora": (parameters - embeddings) * NF4_BYTES + embeddings * size + trained * 4,
    }[method]
    tokens = max_length * per_device_batch * sequences_per_row
    layer = ACTIVATION_VALUES * hidden * size * tokens
    activations = layer + layers * hidden * size * tokens if gradient_checkpointing else layers * layer
    logits = min(tokens, TILE_TOKENS) * min(vocab_size, TILE_VOCABULARY) * 4 * 6
    parts = {
        "weights": weights / shards,
        "gradients": trained * 4 / shards,
        "optimizer": trained * 8 / shards,
        "activations": activations,
        "logits": logits,
    }
    return {name: value / 2**30 for name, value in parts.items()}


def estimate_memory_gb(parameters_b: float, method: str, max_length: int, per_device_batch: int, **shape: Any) -> float:
    """The sum of `memory_parts` and the 0.8 GB that Python, torch and its kernels take."""
    return sum(memory_parts(parameters_b, method, max_length, per_device_batch, **shape).values()) + 0.8


def estimate_stage_gb(stage: str, settings: Any, parameters_b: float, dtype: str | None = None) -> float:
    """Estimated memory in GB of one stage on one device; `settings` is any object with the stage's fields.

    `dtype` is what the run will use; this machine's choice where it is not given. Training stages are
    estimated by `memory_parts`; the others only read the model: its weights and a fifth for caches and
    activations.
    """
    dtype = dtype or choose_dtype(describe()).name
    if stage not in ("sft", "dpo"):
        size = NF4_BYTES if getattr(settings, "quantize", False) else BYTES[dtype]
        return parameters_b * 1e9 * size * 1.2 / 2**30 + 0.8
    return estimate_memory_gb(
        parameters_b,
        settings.method,
        settings.max_length,
        settings.per_device_train_batch_size,
        dtype=dtype if settings.dtype == "auto" else settings.dtype,
        lora_r=getattr(settings, "lora_r", 16),
        gradient_checkpointing=settings.gradient_checkpointing,
        sequences_per_row=2 if stage == "dpo" else 1,
        **known_shape(settings.model),
    )


def known_shape(model: str) -> dict[str, int]:
    """Vocabulary, hidden size and layers from a local folder's config.json; empty where there is none."""
    file = Path(model).expanduser() / "config.json"
    if not file.is_file():
        return {}
    config = json.loads(file.read_text(encoding="utf-8"))
    config = config.get("text_config", config)
    names = {"vocab_size": "vocab_size", "hidden_size": "hidden_size", "num_layers": "num_hidden_layers"}
    return {name: config[key] for name, key in names.items() if key in config}


def _ram_gb() -> float:
    import psutil

    total = psutil.virtual_memory().total
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text().strip()).isdigit():
        total = min(total, int(text))
    return round(total / 2**30, 1)


def _gpus() -> tuple[Gpu, ...]:
    if "torch" in sys.modules:
        cuda = sys.modules["torch"].cuda
        if not cuda.is_available():
            return ()
        found = [cuda.get_device_properties(index) for index in range(cuda.device_count())]
        return tuple(Gpu(item.name, round(item.total_memory / 2**30, 1), (item.major, item.minor)) for item in found)
    if _torch_is_cpu_build() or not shutil.which("nvidia-smi"):
        return ()
    command = ["nvidia-smi", "--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    return visible_gpus(answer, os.environ.get("CUDA_VISIBLE_DEVICES"))


def visible_gpus(listing: str, visible: str | None) -> tuple[Gpu, ...]:
    """Read nvidia-smi's lines "name, MiB, capability"; `visible` is CUDA_VISIBLE_DEVICES as a list of
    numbers."""
    gpus = []
    for row in csv.reader(listing.strip().splitlines(), skipinitialspace=True):
        name, memory, capability = row
        major, minor = capability.split(".")
        gpus.append(Gpu(name, round(float(memory) / 1024, 1), (int(major), int(minor))))
    if visible is None:
        return tuple(gpus)
    wanted = [part.strip() for part in visible.split(",") if part.strip()]
    if all(part.isdigit() for part in wanted):
        return tuple(gpus[int(part)] for part in wanted if int(part) < len(gpus))
    # Devices named by UUID or switched off by -1: only their number is known here.
    return tuple(gpus[: sum(not part.startswith("-") for part in wanted)])


def _torch_is_cpu_build() -> bool:
    try:
        return importlib.metadata.version("torch").endswith("+cpu")
    except importlib.metadata.PackageNotFoundError:
        return False


def _safetensors_elements(file: Path) -> int:
    """Number of weights in a safetensors file, read from its header alone."""
    with open(file, "rb") as handle:
        size = int.from_bytes(handle.read(8), "little")
        header = json.loads(handle.read(size))
    total = 0
    for name, entry in header.items():
        if name != "__metadata__":
            count = 1
            for side in entry["shape"]:
                count *= side
            total += count
    return total
