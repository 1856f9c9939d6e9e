"""Our DPO stage against TRL's documented script: pairs per second, memory, held-out accuracy; each lever; the cache.

    python benchmarks/dpo.py --run FOLDER --pairs FILE [--json FILE] [--max-pairs 56] [--heldout 400]

FOLDER is a finished run of `mini` (its SFT adapter and kept pairs are read, nothing is written there). Both sides train
the same pairs once, in the same batches of four, from the same SFT adapter, in the same number type, on the same
threads; each run is a process of its own. The plain script has the published model with its 262,144 tokens. FILE is the
JSON of English preference pairs that nobody trains on; either adapter is asked about them on the trimmed model, and the
difference is taken pair by pair. Then each lever is switched off alone. Last, our run is started again with the
reference's answers found, and the time until the first step is compared.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from pathlib import Path

import results  # benchmarks/results.py, beside this file
from own_process import own_process  # benchmarks/own_process.py, beside this file

ROOT = Path(__file__).resolve().parent.parent
MODEL, LANGUAGES, GLOBAL_BATCH = "embedded:gemma-3-270m", ("en", "de"), 4
# What each lever is worth: our run without it.
LEVERS = {
    "full vocabulary": {"full": True},
    "checkpointing": {"gradient_checkpointing": False},
    "reference at every step": {"precompute_ref_log_probs": False},
    "TRL's head": {"tiled": True},
    "pairs in random order": {"unsorted": True},
}


def main() -> None:
    """Run every arm and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--run", type=Path, help="a finished run of mini")
    parser.add_argument("--pairs", type=Path, help="JSON list with instruction, input, chosen and rejected")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--max-pairs", type=int, default=56, help="pairs that both sides train on")
    parser.add_argument("--lever-pairs", type=int, default=32, help="pairs of each run without a lever; 0 for none")
    parser.add_argument("--heldout", type=int, default=400, help="unseen pairs for the accuracy")
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.arm:
        arm = json.loads(arguments.arm)
        print(json.dumps({"train": train_arm, "accuracy": accuracy_arm}[arm.pop("kind")](**arm)))
        return
    with tempfile.TemporaryDirectory() as folder:
        # The reference's answers of other runs would hide what the first start takes.
        cache = Path(folder) / "cache"
        cache.mkdir()
        from phoenix_utils import embedded

        for model in (embedded.ensure(MODEL, LANGUAGES), embedded.ensure_full()):
            (cache / model.name).symlink_to(model)
        os.environ["PHOENIX_CACHE"] = str(cache)
        figures = compare(Path(folder), arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


# ---------------------------------------------------------------- arms, each in a process of its own


def arm(kind: str, **values) -> dict:
    """One of the `*_arm` functions in a process of its own."""
    return own_process([__file__, "--arm", json.dumps({"kind": kind, **values})])


def train_arm(run_dir: str, full: bool = False, tiled: bool = False, unsorted: bool = False, **changes) -> dict:
    """Train with our stage. `seconds`: asking the reference and the training loop, since the plain script asks in the
    loop. `start`: from the stage's start to its first step.
    """
    import contextlib
    from unittest import mock

    from phoenix_utils import artifacts, batches, embedded, lm_head, training
    from phoenix_utils.dpo import DpoSettings, stage

    train, took, began = training.train, {}, time.monotonic()
    asking = stage.Trainer._precompute_ref_logps
    took["asking"] = took["asking_cpu"] = 0.0

    def timed_asking(*things):
        started, worked = time.monotonic(), time.process_time()
        found = asking(*things)
        took["asking"] += time.monotonic() - started
        took["asking_cpu"] += time.process_time() - worked
        return found

    def timed(*things):
        started, worked = time.monotonic(), time.process_time()
        took["start"] = started - began
        metrics = train(*things)
        took.update(seconds=time.monotonic() - started, cpu_seconds=time.process_time() - worked)
        return metrics

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(training, "train", timed))
        stack.enter_context(mock.patch.object(stage.Trainer, "_precompute_ref_logps", timed_asking))
        if tiled:
            stack.enter_context(mock.patch.object(lm_head, "fast_on_cpu", contextlib.nullcontext))
        if unsorted:
            stack.enter_context(mock.patch.object(batches, "sorted", lambda rows, key: rows, create=True))
        model = str(embedded.ensure_full()) if full else MODEL
        metrics = stage.run(
            DpoSettings(run_dir=run_dir, model=model, global_batch=GLOBAL_BATCH, watch_prompts=0, **changes)
        )
    return {
        "pairs": metrics["pairs"],
        "peak_gb": artifacts.peak_memory_gb(),
        "start": took["start"],
        "seconds": took["seconds"] + took["asking"],
        "cpu_seconds": took["cpu_seconds"] + took["asking_cpu"],
    }


def accuracy_arm(adapter: str, file: str, count: int) -> dict:
    """For each of `count` unseen pairs 1 where the chosen answer is the likelier one, on the trimmed model."""
    from phoenix_utils import chat, models
    from phoenix_utils.engine_transformers import TransformersEngine

    tokenizer = chat.saved_tokenizer(Path(adapter), MODEL, LANGUAGES)
    model = models.load_adapter(models.load_model(MODEL, LANGUAGES), adapter)
    engine = TransformersEngine(model.eval(), tokenizer, batch_tokens=2048)
    rows = unseen_pairs(Path(file))[:count]
    prompts = [chat.render(tokenizer, [{"role": "user", "content": row["prompt"]}], add_generation_prompt=True)
               for row in rows]  # fmt: skip
    with models.merged(model):
        chosen, rejected = (engine.score(prompts, [row[side] for row in rows]) for side in ("chosen", "rejected"))
    return {"right": [float(a > b) for a, b in zip(chosen, rejected, strict=True)]}


def unseen_pairs(file: Path) -> list[dict]:
    """Prompt, chosen and rejected of every usable row."""
    rows = json.loads(file.read_text(encoding="utf-8"))
    return [
        {"prompt": "\n\n".join(filter(None, (row["instruction"], row["input"]))), **{k: row[k].strip() for k in SIDES}}
        for row in rows
        if all(row[side].strip() for side in SIDES) and row["chosen"].strip() != row["rejected"].strip()
    ]


SIDES = ("chosen", "rejected")


# ---------------------------------------------------------------- the comparison


def compare(folder: Path, arguments: argparse.Namespace) -> dict:
    """Both sides, their held-out accuracy, the levers and the second start."""
    from phoenix_utils import hardware
    from phoenix_utils.statistics import paired_difference

    published = prepare_plain(folder, arguments)
    bf16 = hardware.choose_training_dtype(hardware.describe()).name == "bfloat16"
    plain = own_process(
        [str(ROOT / "benchmarks" / "plain_dpo.py"), "--model", str(published), "--out", str(folder / "plain"),
         "--adapter", str(arguments.run / "03_sft" / "adapter"), "--rows", str(folder / "rows.jsonl"),
         "--global-batch", str(GLOBAL_BATCH), *(["--bf16"] if bf16 else [])]
    )  # fmt: skip
    ours = arm("train", run_dir=str(copy_run(arguments.run, folder / "ours")), max_pairs=arguments.max_pairs)
    again = arm("train", run_dir=str(copy_run(arguments.run, folder / "again")), max_pairs=arguments.max_pairs)
    for name, found in (("plain TRL", plain), ("ours", ours)):
        print(f"{name:12}{rate(found):6.2f} pairs/s ({rate(found, 'cpu_seconds'):.2f} per CPU second), "
              f"peak {found['peak_gb']:.2f} GB", flush=True)  # fmt: skip
    figures = {
        "pairs_per_second_ratio": rate(ours) / rate(plain),
        "pairs_per_cpu_second_ratio": rate(ours, "cpu_seconds") / rate(plain, "cpu_seconds"),
        "peak_memory_ratio": ours["peak_gb"] / plain["peak_gb"],
        "cached_start_ratio": again["start"] / ours["start"],
    }
    if arguments.heldout:
        asked = {"file": str(arguments.pairs), "count": arguments.heldout}
        right = {
            name: arm("accuracy", adapter=str(path), **asked)["right"]
            for name, path in (("plain", folder / "plain"), ("ours", folder / "ours" / "04_dpo" / "adapter"),
                               ("SFT", arguments.run / "03_sft" / "adapter"))
        }  # fmt: skip
        for name, hits in right.items():
            print(f"{name}: {sum(hits) / len(hits):.3f} of {len(hits)} unseen pairs in the right order")
        difference = paired_difference(right["plain"], right["ours"])
        figures |= {
            "accuracy_difference": difference.value,
            "accuracy_difference_low": difference.low,
            "accuracy_difference_high": difference.high,
        }
    print(f"first step after {ours['start']:.1f} s, with the reference's answers found {again['start']:.1f} s")
    for name, value in figures.items():
        print(f"{name}: {value:.3f}")
    return figures | (levers(folder, arguments) if arguments.lever_pairs else {})


def levers(folder: Path, arguments: argparse.Namespace) -> dict:
    """Our run without each lever: how much faster and smaller it makes the run."""
    found = {}
    for number, (name, off) in enumerate({"ours": {}, **LEVERS}.items()):
        run_dir = copy_run(arguments.run, folder / f"lever_{number}")
        found[name] = arm("train", run_dir=str(run_dir), max_pairs=arguments.lever_pairs, **off)
    ours = found.pop("ours")
    print(f"\n{arguments.lever_pairs} pairs without one lever: pairs/s, ours faster by, peak, ours smaller by")
    return results.without_one(ours, found, rate)


def prepare_plain(folder: Path, arguments: argparse.Namespace) -> Path:
    """The published model with our chat template, and the same pairs as JSON lines."""
    from itertools import islice

    from phoenix_utils import chat, embedded, models
    from phoenix_utils.dpo import read_pairs

    published, full = folder / "published", embedded.ensure_full()
    published.mkdir()
    for file in full.iterdir():
        if not file.name.startswith("token"):
            (published / file.name).symlink_to(file)
    chat.apply_template(models.load_tokenizer(str(full), LANGUAGES)).save_pretrained(published)
    rows = islice(read_pairs(arguments.run / "02_filtering" / "preferences.parquet"), arguments.max_pairs)
    lines = (json.dumps({side: row[side] for side in ("prompt", *SIDES)}) for row in rows)
    (folder / "rows.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return published


def copy_run(source: Path, target: Path) -> Path:
    """A run directory with the stages before DPO; those are only read."""
    target.mkdir()
    for name in ("02_filtering", "03_sft"):
        shutil.copytree(source / name, target / name)
    return target


def rate(found: dict, clock: str = "seconds") -> float:
    """Pairs in a second of training."""
    return found["pairs"] / found[clock]


if __name__ == "__main__":
    main()
