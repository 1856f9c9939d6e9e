"""Translation on a real Ray cluster on this machine: the same table as without, and nothing lost with who dies."""

import gc
import importlib
import os
import signal
import socket
import subprocess
import sys
import time
import zlib
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

from phoenix_utils.decoding import Completion
from phoenix_utils.errors import PhoenixError

# Imported by the workers too, for the engine below: nothing here may take long to import.
ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Capitals:
    """An engine without a model: ALMA's source line in capitals, at once or after `wait` seconds a call.

    A fifth of its first answers is cut off, so that further attempts are made. Every call leaves a file with its
    prompts in `log`. Over the source `poison` its process is killed, `deaths` times; or `error` is raised.
    """

    log: str
    wait: float = 0.0
    poison: str = ""
    deaths: int = 0
    error: Exception | None = None

    def generate(self, prompts, params, on_batch=None):
        sources = [prompt.rpartition("\nEnglish: ")[2].removesuffix("\nGerman:") for prompt in prompts]
        died = len(list(Path(self.log).glob("died*")))
        if self.poison in sources:
            if self.error:
                raise self.error
            if died < self.deaths:
                (Path(self.log) / f"died{died}").touch()
                os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.wait)
        (Path(self.log) / f"{os.getpid()}-{time.monotonic_ns()}").write_text("\n".join(sources))
        done = [self.answer(source, params) for source in sources]
        if on_batch:
            on_batch(list(range(len(done))), done)
        return done

    def answer(self, source, params):
        number = zlib.crc32(source.encode())
        cut = number % 5 == 0 and params.repetition_penalty == 1.0
        return Completion(source.upper(), "length" if cut else "stop", -(number % 997) / 997)


class Elsewhere:
    """Names a module when it is pickled that is not on the workers' machine."""

    def __reduce__(self):
        return importlib.import_module, ("a_package_that_only_the_driver_has",)


class Doubler:
    """What a worker holds in the tests of the workers alone."""

    def double(self, piece):
        if isinstance(piece, Exception):
            raise piece
        return piece * 2


@pytest.fixture(scope="module")
def cluster():
    """One cluster for all tests; its address. Workers find this module."""
    import ray

    from phoenix_utils import ray_workers

    with pytest.MonkeyPatch.context() as patch:
        paths = [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
        ray_workers.join(None)
        yield ray.get_runtime_context().gcs_address
        ray.shutdown()


@pytest.fixture
def make(tmp_path):
    """Settings of a run in a folder of its own, so that none takes over what another has translated."""
    from phoenix_utils.translation import TranslationSettings

    def settings(name, **changes):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        values = {"run_dir": str(folder / "run"), "max_rows": 12, "adapter": "none", "prompt": "alma"}
        return TranslationSettings(**{**values, "ray_workers": 2, "ray_cpus": 0.4, **changes})

    return settings


@pytest.fixture
def translate(tmp_path):
    """Run the stage with the instant engine; returns both tables and what the engine was asked."""
    from phoenix_utils.tables import read_rows
    from phoenix_utils.translation import Translator, run

    number = count()

    def go(settings, **engine):
        log = Path(engine.pop("log", None) or tmp_path / f"log{next(number)}")
        log.mkdir(exist_ok=True)
        folder = run(settings, Translator(settings, Capitals(str(log), **engine)))
        calls = [path.read_text().split("\n") for path in log.iterdir() if not path.name.startswith("died")]
        return [list(read_rows(folder / kind)) for kind in ("chat", "preferences")], calls

    return go


def store(settings):
    """(done, all) segments of a run."""
    from phoenix_utils.translation import SegmentStore

    with SegmentStore(Path(settings.run_dir) / "01_translation" / "segments.sqlite") as found:
        totals = found.totals()
    return totals["done"], totals["segments"]


@pytest.fixture
def alone(make, translate):
    """The tables as one process makes them."""
    return translate(make("alone"))


def test_the_table_is_that_of_one_process_and_either_goes_on_with_the_others_run(cluster, make, translate, alone):
    from phoenix_utils.artifacts import read_json

    settings = make("ray", engine="ray")
    tables, calls = translate(settings)
    assert tables == alone[0] and any(
        segment["attempt"] == "penalised" for row in tables[0] for segment in row["segments"]
    )
    first = [call for call in calls if len(call) > 1]
    assert len(first) >= 8 and sorted(sum(calls, [])) == sorted(sum(alone[1], []))
    made = read_json(Path(settings.run_dir) / "01_translation" / "manifest.json")
    assert made["notes"]["engine"] == "transformers on 2 Ray workers" and made["settings"]["engine"] == "transformers"
    again, asked = translate(settings.model_copy(update={"engine": "transformers"}))
    assert again == tables and asked == []


def test_texts_come_back_in_order_as_from_one_process(cluster, make, tmp_path):
    from phoenix_utils.translation import Translator, translate_texts

    texts = [f"Line {n} of the text.\n- And `code_{n}` in a list." for n in range(9)] + [""]
    found = [
        translate_texts(texts, translator=Translator(make("texts", engine=engine), Capitals(str(tmp_path))))
        for engine in ("transformers", "ray")
    ]
    assert found[0] == found[1] and found[1][3] == "LINE 3 OF THE TEXT.\n- AND `code_3` IN A LIST."


def test_a_worker_that_dies_takes_nothing_with_it(cluster, make, translate, alone):
    poison = alone[0][0][0]["segments"][0]["text"]
    tables, calls = translate(make("killed", engine="ray"), poison=poison, deaths=1)
    assert tables == alone[0]
    assert sum(poison in call for call in calls) == 1 + (zlib.crc32(poison.encode()) % 5 == 0)


def test_a_worker_that_dies_again_and_again_is_one_sentence_and_the_next_run_does_the_rest(
    cluster, make, translate, alone, monkeypatch
):
    from phoenix_utils import ray_workers

    monkeypatch.setattr(ray_workers, "DEATHS", 2)
    settings, poison = make("dying", engine="ray"), alone[0][1][-1]["segments"][-1]["text"]
    with pytest.raises(PhoenixError, match=r"died 2 times over the same work .*lower translation\.batch_") as caught:
        translate(settings, poison=poison, deaths=99)
    assert "\n" not in str(caught.value)
    done, whole = store(settings)
    assert whole // 2 < done < whole
    tables, calls = translate(settings.model_copy(update={"ray_workers": 1}))
    assert tables == alone[0] and len({source for call in calls for source in call}) <= whole - done


def test_running_out_of_memory_is_one_sentence_when_the_others_are_done(cluster, make, translate, alone):
    settings, poison = make("failing", engine="ray"), alone[0][0][0]["segments"][0]["text"]
    with pytest.raises(PhoenixError, match=r"a Ray worker ran out of memory \(no room\): lower translation.batch"):
        translate(settings, poison=poison, error=MemoryError("no room"))
    assert store(settings)[0] > 0


def test_a_killed_driver_loses_no_finished_window_and_leaves_no_worker(cluster, make, translate, alone, tmp_path):
    import ray

    def until(condition):
        deadline = time.monotonic() + 30
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert condition()

    def idle():
        gc.collect()  # a test that failed on purpose keeps its workers in a traceback
        return ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"]

    until(idle)
    settings, log = make("driver", engine="ray", ray_address=cluster), tmp_path / "slow"
    log.mkdir()
    code = (
        "import test_ray\n"
        "from phoenix_utils.translation import TranslationSettings, Translator, run\n"
        f"settings = TranslationSettings(**{settings.model_dump()!r})\n"
        f"run(settings, Translator(settings, test_ray.Capitals({str(log)!r}, wait=0.6)))\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code])
    path = Path(settings.run_dir) / "01_translation" / "segments.sqlite"
    until(lambda: child.poll() is not None or (path.is_file() and store(settings)[0]))
    until(lambda: not idle())
    child.send_signal(signal.SIGKILL)
    child.wait()
    done, whole = store(settings)
    assert 0 < done < whole
    until(idle)
    tables, calls = translate(settings.model_copy(update={"engine": "transformers", "ray_address": None}))
    assert tables == alone[0] and len({source for call in calls for source in call}) <= whole - done


def test_a_driver_outside_of_the_cluster_gets_the_same_table_and_swapped_ports_are_refused(
    cluster, make, alone, tmp_path
):
    from phoenix_utils import ray_workers
    from phoenix_utils.tables import read_rows

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    server = subprocess.Popen(
        [sys.executable, "-m", "ray.util.client.server", "--address", cluster, "--host", "127.0.0.1", "--port", port],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        settings = make("outside", engine="ray", ray_workers=1, ray_address=f"ray://127.0.0.1:{port}")
        code = (
            "import time, test_ray\n"
            "from phoenix_utils import ray_workers\n"
            "from phoenix_utils.translation import TranslationSettings, Translator, run\n"
            "ray_workers.ANSWERS_IN = 30\n"  # the server is still starting
            f"settings = TranslationSettings(**{settings.model_dump()!r})\n"
            f"print(run(settings, Translator(settings, test_ray.Capitals({str(tmp_path)!r}))))\n"
        )
        for _ in range(3):  # on a busy machine Ray gives up waiting for the server that it starts for a driver
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
            if "Starting Ray client server failed" not in done.stderr:
                break
        assert done.returncode == 0, done.stderr[-3000:]
        for swapped in (f"127.0.0.1:{port}", f"ray://{cluster}"):  # Ray itself would wait for a minute or for ever
            started = time.monotonic()
            with pytest.raises(PhoenixError, match="something answers that does not know this kind of address: check"):
                ray_workers.join(swapped)
            assert time.monotonic() - started < 2
    finally:
        server.terminate()
        server.wait()
    folder = Path(done.stdout.splitlines()[-1])
    assert [list(read_rows(folder / kind)) for kind in ("chat", "preferences")] == alone[0]


def test_a_worker_loads_the_real_engine(cluster, make, tmp_path):
    import tiny_models

    from phoenix_utils.translation import Translator

    model = str(tiny_models.save_tiny(tmp_path / "model"))
    settings = make("tiny", engine="ray", ray_workers=1, model=model, prompt="few_shot", max_new_tokens=8)
    texts = ["The door is open.", "Nobody came.", "Rain again.", "Call me at six."]
    here = Translator(settings.model_copy(update={"engine": "transformers"})).translate_segments(texts)
    there = Translator(settings).translate_segments(texts)
    assert [each.text for each in there] == [each.text for each in here]
    assert [each.mean_logprob for each in there] == pytest.approx([each.mean_logprob for each in here], abs=1e-4)


def test_filterings_scores_are_those_of_one_process(cluster, make, alone, tmp_path):
    import tiny_models

    from phoenix_utils import artifacts, tables
    from phoenix_utils.filtering import FilteringSettings, scoring, stage_inputs

    run_dir = tmp_path / "alone" / "run"
    manifest = run_dir / "01_translation" / "manifest.json"
    made = artifacts.read_json(manifest)
    made["settings"]["model"] = str(tiny_models.save_tiny(tmp_path / "model"))
    artifacts.write_json(manifest, made)
    settings = FilteringSettings(run_dir=str(run_dir), scores=["forward"], score_batch=5)
    found, heard = [], []
    for workers in (None, 1):
        path = tmp_path / f"scores{workers}.parquet"
        scoring.write(path, stage_inputs(settings), settings.model_copy(update={"ray_workers": workers}), heard.append)
        found.append(list(tables.read_rows(path)))
    assert heard[: len(heard) // 2] == heard[len(heard) // 2 :] == sorted(heard[len(heard) // 2 :])
    assert len(found[0]) == len(found[1]) > 24 and any(row["forward"] is not None for row in found[0])
    for one, other in zip(*found, strict=True):
        assert other == {name: pytest.approx(value, abs=1e-4) if name in scoring.NAMES else value
                         for name, value in one.items()}  # fmt: skip


def test_pieces_are_read_no_faster_than_they_are_done_and_what_a_worker_raises_is_raised_here_after_them(cluster):
    from phoenix_utils.ray_workers import AT_ONCE, RayWorkers

    read = 0

    def pieces():
        nonlocal read
        for read in range(1, 201):  # noqa: B007
            yield read, read

    workers = RayWorkers(Doubler, 2, cpus=0.4)
    for done, (key, found) in enumerate(workers.map("double", pieces())):
        assert found == 2 * key and read - done <= 2 * AT_ONCE
    assert read == 200
    for error in (KeyError("a defect of ours"), PhoenixError("the model is not there")):
        found = []
        with pytest.raises(type(error), match=error.args[0]):
            for pair in workers.map("double", [(1, "good"), (2, error), (3, "good")]):
                found.append(pair)
        assert sorted(found) == [(1, "goodgood"), (3, "goodgood")]
    abandoned = workers.map("double", ((n, n) for n in range(9)))
    next(abandoned)
    abandoned.close()
    assert list(workers.map_in_order("double", range(50))) == list(range(0, 100, 2))


def test_a_machine_that_lacks_the_package_is_one_sentence(cluster, monkeypatch):
    from phoenix_utils import ray_workers

    monkeypatch.setattr(ray_workers, "DEATHS", 2)
    with pytest.raises(
        PhoenixError, match=r"died 2 times before it could start \(.*a_package_that_only_the_driver_has"
    ):
        list(ray_workers.RayWorkers(Elsewhere(), 1, cpus=0.4).map("double", [(1, 1)]))


def test_a_cluster_that_is_too_small_or_another_one_is_one_sentence(cluster):
    from phoenix_utils import ray_workers

    with pytest.raises(PhoenixError, match=r"5000 Ray workers with 1 CPU each do not fit .* lower ray_work"):
        ray_workers.RayWorkers(Doubler, 5000)
    with pytest.raises(PhoenixError, match="in another Ray cluster already"):
        ray_workers.join(cluster)  # joined without an address


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_that_does_not_answer_is_one_sentence_after_a_bounded_wait(make, translate, scheme, monkeypatch):
    from phoenix_utils import ray_workers

    monkeypatch.setattr(ray_workers, "ANSWERS_IN", 1.0)
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()  # takes the connection and says nothing
        settings = make("mute", engine="ray", ray_address=f"{scheme}127.0.0.1:{mute.getsockname()[1]}")
        started = time.monotonic()
        with pytest.raises(
            PhoenixError, match="where no Ray cluster answered in 1 seconds: check that the cluster runs"
        ):
            translate(settings)
    assert time.monotonic() - started < 5
    done, whole = store(settings)
    assert done == 0 and whole > 20  # the same command goes on from here


def test_a_machine_without_ray_is_told_what_to_install(make, translate, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(PhoenixError, match=r"Ray, which is not installed: pip install 'phoenix-utils\[scale\]'"):
        translate(make("none", engine="ray"))


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"ray_address": "head"}, "ray_address.*host:port"),
        ({"ray_address": "http://head:8265"}, "ray_address.*host:port"),
        ({"engine": "ray", "ray_engine": "vllm", "num_beams": 2}, "engine vllm has no beam search"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes, words):
    from phoenix_utils.profile import build_settings
    from phoenix_utils.translation import TranslationSettings

    with pytest.raises(PhoenixError, match=words):
        build_settings(TranslationSettings, changes)


def test_workers_change_hours_and_not_euros():
    from phoenix_utils.hardware import Hardware
    from phoenix_utils.profile import HardwareNeeds
    from phoenix_utils.translation import TranslationSettings, forecast

    needs, machine = HardwareNeeds(device="cuda", gpus=8, gpu="A100 80GB"), Hardware(cores=2, ram_gb=16)
    one = TranslationSettings(model="haoranxu/ALMA-13B", engine="vllm", run_dir="runs/never")
    eight = one.model_copy(update={"engine": "ray", "ray_engine": "vllm", "ray_workers": 8})
    speeds = [forecast.speed(each, needs, machine).characters_per_second for each in (one, eight)]
    assert speeds[1] == pytest.approx(8 * speeds[0])
    lines = [forecast.cost_lines(each, needs, machine) for each in (one, eight)]
    assert lines[0][-1] == lines[1][-1] and "8 x A100" in lines[1][1]


def test_nothing_imports_ray_before_it_is_asked_for():
    code = "import sys, phoenix_utils.cli, phoenix_utils.ray_workers, phoenix_utils.translation.translate as t; t.run"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; print('ray' in sys.modules)"], capture_output=True, text=True
    )
    assert done.stdout.strip() == "False", done.stderr
