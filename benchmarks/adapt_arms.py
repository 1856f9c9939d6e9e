"""What matters when a translator is made: number of pairs, kind of pairs, rank, a monolingual step.

    python benchmarks/adapt_arms.py --help-text FILE [--json FILE]

Each arm trains on at most 1,000 pairs and is measured on 150 paragraphs of held-out pages and on 150 of the project's
pairs; everything else is as in profiles/adapt_en_de.yaml. The table goes to book/results/adapt_arms.md with date,
commit and command. An arm that is finished is not run again.
"""

import argparse
import json
import sys
from pathlib import Path

import results  # benchmarks/results.py, beside this file

from phoenix_utils.artifacts import stage_path
from phoenix_utils.profile import load_settings
from phoenix_utils.translation.adapt import adapt_and_measure
from phoenix_utils.translation.adapt_settings import AdaptSettings

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = {"max_pairs": 300, "max_instruction_pairs": 200, "instruction_repeats": 1, "lora_r": 16, "lora_alpha": 32}
ARMS = {
    "500 pairs (300 help, 200 instruction), rank 16": {},
    "1,000 pairs (600 help, 400 instruction)": {"max_pairs": 600, "max_instruction_pairs": 400},
    "250 pairs (150 help, 100 instruction)": {"max_pairs": 150, "max_instruction_pairs": 100},
    "500 pairs, help only": {"max_pairs": 500, "instruction_repeats": 0},
    "rank 4": {"lora_r": 4, "lora_alpha": 8},
    "rank 8": {"lora_r": 8, "lora_alpha": 16},
    "rank 64": {"lora_r": 64, "lora_alpha": 128},
    "500 German paragraphs first": {"monolingual_rows": 500},
}


def main() -> None:
    """Run what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--help-text", default="debian:libreoffice-help", help="source of the help paragraphs")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    full = load_settings(ROOT / "profiles" / "adapt_en_de.yaml", AdaptSettings, {})
    shared = {"pairs": ["package:pairs", arguments.help_text], "measure_rows": 150, "sample_pairs": 2, **REFERENCE}
    before, figures = None, {}
    lines = ["| arm | chrF, help | chrF, project | copied, project | minutes | adapter |", "|---|---|---|---|---|---|"]
    for number, (name, changes) in enumerate(ARMS.items()):
        run_dir = str(ROOT / "runs" / "lab" / f"adapt_{number}")
        settings = full.model_copy(update={**shared, **changes, "run_dir": run_dir})
        scores = adapt_and_measure(settings, before=before)
        folder = stage_path(run_dir, "adapt")
        before = before or folder / "before.json"
        if not lines[2:]:
            cells = [results.shown(scores[kind]["before"]["chrf"]) for kind in ("held_out", "project")]
            copied = scores["project"]["before"]["copied"]["value"]
            lines.append(f"| few-shot base | {cells[0]} | {cells[1]} | {copied:.1%} | – | – |")
        cells = [results.shown(scores[kind]["after"]["chrf"]) for kind in ("held_out", "project")]
        copied = scores["project"]["after"]["copied"]["value"]
        size = (folder / "adapter" / "adapter_model.safetensors").stat().st_size / 1e6
        minutes = scores["training"]["seconds"] / 60
        lines.append(f"| {name} | {cells[0]} | {cells[1]} | {copied:.1%} | {minutes:.1f} | {size:.1f} MB |")
        figures[name] = {kind: scores[kind]["after"]["chrf"]["value"] for kind in ("held_out", "project")}
        print(lines[-1], flush=True)
    note = "chrF with 95 % intervals, on 150 pairs of each set; other settings: adapt_en_de.yaml."
    results.store("adapt_arms", "python benchmarks/adapt_arms.py", lines, note)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
