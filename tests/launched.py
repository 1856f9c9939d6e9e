"""A training as `accelerate launch` starts it: two CPU processes, the shipped configuration for whole copies."""

import os
import subprocess
import sys
from pathlib import Path

from manifests import manifest  # tests/manifests.py

from phoenix_utils import artifacts

ROOT = Path(__file__).resolve().parent.parent


def train(stage, settings):
    """Run the stage in `settings.run_dir` with exactly these settings; the stages before it count as finished."""
    for earlier in ("translation", "filtering", "sft")[: ("sft", "dpo").index(stage) + 2]:
        path = artifacts.stage_path(settings.run_dir, earlier) / "manifest.json"
        if not path.is_file():
            artifacts.write_json(path, manifest())
    values = settings.model_dump(exclude={"run_dir", "redo"})
    words = [word for name, value in values.items() for word in ("--set", f"{stage}.{name}={value}")]
    config = str(ROOT / "profiles" / "accelerate" / "ddp.yaml")
    done = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--config_file", config,
         "--num_processes", "2", "--main_process_port", "0",
         "-m", "phoenix_utils.cli", stage, "mini", "--out", settings.run_dir, *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
