"""The faults that `faults.py` tries: each disturbs a stage once and says how that process ended."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fault_stages import STAGES, Child, Servers, Told, Workshop, contents, difference  # benchmarks/fault_stages.py

NOBODY = 65534
RENAMING = ("replace", "rename", "fsync", "unlink", "truncate", "mkdir")


@dataclass
class Trial:
    """One fault of one stage in a folder of its own."""

    shop: Workshop
    stage: str
    root: Path
    random: random.Random

    def start(self, prepare: Callable[[], None] = lambda: None, **keywords: Any) -> Child:
        """The stage in a child, after `prepare` has been called there."""
        return self.shop.start(self.stage, self.root, prepare, **keywords)

    @property
    def place(self) -> Path:
        """The folder of the stage's products."""
        return self.shop.place(self.stage, self.root)

    def moment(self) -> float:
        """A random moment of the stage's work, in seconds."""
        return self.random.uniform(0, 1.05 * self.shop.seconds[self.stage])


def signalled(trial: Trial, number: int) -> Told:
    """A signal at a random moment."""
    child = trial.start()
    time.sleep(trial.moment())
    child.send(number)
    told = child.wait()
    # Whoever was killed by another signal than ours has a fault of its own.
    expected = ("done", "interrupted") if number == signal.SIGINT else ("done", "killed", "interrupted")
    return told if told.how in expected else Told("unclear", told.text)


def kill(trial: Trial) -> Told:
    """`kill -9` at a random moment."""
    return signalled(trial, signal.SIGKILL)


def sigint(trial: Trial) -> Told:
    """Ctrl-C at a random moment."""
    return signalled(trial, signal.SIGINT)


def sigterm(trial: Trial) -> Told:
    """What a scheduler sends, at a random moment."""
    return signalled(trial, signal.SIGTERM)


def kill_at_a_write(trial: Trial) -> Told:
    """`kill -9` before or after a random rename, sync, removal or new folder."""
    count, after = trial.random.randint(1, 30), trial.random.random() < 0.5

    def prepare() -> None:
        left = [count]

        def deadly(name: str) -> None:
            original = getattr(os, name)

            def call(*words: Any, **keywords: Any) -> Any:
                left[0] -= 1
                if left[0] == 0 and not after:
                    os.kill(os.getpid(), signal.SIGKILL)
                found = original(*words, **keywords)
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return found

            setattr(os, name, call)

        for name in RENAMING:
            deadly(name)

    return trial.start(prepare).wait()


@contextlib.contextmanager
def small_disk(trial: Trial, kilobytes: int) -> Iterator[bool]:
    """The trial's folder on a disk of its own that is nearly full; False where this user may not make one."""
    kept = trial.root.with_name(f"{trial.root.name}_kept")
    shutil.move(trial.root, kept)
    trial.root.mkdir()
    mounted = (
        os.getuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k,mode=755", "tmpfs", str(trial.root)], capture_output=True
        ).returncode
    )
    try:
        shutil.copytree(kept, trial.root, dirs_exist_ok=True)
        yield mounted
    finally:
        if mounted:
            shutil.rmtree(kept)
            shutil.copytree(trial.root, kept)
            subprocess.run(["umount", str(trial.root)], check=True)
        shutil.rmtree(kept if not mounted else trial.root)
        if mounted:
            shutil.move(kept, trial.root)


def _kilobytes(folder: Path) -> int:
    return sum(-(-path.stat().st_size // 4096) * 4 + 4 for path in folder.rglob("*"))


def full_disk(trial: Trial) -> Told:
    """A disk with less room than the stage needs, where possible a real one, else a limit on the size of files."""
    used, more = _kilobytes(trial.root), _kilobytes(trial.shop.place(trial.stage, trial.shop.template))
    with small_disk(trial, used + 8 + trial.random.randint(0, more * 2 // 3)) as mounted:
        most = trial.random.randint(0, 512 * more)
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        return trial.start(lambda: None if mounted else resource.setrlimit(resource.RLIMIT_FSIZE, (most, limit))).wait()


def read_only(trial: Trial) -> Told:
    """A folder that may be read and not written, of the run or of the stage begun or finished."""
    begun = trial.random.choice(["before", "begun", "finished"])
    if begun != "before":
        child = trial.start()
        if begun == "begun":
            time.sleep(trial.moment())
            child.send(signal.SIGKILL)
        child.wait()
    folders = [trial.root, *(path for path in trial.root.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        return trial.start(lambda: os.setuid(NOBODY) if os.getuid() == 0 else None).wait()
    finally:
        for folder in folders:
            folder.chmod(0o755)


def memory(trial: Trial) -> Told:
    """Less memory than the stage needs."""
    more = int(2 ** trial.random.uniform(18, 28))  # bytes, from a quarter of a MB to 256 MB

    def prepare() -> None:
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + more, resource.getrlimit(resource.RLIMIT_AS)[1]))

    return trial.start(prepare).wait()


def clock(trial: Trial) -> Told:
    """A clock that goes backwards while the stage runs, files from the future, and a kill in between."""
    year = 365 * 86400

    def prepare() -> None:
        now, started = time.time, time.monotonic()
        time.time = lambda: now() - year * (time.monotonic() - started)
        for path in trial.root.rglob("*"):
            os.utime(path, (now() + year, now() + year))

    child = trial.start(prepare)
    time.sleep(trial.moment())
    child.send(signal.SIGKILL)
    child.wait()
    return trial.start(prepare).wait()


def two_at_once(trial: Trial) -> Told:
    """The same command twice at the same time: one may be refused, and neither may spoil the other."""
    first = trial.start()
    time.sleep(trial.moment() * trial.random.choice([0, 0.5, 1]))
    second = trial.start()
    told = [first.wait(), second.wait()]
    return next((each for each in told if each.how == "unclear"), told[1])


# ---------------------------------------------------------------- damage


def spoil(path: Path, chance: random.Random) -> str:
    """Damage a file in one of the ways in which files are damaged; returns which."""
    content = bytearray(path.read_bytes())
    how = chance.choice(["bit", "bit", "cut", "zeros", "empty", "gone"])
    at = chance.randrange(len(content)) if content else 0
    if how == "gone" or not content:
        path.unlink()
        return "gone"
    if how == "bit":
        content[at] ^= 1 << chance.randrange(8)
    elif how == "zeros":
        content[at : at + 512] = bytes(len(content[at : at + 512]))
    path.write_bytes(content[:at] if how == "cut" else b"" if how == "empty" else content)
    return how


def _spoil_one(trial: Trial, folders: list[Path], notes: Callable[[str], None]) -> None:
    files = sorted(path for folder in folders for path in folder.rglob("*") if path.is_file())
    files = [path for path in files if path.suffix not in (".lock", ".wal")]
    if files:
        path = trial.random.choice(files)
        notes(f"{path.relative_to(trial.root)}: {spoil(path, trial.random)}")


def damage_finished(trial: Trial) -> Told:
    """A product of the finished stage is damaged, then the same command."""
    shutil.rmtree(trial.root)
    trial.shop.copy(trial.stage, trial.root, finished=True)
    told = Told("done")
    _spoil_one(trial, [trial.place], lambda words: setattr(told, "text", words))
    return told


def damage_unfinished(trial: Trial) -> Told:
    """What a killed stage has left is damaged, then the same command."""
    told = kill(trial)
    if told.how == "killed" and trial.place.is_dir():
        cache = [trial.root / "cache"] if (trial.root / "cache").is_dir() else []
        _spoil_one(trial, [trial.place, *cache], lambda words: setattr(told, "text", words))
    return told


def damage_input(trial: Trial) -> Told:
    """A product of an earlier stage is damaged, then the command of this one."""
    told = Told("done")
    earlier = STAGES[: STAGES.index(trial.stage)] if trial.stage in STAGES else []
    _spoil_one(
        trial, [trial.shop.place(stage, trial.root) for stage in earlier], lambda words: setattr(told, "text", words)
    )
    return told


# ---------------------------------------------------------------- servers

GARBAGE: list[Any] = [
    (200, {}, "<html>busy</html>"),
    (200, {}, ""),
    (200, {}, '{"choices": [{"text": "cut'),
    (200, {}, "[]"),
    (200, {"Content-Encoding": "gzip"}, "no gzip"),
    {"choices": []},
    {"choices": [{}]},
    {"choices": [{"text": 7, "message": 7}]},
    {"choices": [{"text": None, "message": None}]},
    {"choices": [{"text": "x", "logprobs": {"token_logprobs": ["high"]}, "message": {"content": 5}}]},
    {"choices": [{"text": "x", "message": "y"}], "usage": {"prompt_tokens": "many", "completion_tokens": [1]}},
    {"choices": None, "usage": "none"},
    (500, {}, "out of memory"),
    (503, {"Retry-After": "0"}, "later"),
    (404, {}, "no such model"),
    (403, {}, "no"),
]


def server(trial: Trial) -> Told:
    """The server of engine or judge dies, hangs, hangs up or answers garbage from a random request on."""
    how, after = trial.random.choice(["dies", "hangs", "hangs up", "garbage", "garbage"]), trial.random.randint(0, 12)
    garbage = trial.random.choice(GARBAGE)

    def fault(told: Any, number: int) -> Any:
        if number < after:
            return None
        if how == "hangs":
            time.sleep(1.5)
        if how == "dies":
            told.stop()
        return garbage if how == "garbage" else "hang up"

    told = trial.start(servers=Servers(trial.shop.tokenizer, fault)).wait()
    return Told(told.how, f"{how} {garbage if how == 'garbage' else ''} after {after}: {told.text}")


KINDS: dict[str, tuple[Callable[[Trial], Told], tuple[str, ...]]] = {
    "kill": (kill, (*STAGES, "runner", "sweep")),
    "kill at a write": (kill_at_a_write, (*STAGES, "runner", "sweep")),
    "SIGINT": (sigint, (*STAGES, "runner", "sweep")),
    "SIGTERM": (sigterm, (*STAGES, "runner", "sweep")),
    "full disk": (full_disk, (*STAGES, "runner")),
    "read-only folder": (read_only, (*STAGES, "runner", "sweep")),
    "out of memory": (memory, tuple(STAGES[1:])),
    "clock": (clock, tuple(STAGES)),
    "two at once": (two_at_once, (*STAGES, "runner", "sweep")),
    "damaged product": (damage_finished, (*STAGES, "runner", "sweep", "adapt")),
    "damaged half": (damage_unfinished, (*STAGES, "adapt")),
    "damaged input": (damage_input, tuple(STAGES[1:])),
    "server": (server, ("translation", "evaluation")),
}


@dataclass
class Verdict:
    """What became of a fault: "recovered", "refused" (one clear sentence) or "unclear"; rows lost; a wrong result."""

    how: str
    lost: int = 0
    wrong: str = ""
    story: str = ""


def judge(trial: Trial, kind: str) -> Verdict:
    """Disturb the stage, give the same command again undisturbed, and compare with the undisturbed run."""
    trial.shop.copy(trial.stage, trial.root)
    first = KINDS[kind][0](trial)
    story = f"{kind}, {trial.stage}: {first.how} {first.text}"
    if first.how == "unclear" or (first.how == "killed" and kind in ("full disk", "read-only folder", "server")):
        return Verdict("unclear", story=story)
    if sentence := first.how == "refused" and kind != "server" and unclear(first.text):
        return Verdict("unclear", story=f"{story}: {sentence}")
    again = trial.start().wait()
    story = f"{story}; again: {again.how} {again.text}"
    if again.how == "refused" and not unclear(again.text):
        return Verdict("refused", story=story)
    if again.how != "done":
        return Verdict("unclear", story=story)
    asked = contents(trial.shop.place(trial.stage, trial.shop.template))
    lost, wrong = difference(asked, contents(trial.place))
    return Verdict("recovered", lost, wrong, story)


def unclear(sentence: str) -> str:
    """Why a text is no clear sentence, "" where it is one."""
    if len(sentence) > 700 or "Traceback" in sentence:
        return "too long to be a sentence"
    return "" if "/" in sentence or "memory" in sentence or "server" in sentence else "it names no file and no cause"
