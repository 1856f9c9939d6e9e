"""Faults against every stage, the runner and the sweep: after each, the same command again; nothing may be lost.

    python benchmarks/faults.py [--faults 500] [--real-kills 5] [--only KIND,…] [--stages NAME,…] [--seed N] [--json F]

Storage and runner level, with an engine that answers at once and models of random weights (`fault_kinds.py` says what
is done, `fault_stages.py` to what): kills, interruptions, full disks, damaged files, two at once, servers that die.
Then `kill -9` of each real command with the embedded model (`fault_real.py`). A fault is *recovered* where the same
command again ends with what an undisturbed run leaves, *refused* where it ends with one clear sentence. Rows lost,
wrong results without a word, and ends that are neither, must be 0; the exit code is 1 otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

# Before anything computes: a child of a process whose threads compute hangs.
os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}

import fault_real  # noqa: E402 - benchmarks/fault_real.py, beside this file
from fault_kinds import KINDS, Trial, Verdict, judge  # noqa: E402 - benchmarks/fault_kinds.py
from fault_stages import Workshop  # noqa: E402 - benchmarks/fault_stages.py

COLUMNS = ("tried", "recovered", "refused", "unclear", "lost rows", "silent wrong")
# How often a stage is chosen: the cheap ones write as many files as the others, in a fraction of the time.
SHARES = {"translation": 40, "filtering": 30, "sft": 6, "dpo": 6, "evaluation": 6, "runner": 7, "sweep": 5, "adapt": 4}


def choose(number: int, kinds: list[str], stages: list[str], chance: random.Random) -> list[tuple[str, str]]:
    """(kind, stage) of so many faults: the kinds in turn, each with one of its stages by their shares."""
    chosen = []
    usable = {kind: [stage for stage in KINDS[kind][1] if stage in stages] for kind in kinds}
    usable = {kind: found for kind, found in usable.items() if found}
    for place in range(number if usable else 0):
        kind = list(usable)[place % len(usable)]
        [stage] = chance.choices(usable[kind], [SHARES[stage] for stage in usable[kind]])
        chosen.append((kind, stage))
    return chosen


def tiny(number: int, kinds: list[str], stages: list[str], seed: int, verbose: bool) -> list[tuple[str, str, Verdict]]:
    """(kind, stage, verdict) of so many faults at the level of storage and runner."""
    chance = random.Random(seed)
    chosen = choose(number, kinds, stages, chance)
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    found = []
    try:
        shop = Workshop(folder, [stage for stage in stages if any(stage == wanted for _, wanted in chosen)])
        seconds = ", ".join(f"{stage} {taken:.2f}" for stage, taken in shop.seconds.items())
        print(f"seconds of an undisturbed stage: {seconds}", flush=True)
        for place, (kind, stage) in enumerate(chosen):
            trial = Trial(shop, stage, folder / f"trial_{place}", random.Random(f"{seed} {place}"))
            started = time.monotonic()
            verdict = judge(trial, kind)
            found.append((kind, stage, verdict))
            if verbose or is_bad(verdict):
                words = f"{place}: {verdict.how} ({time.monotonic() - started:.1f} s), {verdict.story}"
                print(f"{words}{f'; {verdict.lost} rows lost; {verdict.wrong}' if is_bad(verdict) else ''}", flush=True)
            shutil.rmtree(trial.root)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return found


def is_bad(verdict: Verdict) -> bool:
    """Whether a fault has lost or spoilt something, or left the user without an answer."""
    return bool(verdict.lost or verdict.wrong or verdict.how == "unclear")


def counted(verdicts: list[Verdict]) -> dict[str, int]:
    """The columns of the table for some faults."""
    how = Counter(verdict.how for verdict in verdicts)
    return {
        "tried": len(verdicts),
        **{name: how[name] for name in ("recovered", "refused", "unclear")},
        "lost rows": sum(verdict.lost for verdict in verdicts),
        "silent wrong": sum(bool(verdict.wrong) for verdict in verdicts),
    }


def table(found: list[tuple[str, str, Verdict]]) -> list[str]:
    """Kinds, then stages, then all, a row each, in Markdown."""
    lines = [f"| fault | {' | '.join(COLUMNS)} |", "|---|" + "---|" * len(COLUMNS)]
    rows = [(kind, [v for k, _, v in found if k == kind]) for kind in dict.fromkeys(k for k, _, _ in found)]
    rows += [(f"*{stage}*", [v for _, s, v in found if s == stage]) for stage in sorted({s for _, s, _ in found})]
    for name, verdicts in [*rows, ("**all**", [v for _, _, v in found])]:
        lines.append(f"| {name} | " + " | ".join(f"{number:,}" for number in counted(verdicts).values()) + " |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=500, help="faults at the level of storage and runner")
    parser.add_argument("--real-kills", type=int, default=5, help="kills of each real command; 0 for none")
    parser.add_argument("--only", default=",".join(KINDS), help="kinds of faults, with commas between them")
    parser.add_argument("--stages", default=",".join(SHARES), help="stages, runner and sweep; also of the real kills")
    parser.add_argument("--seed", type=int, default=0, help="the same seed tries the same faults")
    parser.add_argument("--verbose", action="store_true", help="a line for every fault, not only for the bad ones")
    parser.add_argument("--json", type=Path, help="write the counts there")
    asked = parser.parse_args()
    kinds, stages = asked.only.split(","), asked.stages.split(",")
    if unknown := [name for name in kinds if name not in KINDS] + [name for name in stages if name not in SHARES]:
        parser.error(f"unknown: {', '.join(unknown)}; kinds are {', '.join(KINDS)}; stages are {', '.join(SHARES)}")
    started = time.monotonic()
    found = tiny(asked.faults, kinds, stages, asked.seed, asked.verbose) if asked.faults else []
    if asked.real_kills:
        found += fault_real.kills(asked.real_kills, stages, random.Random(asked.seed))
    print("\n".join(["", *table(found)]))
    print(f"{len(found)} faults with seed {asked.seed} in {(time.monotonic() - started) / 60:.1f} minutes")
    total = counted([verdict for *_, verdict in found])
    if asked.json:
        kinds_found = {kind: counted([v for k, _, v in found if k == kind]) for kind in {k for k, _, _ in found}}
        values = {"faults": total["tried"], "lost_rows": total["lost rows"], "silent_wrong": total["silent wrong"]}
        values |= {name: total[name] for name in ("recovered", "refused", "unclear")}
        asked.json.write_text(json.dumps({**values, "kinds": kinds_found}, indent=2) + "\n", encoding="utf-8")
    return int(any(is_bad(verdict) for *_, verdict in found))


if __name__ == "__main__":
    sys.exit(main())
