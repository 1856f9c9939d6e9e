"""The runner and the command line: everything is validated first, failures say what to do, repeats are skipped."""

import io
import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
import tiny_run
from rich.console import Console

from phoenix_utils import artifacts, cli, pipeline
from phoenix_utils.errors import PhoenixError
from phoenix_utils.hardware import Gpu, Hardware

ROOT = Path(__file__).resolve().parent.parent


def phoenix(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    """The command as a user types it."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    command = [sys.executable, "-m", "phoenix_utils.cli", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=300)


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["run", "minni"], "unknown profile 'minni' (did you mean 'mini'?)"),
        (["run", "mini", "--set", "sft.learning_rat=1"], "unknown key 'sft.learning_rat' (did you mean"),
        (["run", "mini", "--set", "sft.learning_rate=fast"], "sft.learning_rate is 'fast'"),
        (["run", "mini", "--set", "stf.seed=1"], "unknown stage 'stf' (did you mean 'sft'?)"),
        (["run", "mini", "--from", "training"], "unknown stage 'training'"),
        (["run", "mini", "--set", "model=no/such/model"], "no/such/model"),
        (["check", "mini", "--set", "model=embedded:gpt-9"], "embedded:gpt-9"),
        (["check", "mini", "--set", "filtering.evaluation_questions=no.jsonl"], "no file or folder 'no.jsonl'"),
        (["check", "mini", "--set", f"translation.adapter={'a' * 300}"], "is a longer name than the disk takes"),
        (["adapt", "a" * 300], "is a longer name than the disk takes"),
        (["run", "mini", "--set", "language=nl", "--set", "translation.held_out_rows=0"], "nothing to ask in 'nl'"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_two(tmp_path, words, sentence):
    out = [] if words[0] == "check" else ["--out", str(tmp_path / "run")]
    done = phoenix(*words, *out)
    assert done.returncode == 2, done.stderr
    assert sentence in done.stderr and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists(), "nothing half-written"


def test_bad_data_is_one_sentence_and_exit_code_two(tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "odd.jsonl").write_text('{"a": 1, "b": 2}\n')
    for value, words in (
        ("nowhere.jsonl", "nowhere.jsonl"),
        ("empty.jsonl", "empty"),
        ("odd.jsonl", "layout"),
    ):
        path = tmp_path / value
        done = phoenix("run", "mini", "--set", f"translation.chat={path}", "--out", str(tmp_path / "run"))
        assert done.returncode == 2, done.stderr
        assert words in done.stderr and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
        assert not (tmp_path / "run").exists(), "nothing half-written"


@pytest.mark.parametrize("name", ["mini", "laptop", "colab", "single_gpu", "paper"])
def test_check_prints_every_setting_of_every_profile(name):
    done = phoenix("check", name)
    assert done.returncode == 0, done.stderr
    for stage, model in pipeline.settings_models().items():
        assert stage in done.stdout
        for key in set(model.model_fields) - {"run_dir", "redo"}:
            assert key in done.stdout
    runs = "this machine can run it" in done.stdout
    assert runs or "cannot run here: " in done.stdout


@pytest.mark.parametrize("method, config", [("full", "fsdp"), ("lora", "ddp")])
def test_check_prints_the_commands_for_several_gpus_and_accelerate_reads_them(method, config):
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    changes = (f"sft.method={method}", f"dpo.method={method}", "hardware.gpus=4")
    words = ["paper", *(word for change in changes for word in ("--set", change)), "--out", "runs/a test"]
    lines = [line for line in phoenix("check", *words).stdout.splitlines() if "accelerate launch" in line]
    for stage, line in zip(("sft", "dpo"), lines, strict=True):
        launch, *typed = shlex.split(line.removeprefix(f"{stage} on all GPUs: accelerate "))
        read = launch_command_parser().parse_args(typed)
        assert (launch, read.module, read.training_script) == ("launch", True, "phoenix_utils.cli")
        assert read.num_processes == 4 and read.training_script_args == [stage, *words]
        assert read.config_file.endswith(f"/{config}.yaml")
        assert load_config_from_file(read.config_file).num_processes == 8


def test_check_of_one_device_prints_no_such_command():
    assert "accelerate launch" not in phoenix("check", "mini").stdout


def test_what_the_machine_lacks_is_a_refusal(monkeypatch, tmp_path):
    t4 = Hardware(cores=2, ram_gb=12, gpus=(Gpu("Tesla T4", 15.0, (7, 5)),))
    monkeypatch.setattr("phoenix_utils.hardware.describe", lambda: t4)
    plan = pipeline.make_plan("paper", out=str(tmp_path / "run"))
    assert "needs 8 GPU(s) with 80 GB" in plan.problems[0]
    with pytest.raises(PhoenixError, match="cannot run here: it needs 8 GPU"):
        pipeline.execute(plan, print)
    assert not (tmp_path / "run").exists()


def test_questions_that_are_not_there_are_found_before_the_training(tmp_path):
    [problem] = pipeline.make_plan("mini", ["evaluation.mt_bench=no.jsonl", "evaluation.mt_bench_questions=8"]).problems
    assert "no file or folder 'no.jsonl'" in problem


def test_brackets_in_a_name_are_no_markup(tmp_path):
    done = phoenix("run", "mini", "--set", "hardware.ram_gb=9999", "--out", str(tmp_path / "q[/x][v2]"))
    assert done.returncode == 2 and "needs 9999 GB" in done.stderr and "q[/x][v2]" in done.stdout


def test_from_and_only_need_the_stages_before_them(tmp_path):
    with pytest.raises(PhoenixError, match="sft needs translation, which is not finished"):
        pipeline.make_plan("mini", out=str(tmp_path / "run"), start="sft")
    assert pipeline.make_plan("mini", out=str(tmp_path / "run"), only="translation").stages == ["translation"]


class NoInputs(pipeline.Stage):
    """A stage that reads nothing."""

    def inputs(self, settings):
        return {}


class Demo:
    """A stage of one notebook and one settings model, to try the runner itself in seconds."""

    def __init__(self, tmp_path, monkeypatch, source: str):
        from phoenix_utils.filtering import FilteringSettings

        self.settings = FilteringSettings(run_dir=str(tmp_path / "run"))
        self.path = tmp_path / "02_filtering.ipynb"
        cells = [
            nbformat.v4.new_code_cell("run_dir = ''", metadata={"tags": ["parameters"]}),
            nbformat.v4.new_code_cell(
                "from phoenix_utils.artifacts import open_stage\n"
                "from phoenix_utils.filtering import FilteringSettings\n"
                "settings = FilteringSettings.from_namespace(globals())"
            ),
            nbformat.v4.new_code_cell(source),
        ]
        language = {"language_info": {"name": "python"}}
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=language), self.path)
        monkeypatch.setattr(pipeline, "notebook_path", lambda stage: self.path)
        monkeypatch.setitem(pipeline.STAGES, "filtering", NoInputs("filtering"))

    def run(self, lines):
        profile = pipeline.make_plan("mini").profile.model_copy(update={"stages": {"filtering": self.settings}})
        plan = pipeline.Plan(profile, Path(self.settings.run_dir), ["filtering"])
        pipeline.execute(plan, lines.append)


WORK = (
    "with open_stage('filtering', settings, {}) as stage:\n"
    "    (stage.folder / 'product').write_text('x')\n"
    "    stage.count('rows', 3)\n"
)


@pytest.fixture
def plain_plan(monkeypatch):
    monkeypatch.setattr(pipeline.notebooks, "check_notebook", lambda path, model: None)
    monkeypatch.setattr(pipeline, "_check_inputs", lambda plan: None)


def test_a_notebook_runs_in_its_own_process_and_a_second_run_is_skipped(tmp_path, monkeypatch, plain_plan):
    demo = Demo(tmp_path, monkeypatch, WORK + "import os; print(os.getpid())")
    lines: list[str] = []
    demo.run(lines)
    assert "rows 3" in lines[0]
    executed = nbformat.read(tmp_path / "run/notebooks/02_filtering.ipynb", as_version=4)
    assert int(executed.cells[-1].outputs[0].text) != os.getpid()
    started = time.monotonic()
    demo.run(lines)
    assert "unchanged, skipped" in lines[1] and time.monotonic() - started < 2


def test_a_failure_names_cell_and_cause_keeps_the_notebook_and_is_not_skipped(tmp_path, monkeypatch, plain_plan):
    demo = Demo(tmp_path, monkeypatch, WORK + "raise ValueError('the cat is on the keyboard')")
    for _ in range(2):
        with pytest.raises(pipeline.StageFailed) as caught:
            demo.run([])
        text = str(caught.value)
        assert "02_filtering failed in cell 4" in text and "ValueError: the cat is on the keyboard" in text
        assert "run the same command again" in text and caught.value.user_error is False
    failed = json.loads((tmp_path / "run/notebooks/02_filtering.ipynb").read_text())
    assert failed["metadata"]["phoenix"]["failed"] is True
    assert any(output["output_type"] == "error" for cell in failed["cells"] for output in cell.get("outputs", []))


def test_a_traceback_and_an_output_show_no_secret(tmp_path, monkeypatch, plain_plan):
    token = "hf_" + "pLanTed0" * 5
    monkeypatch.setenv("OPENAI_API_KEY", "planted-key-4711")
    source = (
        "import os\nprint(dict(os.environ))\nraise ValueError(os.environ['OPENAI_API_KEY'], 'hf_' + 'pLanTed0' * 5)"
    )
    with pytest.raises(pipeline.StageFailed) as caught:
        Demo(tmp_path, monkeypatch, source).run([])
    written = [path.read_text() for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert any("ValueError" in text and "***" in text for text in written)
    assert not any(secret in text for secret in (token, "planted-key") for text in [*written, str(caught.value)])


def test_a_users_mistake_inside_a_notebook_stays_one(tmp_path, monkeypatch, plain_plan):
    demo = Demo(tmp_path, monkeypatch, "from phoenix_utils.errors import PhoenixError\nraise PhoenixError('mend it')")
    with pytest.raises(pipeline.StageFailed, match=r"failed in cell 4 .*: mend it\n") as caught:
        demo.run([])
    assert caught.value.user_error is True


def test_a_killed_kernel_is_explained(tmp_path, monkeypatch, plain_plan):
    demo = Demo(tmp_path, monkeypatch, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(pipeline.StageFailed, match="memory ran out"):
        demo.run([])


def test_another_runs_directory_is_refused_before_a_kernel_starts(tmp_path, monkeypatch, plain_plan):
    demo = Demo(tmp_path, monkeypatch, WORK)
    demo.run([])
    demo.settings = demo.settings.model_copy(update={"seed": 7})
    with pytest.raises(PhoenixError, match=r"seed 42 \(now 7\).*--out.*--redo"):
        demo.run([])
    assert artifacts.read_json(tmp_path / "run/02_filtering/manifest.json")["settings"]["seed"] == 42


def test_import_and_help_are_quick_to_start():
    """Not a timing: only that a heavy library never gets on this path is asserted (see test_notebooks)."""
    done = phoenix("--help")
    assert done.returncode == 0 and "translation" in done.stdout


def test_a_score_of_nothing_counted_is_shown_as_such_after_a_run(tmp_path):
    console = Console(file=io.StringIO(), width=200)
    cli._show_result(SimpleNamespace(run_dir=tiny_run.make_run(tmp_path / "[v2]")), console, 1.0)
    shown = console.file.getvalue()
    assert "[v2]/runs/tiny" in shown  # which is no markup
    assert re.search(r"form_share +│ n/a", shown) and re.search(r"chrf +│ 0\.625 ", shown)
