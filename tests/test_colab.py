"""The way of a reader on a free Colab session, gone through with a described T4: no bf16, no flash-attn, no gate."""

import re
from pathlib import Path

import matplotlib
import pytest
import tiny_models

from phoenix_utils import artifacts, batches, hardware, memory, needs, notebooks, pipeline, training
from phoenix_utils.dpo import stage as dpo_stage
from phoenix_utils.hardware import Gpu, Hardware
from phoenix_utils.profile import find_profile, load_profile
from phoenix_utils.sft import stage as sft_stage

ROOT = Path(__file__).resolve().parent.parent
T4 = Hardware(2, 12.7, (Gpu("Tesla T4", 15.0, (7, 5)),))
# Owners on the hub whose weights ask for a signature first.
GATED = ("meta-llama/", "google/", "mistralai/", "CohereLabs/")


@pytest.fixture
def colab():
    return load_profile(find_profile("colab", [ROOT / "profiles"]), pipeline.settings_models())


def test_the_profile_fits_a_t4(colab, monkeypatch):
    monkeypatch.setattr(hardware, "describe", lambda: T4)
    assert needs.machine_problems(pipeline.Plan(colab, None, list(pipeline.RUN_STAGES))) == []
    for stage in ("translation", "sft", "dpo", "evaluation"):
        assert memory.estimate_stage_gb(stage, colab.stages[stage], T4) < 15, stage


def test_training_is_in_float16_with_what_a_t4_has(colab, tmp_path):
    class Notes:
        folder = tmp_path

        def note(self, key, value):
            pass

    for module, name in ((sft_stage, "sft"), (dpo_stage, "dpo")):
        dtype = training.resolve_dtype(colab.stages[name].dtype, T4)
        assert dtype.name == "float16" and "Tesla T4" in dtype.reason
        passed = module.trainer_keywords(colab.stages[name], Notes(), dtype, T4)
        assert (passed["fp16"], passed["bf16"], passed["use_cpu"]) == (True, False, False)
        assert passed["per_device_train_batch_size"] * passed["gradient_accumulation_steps"] == 32
    assert batches.device_count(T4) == 1


def test_nothing_needs_flash_attention_or_a_signature(colab):
    for path in [*(ROOT / "phoenix_utils").rglob("*.py"), *(ROOT / "notebooks").glob("*.ipynb")]:
        assert not re.search(r"flash_attn|flash_attention_2", path.read_text(encoding="utf-8")), path
    for stage in colab.stages.values():
        assert not stage.model.startswith(GATED)


def test_the_sft_notebook_runs_cell_by_cell(colab, tmp_path, monkeypatch):
    """Every cell with Colab's settings and a described T4, on a tiny model; only training and answers see this CPU."""
    matplotlib.use("Agg")
    model = tiny_models.save_tiny(tmp_path / "tiny")
    tiny_models.save_kept_rows(tmp_path / "run", tiny_models.rows("conversations", 6), [])
    changes = {"run_dir": str(tmp_path / "run"), "model": str(model), "global_batch": 4, "lora_r": 4}
    settings = colab.stages["sft"].model_copy(update=changes)
    names = {"__name__": "__main__"}
    describe = hardware.describe
    for cell in notebooks.read_notebook(pipeline.notebook_path("sft"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] != "code" or "install" in cell["metadata"].get("tags", ()):
            continue
        here = re.search(r"\brun\(settings\)|sample_answers\(", source)
        monkeypatch.setattr(hardware, "describe", describe if here else lambda: T4)
        exec(compile(source, source.split("\n")[0], "exec"), names)
        if "parameters" in cell["metadata"].get("tags", ()):
            names |= settings.model_dump()
    assert names["settings"] == settings
    assert artifacts.read_json(tmp_path / "run" / "03_sft" / "manifest.json")["status"] == "complete"
