"""Shared fixtures: the real embedded model, loaded once for the whole run of the tests."""

import os
from pathlib import Path

import pytest

# A test that reaches for a hub should fail at once, not wait for a network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def no_native_bf16():
    """Tests compute in float32 on every CPU; those about bfloat16 ask for it."""
    from phoenix_utils import hardware

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hardware, "_cpu_flags", set)
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real benchmark data beside the project; tests that need it skip where it is absent."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the benchmark data (../shared/data) is not on this machine")
    return folder


@pytest.fixture(scope="session")
def trimmed_model_dir() -> Path:
    """The embedded model with its vocabulary trimmed to English and German, from the user's cache."""
    from phoenix_utils import embedded

    return embedded.ensure()


@pytest.fixture(scope="session")
def embedded_engine(trimmed_model_dir):
    """A transformers engine on the embedded model."""
    from phoenix_utils.engines import open_engine

    return open_engine("transformers", "embedded:gemma-3-270m", languages=("en", "de"))


@pytest.fixture
def serve():
    """Start a server with an answer function; all are stopped at the end."""
    from http_server import Server

    servers = []

    def start(answer):
        servers.append(Server(answer))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()
