"""A tenth of the fault matrix (benchmarks/faults.py): whatever is killed, cut or spoilt, no row is lost in silence."""

import json
import random
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def test_fifty_faults_lose_no_row_and_change_no_result_in_silence(tmp_path):
    seed = random.randrange(10**6)
    command = [sys.executable, ROOT / "benchmarks" / "faults.py", "--faults", "50", "--real-kills", "0"]
    # The other stages, the runner and the sweep take a second and more a fault; each has a test of its own with a kill.
    command += ["--stages", "translation,filtering,sft"]
    command += ["--seed", str(seed), "--json", tmp_path / "found.json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=600)
    assert done.returncode == 0, f"seed {seed}\n{done.stdout}\n{done.stderr}"
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["faults"] == 50 == found["recovered"] + found["refused"]
    assert found["lost_rows"] == found["silent_wrong"] == found["unclear"] == 0
    assert found["recovered"] > 25, "sentences alone would be an easy way out"
