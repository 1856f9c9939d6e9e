"""What the filters are worth to the student: SFT on rows that they kept against as many rows as they come.

    python benchmarks/filter_arms.py [--run runs/mini] [--json FILE]

Both arms take conversations of one finished translation. "filtered" trains on what is left with every rule on,
"unfiltered" on as many rows drawn at random from all of them, good and bad, as the paper's recipe would. Compared are
the likelihood of the held-out German references, answers in German and answers that end by themselves, with intervals,
and the paired difference. The table goes to book/results/filter_arms.md. An arm that is finished is not trained again.
"""

import argparse
import json
import random
import sys
from pathlib import Path

import results  # benchmarks/results.py and benchmarks/own_process.py, beside this file
from adapt_downstream import sft_measures
from own_process import own_process

from phoenix_utils import corpora, tables
from phoenix_utils.artifacts import read_json
from phoenix_utils.evaluation import scores

LAB = results.ROOT / "runs" / "lab" / "filter_arms"
METRICS = ("nll_per_token", "target_language_share", "stop_share", "chrf")


def filter_strictly(translated: Path) -> dict:
    """The filters with every rule on over a finished translation; the summary of the conversations."""
    from phoenix_utils.filtering import FilteringSettings, run

    (LAB / "strict").mkdir(parents=True, exist_ok=True)
    link = LAB / "strict" / "01_translation"
    if not link.exists():
        link.symlink_to(translated)
    return run(FilteringSettings(run_dir=str(LAB / "strict"), skip_rules=[]))["chat"]


def draw_rows(translated: Path, count: int, seed: int = 42) -> list[dict]:
    """So many conversations of a translation at random, in their order."""
    rows = list(tables.read_rows(translated / "chat"))
    chosen = sorted(random.Random(seed).sample(range(len(rows)), count))
    return [{name: rows[place][name] for name in corpora.CHAT.names} for place in chosen]


def train_and_measure(run_dir: str) -> dict:
    """SFT and its evaluation on a run's kept rows, in this process; the settings are those of `mini`."""
    from phoenix_utils import evaluation, sft

    trained = sft.run(sft.SftSettings(run_dir=run_dir))
    evaluation.run(evaluation.EvaluationSettings(run_dir=run_dir, models=["base", "sft"], harness_tasks=[]))
    return {"rows": trained["rows"]}


def main() -> None:
    """Make both arms, run what is missing, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--run", type=Path, default=results.ROOT / "runs" / "mini", help="a run with a translation")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.arm:
        print(json.dumps(train_and_measure(arguments.arm)))
        return
    translated = (arguments.run / "01_translation").absolute()
    if not (translated / "chat").is_dir():
        sys.exit(
            f"{translated} has no translated conversations: run `phoenix run mini` first, or name a run with --run"
        )
    part = filter_strictly(translated)
    filtered = list(tables.read_rows(LAB / "strict" / "02_filtering" / "chat.parquet"))
    unfiltered = draw_rows(translated, len(filtered))
    broken = len(unfiltered) - sum(row["prompt_id"] in {kept["prompt_id"] for kept in filtered} for row in unfiltered)
    arms = {"filtered": filtered, "unfiltered": unfiltered}
    lines = [
        "| arm | rows | of them rejected | " + " | ".join(results.HEADS[metric] for metric in METRICS) + " |",
        "|---" * (3 + len(METRICS)) + "|",
    ]
    figures: dict[str, float] = {}
    for name, rows in arms.items():
        kept = LAB / name / "02_filtering" / "chat.parquet"
        if not kept.is_file():
            tables.write_rows(kept, rows, corpora.CHAT)
        own_process([__file__, "--arm", str(LAB / name)])
        found = read_json(LAB / name / "05_evaluation" / "scores.json")
        if name == "filtered":
            lines.append("| base model | 0 | – | " + _cells(found["base"]) + " |")
        lines.append(f"| {name} | {len(rows)} | {broken if name == 'unfiltered' else 0} | {_cells(found['sft'])} |")
        print(lines[-1], flush=True)
        figures |= {f"{metric}_{name}": found["sft"][metric]["value"] for metric in METRICS}
    kept, drawn = (sft_measures(LAB / name) for name in arms)
    gains = {metric: scores.paired(drawn[metric], kept[metric], samples=2000, seed=42).as_dict() for metric in METRICS}
    lines.append("| filtered minus unfiltered, paired | | | " + _cells(gains) + " |")
    note = (
        f"SFT as in `mini` on {len(filtered)} conversations each, from one translation of {part['rows_in']} "
        f"conversations, of which every rule together rejects {part['rejected']}; one seed. Values with 95 % intervals."
    )
    print("\n".join([*lines, note]))
    results.store("filter_arms", "python benchmarks/filter_arms.py", lines, note)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def _cells(found: dict[str, dict]) -> str:
    return " | ".join(results.shown(found[metric], 1 if metric == "chrf" else 3) for metric in METRICS)


if __name__ == "__main__":
    main()
