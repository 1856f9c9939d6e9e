"""Tests against a real vLLM, which has an environment of its own: `make test-vllm`.

This folder must stay without an `__init__.py`: it would then be imported in place of the package of its name.
"""

import os

import pytest
import real_vllm
from real_vllm import Reference, Served

# Small enough for a laptop, and the loopback device for what vLLM's processes tell each other.
os.environ.update(VLLM_CPU_KVCACHE_SPACE="2", VLLM_HOST_IP="127.0.0.1", VLLM_NO_USAGE_STATS="1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")


def pytest_terminal_summary(terminalreporter):
    """Print what was measured, whether tests passed or failed."""
    for line in real_vllm.measured:
        terminalreporter.write_line(line)


# The references are made before vLLM starts in this process, which takes the cores for itself.
@pytest.fixture(scope="session")
def translations() -> Reference:
    """20 zero-shot translations with the packaged adapter."""
    return real_vllm.reference(real_vllm.ADAPTER)


@pytest.fixture(scope="session")
def base_translations() -> Reference:
    """20 translations of the base model after examples: a long beginning that all prompts share."""
    return real_vllm.reference(None)


@pytest.fixture(scope="session")
def newline_first() -> Reference:
    """Answers that begin with a newline, which is a stop text."""
    return real_vllm.reference(None, real_vllm.NEWLINE_FIRST, real_vllm.NEWLINE_PARAMS)


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Served:
    """A running vLLM server."""
    with real_vllm.vllm_serve(tmp_path_factory.mktemp("vllm")) as server:
        yield server
