"""A finished run of a tiny model, made in a second: adapters of random weights, scores as an evaluation writes them."""

import shutil
from pathlib import Path

import torch
from peft import get_peft_model
from tiny_models import rows, save_kept_rows, save_tiny

from phoenix_utils import artifacts, chat, merging, models, training
from phoenix_utils.evaluation.scores import METRICS
from phoenix_utils.gate import Source

LANGUAGES = ("en", "de")
TRAINING = {"method": "lora", "lora_r": 4, "learning_rate": 0.0003, "max_length": 640}


def make_run(folder: Path, license: str = "apache-2.0") -> Path:
    """A run in `folder`/runs/tiny whose base lies in `folder`/tiny-base and states `license`."""
    base, run = save_tiny(folder / "tiny-base"), folder / "runs" / "tiny"
    (base / "README.md").write_text(f"---\nlicense: {license}\n---\n")
    save_kept_rows(run, rows("conversations.de", 6), rows("preferences.de", 4))
    shared = {"model": str(base), "language": "de", "source_language": "en", "seed": 42}
    inputs = {"chat": "package:conversations", "preferences": "package:preferences"}
    _manifest(run, "translation", {**shared, **inputs}, {}, {"chat_rows": 8, "preferences_rows": 5})
    counts = {"chat_in": 8, "chat_out": 6, "preferences_in": 5, "preferences_out": 4}
    kept = artifacts.stage_path(str(run), "filtering")
    artifacts.write_json(kept / "summary.json", {"chat": _summary(8, 6), "preferences": _summary(5, 4)})
    _manifest(run, "filtering", {**shared, "max_length": 2048}, {}, counts)
    for seed, (stage, kind, name) in enumerate((("sft", "chat", "rows"), ("dpo", "preferences", "pairs"))):
        save_adapter(run, stage, base, seed)
        read = artifacts.describe_inputs({kind: kept / f"{kind}.parquet"})
        _manifest(run, stage, {**shared, **TRAINING}, read, {name: 6 - 2 * seed, "steps": 3})
    evaluate(run)
    return run


def save_adapter(run: Path, stage: str, base: Path, seed: int) -> None:
    """Leave an adapter of random weights where the stage would."""
    torch.manual_seed(seed)
    model = models.load_model(str(base), LANGUAGES, dtype="float32")
    adapted = get_peft_model(model, training.lora_config(model, lora_r=4, lora_alpha=8, lora_dropout=0.0))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.3)
    folder = artifacts.stage_path(str(run), stage) / "adapter"
    adapted.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    chat.apply_template(models.load_tokenizer(str(base), LANGUAGES)).save_pretrained(folder)
    models.write_lineage(folder, adapted, str(base), stage=stage, method="lora")


def evaluate(run: Path) -> None:
    """Write the scores of the three models and the manifest that names their weights."""
    folder = artifacts.stage_path(str(run), "evaluation")
    cell = {"value": 0.625, "low": 0.375, "high": 0.875, "n": 24}
    # Nothing counted, as where no answer's form can be read, and one unit alone, which has no interval.
    nothing, one = dict.fromkeys(("value", "low", "high")) | {"n": 0}, {**cell, "low": None, "high": None, "n": 1}
    cells = dict.fromkeys(METRICS, cell) | {"form_share": nothing, "chrf": one}
    artifacts.write_json(folder / "scores.json", {model: cells for model in ("base", "sft", "dpo")})
    paired = dict.fromkeys(METRICS, {"value": 0.0, "low": -0.25, "high": 0.25, "n": 24})
    paired["form_share"] = nothing
    paired["stop_share"] = {"value": 0.5, "low": 0.125, "high": 0.75, "n": 24}
    artifacts.write_json(folder / "differences.json", {"paired": {"sft-base": paired}, "not_run": ["No judge."]})
    trained = {name: Source(run, name).trained for name in ("sft", "dpo")}
    settings = {"models": ["base", "sft", "dpo"], "temperature": 0.0, "repetition_penalty": 1.1}
    _manifest(run, "evaluation", settings, artifacts.describe_inputs(trained), {"prompts": 24})


def make_full(run: Path) -> None:
    """Put whole models in the place of the adapters, as full fine-tuning leaves them, and evaluate those."""
    for stage in ("sft", "dpo"):
        folder = artifacts.stage_path(str(run), stage)
        manifest = artifacts.read_json(folder / "manifest.json")
        merging.merge_adapter(folder / "adapter", manifest["settings"]["model"], LANGUAGES, folder / "model")
        shutil.rmtree(folder / "adapter")
        artifacts.write_json(
            folder / "manifest.json", {**manifest, "settings": {**manifest["settings"], "method": "full"}}
        )
    evaluate(run)


def _summary(rows_in: int, kept: int) -> dict:
    return {
        "rows_in": rows_in,
        "kept": kept,
        "rejected": rows_in - kept,
        "rules": {"language": rows_in - kept, "code": 0},
    }


def _manifest(run: Path, stage: str, settings: dict, inputs: dict, counts: dict) -> None:
    folder = artifacts.stage_path(str(run), stage)
    files = [path for path in folder.rglob("*") if path.is_file()]
    manifest = {
        "stage": stage,
        "status": "complete",
        "settings": settings,
        "inputs": inputs,
        "seconds": 90.0,
        "counts": counts,
        "notes": {"dtype_reason": "CPU: for a test"},
        "peak_memory_gb": 1.5,
        "machine": {"cores": 2},
        "outputs": {str(path.relative_to(folder)): {"sha256": artifacts.sha256_file(path)} for path in files},
    }
    artifacts.write_json(folder / "manifest.json", manifest)
