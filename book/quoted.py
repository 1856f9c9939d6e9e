"""Store the scores of the run that the book's prose quotes: `python book/quoted.py runs/mini`.

Prose cannot follow every run, so it names one; its numbers stand in `book/results/quoted_run.md`, where a test finds
what the pages say.
"""

import argparse
from pathlib import Path

from phoenix_utils.artifacts import STAGE_FOLDERS, read_json, write_atomic
from phoenix_utils.statistics import shown
from phoenix_utils.sweep_cells import MODELS
from phoenix_utils.tables import read_lines

RESULTS = Path(__file__).resolve().parent / "results"


def quoted(run: Path) -> str:
    """Markdown: when and where the run was made, its scores, differences, counts and memory."""
    manifests = {stage: run / folder / "manifest.json" for stage, folder in STAGE_FOLDERS.items() if stage != "adapt"}
    read = {stage: read_json(path) for stage, path in manifests.items()}
    folder = run / STAGE_FOLDERS["evaluation"]
    scores, differences = read_json(folder / "scores.json"), read_json(folder / "differences.json")
    machine = read["sft"]["machine"]
    lines = [
        f"Made on {read['evaluation']['finished'][:10]} by the notebooks with the settings of `mini`, "
        f"version {read['sft']['phoenix']}, seed "
        f"{read['sft']['seed']}, on {machine['cores']} CPU cores ({machine['architecture']}), no GPU. Values with 95 % "
        "intervals.",
        "",
        "| measure | " + " | ".join(MODELS) + " | sft − base | dpo − sft |",
        "|---|---|---|---|---|---|",
    ]
    for name in scores["base"]:
        cells = [scores[model][name] for model in MODELS]
        cells += [differences["paired"][pair][name] for pair in ("sft-base", "dpo-sft")]
        lines.append(f"| {name.replace('_', ' ')} | " + " | ".join(map(shown, cells)) + " |")
    preference = differences["preference"]
    lines += [
        "",
        f"Held-out pairs ordered rightly by the DPO model's reward: {shown(preference['dpo_reward'])}; by its "
        f"likelihood per token: {shown(preference['by_mean']['dpo'])}. Chosen answer shorter: "
        f"{preference['shorter_chosen']:.2f}. Prompt of the base, nats per token: "
        + ", ".join(f"{name} {value:.3f}" for name, value in differences["base_prompts"].items())
        + ".",
        "",
        "| stage | seconds | peak memory, GB | counts |",
        "|---|---|---|---|",
    ]
    for stage, manifest in read.items():
        counts = ", ".join(f"{name.replace('_', ' ')} {value:,}" for name, value in manifest["counts"].items())
        lines.append(f"| {stage} | {manifest['seconds']:.0f} | {manifest['peak_memory_gb']:.2f} | {counts} |")
    sft = read_json(run / STAGE_FOLDERS["sft"] / "metrics.json")
    speed = read["translation"]["notes"]["characters_per_second"]
    lines += [
        "",
        f"Trained parameters: {sft['trainable_parameters']:,}. {read['dpo']['notes']['start']}. "
        f"Characters a second while the translator worked: {speed:,.0f}.",
        "",
        curve(run),
    ]
    return "\n".join(lines) + "\n"


def curve(run: Path) -> str:
    """A sentence about the batches that DPO trained on, from the third step on."""
    steps = [step for step in read_lines(run / STAGE_FOLDERS["dpo"] / "log.jsonl") if "rewards/margins" in step][2:]
    said = []
    for key, name in (("rewards/accuracies", "accuracy"), ("rewards/margins", "margin")):
        values = [step[key] for step in steps]
        said.append(f"{name} {min(values):.2f} to {max(values):.2f}")
    return f"DPO's training batches from the third step on: {', '.join(said)}."


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path, help="a finished run of mini")
    run = parser.parse_args().run
    if not (run / STAGE_FOLDERS["evaluation"] / "differences.json").is_file():
        parser.error(f"{run} holds no finished run: make mini makes one in runs/mini")
    text = quoted(run)
    with write_atomic(RESULTS / "quoted_run.md") as partial:
        partial.write_text(text, encoding="utf-8")
