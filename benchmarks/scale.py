"""Beyond one process, one language and one folder: Ray on this machine, the GGUF file, answers in five languages.

python benchmarks/scale.py                         all, about five minutes on two cores, kept in book/results/scale.md
python benchmarks/scale.py --only ray-speedup      the parts whose names begin so; --only ray takes all of Ray's
python benchmarks/scale.py --json FILE             the figures as one flat object as well

Ray's baseline is our own single-process path with the same engine on the same rows; but for one part its engines hold
no model. Every arm has a process of its own. The GGUF part needs a finished run of `mini`. Languages are runs of
benchmarks/languages.py: those that are here, of the others what its stored table says.
"""

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import gguf_agreement
import languages
import results
from own_process import own_process

from phoenix_utils.decoding import Completion
from phoenix_utils.translation import TranslationSettings, Translator

# Rows that an engine computes at once, as many as fit a small GPU, and how long it takes over them.
BATCH, LATENCY = 32, 0.005
# Rows of the arms that are timed, and of the two whose memory is compared.
TIMED, FEW, MANY = 20_000, 10_000, 300_000
REPEATS = 3
# Segments that the real model translates.
SEGMENTS = 192
NOTE = (
    f"Ray on this machine alone, two workers. Speed-up: {TIMED:,} rows of one segment, {1000 * LATENCY:.0f} ms for "
    f"each batch of {BATCH}, median of {REPEATS}. Overhead and memory (MB): {FEW:,} and {MANY:,} rows, an engine that "
    f"takes no time. Model: {SEGMENTS} segments by the embedded one."
)


@dataclass
class Instant:
    """Takes `latency` seconds a batch and nothing else; answers with the source in capitals."""

    latency: float

    def generate(self, prompts, params, on_batch=None):
        done = []
        for start in range(0, len(prompts), BATCH):
            time.sleep(self.latency)
            batch = [
                Completion(prompt.rpartition("\nEnglish: ")[2].removesuffix("\nGerman:").upper(), "stop", -0.5)
                for prompt in prompts[start : start + BATCH]
            ]
            done += batch
            if on_batch:
                on_batch(list(range(start, start + len(batch))), batch)
        return done


def texts(rows: int):
    """One text of one segment for each row, all of them different."""
    return (f"Form {number} lies in drawer {number % 97}, and whoever needs it signs for it." for number in range(rows))


def peak_mb() -> float:
    """Most memory that this process, the driver alone, has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)


def settings_in(folder: Path, workers: int) -> TranslationSettings:
    """Settings of a run on so many workers; 0 is this process."""
    return TranslationSettings(
        chat=str(folder / "chat.jsonl"),
        preferences=str(folder / "pairs.jsonl"),
        max_rows=None,
        run_dir=str(folder / "run"),
        adapter="none",
        prompt="alma",
        engine="ray" if workers else "transformers",
        ray_workers=workers or 1,
    )


def stage_arm(rows: int, latency: float, workers: int) -> dict:
    """Run the whole stage on so many rows: seconds of its translating pass and of all of it, the driver's memory."""
    from phoenix_utils.translation import run

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (folder / "chat.jsonl").open("w") as file:
            for number, text in enumerate(texts(rows)):
                messages = [{"role": "user", "content": "Where is it?"}, {"role": "assistant", "content": text}]
                file.write(json.dumps({"prompt_id": str(number), "messages": messages}) + "\n")
        pair = {"prompt_id": "p", "prompt": "Say hello.", "chosen": "Hello.", "rejected": "No."}
        (folder / "pairs.jsonl").write_text(json.dumps(pair))
        started = time.monotonic()
        translator = Translator(settings_in(folder, workers), Instant(latency))
        translator.translate_segments(["Everything is loaded and warm."] * 8)
        start = time.monotonic() - started
        time.sleep(2 if workers else 0)  # the second worker is there as well
        started = time.monotonic()
        manifest = json.loads((run(translator.settings, translator) / "manifest.json").read_text())
        return {
            "start": start,
            "whole": time.monotonic() - started,
            "pass": manifest["counts"]["characters"] / manifest["notes"]["characters_per_second"],
            "good": manifest["counts"]["rows_good"],
            "peak_mb": peak_mb(),
        }


class Work:
    """What an actor of Ray Data does with a batch: the same Translator."""

    def __init__(self, folder: str, latency: float):
        self.translator = Translator(settings_in(Path(folder), 0), Instant(latency))

    def __call__(self, batch: dict) -> dict:
        import numpy as np

        done = self.translator.translate_segments([str(text) for text in batch["text"]])
        return {"text": batch["text"], "translation": np.array([each.text for each in done], dtype=object)}


def ray_data_arm(rows: int, latency: float, workers: int) -> dict:
    """The same segments through Ray Data's pool of actors, from tables that the driver holds; nothing is written."""
    import pyarrow as pa
    import ray

    from phoenix_utils import ray_workers

    ray_workers.join(None)
    started, first, count, source = time.monotonic(), 0.0, 0, texts(rows)
    # Each table goes to the object store at once: a list of them here would grow by itself.
    tables = [ray.put(pa.table({"text": list(islice(source, 512))})) for _ in range(0, rows, 512)]
    found = ray.data.from_arrow_refs(tables).map_batches(
        Work,
        fn_constructor_args=("unused", latency),
        batch_size=512,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=0.4,  # a pool that holds both cores starves everything else, and nothing moves
    )
    for batch in found.iter_batches(batch_size=512):
        first = first or time.monotonic() - started
        count += len(batch["translation"])
    return {"pass": time.monotonic() - started, "first": first, "rows": count, "peak_mb": peak_mb()}


def model_arm(segments: int, workers: int) -> dict:
    """Seconds that the embedded model takes for so many segments of the packaged conversations, once it is loaded."""
    from phoenix_utils import corpora
    from phoenix_utils.translation import split

    settings = TranslationSettings(engine="ray" if workers else "transformers", ray_workers=workers or 1)
    rows = corpora.read_chat(settings.chat)
    found = (each.source for row in rows for m in row["messages"] for each in split(m["content"], "en", 200).segments)
    chosen = list(islice(dict.fromkeys(found), segments))
    translator = Translator(settings)
    for _ in range(2):  # whichever worker starts later loads its model in the second round
        translator.translate_segments(chosen[:16])
    started = time.monotonic()
    done = translator.translate_segments(chosen)
    return {"pass": time.monotonic() - started, "texts": [each.text for each in done]}


ARMS = {"stage": stage_arm, "ray_data": ray_data_arm, "model": model_arm}


def arm(name: str, **values) -> dict:
    """An arm's figures, measured in a process of its own."""
    return own_process([__file__, "--arm", json.dumps([name, values])])


def ray_speedup() -> dict:
    """Two workers against one process where the engine is what takes the time."""
    runs = {workers: [] for workers in (0, 2)}
    for _ in range(REPEATS):  # in turn, so that a busy minute slows both
        for workers, found in runs.items():
            found.append(arm("stage", rows=TIMED, latency=LATENCY, workers=workers))
    middle = {
        (workers, name): statistics.median(run[name] for run in found)
        for workers, found in runs.items()
        for name in ("pass", "whole", "start")
    }
    print(f"speed-up: {TIMED:,} rows of one segment, {1000 * LATENCY:.0f} ms a batch of {BATCH}, median of {REPEATS}")
    for workers, name in ((0, "one process"), (2, "Ray, two workers")):
        took = [f"{run['pass']:.2f}" for run in runs[workers]]
        print(f"  {name:<18} {middle[workers, 'pass']:.2f} s to translate ({', '.join(took)}), ", end="")
        print(f"{middle[workers, 'whole']:.2f} s with splitting and writing")
    figures = {
        "ray_speedup_2": middle[0, "pass"] / middle[2, "pass"],
        "ray_speedup_2_whole_stage": middle[0, "whole"] / middle[2, "whole"],
        "ray_start_seconds": middle[2, "start"],
    }
    print(f"  {figures['ray_speedup_2']:.2f} times as fast (wanted: 1.8); the whole stage ", end="")
    print(f"{figures['ray_speedup_2_whole_stage']:.2f} times; a cluster starts in {middle[2, 'start']:.1f} s")
    return figures


def ray_overhead() -> dict:
    """What a row takes where the engine takes nothing, and the driver's memory as rows grow; Ray Data beside it."""
    few, many = (arm("stage", rows=rows, latency=0.0, workers=2) for rows in (FEW, MANY))
    alone = arm("stage", rows=FEW, latency=0.0, workers=0)
    if many["good"] != MANY + 1:
        sys.exit(f"{MANY + 1 - many['good']} rows are missing")
    figures = {
        "ray_overhead_ms_per_row": 1000 * many["pass"] / MANY,
        "one_process_ms_per_row": 1000 * alone["pass"] / FEW,
        "driver_memory_growth_mb": many["peak_mb"] - few["peak_mb"],
        "driver_memory_mb": many["peak_mb"],
    }
    on_ray, alone_ms = figures["ray_overhead_ms_per_row"], figures["one_process_ms_per_row"]
    print(f"overhead: {on_ray:.3f} ms a row on Ray with an engine that costs nothing, the work on the row ", end="")
    print(f"counted (wanted: under 1); {alone_ms:.3f} ms in one process")
    print(f"driver memory: {few['peak_mb']:.0f} MB at {FEW:,} rows, {many['peak_mb']:.0f} MB at {MANY:,}, ", end="")
    print(f"growth {figures['driver_memory_growth_mb']:.0f} MB")
    return figures


def ray_data() -> dict:
    """The same work by Ray Data, from tables in the driver."""
    few, many = (arm("ray_data", rows=rows, latency=0.0, workers=2) for rows in (FEW, MANY))
    figures = {
        "ray_data_ms_per_row": 1000 * many["pass"] / MANY,
        "ray_data_first_result_seconds": many["first"],
        "ray_data_driver_memory_growth_mb": many["peak_mb"] - few["peak_mb"],
    }
    print(
        f"Ray Data: {figures['ray_data_ms_per_row']:.3f} ms a row, first result after {many['first']:.1f} s, driver ",
        end="",
    )
    print(f"{few['peak_mb']:.0f} MB at {FEW:,} rows, {many['peak_mb']:.0f} MB at {MANY:,}; nothing written")
    return figures


def ray_model() -> dict:
    """The embedded model itself, which two workers on one machine compute on the same cores."""
    alone, both = (arm("model", segments=SEGMENTS, workers=workers) for workers in (0, 2))
    same = sum(one == other for one, other in zip(alone["texts"], both["texts"], strict=True)) / SEGMENTS
    figures = {"ray_model_speedup_2": alone["pass"] / both["pass"], "ray_model_same_texts": same}
    print(
        f"the embedded model: {SEGMENTS} segments in {alone['pass']:.1f} s in one process, in {both['pass']:.1f} s ",
        end="",
    )
    print(f"by two workers on the same cores; {100 * same:.1f} % of the translations are the same to the letter")
    return figures


def gguf() -> dict:
    """The GGUF file of a release of runs/mini against its safetensors."""
    figures = gguf_agreement.measure(results.ROOT / "runs" / "mini")
    print(
        f"GGUF: {100 * figures['gguf_token_agreement']:.1f} % of {figures['gguf_tokens_compared']:,} greedy tokens ",
        end="",
    )
    print(f"on {figures['gguf_prompts']} prompts are those of the safetensors")
    return figures


def other_languages() -> dict:
    """Answers of the SFT model in the language of its run: of the runs of benchmarks/languages.py that are here, and of
    the others from its stored table."""
    here = languages.shares()
    figures = {**languages.stored_shares(), **here}
    for name, share in figures.items():
        print(f"{name}: {share:.3f} ({'a run that is here' if name in here else 'book/results/languages.md'})")
    return figures


PARTS = {
    "ray-speedup": ray_speedup,
    "ray-overhead": ray_overhead,
    "ray-data": ray_data,
    "ray-model": ray_model,
    "gguf": gguf,
    "languages": other_languages,
}


def table(figures: dict[str, float]) -> list[str]:
    """The figures under the names that they have in the JSON file."""
    rows = (f"| {name.replace('_', ' ')} | {value:.3f} |" for name, value in figures.items())
    return ["| figure | value |", "|---|---|", *rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="NAME", default="", help=f"parts whose names begin so: {', '.join(PARTS)}")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures there")
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.arm:
        name, values = json.loads(args.arm)
        print(json.dumps(ARMS[name](**values)))
        return
    chosen = [name for name in PARTS if name.startswith(args.only)]
    if not chosen:
        parser.error(f"--only {args.only}: there are {', '.join(PARTS)}")
    figures: dict[str, float] = {}
    for name in chosen:
        figures |= PARTS[name]()
    if not args.only:
        results.store("scale", "python benchmarks/scale.py", table(figures), NOTE)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
