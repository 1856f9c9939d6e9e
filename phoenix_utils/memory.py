"""How much memory a run will take, known before it starts, and which setting would make it fit.

Pure arithmetic on a model's shape; nothing here imports torch. `benchmarks/sft.py` sets the estimate against measured
peaks of the embedded model.

    >>> round(estimate_gb(7.0, "qlora", 2048, 2, dtype="bfloat16", device="cuda", gradient_checkpointing=True))
    10
"""

from __future__ import annotations

import json
from typing import Any

from phoenix_utils.hardware import Hardware, choose_dtype, choose_training_dtype, known_parameters
from phoenix_utils.paths import expanded

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# NF4 weights: half a byte each, and 0.127 bit of doubly quantised scales (Dettmers et al. 2023, section 3).
NF4_BYTES = 0.5 + 0.127 / 8
# TRL computes log-probabilities in tiles of at most so many tokens by so many vocabulary entries.
TILE_TOKENS, TILE_VOCABULARY = 4096, 32768
# Float32 arrays of the size of the logits (or of a tile) that live at once, measured.
LOGIT_ARRAYS = 3.5
# lm_head.MOST_BYTES, which cannot be imported without torch.
KEPT_BYTES = 2**30
# Bytes kept for the backward pass, for each token, layer and hidden unit. A GPT block needs 34 in half precision
# (Korthikanti et al. 2022, without attention scores, which fused attention never stores); gated feed-forward layers,
# norms computed in float32 and the adapters' own inputs bring it to these, measured on the embedded model.
ACTIVATION_BYTES = {"float32": 102, "bfloat16": 74, "float16": 74}
# Python, torch, transformers, TRL; on a GPU the CUDA context and its kernels.
PROGRAM_GB = 0.8
# What the name of the embedded model stands for: its vocabulary is trimmed to two languages (rounded).
EMBEDDED = {"parameters_b": 0.15, "vocab_size": 77_000, "hidden_size": 640, "num_layers": 18}


def parts_gb(
    parameters_b: float,
    method: str,
    max_length: int,
    per_device_batch: int,
    vocab_size: int = 32_000,
    hidden_size: int | None = None,
    num_layers: int | None = None,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    lora_r: int = 16,
    gradient_checkpointing: bool = False,
    sequences_per_row: int = 1,
    devices: int = 1,
) -> dict[str, float]:
    """Peak memory in GB of one training step on one device, part by part. An estimate, not a promise.

    `method` is "full", "lora" or "qlora", `dtype` what is computed in; `sequences_per_row` is 2 for DPO (chosen and
    rejected together); `devices` above 1 assumes that full fine-tuning is sharded (FSDP, ZeRO-3). Unknown shapes are
    guessed from the parameter count as a transformer with heads of 128 (parameters = 12 x layers x hidden²).

    weights: float32 masters for full fine-tuning; 4-bit layers for QLoRA; for LoRA `dtype`, but on a CPU float32
    embeddings, for QLoRA the pages of the file beside the 4-bit layers, and for DPO float32 layers beside the copies
    that autocast rounds. Adapters are float32.
    gradients, optimizer: 4 and 8 bytes (two Adam moments) for each trained parameter.
    activations: ACTIVATION_BYTES for each token, layer and hidden unit; with checkpointing those of one layer, and
    every layer's input.
    logits: LOGIT_ARRAYS of float32, for all positions on a CPU as far as `lm_head.py` keeps them, else for a tile.
    """
    parameters = parameters_b * 1e9
    hidden = hidden_size or round((parameters * 128 / 12) ** (1 / 3))
    layers = num_layers or max(1, round(parameters / (12 * hidden * hidden)))
    size = BYTES[dtype]
    trained = parameters if method == "full" else min(parameters, 21.5 * lora_r * layers * hidden)
    shards = devices if method == "full" else 1
    embeddings = min(parameters, vocab_size * hidden)
    of_layers = {"full": 4, "lora": size, "qlora": NF4_BYTES}[method]
    if method == "lora" and device == "cpu" and sequences_per_row == 2 and size == 2:
        of_layers += 4
    of_embeddings = 4 if method == "full" or device == "cpu" else size
    weights = (parameters - embeddings) * of_layers + embeddings * of_embeddings
    if method == "qlora" and device == "cpu":
        weights += (parameters - embeddings) * 4
    tokens = max_length * per_device_batch * sequences_per_row
    layer = ACTIVATION_BYTES[dtype] * hidden * tokens
    activations = layer + layers * hidden * 4 * tokens if gradient_checkpointing else layers * layer
    logits = tokens * vocab_size * 4
    if device != "cpu" or logits > KEPT_BYTES:
        logits = min(tokens, TILE_TOKENS) * min(vocab_size, TILE_VOCABULARY) * 4
    parts = {
        "weights": (weights + (0 if method == "full" else trained * 4)) / shards,
        "gradients": trained * 4 / shards,
        "optimizer": trained * 8 / shards,
        "activations": activations,
        "logits": logits * LOGIT_ARRAYS,
    }
    return {name: value / 2**30 for name, value in parts.items()}


def estimate_gb(
    parameters_b: float, method: str, max_length: int, per_device_batch: int, *sizes: int | None, **shape: Any
) -> float:
    """The most that is in use at once: `parts_gb` and what the program itself takes.

    On a CPU gradients grow as activations are freed, so the larger of the two counts. On a GPU both do: Adam's
    fused update needs room for its own intermediates.
    """
    parts = parts_gb(parameters_b, method, max_length, per_device_batch, *sizes, **shape)
    passing = parts["activations"] + parts["logits"]
    if shape.get("device", "cpu") == "cpu":
        passing = max(passing, parts["gradients"])
    else:
        passing += parts["gradients"]
    return PROGRAM_GB + parts["weights"] + parts["optimizer"] + passing


def estimate_stage_gb(stage: str, settings: Any, hardware: Hardware, devices: int = 1) -> float | None:
    """Estimated memory in GB of one stage on one device of `hardware`; None where the model's size is unknown.

    `settings` is any object with the stage's fields. Training stages are estimated by `parts_gb`, as if every row had
    `max_length` tokens and all of them were trained on; the others only read the model: its weights (on a CPU in
    float32 once more, in oneDNN's order: `cpu_linear.py`), and a fifth for caches and activations. Ray's workers on
    one machine without GPUs share its memory, so all of them count.
    """
    shape = known_shape(settings.model)
    if "parameters_b" not in shape:
        return None
    if stage not in ("sft", "dpo"):
        dtype = choose_dtype(hardware).name
        size = NF4_BYTES if getattr(settings, "load_in_4bit", False) else BYTES[dtype]
        copies = 2 if hardware.device == "cpu" and size == BYTES["float32"] else 1
        workers = getattr(settings, "copies", 1) if hardware.device == "cpu" else 1
        return workers * (shape["parameters_b"] * 1e9 * size * (copies + 0.2) / 2**30 + PROGRAM_GB)
    return estimate_gb(**_step(stage, settings, hardware, devices), **shape)


def stage_parts_gb(stage: str, settings: Any, hardware: Hardware, devices: int = 1) -> dict[str, float]:
    """The parts of a training stage's estimate; empty where the model's size is unknown."""
    shape = known_shape(settings.model)
    return parts_gb(**_step(stage, settings, hardware, devices), **shape) if "parameters_b" in shape else {}


def _step(stage: str, settings: Any, hardware: Hardware, devices: int) -> dict[str, Any]:
    """The arguments of `parts_gb` that settings and hardware give."""
    return {
        "method": settings.method,
        "max_length": settings.max_length,
        "per_device_batch": settings.per_device_train_batch_size,
        "dtype": choose_training_dtype(hardware).name if settings.dtype == "auto" else settings.dtype,
        "device": hardware.device,
        "lora_r": getattr(settings, "lora_r", 16),
        "gradient_checkpointing": settings.gradient_checkpointing,
        "sequences_per_row": 2 if stage == "dpo" else 1,
        "devices": devices,
    }


def what_would_fit(stage: str, settings: Any, hardware: Hardware, available_gb: float, devices: int = 1) -> str:
    """The setting that brings a training stage under `available_gb`, as advice; the mildest that is enough.

    First what leaves the result as it is, then what trains less.
    """
    changes: dict[str, Any] = {}
    for key, value in (
        ("per_device_train_batch_size", 1),
        ("gradient_checkpointing", True),
        ("method", "lora" if settings.method == "full" else "qlora"),
        ("method", "qlora"),
        ("max_length", settings.max_length // 2),
        ("max_length", settings.max_length // 4),
    ):
        changes[key] = value
        if (estimate_stage_gb(stage, settings.model_copy(update=changes), hardware, devices) or 0) <= available_gb:
            needed = {name: new for name, new in changes.items() if getattr(settings, name) != new}
            return "set " + ", ".join(f"{stage}.{name}={new}" for name, new in needed.items())
    return "choose a smaller model"


def known_shape(model: str) -> dict[str, Any]:
    """Billions of parameters as far as known, and vocabulary, hidden size and layers from a folder's config.json."""
    if model.startswith("embedded:"):
        return dict(EMBEDDED)
    billions = known_parameters(model)
    size = {} if billions is None else {"parameters_b": billions}
    file = expanded(model) / "config.json"
    if not file.is_file():
        return size
    config = json.loads(file.read_text(encoding="utf-8"))
    config = config.get("text_config", config)
    names = {"vocab_size": "vocab_size", "hidden_size": "hidden_size", "num_layers": "num_hidden_layers"}
    return size | {name: config[key] for name, key in names.items() if key in config}


# Published shapes from 0.3 to 13 billion parameters: billions, vocabulary, hidden size, layers.
SHAPES = {
    "Gemma 3 270M": (0.27, 262_144, 640, 18),
    "Qwen3 0.6B": (0.6, 151_936, 1024, 28),
    "Qwen3 1.7B": (1.7, 151_936, 2048, 28),
    "Qwen3 4B": (4.0, 151_936, 2560, 36),
    "Mistral 7B": (7.2, 32_000, 4096, 32),
    "Llama 2 13B": (13.0, 32_000, 5120, 40),
}
CARDS_GB = (8, 16, 24, 48, 80)


def gpu_table(max_length: int = 2048, per_device_batch: int = 1, dtype: str = "bfloat16") -> dict[str, dict[str, Any]]:
    """For each model of SHAPES: estimated GB by method on one GPU, and the most thorough method for each of CARDS_GB.

    With checkpointing, as everybody trains at these sizes. A twelfth of a card is left to the driver and to
    fragmentation.
    """
    table = {}
    for name, (billions, vocabulary, hidden, layers) in SHAPES.items():
        needed = {
            method: estimate_gb(
                billions, method, max_length, per_device_batch, vocabulary, hidden, layers,
                dtype=dtype, device="cuda", gradient_checkpointing=True,
            )
            for method in ("full", "lora", "qlora")
        }  # fmt: skip
        best = {
            f"{card} GB": next((method for method, size in needed.items() if size <= card * 11 / 12), "–")
            for card in CARDS_GB
        }
        table[name] = {**{f"{method}, GB": round(size, 1) for method, size in needed.items()}, **best}
    return table
