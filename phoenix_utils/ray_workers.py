"""Work done by processes of a Ray cluster: pieces go out, results come back, and what a dying worker had is done again.

Each worker makes one object of its own, which holds the model, and answers calls of its methods. Two pieces are with a
worker at a time and the next is read when one comes back, so memory stays flat however much there is to do.

These are plain actors and not Ray Data, whose pool of actors lives for one dataset. The rows of a dataset have to lie
where every machine reads them, or in Ray's object store, before its first actor starts; ours come from an index that
the driver goes through and writes results to. Laid into the object store, from which alone no shared disk is needed,
they make the driver grow with their number: by 51 MB from 10,000 to 300,000 short rows, by 5 MB here
(`benchmarks/scale.py --only ray`). And unless told otherwise Ray Data starts an actor that dies again without end. Its
vLLM processors sit on that pool too; a worker here opens vLLM itself.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator

from phoenix_utils import __version__
from phoenix_utils.errors import RESUMES, PhoenixError

# Seconds that a cluster gets to answer, and that its first worker gets to start in (which loads no model yet).
ANSWERS_IN, STARTS_IN = 5.0, 120.0
# What each kind of address answers at once, as (gRPC method, request): CheckAlive, and PING of the client's server.
ASKED = {
    "": ("/ray.rpc.NodeInfoGcsService/CheckAlive", b""),
    "ray://": ("/ray.rpc.RayletDriver/ClusterInfo", b"\x08\x06"),
}
# Pieces with one worker: one that it works on, and one that waits, so that the worker need not.
AT_ONCE = 2
# So many workers may die over one piece: a machine that is taken away is bad luck, three are a cause.
DEATHS = 3
# Ray reads these when it is imported. What the user has set stays.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # it reports to its makers unless told not to
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # what it will do anyway, without the warning
}
# What a machine of the cluster does not have from this one's environment by itself.
HANDED_ON = ("HF_HUB_OFFLINE",)
# Bytes of the object store of a cluster on this machine, of whose memory Ray would set a third aside.
STORE = 256 * 2**20
LOWER = "lower translation.batch_tokens or filtering.score_batch, or ray_workers where they share a machine"


def _host_and_port(address: str) -> str:
    if not re.fullmatch(r"(ray://)?[^\s/@]+:\d{1,5}", address):
        raise ValueError("it should be host:port, for example 10.0.0.5:6379, or ray://host:10001")
    return address


RayAddress = Annotated[str, AfterValidator(_host_and_port)]

# The address of the cluster that this process is in, as it was given; a process can be in one only.
_joined: list[str | None] = []


def join(address: str | None) -> None:
    """Join the Ray cluster at `address`, or start one on this machine; None keeps a cluster that was joined before.

    Raises PhoenixError where Ray is not installed, nothing answers at `address`, or what answers cannot be joined.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError:
        raise PhoenixError(
            "the settings ask for Ray, which is not installed: pip install 'phoenix-utils[scale]' -c "
            "constraints/cpu.txt, or do without (translation.engine transformers, filtering.ray_workers null)"
        ) from None
    if address:
        _knock(address)
    if ray.is_initialized():
        if address and _joined != [address]:
            raise PhoenixError(
                f"ray_address is {address!r}, but this process is in another Ray cluster already: call ray.shutdown() "
                "or start a new process, or leave ray_address empty to stay in that one"
            )
        return
    local: dict[str, Any] = {"include_dashboard": False, "object_store_memory": STORE}
    try:
        # Ray's own messages about workers would stand between progress lines; what matters is said by `map`.
        ray.init(address or "local", log_to_driver=False, logging_level="CRITICAL", **({} if address else local))
    except Exception as error:  # a bare one where a busy machine starts its node too slowly
        where = f"the Ray cluster at {address} cannot be joined" if address else "Ray cannot start on this machine"
        alone = "Ray's log says more; on a busy machine try again, or set engine to transformers"
        advice = "every machine needs the same versions of Python and Ray" if address else alone
        raise PhoenixError(f"{where} ({_reason(error)}): {advice}") from error
    _joined[:] = [address]


def _knock(address: str) -> None:
    """Ray waits a minute, or for ever, for a cluster that is not there or at its other port; so ask first."""
    import grpc

    if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
        return  # such a cluster does not answer without its certificates
    method, request = ASKED["ray://" if address.startswith("ray://") else ""]
    with grpc.insecure_channel(address.removeprefix("ray://")) as channel:
        try:
            channel.unary_unary(method)(request, timeout=ANSWERS_IN, wait_for_ready=True)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNIMPLEMENTED:
                found = "something answers that does not know this kind of address"
            elif error.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE):
                found = f"no Ray cluster answered in {ANSWERS_IN:.0f} seconds"
            else:
                return  # one that wants a token, say: it is there
            raise PhoenixError(
                f"ray_address is {address!r}, where {found}: check that the cluster runs (ray status), that its port "
                "is open and the right one (6379 for host:port, 10001 for ray://), or leave ray_address "
                "empty for a cluster on this machine"
            ) from None


class _Worker:
    """Runs in a process of the cluster."""

    def __init__(self, make: Callable[[], Any], environment: dict[str, str]):
        os.environ.update(environment)
        self.make, self.made = make, None

    def start(self) -> str:
        """Say that the process is there, and with which version of this package."""
        return __version__

    def call(self, method: str, piece: Any) -> Any:
        """What the worker's object makes of a piece; the object is made for the first."""
        if self.made is None:
            self.made = self.make()
        return getattr(self.made, method)(piece)


@dataclass
class _Job:
    """A call on its way to `worker`; without a `method`, the one that starts the worker."""

    worker: Any
    method: str = ""
    key: Any = None
    piece: Any = None
    deaths: int = 0


class RayWorkers:
    """`number` processes on a Ray cluster (see `join`), each with an object that `make()` makes there.

    `make` is pickled, so what it names has to be installed on every machine, in this version. A worker reserves `cpus`
    cores and, on a cluster that has GPUs, `gpus` of them. Workers end with this object or with the process.
    Raises PhoenixError as `join` does, and where the cluster is too small for them.
    """

    def __init__(
        self, make: Callable[[], Any], number: int, cpus: float = 1.0, gpus: int = 1, address: str | None = None
    ):
        join(address)
        import ray

        self._ray, self._make, self.number = ray, make, number
        there = ray.cluster_resources()
        self._options: dict[str, Any] = {"num_cpus": cpus, "num_gpus": gpus if there.get("GPU") else 0}
        for name, unit in (("num_cpus", "CPU"), ("num_gpus", "GPU")):
            if number * self._options[name] > there.get(unit, 0):
                raise PhoenixError(
                    f"{number} Ray workers with {self._options[name]:g} {unit} each do not fit on a cluster with "
                    f"{there.get(unit, 0):g}: lower ray_workers"
                )
        self._flying: dict[Any, _Job] = {}  # by the reference of its result, in the order of sending
        self._ready: list[Any] = []

    def map(self, method: str, pieces: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
        """Call `method` of the workers' objects with each of `pieces`, given as (key, piece).

        Yields (key, result) in the order in which they are done, and reads `pieces` no faster than that. The piece of a
        worker that died goes to another. Raises PhoenixError, after everything that was finished has been yielded,
        where a worker raised one, was out of memory, or `DEATHS` of them died over the same piece, where none can
        start, and where the cluster goes away; anything else that a worker raised comes as it is.
        """
        # What an interrupted call had sent out is nobody's business any more.
        self._flying = {reference: job for reference, job in self._flying.items() if not job.method}
        for _ in range(self.number - len(self._ready) - len(self._flying)):
            self._start()
        waiting, rest = deque[_Job](), iter(pieces)
        error: Exception | None = None
        while True:
            if error is None:
                self._send(waiting, rest, method)
            busy = any(job.method for job in self._flying.values())
            if not busy and (error or self._ready):
                break
            job, found = self._next()
            if isinstance(found, _Lost):
                error = error or self._bury(job, found.error)
                if job.method:
                    waiting.append(job)
            elif isinstance(found, Exception):
                error = error or found
            elif job.method:
                yield job.key, found
            else:
                self._ready.append(job.worker)
        if error:
            raise error

    def map_in_order(self, method: str, pieces: Iterable[Any]) -> Iterator[Any]:
        """As `map`, for pieces without keys: their results in their order."""
        early, due = {}, 0
        for number, result in self.map(method, enumerate(pieces)):
            early[number] = result
            while due in early:
                yield early.pop(due)
                due += 1

    def _start(self, deaths: int = 0) -> None:
        environment = {name: os.environ[name] for name in HANDED_ON if name in os.environ}
        kind = self._ray.remote(_Worker).options(**self._options, max_restarts=0)
        worker = kind.remote(self._make, environment)
        self._flying[worker.start.remote()] = _Job(worker, deaths=deaths)

    def _send(self, waiting: deque[_Job], rest: Iterator[tuple[Any, Any]], method: str) -> None:
        """Fill the workers that are ready, evenly, with what is to be done again and then with what is new."""
        load = {id(worker): 0 for worker in self._ready}
        for job in self._flying.values():
            if id(job.worker) in load:
                load[id(job.worker)] += 1
        for most in range(1, AT_ONCE + 1):
            for worker in self._ready:
                if load[id(worker)] >= most:
                    continue
                if waiting:
                    job = waiting.popleft()
                    job.worker = worker
                elif (pair := next(rest, None)) is not None:
                    job = _Job(worker, method, *pair)
                else:
                    return
                self._flying[worker.call.remote(job.method, job.piece)] = job
                load[id(worker)] += 1

    def _next(self) -> tuple[_Job, Any]:
        """The next call that has ended, with its result or what went wrong."""
        errors = self._ray.exceptions
        try:
            done, _ = self._ray.wait(list(self._flying), timeout=None if self._ready else STARTS_IN)
            if not done:
                raise PhoenixError(
                    f"no Ray worker could start in {STARTS_IN:.0f} seconds: others use the cluster's cores or GPUs, so "
                    f"wait for them or lower ray_workers; {RESUMES}"
                )
            job = self._flying.pop(done[0])
            try:
                found = self._ray.get(done[0])
            except errors.RayTaskError as error:
                return job, _raised(error)
            except errors.RayError as error:
                return job, _Lost(error)
        except ConnectionError as error:
            raise PhoenixError(f"the Ray cluster went away ({_reason(error)}); {RESUMES}") from error
        if not job.method and found != __version__:
            found = PhoenixError(
                f"a Ray worker has phoenix-utils {found}, and this process {__version__}: install the same everywhere"
            )
        return job, found

    def _bury(self, job: _Job, error: Exception) -> PhoenixError | None:
        """Start another worker for one that died over `job`, or say that it was one too many."""
        if job.method and not any(worker is job.worker for worker in self._ready):
            return None  # the second piece of a worker that has been replaced for the first
        self._ready = [worker for worker in self._ready if worker is not job.worker]
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.kill(job.worker)
        job.deaths += 1
        if job.deaths == DEATHS:
            died = f"a Ray worker died {DEATHS} times"
            if not job.method:
                return PhoenixError(
                    f"{died} before it could start ({_reason(error)}): every machine needs phoenix-utils and what its "
                    f"engine needs, as here; {RESUMES}"
                )
            return PhoenixError(
                f"{died} over the same work ({_reason(error)}): if its machine is out of memory, {LOWER}; {RESUMES}"
            )
        self._start(0 if job.method else job.deaths)
        return None


@dataclass
class _Lost:
    """Stands for a result that went down with its worker."""

    error: Exception


def _raised(error: Exception) -> Exception:
    """What a worker raised, as if it had been raised here; running out of memory as a sentence."""
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, PhoenixError):
        return PhoenixError(str(cause))
    said = f"{type(cause).__name__} {cause}"
    if isinstance(cause, MemoryError) or "OutOfMemoryError" in said or "allocate memory" in said:
        return PhoenixError(f"a Ray worker ran out of memory ({_reason(cause)}): {LOWER}; {RESUMES}")
    return error


def _reason(error: BaseException) -> str:
    """An error in a few words: Ray's are pages, whose last line says the most and then guesses."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = lines[-1].partition(" Some common causes")[0] if lines else type(error).__name__
    return told if len(told) <= 300 else told[:300] + "…"
