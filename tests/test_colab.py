"""The way of a reader on a free Colab session, gone through with a described T4: no bf16, no flash-attn, no gate."""

import re
import sys
import types
from pathlib import Path

import matplotlib
import pytest
import tiny_models

from phoenix_utils import artifacts, batches, colab, hardware, memory, needs, notebooks, pipeline, training
from phoenix_utils.dpo import stage as dpo_stage
from phoenix_utils.hardware import Gpu, Hardware
from phoenix_utils.profile import find_profile, load_profile
from phoenix_utils.sft import stage as sft_stage

ROOT = Path(__file__).resolve().parent.parent
T4 = Hardware(2, 12.7, (Gpu("Tesla T4", 15.0, (7, 5)),))
# Owners on the hub whose weights ask for a signature first.
GATED = ("meta-llama/", "google/", "mistralai/", "CohereLabs/")


@pytest.fixture
def profile():
    return load_profile(find_profile("colab", [ROOT / "profiles"]), pipeline.settings_models())


def test_the_profile_fits_a_t4(profile, monkeypatch):
    monkeypatch.setattr(hardware, "describe", lambda: T4)
    assert needs.machine_problems(pipeline.Plan(profile, None, list(pipeline.RUN_STAGES))) == []
    for stage in ("translation", "sft", "dpo", "evaluation"):
        assert memory.estimate_stage_gb(stage, profile.stages[stage], T4) < 15, stage


def test_training_is_in_float16_with_what_a_t4_has(profile, tmp_path):
    class Notes:
        folder = tmp_path

        def note(self, key, value):
            pass

    for module, name in ((sft_stage, "sft"), (dpo_stage, "dpo")):
        dtype = training.resolve_dtype(profile.stages[name].dtype, T4)
        assert dtype.name == "float16" and "Tesla T4" in dtype.reason
        passed = module.trainer_keywords(profile.stages[name], Notes(), dtype, T4)
        assert (passed["fp16"], passed["bf16"], passed["use_cpu"]) == (True, False, False)
        assert passed["per_device_train_batch_size"] * passed["gradient_accumulation_steps"] == 32
    assert batches.device_count(T4) == 1


def test_nothing_needs_flash_attention_or_a_signature(profile):
    for path in [*(ROOT / "phoenix_utils").rglob("*.py"), *(ROOT / "notebooks").glob("*.ipynb")]:
        assert not re.search(r"flash_attn|flash_attention_2", path.read_text(encoding="utf-8")), path
    for stage in profile.stages.values():
        assert not stage.model.startswith(GATED)


def test_the_sft_notebook_runs_cell_by_cell(profile, tmp_path, monkeypatch):
    """Every cell with Colab's settings and a described T4, on a tiny model; only training and answers see this CPU."""
    matplotlib.use("Agg")
    model = tiny_models.save_tiny(tmp_path / "tiny")
    tiny_models.save_kept_rows(tmp_path / "run", tiny_models.rows("conversations", 6), [])
    changes = {"run_dir": str(tmp_path / "run"), "model": str(model), "global_batch": 4, "lora_r": 4}
    settings = profile.stages["sft"].model_copy(update=changes)
    names = {"__name__": "__main__"}
    describe = hardware.describe
    for cell in notebooks.read_notebook(pipeline.notebook_path("sft"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] != "code" or "install" in cell["metadata"].get("tags", ()):
            continue
        here = re.search(r"\brun\(settings|sample_answers\(", source)
        monkeypatch.setattr(hardware, "describe", describe if here else lambda: T4)
        exec(compile(source, source.split("\n")[0], "exec"), names)
        if "parameters" in cell["metadata"].get("tags", ()):
            names |= settings.model_dump()
    assert names["settings"] == settings
    assert artifacts.read_json(tmp_path / "run" / "03_sft" / "manifest.json")["status"] == "complete"


def session(monkeypatch, tmp_path) -> list[str]:
    """A described Colab session with a T4, in a folder of its own; returns where its Drive was mounted."""
    mounted: list[str] = []
    module = types.ModuleType("google.colab")
    module.drive = types.SimpleNamespace(mount=mounted.append)
    monkeypatch.setitem(sys.modules, "google.colab", module)
    monkeypatch.setattr(hardware, "describe", lambda: T4)
    monkeypatch.chdir(tmp_path)
    return mounted


def test_outside_colab_nothing_happens(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    colab.prepare(keep_on_drive=True, mount=str(tmp_path / "drive"))
    assert not list(tmp_path.iterdir()) and not capsys.readouterr().out


def test_a_session_says_which_gpu_it_has_and_leaves_the_drive_alone(tmp_path, monkeypatch, capsys):
    mounted = session(monkeypatch, tmp_path)
    colab.prepare()
    said = capsys.readouterr().out
    assert "Colab with Tesla T4; training computes in float16" in said and "phoenix run colab" in said
    assert "keep_on_drive = True" in said, "the next notebook's session does not have these results"
    assert not mounted and not list(tmp_path.iterdir())


def test_results_on_the_drive_are_found_by_the_session_after_a_disconnect(tmp_path, monkeypatch):
    mounted = session(monkeypatch, tmp_path)
    (tmp_path / "runs/mini").mkdir(parents=True)
    (tmp_path / "runs/mini/before").write_text("made before the Drive was asked for")
    colab.prepare(keep_on_drive=True, mount=str(tmp_path / "drive"))
    assert mounted == [str(tmp_path / "drive")]
    with artifacts.write_atomic(artifacts.resolve_run_dir("runs/mini") / "after") as partial:
        partial.write_text("made on the Drive")
    (tmp_path / "runs").unlink()  # the session ends, and its disk is forgotten
    colab.prepare(keep_on_drive=True, mount=str(tmp_path / "drive"))
    colab.prepare(keep_on_drive=True, mount=str(tmp_path / "drive"))
    assert sorted(path.name for path in (tmp_path / "runs/mini").iterdir()) == ["after", "before"]
