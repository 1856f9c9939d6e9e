"""Sweeps: what is equal runs once, a kill loses nothing, a failing cell stops nobody, the table says what happened."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import psutil
import pytest
import tiny_models
import yaml

from phoenix_utils import artifacts, notebooks, pipeline, sweep, sweep_cells, sweep_table
from phoenix_utils.errors import PhoenixError
from phoenix_utils.statistics import mean_of_runs

ROOT = Path(__file__).resolve().parent.parent


def sweep_file(folder: Path, **changes) -> Path:
    values = {"name": "tried", "profile": "mini", "arms": {"one": {}, "other": {"dpo.beta": 0.5}}, **changes}
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in values.items() if value is not None}, sort_keys=False))
    return path


def cells_of(path: Path, out: Path) -> list[sweep_cells.Cell]:
    return sweep_cells.make_cells(sweep_cells.load_sweep(path), out)


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"arms": None}, "varies nothing: give it arms or a grid"),
        ({"gird": {}}, r"unknown key 'gird' \(did you mean 'grid'\?\)"),
        ({"arms": {"bold": {"dpo.bata": 1}}}, r"arm 'bold': unknown key 'dpo.bata' \(did you mean 'dpo.beta'\?\)"),
        ({"arms": {"bold": {"dpo.beta": "high"}}}, "arm 'bold': dpo.beta is 'high'"),
        ({"arms": {"bold": {"model": "stf"}}}, "unknown model 'stf'"),
        ({"arms": {"bold": {"model": 3}}}, "unknown model '3'"),
        ({"until": "dop"}, "unknown stage 'dop'"),
        ({"profile": "minni"}, "unknown profile 'minni'"),
        ({"arms": {"bold": {"seeds": 3}}}, r"arm 'bold' has seeds 3: give a list of whole numbers"),
        ({"arms": None, "grid": {"sft.lora_r": []}}, "grid.sft.lora_r has no value"),
    ],
)
def test_a_bad_file_is_one_sentence_before_anything_runs(tmp_path, changes, sentence):
    with pytest.raises(PhoenixError, match=sentence):
        cells_of(sweep_file(tmp_path, **changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_file_is_exit_code_two(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "phoenix_utils.cli", "sweep", str(tmp_path / "none.yaml")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "does not exist" in done.stderr and "Traceback" not in done.stderr


def test_a_grid_is_every_combination_with_every_seed(tmp_path):
    grid = {"dpo.beta": [0.1, 0.5], "dpo.num_train_epochs": [1, 2, 3]}
    cells = cells_of(sweep_file(tmp_path, arms=None, grid=grid, seeds=[1, 2]), tmp_path / "out")
    asked = {(c.plan.settings("dpo").beta, c.plan.settings("dpo").num_train_epochs, c.seed) for c in cells}
    assert len(cells) == 12 and len(asked) == 12
    assert all(c.plan.settings("sft").seed == c.plan.settings("dpo").seed == c.seed for c in cells)
    assert len({c.plan.run_dir for c in cells}) == 12


def test_equal_settings_and_inputs_have_equal_keys_and_no_others(tmp_path):
    arms = {
        "plain": {"seeds": [1, 2]},
        "beta": {"dpo.beta": 0.5},
        "unfiltered": {"filtering.max_repeats": 1000},
        "sft": {"model": "sft"},
    }
    one, two, beta, unfiltered, sft = cells_of(sweep_file(tmp_path, arms=arms, seeds=[1], seeded=["dpo"]), tmp_path)
    assert one.keys == sft.keys
    assert {stage for stage in one.keys if one.keys[stage] == two.keys[stage]} == {"translation", "filtering", "sft"}
    assert {stage for stage in one.keys if one.keys[stage] == beta.keys[stage]} == {"translation", "filtering", "sft"}
    # The same SFT settings on other rows are another SFT model.
    assert one.plan.settings("sft").fingerprint_values() == unfiltered.plan.settings("sft").fingerprint_values()
    assert {stage for stage in one.keys if one.keys[stage] == unfiltered.keys[stage]} == {"translation"}


def test_the_shipped_labs_are_valid():
    paths = sorted((ROOT / "profiles" / "sweeps").glob("*.yaml"))
    assert "ablations" in {path.stem for path in paths}
    for path in paths:
        cells = sweep_cells.make_cells(sweep_cells.load_sweep(path), Path("/nowhere"))
        assert len({cell.keys["translation"] for cell in cells}) == 1, "one translation for the whole lab"


def test_an_interval_over_seeds_is_students():
    found = mean_of_runs([0.4, 0.6])
    assert found.value == pytest.approx(0.5) and found.high == pytest.approx(0.5 + 12.7062 * 0.1, abs=1e-3)
    found = mean_of_runs([1.0, 2.0, 3.0])
    assert found.low == pytest.approx(2 - 4.30265 / 3**0.5, abs=1e-3)


# ---------------------------------------------------------------- a real sweep of a tiny model, killed on the way


def tiny_profile(folder: Path) -> Path:
    """`mini` with a random model of a few thousand weights."""
    values = yaml.safe_load((ROOT / "profiles" / "mini.yaml").read_text(encoding="utf-8"))
    values |= {"name": "tiny", "model": str(tiny_models.save_tiny(folder / "model"))}
    values["sft"] |= {"max_length": 2048, "num_train_epochs": 1}
    values["dpo"] |= {"max_length": 2048, "watch_prompts": 0}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


# The command, with bare notebooks: what the real ones show takes longer than the stages.
COMMAND = """
import sys
from pathlib import Path
from types import SimpleNamespace
from phoenix_utils import cli, pipeline

folder = Path(sys.argv.pop(1))
pipeline.notebook_path = lambda stage: folder / f"{pipeline.STAGE_FOLDERS[stage]}.ipynb"
cli.main()
"""


# A tiny random model translates nothing that a filter would keep: these two stages leave packaged rows instead.
ROWS = """
from phoenix_utils import artifacts, corpora, pipeline, tables

stage = pipeline.STAGES["{stage}"]
settings = stage.settings_model().from_namespace(globals())
with artifacts.open_stage("{stage}", settings, stage.inputs(settings)) as run:
    for name, rows, schema in (
        ("chat", corpora.read_chat("package:conversations", 4), corpora.CHAT),
        ("preferences", corpora.read_preferences("package:preferences", 4), corpora.PREFERENCES),
    ):
        file = f"{{name}}/rows.parquet" if "{stage}" == "translation" else f"{{name}}.parquet"
        tables.write_rows(run.folder / file, list(rows), schema)
"""
TRAIN = """
from phoenix_utils import pipeline

stage = pipeline.STAGES["{stage}"]
stage.module.run(stage.settings_model().from_namespace(globals()));
"""


def bare_notebooks(folder: Path) -> Path:
    """A notebook for each stage: its parameters, and a cell with the work."""
    new = nbformat.v4
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    folder.mkdir()
    for stage in pipeline.RUN_STAGES:
        model = pipeline.STAGES[stage].settings_model()
        run = (ROWS if stage in ("translation", "filtering") else TRAIN).format(stage=stage)
        parameters = new.new_code_cell(notebooks.parameters_source(model), metadata={"tags": ["parameters"]})
        notebook = new.new_notebook(cells=[parameters, new.new_code_cell(run)], metadata=kernel)
        nbformat.write(notebook, folder / f"{artifacts.STAGE_FOLDERS[stage]}.ipynb")
    return folder


def run_command(path: Path, out: Path) -> subprocess.Popen:
    command = [sys.executable, "-c", COMMAND, str(path.parent / "notebooks"), "sweep", str(path), "--out", str(out)]
    environment = {**os.environ, "PHOENIX_CACHE": str(out.parent / "cache"), "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.fixture(scope="module")
def killed_and_finished(tmp_path_factory):
    """A sweep of three cells, one of which must fail, killed when its SFT stage was done and started again."""
    folder = tmp_path_factory.mktemp("sweep")
    arms = {"no pair fits": {"dpo.max_length": 16}, "plain": {}, "high beta": {"dpo.beta": 0.5}}
    metrics = ["loss_last", "rewards/margins"]
    path = sweep_file(folder, profile=str(tiny_profile(folder)), arms=arms, until="dpo", metrics=metrics)
    bare_notebooks(folder / "notebooks")
    out = folder / "out"
    first = out / "cells" / "01_no_pair_fits"
    process, deadline = run_command(path, out), time.monotonic() + 600
    while not (first / "notebooks" / "03_sft.ipynb").is_file():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.05)
    # A kernel is a session of its own, and would live on until it notices.
    for each in [*psutil.Process(process.pid).children(recursive=True), process]:
        each.kill()
    process.communicate()
    before = (first / "03_sft" / "adapter" / "adapter_model.safetensors").stat()
    process = run_command(path, out)
    stdout, stderr = process.communicate(timeout=900)
    return out, before, process.returncode, stdout, stderr


def test_a_failing_cell_is_named_and_the_others_finish(killed_and_finished):
    out, _, code, stdout, stderr = killed_and_finished
    assert code == 1 and "Traceback" not in stderr
    assert "1 of 3 cells failed, the others are done" in stderr and "01_no_pair_fits: 04_dpo failed" in stderr
    assert "none of the" in stderr and "pairs has at most 16 tokens" in stderr
    cells = {cell["cell"]: cell for cell in artifacts.read_json(out / "cells.json")["cells"]}
    assert [bool(cells[name]["failure"]) for name in sorted(cells)] == [True, False, False]
    table = (out / "table.md").read_text()
    assert "| plain | 1 |" in table and "| high beta | 1 |" in table and "| no pair fits | 0 of 1 | – | – |" in table
    assert (out / "loss_last.svg").is_file()
    assert "sharing equal stages saved" in stdout


def test_what_was_done_before_the_kill_is_kept_and_what_is_equal_is_one_file(killed_and_finished):
    out, before, *_ = killed_and_finished
    first, last = (out / "cells" / name for name in ("01_no_pair_fits", "03_high_beta"))
    weights = "03_sft/adapter/adapter_model.safetensors"
    assert os.path.samefile(first / weights, last / weights)
    assert (first / weights).stat().st_ino == before.st_ino, "SFT was not run again"
    assert not os.path.samefile(out / "cells/02_plain/04_dpo/metrics.json", last / "04_dpo/metrics.json")
    cells = artifacts.read_json(out / "cells.json")
    assert cells["cells"][2]["shared"] == ["translation", "filtering", "sft"] and cells["seconds_saved"] > 0
    # A linked stage is as good as one that was run: the runner skips it.
    plan = json.loads((last / "03_sft/manifest.json").read_text())
    assert plan["status"] == "complete" and (last / "notebooks/03_sft.ipynb").is_file()
    assert artifacts.read_json(last / "04_dpo/manifest.json")["settings"]["beta"] == 0.5


def test_the_same_command_again_runs_only_what_failed(killed_and_finished, monkeypatch):
    out, ran = killed_and_finished[0], []
    folder = out.parent / "notebooks"
    monkeypatch.setattr(pipeline, "notebook_path", lambda stage: folder / f"{artifacts.STAGE_FOLDERS[stage]}.ipynb")
    monkeypatch.setattr(pipeline, "run_notebook", lambda stage, settings, show: ran.append((stage, settings.run_dir)))
    asked = sweep_cells.load_sweep(out.parent / "sweep.yaml")
    cells = sweep.run_sweep(asked, lambda line: None, out=str(out))
    assert ran == [("dpo", str(out / "cells" / "01_no_pair_fits"))]
    assert sweep_table.arm_values(asked, cells)["plain"]["loss_last"].value > 0


def test_the_table_can_show_what_dpo_changed_and_how_its_reward_orders_unseen_pairs(tmp_path):
    folder = artifacts.stage_path(str(tmp_path), "evaluation")
    shown = {"value": 0.8, "low": 0.7, "high": 0.9, "n": 60}
    paired = {"dpo-sft": {"nll_per_token": {"value": 0.05, "low": 0.04, "high": 0.06, "n": 40}}, "sft-base": {}}
    artifacts.write_json(folder / "scores.json", {"dpo": {"stop_share": shown}, "sft": {"stop_share": shown}})
    artifacts.write_json(folder / "differences.json", {"paired": paired, "preference": {"dpo_reward": shown}})
    plan = SimpleNamespace(run_dir=tmp_path)
    found = sweep_table.cell_values(SimpleNamespace(plan=plan, model="dpo"))
    assert (found["nll_per_token_minus_sft"].value, found["reward_accuracy"].high) == (0.05, 0.9)
    assert set(sweep_table.cell_values(SimpleNamespace(plan=plan, model="sft"))) == {"stop_share"}
