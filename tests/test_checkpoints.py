"""Checkpoints: only what is as it was written is gone on from, and one process alone clears up."""

import pytest

from phoenix_utils import artifacts, checkpoints


@pytest.fixture
def folder(tmp_path):
    """Checkpoints 2, 9 and 10, each with weights and the log of its time, in the folder of a stage."""
    folder = tmp_path / "checkpoints"
    for step in (2, 9, 10):
        (tmp_path / "log.jsonl").write_text(f'{{"step": {step}}}\n')
        (folder / f"checkpoint-{step}").mkdir(parents=True)
        (folder / f"checkpoint-{step}" / "weights").write_bytes(bytes(range(32)))
        checkpoints.mark_whole(folder, step)
    return folder


def test_the_newest_checkpoint_counts_with_its_log_and_those_that_are_cut_off_go(folder):
    (folder.parent / "log.jsonl").write_text("later")
    (folder / "checkpoint-11").mkdir()
    assert checkpoints.resume_from(folder) == folder / "checkpoint-10"
    assert not (folder / "checkpoint-11").exists()
    assert (folder.parent / "log.jsonl").read_text() == '{"step": 10}\n'
    assert checkpoints.resume_from(folder.parent / "nowhere" / "checkpoints") is None


def test_a_changed_byte_is_noticed_and_no_checkpoint_leaves_no_log(folder):
    for step in (2, 9, 10):
        (folder / f"checkpoint-{step}" / "weights").write_bytes(bytes(32))
    assert checkpoints.resume_from(folder) is None
    assert list(folder.iterdir()) == [] and not (folder.parent / "log.jsonl").exists()


def test_of_a_large_file_the_size_alone_decides(folder, monkeypatch):
    monkeypatch.setattr(checkpoints, "HASHED", 31)
    for step in (9, 10):
        checkpoints.mark_whole(folder, step)
    (folder / "checkpoint-10" / "weights").write_bytes(bytes(32))
    assert checkpoints.resume_from(folder).name == "checkpoint-10"
    (folder / "checkpoint-10" / "weights").write_bytes(bytes(33))
    assert checkpoints.resume_from(folder).name == "checkpoint-9"


def test_a_marker_of_an_earlier_version_counts(folder):
    artifacts.write_json(folder / "checkpoint-10" / checkpoints.MARKER, {"step": 10})
    assert checkpoints.resume_from(folder).name == "checkpoint-10"


def test_only_the_first_process_checks_and_removes(folder, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    (folder / "checkpoint-11").mkdir()
    monkeypatch.setattr(artifacts, "sha256_file", lambda path: pytest.fail("another process hashed a checkpoint"))
    assert checkpoints.resume_from(folder).name == "checkpoint-10"
    assert (folder / "checkpoint-11").exists() and (folder.parent / "log.jsonl").exists()
