"""Translation measured: nothing broken, how fast, how good. Each part can be run alone.

    python benchmarks/translation.py [--part identity --part protected …] [--json FILE]

identity    an identity translator gives every text back byte for byte
protected   300 documents with code, formulas, links, tables, placeholders through the real model
speed       the transformers engine against one `generate` call a segment with the untrimmed model
vllm        the vllm engine against raw `LLM.generate` (in the environment that `make test-vllm` makes)
kills       2,000 rows through the real model, killed three times at random moments, against a run left alone
instant     an engine that answers at once: segments per second, memory from 10,000 to 1,000,000 rows
quality     chrF by prompt and decoding on the project's pairs and on held-out help paragraphs; kept in book/results
"""

import argparse
import json
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import results  # benchmarks/results.py, beside this file
from adapt import held_out_help  # benchmarks/adapt.py
from documents import all_texts, documents_with_protected_text, generated_documents  # benchmarks/documents.py

from phoenix_utils import corpora
from phoenix_utils.decoding import Completion
from phoenix_utils.tables import read_rows
from phoenix_utils.translation.settings import TranslationSettings
from phoenix_utils.translation.translator import Translator

ROOT = Path(__file__).resolve().parent.parent


# ---------------------------------------------------------------- identity


def identity() -> dict:
    """How many texts an identity translator does not give back byte for byte (must be 0)."""
    from phoenix_utils.translation.segments import split

    own, made = all_texts(), generated_documents(2000)
    started, segments = time.monotonic(), 0
    failures = []
    for text in own + made:
        document = split(text)
        segments += len(document.segments)
        if document.join(document.texts) != text:
            failures.append(text)
    seconds = time.monotonic() - started
    print(
        f"identity: {len(own):,} texts of corpora and {len(made):,} generated documents, {len(failures)} not the same"
    )
    print(f"          {segments:,} segments cut and joined in {seconds:.1f} s, {segments / seconds:,.0f} a second")
    for text in failures[:5]:
        print(f"          {text[:100]!r}")
    return {"identity_failures": len(failures), "identity_texts": len(own) + len(made)}


# ---------------------------------------------------------------- protected text


def protected() -> dict:
    """Documents through the real model: is everything protected intact where the row is marked good?"""
    from phoenix_utils import training
    from phoenix_utils.translation.segments import split

    documents = documents_with_protected_text(300)
    translator = Translator(TranslationSettings())
    cut = [split(text) for text, _ in documents]
    segments = {segment.source: segment for document in cut for segment in document.segments}
    with training.quiet():
        started = time.monotonic()
        done = dict(zip(segments, translator.translate_segments(list(segments.values())), strict=True))
        seconds = time.monotonic() - started
    good, intact, broken = 0, 0, []
    for (source, kept), document in zip(documents, cut, strict=True):
        found = [done[segment.source] for segment in document.segments]
        if any(translation.fault for translation in found):
            continue
        good += 1
        text = document.assemble([translation.text for translation in found])
        lost = [span for span in kept if text.count(span) != source.count(span)]
        intact += not lost
        broken += [(lost, source, text)] if lost else []
    masked = [done[source] for source, segment in segments.items() if segment.spans]
    first = sum(translation.attempt == "masked" and not translation.fault for translation in masked)
    by_attempt = {
        name: sum(t.attempt == name and not t.fault for t in done.values()) for name in ("masked", "unmasked", "parts")
    }
    print(f"protected: {len(documents)} documents, {len(segments):,} segments in {seconds:.0f} s")
    print(f"           rows marked good: {good} of {len(documents)} ({good / len(documents):.1%})")
    print(f"           protected text intact in {intact} of {good} of them ({intact / max(good, 1):.1%})")
    print(f"           segments with masks right at once: {first} of {len(masked)} ({first / len(masked):.1%})")
    print(f"           segments by the attempt that succeeded: {by_attempt}, failed: "
          f"{sum(bool(t.fault) for t in done.values())}")  # fmt: skip
    for lost, _, text in broken[:3]:
        print(f"           lost {lost}: {text[:200]!r}")
    return {"protected_intact_share": intact / max(good, 1), "protected_good_share": good / len(documents)}


# ---------------------------------------------------------------- speed


def speed_segments(count: int) -> list[str]:
    """Distinct segments of the packaged conversations, of all lengths, drawn evenly."""
    from phoenix_utils.translation.segments import split

    texts = [m["content"] for row in corpora.read_chat("package:conversations") for m in row["messages"]]
    found = list(dict.fromkeys(piece for text in texts for piece in split(text).texts))
    found.sort(key=len)
    return [found[int(place * len(found) / count)] for place in range(count)]


def plain_loop(segments: list[str], translator: Translator) -> tuple[float, list[str]]:
    """Characters per second of one `generate` call a segment, untrimmed model with the same adapter and prompt."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from phoenix_utils import embedded

    folder = embedded.ensure_full()
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    model = PeftModel.from_pretrained(model, translator.choice.adapter).merge_and_unload().eval()
    answers = []
    started = time.monotonic()
    with torch.inference_mode():
        for text in segments:
            inputs = tokenizer(translator.prompt(text), return_tensors="pt")
            out = model.generate(**inputs, max_new_tokens=translator.params.max_new_tokens, do_sample=False)
            answer = tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            answers.append(answer.strip().partition("\n")[0])
    return sum(map(len, segments)) / (time.monotonic() - started), answers


def speed() -> dict:
    """The transformers engine against a plain loop, the same segments, prompt, threads and limit."""
    from phoenix_utils import training

    segments = speed_segments(130)
    characters = sum(map(len, segments))
    with training.quiet():
        translator = Translator(TranslationSettings())
        translator.translate_segments(segments[:8])  # loaded and warm
        runs = []
        for _ in range(3):
            started = time.monotonic()
            done = translator.translate_segments(segments)
            runs.append(characters / (time.monotonic() - started))
        ours = statistics.median(runs)
        theirs, answers = plain_loop(segments, translator)
    same = sum(a.text == b for a, b in zip(done, answers, strict=True))
    print(f"speed: {len(segments)} segments, {characters:,} characters, adapter, zero-shot prompt")
    print(f"       plain loop {theirs:.1f} characters/s; transformers engine {ours:.1f} characters/s")
    print(f"       {ours / theirs:.1f}x faster; {same} of {len(segments)} translations the same")
    return {"speedup_vs_plain_loop": ours / theirs, "characters_per_second": ours}


def vllm() -> dict:
    """The vllm engine against raw `LLM.generate`, in vLLM's own environment."""
    python = ROOT / ".venv-vllm" / "bin" / "python"
    if not python.exists():
        print("vllm: not measured; `make test-vllm` makes the environment it needs")
        return {}
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        command = [str(python), str(ROOT / "benchmarks" / "vllm_raw.py"), "--json", file.name]
        subprocess.run(command, check=True)
        return json.loads(Path(file.name).read_text())


# ---------------------------------------------------------------- an instant engine


class Instant:
    """Answers every prompt at once with its own source line."""

    def generate(self, prompts, params, on_batch=None):
        done = [Completion(prompt[prompt.rfind("English: ") + 9 : -8], "stop", -0.1) for prompt in prompts]
        if on_batch:
            on_batch(list(range(len(done))), done)
        return done


def instant_run(rows: int, folder: Path) -> dict:
    """Translate so many generated rows with the instant engine in this process; speed and memory at the end."""
    from phoenix_utils.artifacts import peak_memory_gb
    from phoenix_utils.translation import translate

    chat, pairs = folder / "chat.jsonl", folder / "pairs.jsonl"
    with chat.open("w") as file:
        for number in range(rows):
            messages = [
                {"role": "user", "content": f"How do I file form {number}? Please explain.\nKeep it short."},
                {"role": "assistant", "content": f"- Open drawer {number}.\n- Sign `form_{number}` and send it."},
            ]
            file.write(json.dumps({"prompt_id": str(number), "messages": messages}) + "\n")
    pairs.write_text(json.dumps({"prompt_id": "p", "prompt": "Say hello.", "chosen": "Hello.", "rejected": "No."}))
    settings = TranslationSettings(
        chat=str(chat),
        preferences=str(pairs),
        max_rows=None,
        run_dir=str(folder / "run"),
        adapter="none",
        prompt="alma",
    )
    started = time.monotonic()
    done = translate.run(settings, Translator(settings, Instant()))
    seconds = time.monotonic() - started
    manifest = json.loads((done / "manifest.json").read_text())
    return {
        "segments": manifest["counts"]["segments"],
        "seconds": seconds,
        "peak_gb": peak_memory_gb(),
        "translate_seconds": manifest["counts"]["characters"] / manifest["notes"]["characters_per_second"],
    }


def instant() -> dict:
    """Segments per second and memory growth where the engine costs nothing."""
    found = {}
    for rows in (10_000, 1_000_000):
        with tempfile.TemporaryDirectory(dir=ROOT / "runs" if (ROOT / "runs").is_dir() else None) as folder:
            run = f"translation.instant_run({rows}, pathlib.Path({folder!r}))"
            code = f"import json, pathlib, translation; print(json.dumps({run}))"
            done = subprocess.run(
                [sys.executable, "-c", code], cwd=ROOT / "benchmarks", capture_output=True, text=True, check=True
            )
            found[rows] = json.loads(done.stdout.splitlines()[-1])
        run = found[rows]
        once_split, in_all = (run["segments"] / run[name] for name in ("translate_seconds", "seconds"))
        print(f"instant: {rows:>9,} rows, {run['segments']:,} segments: {once_split:,.0f} a second once split,")
        print(f"         {in_all:,.0f} with splitting and writing, peak {run['peak_gb']:.2f} GB", flush=True)
    few, many = found[10_000], found[1_000_000]
    growth = (many["peak_gb"] - few["peak_gb"]) * 1024
    print(f"         memory grows by {growth:.0f} MB")
    return {
        "instant_segments_per_second": many["segments"] / many["translate_seconds"],
        "instant_segments_per_second_with_splitting": many["segments"] / many["seconds"],
        "memory_growth_mb": growth,
    }


# ---------------------------------------------------------------- kills


def kills() -> dict:
    """2,000 short rows through the real model: three kills at random moments against a run left in peace."""
    rng = random.Random()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts = [source for source, _ in held_out_help()] + speed_segments(1500)
        rows = [{"prompt": text, "completion": f"Step {n}."} for n, text in enumerate(sorted(texts, key=len)[:2000])]
        (folder / "chat.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        (folder / "pairs.jsonl").write_text(json.dumps({"prompt": "Say hello.", "chosen": "Hello.", "rejected": "No."}))
        started = time.monotonic()
        whole = _translate_in_process(folder, "one/whole").wait() or _rows_of(folder / "one/whole")
        seconds = time.monotonic() - started
        moments = sorted(rng.uniform(0.1, 0.9) for _ in range(3))
        for before, moment in zip([0.0, *moments], moments, strict=False):
            child = _translate_in_process(folder, "two/killed")
            time.sleep((moment - before) * seconds + 5)  # loading takes some seconds each time
            child.kill()
            child.wait()
            shown = sqlite3.connect(folder / "two/killed/01_translation/segments.sqlite")
            print(f"kills: killed with {shown.execute('SELECT count(*) FROM done').fetchone()[0]:,} done")
            shown.close()
        _translate_in_process(folder, "two/killed").wait()
        killed = _rows_of(folder / "two/killed")
    same = sum(a == b for a, b in zip(whole, killed, strict=True))
    print(f"kills: {len(whole):,} rows, {same:,} with the same translation as in a run left alone ({seconds:.0f} s)")
    return {"rows_after_kills": len(killed), "rows_same_after_kills": same}


def _translate_in_process(folder: Path, name: str) -> subprocess.Popen:
    values = {
        "chat": str(folder / "chat.jsonl"),
        "preferences": str(folder / "pairs.jsonl"),
        "max_rows": None,
        "run_dir": str(folder / name),
    }
    code = f"from phoenix_utils.translation import TranslationSettings, run; run(TranslationSettings(**{values!r}))"
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)


def _rows_of(run_dir: Path) -> list:
    folder = run_dir / "01_translation"
    return [row["messages"] for row in read_rows(folder / "chat")] + [
        row["chosen"] for row in read_rows(folder / "preferences")
    ]


# ---------------------------------------------------------------- quality


def quality(rows: int) -> dict:
    """chrF of each prompt and decoding on the project's pairs and on held-out help paragraphs."""
    from phoenix_utils import training
    from phoenix_utils.translation import measure
    from phoenix_utils.translation.rerank import RerankingTranslator

    project = [(row["source_text"], row["target_text"]) for row in corpora.sentence_pairs("en", "de")]
    sets = {"project": project[:rows], "help": held_out_help()[:rows]}
    conditions = {
        ("adapter, zero-shot", "greedy"): {},
        ("adapter, zero-shot", "beam 4"): {"num_beams": 4},
        ("adapter, zero-shot", "best of 4 samples"): {},
        ("base, zero-shot", "greedy"): {"adapter": "none", "prompt": "alma"},
        ("base, few-shot", "greedy"): {"adapter": "none", "prompt": "few_shot"},
    }
    lines = ["| prompt | decoding | set | n | chrF | BLEU | characters/s |", "|---|---|---|---|---|---|---|"]
    print(*lines, sep="\n")
    figures = {}
    characters = sum(len(source) for pairs in sets.values() for source, _ in pairs)
    with training.quiet():
        for (prompt, decoding), changes in conditions.items():
            translator = Translator(TranslationSettings(**changes))
            if decoding == "best of 4 samples":
                translator = RerankingTranslator(translator)
            started = time.monotonic()
            found = measure.translate_sets(translator, sets)
            rate = characters / (time.monotonic() - started)
            for name, pairs in sets.items():
                scores = measure.scores(pairs, found[name], "de", "en")
                figures[prompt, decoding, name] = scores["chrf"]["value"]
                cells = [
                    prompt,
                    decoding,
                    name,
                    len(pairs),
                    results.shown(scores["chrf"]),
                    results.shown(scores["bleu"]),
                ]
                lines.append(f"| {' | '.join(map(str, cells))} | {rate:.0f} |")
                print(lines[-1], flush=True)
    if rows >= 500:  # a smaller table is a try
        note = "Embedded model, English to German; values with 95 % intervals, speed over both sets."
        results.store("translation_quality", "python benchmarks/translation.py --part quality", lines, note)
    return {
        "chrf_project_pairs": figures["adapter, zero-shot", "greedy", "project"],
        "chrf_help": figures["adapter, zero-shot", "greedy", "help"],
    }


def main() -> None:
    """Run the parts that are asked for, all by default."""
    parts = {
        "identity": identity,
        "protected": protected,
        "speed": speed,
        "vllm": vllm,
        "kills": kills,
        "instant": instant,
    }
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--part", action="append", choices=[*parts, "quality"], help="only this part; repeatable")
    parser.add_argument("--rows", type=int, default=500, help="most pairs of each set in the part quality")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    figures: dict[str, float] = {}
    for name in arguments.part or [*parts, "quality"]:
        figures |= quality(arguments.rows) if name == "quality" else parts[name]()
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
