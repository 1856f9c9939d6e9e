"""Feed every reader and parser what nobody would write, and report whatever is no clear refusal.

    python benchmarks/fuzz.py [--minutes 20] [--only segments,verdicts] [--seed 0] [--json FILE]

The targets are in `fuzz_targets.py`; each gets its share of the minutes in a process of its own, a third of it with
hostile pieces repeated to 100 kB and, at the end, 10 MB, the rest with mutations of good inputs. Where atheris is
installed (the extra `fuzz`) coverage of the code steers the mutations; without it they are drawn at random. A finding
is an exception other than a PhoenixError of one plain sentence, a broken property, a process that dies, and a hang: an
input that takes more than 10 s and 30 s for each MB. Exits with 1 on any finding. Too long for CI: what it has found is
kept as tests.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LONG, LONGEST = 100_000, 10_000_000
# Bytes of an input that mutations keep to.
SHORT = 4096


class TooLong(BaseException):
    """Raised by the alarm inside whatever is running; no `except Exception` of the package may catch it."""


def allowed(data: bytes) -> float:
    """Seconds that an input may take: a target reads it several times, which is slower under atheris."""
    return 10 + 30 * len(data) / 1e6


class Session:
    """One target in this process: counts inputs, times them, and keeps the smallest input of each finding."""

    def __init__(self, target, folder: Path, seconds: float):
        self.target, self.folder, self.until = target, folder, time.monotonic() + seconds
        self.current = open(folder / "current", "wb", buffering=0)
        self.inputs, self.slowest, self.findings, self.written = 0, 0.0, {}, 0.0
        signal.signal(signal.SIGALRM, self._ring)

    def _ring(self, *_) -> None:
        raise TooLong

    @property
    def is_over(self) -> bool:
        """Whether the time of this target is used up."""
        return time.monotonic() > self.until

    def feed(self, data: bytes, check=None) -> None:
        """Give one input to the target; the parent finds it in `current` should this process die of it."""
        self.current.seek(0)
        self.current.truncate()
        self.current.write(data[:LONG])
        started = time.monotonic()
        try:
            signal.setitimer(signal.ITIMER_REAL, allowed(data))
            (check or self.target.check)(data)
        except (Exception, TooLong) as error:
            self._keep(data, error)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        self.inputs += 1
        took = time.monotonic() - started
        self.slowest = max(self.slowest, took)
        if time.monotonic() - self.written > 1 or took > 1:
            self.save()

    def _keep(self, data: bytes, error: BaseException) -> None:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in frames if "phoenix_utils" in frame.filename] or frames
        place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"
        key = f"hang at {place}" if isinstance(error, TooLong) else f"{type(error).__name__} at {place}"
        known = self.findings.get(key)
        if known is None or len(data) < known["bytes"]:
            said = str(error).splitlines() or [""]
            self.findings[key] = {"bytes": len(data), "says": said[0][:200], "input": repr(data[:300])}
            self.save()

    def save(self) -> None:
        """Write what has been found so far."""
        self.written = time.monotonic()
        found = {"inputs": self.inputs, "slowest_ms": round(1000 * self.slowest), "findings": self.findings}
        (self.folder / "status.json").write_text(json.dumps(found))


def feed_long(session: Session, rng: random.Random, until: float) -> None:
    """Hostile pieces, alone and in twos, repeated to 100 kB; one of 10 MB at the end."""
    import fuzz_inputs
    import fuzz_targets

    if session.target.text is None:
        return

    def check(data: bytes) -> None:
        session.target.text(fuzz_targets.decoded(data))

    started = time.monotonic()
    pieces = [piece.encode("utf-8", "ignore") for piece in fuzz_inputs.PIECES]
    pieces = rng.sample([piece for piece in pieces if piece], len([piece for piece in pieces if piece]))
    while pieces and time.monotonic() < until:
        piece = pieces.pop()
        if rng.random() < 0.3:
            piece += rng.choice(fuzz_inputs.PIECES).encode("utf-8", "ignore")
        session.feed((piece * (LONG // len(piece)))[:LONG], check)
    if until - started > 15:
        session.feed(b"Ein Satz ohne Ende, auf [[10]] Zeilen. " * (LONGEST // 40), check)


def mutated(seeds: list[bytes], pieces: list[bytes], rng: random.Random) -> bytes:
    """A seed with some of its bytes cut, doubled, replaced, or a hostile piece put in."""
    data = (
        bytearray(rng.choice(seeds)[:SHORT])
        if seeds and rng.random() < 0.9
        else bytearray(rng.randbytes(rng.randrange(200)))
    )
    for _ in range(rng.choice((1, 1, 2, 4, 8, 16))):
        at, width = rng.randrange(len(data) + 1), rng.choice((1, 2, 8, 32, 128))
        kind = rng.randrange(5)
        if kind == 0:
            del data[at : at + width]
        elif kind == 1:
            data[at:at] = data[at : at + width] * rng.choice((1, 2, 10))
        elif kind == 2:
            data[at : at + 1] = rng.randbytes(1)
        elif kind == 3 and seeds:
            data[at:at] = rng.choice(seeds)[: rng.randrange(1, SHORT)][-width:]
        else:
            data[at : at + rng.choice((0, 0, width))] = rng.choice(pieces)
    return bytes(data[:SHORT])


def feed_mutations(session: Session, rng: random.Random) -> None:
    """Mutations until the time is over: under atheris where it is there, else drawn from `rng`."""
    import fuzz_inputs

    pieces = [piece.encode("utf-8", "ignore") for piece in fuzz_inputs.PIECES]
    seeds = session.target.seeds
    for seed in [b"", *seeds]:
        session.feed(seed)
    # Structured targets have no seeds: hypothesis makes rows of any bytes, and of more bytes longer ones.
    while not session.is_over and not atheris_is_there():
        session.feed(mutated(seeds, pieces, rng) if seeds else rng.randbytes(rng.choice((50, 500, 4000))))
    if session.is_over:
        return
    import atheris

    def once(data: bytes) -> None:
        session.feed(data)
        if session.is_over:
            session.save()
            os._exit(0)  # libFuzzer has no end of its own that returns

    corpus = session.folder / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(seeds):
        (corpus / str(number)).write_bytes(seed[:SHORT])
    options = [f"-max_len={SHORT}", "-timeout=0", "-rss_limit_mb=0", "-verbosity=0", f"-seed={rng.randrange(1, 2**31)}"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], once)
    atheris.Fuzz()


def atheris_is_there() -> bool:
    """Whether coverage can steer the mutations."""
    return importlib.util.find_spec("atheris") is not None


def run_child(name: str, folder: Path, seconds: float, seed: int) -> None:
    """One target in this process."""
    sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
    logging.disable(logging.CRITICAL)
    if atheris_is_there():
        import atheris

        with atheris.instrument_imports(include=["phoenix_utils"], enable_loader_override=False):
            import fuzz_targets
    else:
        import fuzz_targets
    rng = random.Random(f"{seed} {name}")
    target = fuzz_targets.targets()[name]
    for seed in [b"", *target.seeds[:20]]:
        with contextlib.suppress(Exception):  # loads models and word lists that the target needs; it is fed again below
            target.check(seed)
    session = Session(target, folder, seconds)
    feed_long(session, rng, time.monotonic() + seconds / 3)
    feed_mutations(session, rng)
    session.save()


def run_target(name: str, seconds: float, seed: int) -> dict:
    """One target in a process of its own: {"inputs", "slowest_ms", "findings"}."""
    with tempfile.TemporaryDirectory(prefix="phoenix-fuzz-") as made:
        folder = Path(made)
        command = [
            sys.executable,
            __file__,
            "--child",
            name,
            "--folder",
            made,
            "--seconds",
            str(seconds),
            "--seed",
            str(seed),
        ]
        with open(folder / "log", "wb") as log:
            child = subprocess.Popen(
                command, stdout=log, stderr=log, env={**os.environ, "HF_HUB_OFFLINE": "1", "TMPDIR": made}
            )
            died = ""
            try:
                code = child.wait(timeout=seconds + 120 + allowed(b"x" * LONGEST))
                died = f"process ended with {code}" if code else ""
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
                died = "hang where no alarm is heard"
        status = folder / "status.json"
        found = json.loads(status.read_text()) if status.is_file() else {"inputs": 0, "slowest_ms": 0, "findings": {}}
        if died:
            last = (folder / "current").read_bytes() if (folder / "current").is_file() else b""
            says = (folder / "log").read_text(errors="replace").strip().splitlines()[-1:] or [""]
            found["findings"][died] = {"bytes": len(last), "says": says[0][:200], "input": repr(last[:300])}
        return found


def main() -> int:
    """Run every target, print the table and the findings."""
    sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
    import fuzz_targets

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=20, help="for all targets together")
    parser.add_argument("--only", help="targets, with commas between")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations")
    parser.add_argument("--json", type=Path, help="file for the counts and findings")
    arguments = parser.parse_args()
    known = list(fuzz_targets.targets())
    chosen = arguments.only.split(",") if arguments.only else known
    if unknown := set(chosen) - set(known):
        parser.error(f"--only {', '.join(sorted(unknown))}: there are {', '.join(known)}")
    steered = "coverage steers the mutations" if atheris_is_there() else "atheris is not installed: mutations at random"
    print(f"{len(chosen)} targets, {arguments.minutes:g} minutes, seed {arguments.seed}; {steered}", flush=True)
    results = {}
    print(f"{'target':16} {'inputs':>10} {'findings':>9} {'slowest ms':>11}", flush=True)
    for name in chosen:
        found = results[name] = run_target(name, 60 * arguments.minutes / len(chosen), arguments.seed)
        print(f"{name:16} {found['inputs']:10,} {len(found['findings']):9} {found['slowest_ms']:11,}", flush=True)
        for key, finding in found["findings"].items():
            print(f"    {key}: {finding['says']}\n        {finding['bytes']:,} bytes {finding['input']}", flush=True)
    total = sum(found["inputs"] for found in results.values())
    findings = sum(len(found["findings"]) for found in results.values())
    print(f"{'total':16} {total:10,} {findings:9}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"seed": arguments.seed, "results": results}, indent=2), encoding="utf-8")
    return int(findings > 0)


if __name__ == "__main__":
    if "--child" in sys.argv:
        options = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
        run_child(options["--child"], Path(options["--folder"]), float(options["--seconds"]), int(options["--seed"]))
    else:
        sys.exit(main())
