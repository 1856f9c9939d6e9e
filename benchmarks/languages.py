"""What the small model learns in other languages: `mini` from start to end in each, and one table.

    python benchmarks/languages.py [--only nl,fr] [--json FILE]

Each language is a run of its own in runs/mini-LANG, as `make mini LANG=nl` makes it; one that is finished is not run
again, so the table can be made language by language. German stands beside them (runs/mini), with people's prompts and
references where the others have machine translations. The table goes to book/results/languages.md.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import results  # benchmarks/results.py, beside this file

from phoenix_utils import tables
from phoenix_utils.artifacts import read_json

LANGUAGES = {"de": "German", "nl": "Dutch", "fr": "French", "es": "Spanish", "sv": "Swedish", "ja": "Japanese"}
# The questions begin with a letter to write; the fifth prompt is an everyday one.
SHOWN_PROMPT = 4
LONGEST = 240


def run_dir(language: str) -> Path:
    """Where a language's run lies."""
    return results.ROOT / "runs" / ("mini" if language == "de" else f"mini-{language}")


def main() -> None:
    """Run what is missing, then write the table of all that is there."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default=",".join(LANGUAGES), help="languages to run now, with commas between")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    failed, asked = [], arguments.only.split(",")
    if unknown := set(asked) - set(LANGUAGES):
        parser.error(f"--only {', '.join(sorted(unknown))}: there are {', '.join(LANGUAGES)}")
    for language in asked:
        options = ["--set", f"language={language}", "--out", str(run_dir(language))]
        command = [sys.executable, "-m", "phoenix_utils.cli", "run", "mini", *options]
        print(f"== {LANGUAGES[language]}", flush=True)
        if subprocess.run(command, cwd=results.ROOT).returncode:
            failed.append(LANGUAGES[language])
    figures = shares()
    rows = [table_row(language) for language in finished()]
    heads = (
        "language", "rows without a failed segment", "kept conversations, pairs", "in the language: base", "SFT", "DPO",
        "stop by themselves: base", "SFT", "surprise, SFT − base", "minutes of translation, of the whole",
    )  # fmt: skip
    lines = [
        f"| {' | '.join(heads)} |",
        "|---" * len(heads) + "|",
        *rows,
        "",
        "| language | an answer of the SFT model |",
    ]
    lines += ["|---|---|", *(f"| {LANGUAGES[name]} | {answer(name)} |" for name in finished())]
    note = (
        "Shares of 24 prompts with 95 % intervals; surprise in nats per token at the references. German is asked with "
        "prompts and references written in it and has a trained translator, every other language machine translations "
        "by the base with four examples."
    )
    print("\n".join(lines))
    for name, value in figures.items():
        print(f"{name}: {value:.3f}")
    results.store("languages", "python benchmarks/languages.py", lines, note)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    if failed:
        sys.exit(f"these runs failed and are not in the table: {', '.join(failed)}")


def finished() -> list[str]:
    """The languages whose runs have ended."""
    manifests = {name: run_dir(name) / "05_evaluation" / "manifest.json" for name in LANGUAGES}
    return [name for name, path in manifests.items() if path.is_file() and read_json(path)["status"] == "complete"]


def shares() -> dict[str, float]:
    """The share of the SFT model's answers that are in the run's language, for each finished run."""
    return {
        f"target_language_share_{name}": scores(name)["sft"]["target_language_share"]["value"] for name in finished()
    }


def stored_shares() -> dict[str, float]:
    """The same from the table in book/results, to its two digits: five runs take the better part of an hour."""
    codes = {name: code for code, name in LANGUAGES.items()}
    found = {}
    for line in (results.FOLDER / "languages.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] in codes and len(cells) > 5:
            found[f"target_language_share_{codes[cells[0]]}"] = float(cells[4].split()[0])
    return found


def scores(language: str) -> dict:
    """The scores of a finished run."""
    return read_json(run_dir(language) / "05_evaluation" / "scores.json")


def table_row(language: str) -> str:
    """One line of the table."""
    folder, found = run_dir(language), scores(language)
    translated, kept = (read_json(folder / stage / "manifest.json") for stage in ("01_translation", "02_filtering"))
    difference = read_json(folder / "05_evaluation" / "differences.json")["paired"]["sft-base"]["nll_per_token"]
    counts, seconds = translated["counts"], [read_json(path)["seconds"] for path in folder.glob("0*/manifest.json")]
    cells = (
        LANGUAGES[language],
        f"{counts['rows_good']} of {counts['chat_rows'] + counts['preferences_rows']}",
        f"{kept['counts']['chat_out']}, {kept['counts']['preferences_out']}",
        *(results.shown(found[model]["target_language_share"], 2) for model in ("base", "sft", "dpo")),
        *(results.shown(found[model]["stop_share"], 2) for model in ("base", "sft")),
        results.shown(difference, 3),
        f"{translated['seconds'] / 60:.1f}, {sum(seconds) / 60:.1f}",
    )
    return f"| {' | '.join(cells)} |"


def answer(language: str) -> str:
    """The beginning of the SFT model's answer to one prompt, on one line, with the prompt before it."""
    rows = [
        row
        for row in tables.read_rows(run_dir(language) / "05_evaluation" / "answers.parquet")
        if row["model"] == "sft"
    ]
    row = rows[SHOWN_PROMPT]
    prompt, said = (" ".join(text.split()).replace("|", "/") for text in (row["prompt"], row["answer"]))
    return f"*{prompt}* {said if len(said) <= LONGEST else said[:LONGEST] + ' …'}"


if __name__ == "__main__":
    main()
