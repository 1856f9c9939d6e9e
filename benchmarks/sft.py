"""Our SFT stage against TRL's documented script: rows per second, peak memory, held-out loss; and what each part gives.

    python benchmarks/sft.py [--json FILE] [--only speed|memory]

Both train the same 48 packaged conversations once, in the same batches of four, with the same adapter, rate, number
type, threads, loss mask and attention; each run is a process of its own. The plain script has the published model with
its 262,144 tokens. The held-out loss is measured with either adapter on the trimmed model, so both are asked about the
kept tokens only. Afterwards each part of the difference is switched off alone, on 16 rows. Last come six
configurations whose measured peak is set against `phoenix check`'s estimate; its constants come from six others.
"""

import argparse
import contextlib
import json
import tempfile
from pathlib import Path

import results  # benchmarks/results.py, beside this file
from own_process import own_process  # benchmarks/own_process.py, beside this file

ROOT = Path(__file__).resolve().parent.parent
GLOBAL_BATCH = 4
LONG_ROWS, SHORT_ROWS = 48, 16
# Each turns one part of ours off; trimming and checkpointing are settings, the others are taken out below.
PARTS = {
    "ours": {},
    "full vocabulary": {"full": True},
    "rows in random order": {"unsorted": True},
    "with checkpointing": {"gradient_checkpointing": True},
    "eager attention": {"attention": "eager"},
    "TRL's head": {"tiled": True},
    "float32 frozen layers": {"unrounded": True},
}
# (method, length, rows at once, dtype, checkpointing, all 262,144 tokens)
CONFIGURATIONS = (
    ("lora", 384, 4, "float32", False, False),
    ("lora", 768, 1, "bfloat16", False, False),
    ("lora", 768, 4, "bfloat16", True, False),
    ("full", 512, 1, "bfloat16", False, False),
    ("qlora", 256, 4, "float32", False, False),
    ("lora", 512, 1, "bfloat16", False, True),
)


def main() -> None:
    """Run every arm and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--only", choices=("speed", "memory"), help="leave the other half out")
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.arm:
        arm = json.loads(arguments.arm)
        print(json.dumps({"train": train_arm, "loss": loss_arm, "memory": memory_arm}[arm.pop("kind")](**arm)))
        return
    with tempfile.TemporaryDirectory() as folder:
        figures = compare(Path(folder)) if arguments.only != "memory" else {}
        figures |= estimates(Path(folder)) if arguments.only != "speed" else {}
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


# ---------------------------------------------------------------- arms, each in a process of its own


def arm(kind: str, **values) -> dict:
    """One of the `*_arm` functions in a process of its own."""
    return own_process([__file__, "--arm", json.dumps({"kind": kind, **values})])


def train_arm(run_dir: str, part: str = "ours", **changes) -> dict:
    """Train with our stage; seconds are those of the training loop alone, as in the plain script."""
    import time
    from unittest import mock

    from phoenix_utils import artifacts, batches, embedded, lm_head, models, training
    from phoenix_utils.sft import SftSettings, run

    off = dict(PARTS[part])
    load, train, took = models.load_model, training.train, {}

    def load_with(*names, **options):
        model = load(*names, **options)
        model.set_attn_implementation(off.get("attention", "sdpa"))
        return model

    def timed(*things):
        started, worked = time.monotonic(), time.process_time()
        metrics = train(*things)
        took.update(seconds=time.monotonic() - started, cpu_seconds=time.process_time() - worked)
        return metrics

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(models, "load_model", load_with))
        stack.enter_context(mock.patch.object(training, "train", timed))
        if off.get("tiled"):
            stack.enter_context(mock.patch.object(lm_head, "fast_on_cpu", contextlib.nullcontext))
        if off.get("unrounded"):
            stack.enter_context(mock.patch.object(training, "round_frozen", lambda *names: None))
        if off.get("unsorted"):
            stack.enter_context(mock.patch.object(batches, "sorted", lambda rows, key: rows, create=True))
        settings = SftSettings(
            run_dir=run_dir,
            model=str(embedded.ensure_full()) if off.get("full") else "embedded:gemma-3-270m",
            global_batch=GLOBAL_BATCH,
            num_train_epochs=1.0,
            gradient_checkpointing=off.get("gradient_checkpointing", False),
            **changes,
        )
        metrics = run(settings)
    return {"rows": metrics["rows"], "peak_gb": artifacts.peak_memory_gb(), **took}


def loss_arm(trained: str | None, language: str = "en") -> dict:
    """Loss per trained token of the held-out packaged conversations, on the trimmed model: the kept tokens only.

    `trained` is an adapter's folder, a whole model's (named `model`), or None for the base.
    """
    import torch

    from phoenix_utils import chat, corpora, models

    languages = ("en", "de")
    tokenizer = chat.apply_template(models.load_tokenizer("embedded:gemma-3-270m", languages))
    whole = trained is not None and Path(trained).name == "model"
    model = models.load_model(trained if whole else "embedded:gemma-3-270m", languages)
    if trained and not whole:
        model = models.load_adapter(model, trained)
    total = tokens = 0
    with torch.no_grad():
        for row in corpora.held_out_chat(language):
            ids, mask = chat.loss_mask(tokenizer, row["messages"])
            logits = model(torch.tensor([ids])).logits[0, :-1].float()
            losses = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")
            kept = torch.tensor(mask[1:], dtype=torch.bool)
            total, tokens = total + float(losses[kept].sum()), tokens + int(kept.sum())
    return {"loss": total / tokens, "tokens": tokens}


def memory_arm(run_dir: str, length: int, full_vocabulary: bool, **changes) -> dict:
    """Peak memory of three steps on rows of exactly `length` tokens, all of them trained on, and its estimate."""
    import random
    from unittest import mock

    from datasets import Dataset

    from phoenix_utils import artifacts, embedded, hardware, memory
    from phoenix_utils.sft import SftSettings, stage

    model = str(embedded.ensure_full() if full_vocabulary else embedded.ensure())
    batch = changes["per_device_train_batch_size"]
    settings = SftSettings(run_dir=run_dir, model=model, max_length=length, global_batch=batch, **changes)
    rows = [random.Random(number).choices(range(1000, 40_000), k=length) for number in range(3 * batch)]
    data = Dataset.from_dict({"input_ids": rows, "labels": rows})
    with mock.patch.object(stage, "tokenize", lambda *names: (data, 0)):
        stage.run(settings.model_copy(update={"num_train_epochs": 1.0}))
    estimate = memory.estimate_stage_gb("sft", settings, hardware.describe())
    return {"estimate": estimate, "peak_gb": artifacts.peak_memory_gb()}


# ---------------------------------------------------------------- the comparison


def compare(folder: Path) -> dict:
    """The two long arms, their held-out losses, and the parts one by one."""
    from phoenix_utils import chat, corpora, embedded, hardware, models

    rows = list(corpora.read_chat("package:conversations", LONG_ROWS))
    for name, part in (("long", rows), ("short", rows[:SHORT_ROWS])):
        save_rows(folder / name, part)
    # The same tokens for both: the plain script's tokenizer gets our template, which marks the assistant's turns.
    published = folder / "published"
    published.mkdir()
    full = embedded.ensure_full()
    for file in full.iterdir():
        (published / file.name).symlink_to(file)
    tokenizer = chat.apply_template(models.load_tokenizer(str(full), ("en", "de")))
    for file in published.glob("token*"):
        file.unlink()
    tokenizer.save_pretrained(published)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    bf16 = hardware.choose_training_dtype(hardware.describe()).name == "bfloat16"
    plain = own_process(
        [str(ROOT / "benchmarks" / "plain_trl.py"), "--model", str(published), "--rows", str(folder / "rows.jsonl"),
         "--out", str(folder / "plain"), "--global-batch", str(GLOBAL_BATCH), *(["--bf16"] if bf16 else [])]
    )  # fmt: skip
    ours = arm("train", run_dir=str(folder / "long"))
    save_rows(folder / "small", rows)
    small = arm("train", run_dir=str(folder / "small"), part="with checkpointing")
    losses = {
        "base": arm("loss", trained=None)["loss"],
        "plain": arm("loss", trained=str(folder / "plain"))["loss"],
        "ours": arm("loss", trained=str(folder / "long" / "03_sft" / "adapter"))["loss"],
    }
    print(f"{len(rows)} rows, batches of {GLOBAL_BATCH}, {'bfloat16' if bf16 else 'float32'}")
    arms = (("plain TRL", plain, losses["plain"]), ("ours", ours, losses["ours"]), ("ours, checkpointing", small, None))
    for name, found, loss in arms:
        print(f"{name:20}{rate(found):6.2f} rows/s ({rate(found, 'cpu_seconds'):.2f} per CPU second), "
              f"peak {found['peak_gb']:.2f} GB{f', held-out loss {loss:.4f}' if loss else ''}", flush=True)  # fmt: skip
    print(f"base model, held-out loss {losses['base']:.4f}")
    figures = {
        "rows_per_second_ratio": rate(ours) / rate(plain),
        "rows_per_cpu_second_ratio": rate(ours, "cpu_seconds") / rate(plain, "cpu_seconds"),
        "peak_memory_ratio": ours["peak_gb"] / plain["peak_gb"],
        "rows_per_second_ratio_checkpointing": rate(small) / rate(plain),
        "peak_memory_ratio_checkpointing": small["peak_gb"] / plain["peak_gb"],
        "heldout_loss_difference": losses["ours"] - losses["plain"],
    }
    for name, value in figures.items():
        print(f"{name}: {value:.3f}")
    figures |= parts(folder)
    return figures


def parts(folder: Path) -> dict:
    """Each part of the difference switched off alone: its share of speed and memory."""
    found = {}
    for number, part in enumerate(PARTS):
        run_dir = folder / f"short_{number}"
        run_dir.mkdir()
        (run_dir / "02_filtering").symlink_to(folder / "short" / "02_filtering")
        found[part] = arm("train", run_dir=str(run_dir), part=part)
    ours = found.pop("ours")
    print(f"\nwithout one part, {SHORT_ROWS} rows: rows/s, and how much faster and larger ours is")
    print(f"{'ours':26}{rate(ours):6.2f}         {ours['peak_gb']:6.2f} GB")
    return results.without_one(ours, found, rate)


def estimates(folder: Path) -> dict:
    """Measured peaks against estimates."""
    from phoenix_utils import corpora

    worst = 0.0
    print("\nmethod, length, rows at once, dtype, checkpointing, full vocabulary: estimated and measured peak")
    for number, (method, length, batch, dtype, checkpointing, full) in enumerate(CONFIGURATIONS):
        run_dir = folder / f"memory_{number}"
        save_rows(run_dir, list(corpora.read_chat("package:conversations", 2)))
        found = arm("memory", run_dir=str(run_dir), length=length, full_vocabulary=full, method=method, dtype=dtype,
                    gradient_checkpointing=checkpointing, per_device_train_batch_size=batch)  # fmt: skip
        error = found["estimate"] / found["peak_gb"] - 1
        worst = max(worst, abs(error))
        shape = f"{method:6}{length:5}{batch:3}  {dtype:9}{checkpointing!s:6}{full!s:6}"
        print(f"{shape}{found['estimate']:6.2f} GB{found['peak_gb']:6.2f} GB  {error:+.1%}", flush=True)
    print(f"memory_estimate_worst_error: {worst:.3f}")
    return {"memory_estimate_worst_error": worst}


def rate(found: dict, clock: str = "seconds") -> float:
    """Rows in a second of training."""
    return found["rows"] / found[clock]


def save_rows(run_dir: Path, rows: list[dict]) -> None:
    """A run directory whose filtering stage has kept these rows."""
    from phoenix_utils import corpora, tables

    tables.write_rows(run_dir / "02_filtering" / "chat.parquet", rows, corpora.CHAT)


if __name__ == "__main__":
    main()
