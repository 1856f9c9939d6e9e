"""How far greedy texts and training curves move with what should not matter: threads, batches, kernels, number types.

    python benchmarks/determinism.py [--url http://localhost:8000/v1]

The embedded model translates and answers, and is trained for a few steps, once as a run of `mini` would in float32 and
once for each change. `--url` adds another engine: a server of the embedded base, such as vLLM's, under its name.
"""

import argparse
import contextlib
import statistics
import tempfile

import results
import torch

from phoenix_utils import artifacts, corpora, cpu_linear, engines, sources, tables, training
from phoenix_utils.decoding import GenerationParams
from phoenix_utils.sft import SftSettings
from phoenix_utils.sft import run as train
from phoenix_utils.translation import TranslationSettings, Translator

MODEL, LANGUAGES = "embedded:gemma-3-270m", ("en", "de")
TRANSLATED, ANSWERED, TOKENS, ROWS = 48, 20, 32, 8
THREADS = "two threads for one"
CHANGES = ("nothing", THREADS, "a batch of one", "MKL's kernels for oneDNN's", "bfloat16")
NOTE = (
    f"Against float32 on one thread: {TRANSLATED} sentences translated, {ANSWERED} questions answered by the base with "
    f"{TOKENS} tokens, greedy; {ROWS // 2} steps of SFT on {ROWS} conversations, loss in nats per token."
)


@contextlib.contextmanager
def threads(number: int):
    """Let PyTorch compute with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def texts(engine, prompts: list[str], change: str, params: GenerationParams) -> list[str]:
    """Greedy texts under one change."""
    rows, packed, kind = engine.max_rows, cpu_linear.packed, engine.model.dtype
    engine.max_rows = 1 if change == "a batch of one" else rows
    cpu_linear.packed = contextlib.nullcontext if change.startswith("MKL") else packed
    engine.model.to(torch.bfloat16 if change == "bfloat16" else kind)
    try:
        with threads(2 if change == THREADS else 1):
            return [done.text for done in engine.generate(prompts, params)]
    finally:
        engine.max_rows, cpu_linear.packed = rows, packed
        engine.model.to(kind)  # what bfloat16 has rounded stays so: it comes last


def curve(change: str) -> list[float]:
    """Losses of a short SFT under one change."""
    with tempfile.TemporaryDirectory() as folder, threads(2 if change == THREADS else 1):
        kept = artifacts.stage_path(folder, "filtering")
        tables.write_rows(kept / "chat.parquet", corpora.held_out_chat("de")[:ROWS], corpora.CHAT)
        settings = SftSettings(
            run_dir=folder,
            num_train_epochs=1.0,
            global_batch=2,
            per_device_train_batch_size=1 if change == "a batch of one" else 2,
            dtype="bfloat16" if change == "bfloat16" else "float32",
        )
        train(settings)
        return [loss for _, loss in training.read_curve(artifacts.stage_path(folder, "sft"))]


def moved(first: list[str], other: list[str]) -> str:
    """Share of texts that differ, and at which of its characters half of those do so at the latest."""
    places = [
        next((at for at, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))
        for one, two in zip(first, other, strict=True)
        if one != two
    ]
    return f"{len(places) / len(first):.0%}" + (f", from character {statistics.median(places):.0f}" if places else "")


def main() -> None:
    """Measure every change, print the table and store it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--url", help="address of a server with the embedded base, to compare engines")
    arguments = parser.parse_args()
    translator = Translator(TranslationSettings())
    lines = [row["source_text"] for _, row in sources.json_lines(sources.packaged("pairs.en-de.jsonl"))][:TRANSLATED]
    base = engines.open_engine("transformers", MODEL, languages=LANGUAGES)
    asked = [row["turns"][0] for _, row in sources.json_lines(sources.packaged("questions.de.jsonl"))][:ANSWERED]
    work = {
        "translations": (translator.engine, [translator.prompt(line) for line in lines], translator.params),
        "answers": (base, [f"Frage: {text}\nAntwort:" for text in asked], GenerationParams(max_new_tokens=TOKENS)),
    }
    plain = {name: texts(engine, prompts, "", params) for name, (engine, prompts, params) in work.items()}
    losses = curve("")
    table = [
        "| changed | translations that differ | answers that differ | loss, largest difference | at the last step |",
        "|---|---|---|---|---|",
    ]
    for change in CHANGES:
        if change == THREADS and torch.get_num_threads() < 2:
            continue  # two threads on one core wait for each other, for minutes
        told = [moved(plain[name], texts(e, prompts, change, params)) for name, (e, prompts, params) in work.items()]
        if change.startswith("MKL"):  # training takes PyTorch's choice in any case
            gaps = ["–", "–"]
        else:
            found = [abs(a - b) for a, b in zip(losses, curve(change), strict=True)]
            gaps = [f"{gap:.1e}" if gap else "0" for gap in (max(found), found[-1])]
        table.append(f"| {' | '.join([change, *told, *gaps])} |")
        results.store("determinism", "python benchmarks/determinism.py", table, NOTE)
        print(table[-1], flush=True)
    if arguments.url:
        server = engines.open_engine("server", MODEL, languages=LANGUAGES, base_url=arguments.url)
        _, prompts, params = work["answers"]
        told = moved(plain["answers"], [done.text for done in server.generate(prompts, params)])
        table.append(f"| the engine: a server | – | {told} | – | – |")
        results.store("determinism", "python benchmarks/determinism.py", table, NOTE)
        print(table[-1])


if __name__ == "__main__":
    main()
