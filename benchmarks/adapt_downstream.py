"""What a better translator is worth to the student: SFT taught by the few-shot base against SFT taught by the adapter.

    python benchmarks/adapt_downstream.py [--json FILE]

Two runs of `mini` that differ in the translator alone, from the same source rows. Compared are the rows that survive
the filters, answers in German, and the likelihood of the held-out German references, each with a paired interval. The
table goes to book/results/adapt_downstream.md. Runs that are finished are not run again.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import results  # benchmarks/results.py, beside this file

from phoenix_utils.artifacts import read_json
from phoenix_utils.evaluation import scores
from phoenix_utils.tables import read_rows

ROOT = Path(__file__).resolve().parent.parent
LAB = ROOT / "runs" / "lab"
ARMS = {"few-shot base": "none", "adapter": "auto"}
METRICS = ("target_language_share", "stop_share", "nll_per_token", "chrf")


def run_arm(adapter: str) -> Path:
    """The run directory of `mini` with this translator, made where it is not there."""
    out = LAB / f"downstream_{adapter}"
    command = [sys.executable, "-m", "phoenix_utils.cli", "run", "mini", "--set", f"translation.adapter={adapter}"]
    subprocess.run([*command, "--out", str(out)], check=True, cwd=ROOT)
    return out


def sft_measures(run: Path) -> dict[str, scores.Measure]:
    """The measures of a run's SFT model."""
    folder = run / "05_evaluation"
    rows = {
        name: [row for row in read_rows(folder / f"{name}.parquet") if row["model"] == "sft"]
        for name in ("answers", "logprobs")
    }
    return {**scores.answer_measures(rows["answers"]), **scores.likelihood_measures(rows["logprobs"], "chat")}


def main() -> None:
    """Run both arms and compare them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    runs = {name: run_arm(adapter) for name, adapter in ARMS.items()}
    figures: dict[str, float] = {}
    lines = [
        "| translator | conversations kept | pairs kept | "
        + " | ".join(results.HEADS[metric] for metric in METRICS)
        + " |",
        "|---" * 7 + "|",
    ]
    for name, run in runs.items():
        counts = read_json(run / "02_filtering" / "manifest.json")["counts"]
        found = read_json(run / "05_evaluation" / "scores.json")["sft"]
        kept = [f"{counts[f'{kind}_out']} of {counts[f'{kind}_in']}" for kind in ("chat", "preferences")]
        cells = [results.shown(found[metric], 3 if metric != "chrf" else 1) for metric in METRICS]
        lines.append(f"| {name} | " + " | ".join([*kept, *cells]) + " |")
        figures |= {f"{metric}_{ARMS[name]}": found[metric]["value"] for metric in METRICS}
    before, after = (sft_measures(run) for run in runs.values())
    gains = [scores.paired(before[metric], after[metric], samples=2000, seed=42).as_dict() for metric in METRICS]
    cells = [results.shown(gain, 3 if metric != "chrf" else 1) for metric, gain in zip(METRICS, gains, strict=True)]
    lines.append("| adapter minus few-shot, paired | | | " + " | ".join(cells) + " |")
    print("\n".join(lines))
    note = "SFT model of `mini`, same source rows, same held-out references and prompts; values with 95 % intervals."
    results.store("adapt_downstream", "python benchmarks/adapt_downstream.py", lines, note)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
