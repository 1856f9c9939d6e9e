"""What this machine is, and which number type to train in.

Nothing here imports torch, so that `phoenix check` and `phoenix doctor` answer at once; where torch has been
imported already, its own view of the GPUs is used.
"""

from __future__ import annotations

import csv
import importlib.metadata
import json
import math
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from phoenix_utils.errors import PhoenixError
from phoenix_utils.paths import expanded


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
    folder = expanded(model)
    if folder.is_dir():
        counted = sum(_safetensors_elements(file) for file in folder.glob("*.safetensors"))
        if counted:
            return counted / 1e9
    found = re.findall(r"(?<![\w.])(?:(\d+)x)?(\d+(?:\.\d+)?)([bm])(?![a-z0-9])", model.lower())
    if not found:
        return None
    experts, number, unit = found[-1]
    return float(number) * int(experts or 1) / (1 if unit == "b" else 1000)


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
    """Number of weights in a safetensors file, by its header alone; raises PhoenixError where that cannot be read."""
    try:
        with open(file, "rb") as handle:
            size = int.from_bytes(handle.read(8), "little")
            header = json.loads(handle.read(min(size, file.stat().st_size)))
        return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise PhoenixError(
            f"{file} cannot be read ({error}): mend its permissions, or get the model again if it is damaged"
        ) from None


def peak_memory_gb(children: bool = False) -> float | None:
    """Peak resident memory in GB of this process, or of the largest of its finished children too.

    None where the system does not tell (Windows).
    """
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if children:
        peak = max(peak, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    return round(peak / (2**30 if platform.system() == "Darwin" else 2**20), 2)
