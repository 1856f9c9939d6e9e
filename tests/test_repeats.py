"""What repeats exactly: every stage twice with one seed, the second time in a process with other hashes of text."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import repeat_run
import tiny_models

from phoenix_utils import artifacts, tables, training

TESTS = Path(__file__).resolve().parent
# These tell how long something took; their other contents are compared one by one.
TIMED = ("metrics.json", "log.jsonl", "segments.sqlite", "report.html")


def products(folder: Path) -> dict[str, str]:
    """SHA-256 of every product of every stage, by place."""
    found = {}
    for manifest in sorted(folder.rglob("manifest.json")):
        for name, product in artifacts.read_json(manifest)["outputs"].items():
            if Path(name).name not in TIMED:
                found[f"{manifest.parent.name}/{name}"] = product["sha256"]
    return found


def rows(folder: Path, place: str) -> list[dict]:
    return list(tables.read_rows(folder / place))


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("repeats")
    model = tiny_models.save_tiny(folder / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PHOENIX_CACHE", str(folder / "cache"))
        repeat_run.run_all(folder / "first", model)
    environment = {**os.environ, "PHOENIX_CACHE": str(folder / "cache_again"), "PYTHONHASHSEED": "7"}
    environment["PYTHONPATH"] = str(TESTS.parent)
    command = [sys.executable, str(TESTS / "repeat_run.py"), str(folder / "again"), str(model)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / "first", folder / "again"


def test_translations_rows_weights_answers_and_scores_are_the_same_to_the_last_bit(both):
    first, again = map(products, both)
    for place in ("01_translation/chat/00000.parquet", "02_filtering/rejected.parquet", "05_evaluation/scores.json"):
        assert place in first
    for stage in ("03_sft", "04_dpo"):
        assert f"{stage}/adapter/adapter_model.safetensors" in first
    assert len(rows(both[0], "run/02_filtering/rejected.parquet")) == 1
    answers = "05_evaluation/answers.parquet"
    differ = [name for name in first if name != answers and first[name] != again.get(name)]
    assert differ == [] and len(first) == len(again)
    # With two threads a sum of log-probabilities has differed in its seventh digit, though no answer did.
    for row, other in zip(*(rows(folder, f"run/{answers}") for folder in both), strict=True):
        assert other.pop("mean_logprob") == pytest.approx(row.pop("mean_logprob"), abs=2e-6) and other == row


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_training_curves_are_the_same(both, stage):
    first, again = (training.read_log(artifacts.stage_path(str(folder / "run"), stage)) for folder in both)
    timed = {name for row in first for name in row if "runtime" in name or "per_second" in name}
    assert len(first) > 1
    for row, other in zip(first, again, strict=True):
        for name in row.keys() - timed:
            assert other[name] == pytest.approx(row[name], abs=1e-6), name
