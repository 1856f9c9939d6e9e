"""`kill -9` of the real commands with the embedded model on a handful of rows, for `faults.py`."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fault_kinds import Verdict  # benchmarks/fault_kinds.py
from fault_stages import ROOT, STAGES, contents, difference  # benchmarks/fault_stages.py

from phoenix_utils.artifacts import STAGE_FOLDERS
from phoenix_utils.filtering import RULES

# So few rows that none may be lost to a filter.
FEW = {
    "translation.max_rows": "8",
    "filtering.skip_rules": ",".join(rule for rule in RULES if rule != "structure"),
    "sft.num_train_epochs": "1",
    "sft.save_steps": "1",
    "dpo.save_steps": "1",
    "dpo.watch_prompts": "0",
    "evaluation.harness_tasks": "",
    "evaluation.max_prompts": "2",
    "evaluation.max_new_tokens": "24",
}
SETS = [word for key, value in FEW.items() for word in ("--set", f"{key}={value}")]
WORKING = "another process is working"


def command(stage: str, out: Path) -> subprocess.Popen:
    """`phoenix STAGE mini`, or for the runner `phoenix run`, in a process group of its own."""
    words = ["run", "mini"] if stage == "runner" else [stage, "mini"]
    line = [sys.executable, "-m", "phoenix_utils.cli", *words, *SETS, "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )


def to_the_end(stage: str, out: Path) -> tuple[int, str]:
    """(exit code, what it said) of the command; while a kernel that outlived its runner is there, once more."""
    for _ in range(60):
        process = command(stage, out)
        told = process.communicate()[1]
        if WORKING not in told:
            break
        time.sleep(1)
    return process.returncode, told


def kills(number: int, stages: list[str], chance: random.Random) -> list[tuple[str, str, Verdict]]:
    """(kind, stage, verdict) of `number` kills of each stage's command, and of the runner's."""
    wanted = [stage for stage in (*STAGES, "runner") if stage in stages]
    folder, found = Path(tempfile.mkdtemp(prefix="real-kills-")), []
    try:
        last = STAGES[-1] if "runner" in wanted else max(wanted, key=STAGES.index, default=STAGES[0])
        seconds = {}
        for stage in STAGES[: STAGES.index(last) + 1]:
            started = time.monotonic()
            code, told = to_the_end(stage, folder / "whole")
            if code:
                sys.exit(f"the undisturbed {stage} ended with {code}: {told}")
            seconds[stage] = time.monotonic() - started
            print(f"real {stage}: {seconds[stage]:.0f} s undisturbed", flush=True)
        seconds["runner"] = sum(seconds.values())
        for stage in wanted:
            for place in range(number):
                out = folder / f"{stage}_{place}"
                before = [] if stage == "runner" else STAGES[: STAGES.index(stage)]
                for name in before:
                    shutil.copytree(folder / "whole" / STAGE_FOLDERS[name], out / STAGE_FOLDERS[name])
                moment = chance.uniform(0.2, 1) * seconds[stage]
                found.append(("real kill", stage, one_kill(stage, folder / "whole", out, moment)))
                print(f"real kill of {stage} after {moment:.0f} s: {found[-1][2]}", flush=True)
                shutil.rmtree(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return found


def one_kill(stage: str, whole: Path, out: Path, moment: float) -> Verdict:
    """Kill the command after `moment` seconds, give it again, and compare with the undisturbed run in `whole`."""
    process = command(stage, out)
    time.sleep(moment)
    # A runner's kernels have sessions of their own and have to notice by themselves.
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    code, told = to_the_end(stage, out)
    if code == 2 and "Traceback" not in told:
        return Verdict("refused", story=told)
    if code:
        return Verdict("unclear", story=told[-1500:])
    lost, wrong = 0, ""
    for name in STAGES if stage == "runner" else [stage]:
        missing, words = difference(*(contents(run / STAGE_FOLDERS[name]) for run in (whole, out)), where=name)
        lost, wrong = lost + missing, wrong or words
    return Verdict("recovered", lost, wrong, told[-300:])
