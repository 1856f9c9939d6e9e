"""The run directory: atomic writes, skip, resume, refusal, and what a kill leaves behind."""

import errno
import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from phoenix_utils import artifacts
from phoenix_utils.artifacts import open_stage, write_atomic, write_json
from phoenix_utils.errors import PhoenixError
from phoenix_utils.profile import StageSettings


class Demo(StageSettings):
    knob: int = 1


def finish(settings: Demo, source: Path, text: str = "made") -> bool:
    """Do a stage's work; True if there was any to do."""
    with open_stage("sft", settings, {"source": source}) as stage:
        if stage.is_complete:
            return False
        stage.count("rows", 3)
        (stage.folder / "product.txt").write_text(text)
        return True


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source.txt"
    path.write_text("input")
    return path


def test_a_finished_stage_is_skipped_and_its_manifest_tells_what_made_it(tmp_path, source):
    settings = Demo(run_dir=str(tmp_path / "run"))
    assert finish(settings, source) is True
    assert finish(settings, source) is False
    manifest = json.loads((tmp_path / "run/03_sft/manifest.json").read_text())
    assert manifest["status"] == "complete" and manifest["settings"]["knob"] == 1
    assert manifest["counts"] == {"rows": 3} and "run_dir" not in manifest["settings"]
    assert manifest["outputs"]["product.txt"]["bytes"] == 4
    assert manifest["inputs"]["source"].startswith("sha256:")


def test_other_settings_or_inputs_are_refused_by_name_and_change_nothing(tmp_path, source):
    settings = Demo(run_dir=str(tmp_path / "run"))
    finish(settings, source)
    with pytest.raises(PhoenixError, match=r"knob 1 \(now 2\).*--redo"):
        finish(settings.model_copy(update={"knob": 2}), source)
    source.write_text("changed")
    with pytest.raises(PhoenixError, match="another source"):
        finish(settings, source)
    assert (tmp_path / "run/03_sft/product.txt").read_text() == "made"


def test_a_setting_that_no_longer_decides_anything_refuses_no_earlier_run(tmp_path, source):
    class Later(Demo):
        def fingerprint_values(self):
            return {key: value for key, value in super().fingerprint_values().items() if key != "knob"}

    finish(Demo(run_dir=str(tmp_path / "run")), source)
    assert finish(Later(run_dir=str(tmp_path / "run"), knob=2), source) is False


def test_redo_keeps_the_replaced_results(tmp_path, source):
    settings = Demo(run_dir=str(tmp_path / "run"))
    finish(settings, source)
    assert finish(settings.model_copy(update={"knob": 2, "redo": True}), source, "new") is True
    assert (tmp_path / "run/03_sft/product.txt").read_text() == "new"
    (kept,) = (tmp_path / "run/replaced").glob("03_sft-*/product.txt")
    assert kept.read_text() == "made"


def test_a_failed_attempt_leaves_the_stage_open_for_the_next(tmp_path, source):
    settings = Demo(run_dir=str(tmp_path / "run"))
    with pytest.raises(RuntimeError), open_stage("sft", settings, {"source": source}) as stage:
        (stage.folder / "part.txt").write_text("half")
        raise RuntimeError
    assert not artifacts.is_current("sft", settings, {"source": source})
    with open_stage("sft", settings, {"source": source}) as stage:
        assert not stage.is_complete and (stage.folder / "part.txt").read_text() == "half"
    assert artifacts.is_current("sft", settings, {"source": source})


def test_a_removed_or_cut_product_makes_the_stage_unfinished_again(tmp_path, source):
    settings = Demo(run_dir=str(tmp_path / "run"))
    finish(settings, source)
    (tmp_path / "run/03_sft/product.txt").write_text("m")
    assert not artifacts.is_current("sft", settings, {"source": source})
    assert finish(settings, source) is True


def test_a_changed_byte_makes_the_stage_unfinished_again_and_what_is_whole_stays(tmp_path, source):
    settings = Demo(run_dir=str(tmp_path / "run"))
    finish(settings, source)
    with open_stage("dpo", settings, {"source": source}) as stage:
        (stage.folder / "one.txt").write_text("one")
        (stage.folder / "two.txt").write_text("two")
    (stage.folder / "one.txt").write_text("One")
    with pytest.raises(PhoenixError, match=r"one.txt is missing or damaged .*run the stage that made it again"):
        finish(settings, stage.folder)
    assert not artifacts.is_current("dpo", settings, {"source": source})
    with open_stage("dpo", settings, {"source": source}) as again:
        assert not again.is_complete and not (again.folder / "one.txt").exists()
        assert (again.folder / "two.txt").read_text() == "two"
        with pytest.raises(PhoenixError, match="04_dpo is not finished"):
            artifacts.check_products(again.folder)
        (again.folder / "one.txt").write_text("one")
    (kept,) = (tmp_path / "run/replaced").glob("04_dpo-*/one.txt")
    assert kept.read_text() == "One"


def test_a_kept_piece_of_an_unfinished_stage_is_there_again_only_if_it_is_whole(tmp_path, source):
    settings = Demo(run_dir=str(tmp_path / "run"))
    with pytest.raises(RuntimeError), open_stage("sft", settings, {"source": source}) as stage:
        for name in ("good", "bad"):
            (stage.folder / name).write_text(name)
            stage.keep(stage.folder / name)
        raise RuntimeError
    (stage.folder / "bad").write_text("Bad")
    (stage.folder / ".good.99.partial").write_text("half")
    with open_stage("sft", settings, {"source": source}):
        assert {path.name for path in stage.folder.iterdir()} == {"manifest.json", "good"}


def test_a_piece_that_is_written_anew_stays_where_a_kill_comes_before_it_is_kept_again(tmp_path, source):
    settings = Demo(run_dir=str(tmp_path / "run"))
    with pytest.raises(RuntimeError), open_stage("sft", settings, {"source": source}) as stage:
        rows = stage.folder / "rows"
        for text in ("one", "one two"):
            stage.forget(rows)
            rows.write_text(text)
            if text == "one":
                stage.keep(rows)
        raise RuntimeError
    with open_stage("sft", settings, {"source": source}):
        assert rows.read_text() == "one two"


@pytest.mark.parametrize("name", ["answers_kept.jsonl", "judge_kept.jsonl", "votes.jsonl", "segments.sqlite"])
def test_what_grows_and_checks_itself_stays_with_a_damaged_row(tmp_path, source, name):
    settings = Demo(run_dir=str(tmp_path / "run"))
    with open_stage("sft", settings, {"source": source}) as stage:
        (stage.folder / "product.txt").write_text("made")
        (stage.folder / name).write_text("paid for")
    manifest = artifacts.read_json(stage.folder / "manifest.json")
    assert set(manifest["outputs"]) == {"product.txt"}
    manifest["outputs"][name] = {"sha256": "of an earlier version"}
    write_json(stage.folder / "manifest.json", manifest)
    assert artifacts.is_current("sft", settings, {"source": source})
    (stage.folder / "product.txt").write_text("Made")
    with open_stage("sft", settings, {"source": source}) as again:
        assert not again.is_complete and (stage.folder / name).read_text() == "paid for"


def test_a_file_that_stays_the_same_is_read_once(tmp_path, monkeypatch):
    path, read = tmp_path / "weights", []
    digest = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *words: read.append(words) or digest(*words))
    path.write_text("one")
    first = artifacts.sha256_file(path)
    assert artifacts.sha256_file(path) == first and len(read) == 2, "it may still change within a tick of the clock"
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() + 10**10)
    assert {artifacts.sha256_file(path) for _ in range(3)} == {first} and len(read) == 3
    before = path.stat()
    time.sleep(0.02)
    path.write_text("two")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert artifacts.sha256_file(path) != first, "of the same size, with the old time of writing"


def test_a_product_that_may_not_be_read_is_one_sentence(tmp_path, source, monkeypatch):
    def closed(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    with open_stage("sft", Demo(run_dir=str(tmp_path / "run")), {"source": source}) as stage:
        (stage.folder / "product").write_text("made")
    monkeypatch.setattr("builtins.open", closed)
    with pytest.raises(PhoenixError, match="product cannot be read: mend its permissions"):
        artifacts.damaged_products(stage.folder, stage.manifest)


def test_trouble_with_the_machine_inside_a_stage_is_one_sentence(tmp_path, source):
    settings = Demo(run_dir=str(tmp_path / "run"))
    for error, words in (
        (OSError(errno.ENOSPC, "No space left on device"), "no space left for .*03_sft"),
        (sqlite3.OperationalError("database or disk is full"), "no space left for .*03_sft"),
        (MemoryError(), "memory ran out in work on .*03_sft"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "memory ran out"),
    ):
        with pytest.raises(PhoenixError, match=words), open_stage("sft", settings, {"source": source}):
            raise error
    with pytest.raises(KeyError), open_stage("sft", settings, {"source": source}):
        raise KeyError("a defect of our own")


def test_a_missing_input_names_the_stage_before(tmp_path):
    with pytest.raises(PhoenixError, match="does not exist: run the stage that makes it first"):
        finish(Demo(run_dir=str(tmp_path / "run")), tmp_path / "nothing.parquet")


def test_two_processes_never_work_in_one_folder(tmp_path, source):
    settings = Demo(run_dir=str(tmp_path / "run"))
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from phoenix_utils.artifacts import open_stage\n"
        "from phoenix_utils.profile import StageSettings\n"
        f"with open_stage('sft', StageSettings(run_dir={str(tmp_path / 'run')!r}), {{}}):\n"
        "    print('in', flush=True); time.sleep(60)\n"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "in\n"
        with pytest.raises(PhoenixError, match="another process"):
            finish(settings, source)
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait()
    # The lock dies with its process: a kill needs no cleaning up.
    time.sleep(0.1)
    with open_stage("dpo", settings, {"source": source}):
        pass


def test_write_atomic_leaves_the_old_file_when_the_block_fails(tmp_path):
    path = tmp_path / "file.json"
    write_json(path, {"a": 1})
    with pytest.raises(RuntimeError), write_atomic(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert json.loads(path.read_text()) == {"a": 1} and os.listdir(tmp_path) == ["file.json"]


@pytest.mark.parametrize("number, words", [(errno.ENOSPC, "no space left"), (errno.EROFS, "cannot be read or written")])
def test_disk_trouble_is_one_sentence_and_nothing_stays(tmp_path, number, words):
    with pytest.raises(PhoenixError, match=words), write_atomic(tmp_path / "file") as partial:
        partial.write_text("half")
        raise OSError(number, os.strerror(number))
    assert os.listdir(tmp_path) == []


def test_a_damaged_manifest_is_one_sentence(tmp_path, source):
    settings = Demo(run_dir=str(tmp_path / "run"))
    finish(settings, source)
    (tmp_path / "run/03_sft/manifest.json").write_text("{")
    with pytest.raises(PhoenixError, match="manifest.json is damaged"):
        finish(settings, source)


def test_a_manifest_that_was_changed_behind_our_back_is_one_sentence(tmp_path, source):
    settings = Demo(run_dir=str(tmp_path / "run"))
    finish(settings, source)
    path = tmp_path / "run/03_sft/manifest.json"
    path.write_text(path.read_text().replace('"rows": 3', '"rows": 2'))
    with pytest.raises(PhoenixError, match=r"manifest.json is damaged \(its checksum is another\)"):
        finish(settings, source)


def test_a_relative_run_directory_lies_below_the_project_from_anywhere_inside_it(monkeypatch):
    root = Path(__file__).resolve().parent.parent
    for folder in (root, root / "notebooks", root / "tests"):
        monkeypatch.chdir(folder)
        assert artifacts.resolve_run_dir("runs/mini") == root / "runs/mini"
