"""What matters when a student is fine-tuned: method, rank, learning rate, epochs, batch.

    python benchmarks/sft_arms.py [--run runs/mini] [--json FILE]

Each arm trains on the kept conversations of a finished `mini` run and changes one thing; everything else is as in
`mini`. Measured are the loss on the held-out conversations in the target language, the share of answers that stop by
themselves, memory and time, each arm in a process of its own. The table and one answer of each arm go to
book/results/sft_arms.md with date, commit and command. An arm that is finished is not trained again.
"""

import argparse
import json
import sys
from pathlib import Path

import results  # benchmarks/results.py and benchmarks/sft.py, beside this file
import sft as speed

from phoenix_utils.artifacts import read_json

ROOT = Path(__file__).resolve().parent.parent
# The most asked first: the table is written after each, so that a shorter lab still answers something.
ARMS = {
    "mini: LoRA, rank 16, rate 3e-4, 2 epochs, batch 2": {},
    "full fine-tuning, rate 2e-5": {"method": "full", "learning_rate": 2e-5},
    "QLoRA": {"method": "qlora"},
    "1 epoch": {"num_train_epochs": 1.0},
    "rank 64": {"lora_r": 64, "lora_alpha": 128},
    "rate 1e-3": {"learning_rate": 1e-3},
    "rank 4": {"lora_r": 4, "lora_alpha": 8},
    "rate 1e-4": {"learning_rate": 1e-4},
    "full fine-tuning, rate 1e-4": {"method": "full", "learning_rate": 1e-4},
    "batch 8": {"global_batch": 8},
    "4 epochs": {"num_train_epochs": 4.0},
    "batch 8, rate 6e-4": {"global_batch": 8, "learning_rate": 6e-4},
}
NOTE = "Loss in nats per trained token; other settings: mini. One run each, so small differences may be chance."
PROMPTS = (
    "Erkläre in zwei Sätzen, warum man Brot auch einfrieren kann.",
    "Nenne drei Dinge, die man auf eine Radtour mitnehmen sollte.",
    "Wie schreibt man eine kurze Absage an einen Verein?",
    "Was unterscheidet eine Eule von einem Falken?",
    "Gib mir einen Tipp gegen kalte Füße.",
    "Warum ist der Himmel abends rot?",
)


def train_arm(run_dir: str, **changes) -> dict:
    """Train in this process; what the manifest and metrics say."""
    from phoenix_utils.sft import SftSettings, run

    metrics = run(SftSettings(run_dir=run_dir, **changes))
    manifest = read_json(Path(run_dir) / "03_sft" / "manifest.json")
    return {"minutes": metrics["seconds"] / 60, "peak_gb": manifest["peak_memory_gb"], "loss": metrics["loss_last"]}


def answers_arm(run_dir: str) -> dict:
    """Greedy answers to PROMPTS; the share that stopped by itself, and the first one."""
    from phoenix_utils.samples import sample_answers
    from phoenix_utils.sft import SftSettings

    rows = sample_answers(SftSettings(run_dir=run_dir), PROMPTS, ("sft",))
    stopped = sum(row["sft"].finish_reason == "stop" for row in rows) / len(rows)
    return {"stopped": stopped, "answer": rows[0]["sft"].text.strip()}


def arm(kind: str, **values) -> dict:
    """One of the functions above in a process of its own."""
    return speed.own_process([__file__, "--arm", json.dumps({"kind": kind, **values})])


def main() -> None:
    """Run what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--run", type=Path, default=ROOT / "runs" / "mini", help="a finished run of mini")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.arm:
        values = json.loads(arguments.arm)
        kinds = {"train": train_arm, "answers": answers_arm, "loss": speed.loss_arm}
        print(json.dumps(kinds[values.pop("kind")](**values)))
        return
    kept = (arguments.run / "02_filtering").absolute()
    if not (kept / "chat.parquet").is_file():
        sys.exit(f"{kept} has no kept conversations: run `phoenix run mini` first, or name another run with --run")
    figures, answers = {}, []
    lines = [
        "| arm | held-out loss | training loss | stop by themselves | peak | minutes |",
        "|---|---|---|---|---|---|",
    ]
    base = arm("loss", trained=None, language="de")["loss"]
    lines.append(f"| base model | {base:.3f} | – | – | – | – |")
    for number, (name, changes) in enumerate(ARMS.items()):
        run_dir = ROOT / "runs" / "lab" / f"sft_{number}"
        run_dir.mkdir(parents=True, exist_ok=True)
        if not (run_dir / "02_filtering").exists():
            (run_dir / "02_filtering").symlink_to(kept)
        trained = arm("train", run_dir=str(run_dir), **changes)
        folder = run_dir / "03_sft" / ("model" if changes.get("method") == "full" else "adapter")
        loss = arm("loss", trained=str(folder), language="de")["loss"]
        said = arm("answers", run_dir=str(run_dir))
        lines.append(
            f"| {name} | {loss:.3f} | {trained['loss']:.3f} | {said['stopped']:.0%} | {trained['peak_gb']:.1f} GB | "
            f"{trained['minutes']:.1f} |"
        )
        answers.append(f"| {name} | {' '.join(said['answer'].split()).replace('|', '/')} |")
        figures[name] = loss
        print(lines[-1], flush=True)
        shown = ["", f"*{PROMPTS[0]}*", "", "| arm | answer |", "|---|---|", *answers]
        results.store("sft_arms", "python benchmarks/sft_arms.py", [*lines, *shown], NOTE)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
