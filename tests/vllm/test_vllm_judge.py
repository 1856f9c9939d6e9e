"""A real judge: vLLM's server with the embedded model, most of whose replies are no verdict, killed half-way."""

import os
import signal
import subprocess
import sys
import time

import pytest
import real_vllm
from real_vllm import LANGUAGES, MODEL

from phoenix_utils.errors import PhoenixError
from phoenix_utils.evaluation import mt_bench, verdicts
from phoenix_utils.evaluation.judge import open_judge
from phoenix_utils.evaluation.kept import Kept

pytest.importorskip("vllm.version", reason="vLLM is not installed in this environment: run make test-vllm")

QUESTIONS = 12
CLIENT = """
import sys
from pathlib import Path
sys.path.insert(0, {folder!r})
from test_vllm_judge import LANGUAGES, MODEL, requests, Kept, open_judge
judge = open_judge(MODEL, {url!r}, Kept(Path({path!r})), languages=LANGUAGES, concurrency=2, max_new_tokens=48)
judge.judge(requests())
"""


def requests():
    """References as answers: good German that a judge can say something about."""
    questions = mt_bench.read_questions(None, "de", QUESTIONS)
    rows = [
        {"model": "m", "question_id": q.id, "category": q.category, "turn": 0, "prompt": q.turns[0],
         "answer": q.reference(0) or "Das kommt darauf an.", "reference": ""}
        for q in questions
    ]  # fmt: skip
    return mt_bench.score_requests(rows, "de")


def judge_at(url, path):
    judge = open_judge(MODEL, url, Kept(path), languages=LANGUAGES, concurrency=2, max_new_tokens=48)
    judge.engine.retries = 1
    return judge


def test_unparsed_replies_are_counted_exactly_and_kills_lose_nothing(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    path = tmp_path / "kept.jsonl"
    with real_vllm.vllm_serve(tmp_path / "one") as server:
        code = CLIENT.format(folder=os.path.dirname(__file__), url=server.url, path=str(path))
        client = subprocess.Popen([sys.executable, "-c", code])
        end = time.monotonic() + 240
        while time.monotonic() < end and (not path.is_file() or path.read_bytes().count(b"\n") < 2):
            time.sleep(0.2)
        client.send_signal(signal.SIGKILL)
        client.wait()
        first = dict(Kept(path).rows)
        assert 2 <= len(first) < QUESTIONS

        judge, stopped = judge_at(server.url, path), []

        def kill_the_server(_):
            stopped.append(len(judge.kept.rows))
            if len(judge.kept.rows) >= len(first) + 2:
                server.kill()

        with pytest.raises(PhoenixError, match="the same command resumes"):
            judge.judge(requests(), kill_the_server)
        second = dict(Kept(path).rows)
        assert first.items() <= second.items() and len(first) + 2 <= len(second)
    with real_vllm.vllm_serve(tmp_path / "two") as server:
        rows = judge_at(server.url, path).judge(requests())
        assert second.items() <= Kept(path).rows.items()
        assert judge_at("http://127.0.0.1:9/v1", path).judge(requests()) == rows, "everything comes from what was kept"
    assert len(rows) == QUESTIONS
    missing = [row for row in rows if row["score"] is None]
    assert all(row["attempts"] == 2 and row["why"] in ("no verdict", "empty") for row in missing)
    for row in rows:
        assert verdicts.score(row["reply"]).score == row["score"]
    real_vllm.measured.append(
        f"judge {MODEL} over HTTP: {len(rows)} answers, {len(missing)} without a verdict after two attempts, "
        f"{sum(row['attempts'] == 2 for row in rows)} asked again, client and server killed once each"
    )
