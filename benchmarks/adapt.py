"""What the translator's adapter is worth: chrF on unseen text against the base model, plain failures, speed.

    python benchmarks/adapt.py [--adapter FOLDER] [--json FILE]

Measured on 500 paragraphs of held-out help pages (../shared/data/libreoffice_help) and on the project's 200
measuring pairs. The base model translates zero-shot and, as a competent user would make it, with four examples.
"""

import argparse
import gzip
import hashlib
import json
import time
from pathlib import Path

from phoenix_utils import corpora, models, training
from phoenix_utils.statistics import Interval
from phoenix_utils.translation import measure, packaged_adapter, parallel
from phoenix_utils.translation.segments import split
from phoenix_utils.translation.settings import TranslationSettings
from phoenix_utils.translation.translator import Translator

ROOT = Path(__file__).resolve().parent.parent
HELP = ROOT.parent / "shared" / "data" / "libreoffice_help" / "en_de_pairs.tsv.gz"
PARAGRAPHS = 500


def held_out_help() -> measure.Pairs:
    """Clean paragraphs of held-out pages, chosen by a hash, so that everybody measures on the same ones."""
    with gzip.open(HELP, "rt", encoding="utf-8") as file:
        cells = [line.rstrip("\n").split("\t") for line in file]
    rows = [parallel.ParallelRow(en, de, page, name) for page, name, tag, en, de in cells if tag == "p"]
    kept = [
        row
        for row in parallel.clean((row for row in rows if parallel.held_out_page(row.document)), "en", "de")
        if isinstance(row, parallel.ParallelRow)
    ]
    kept.sort(key=lambda row: hashlib.sha256(row.source_text.encode()).digest())
    return [(row.source_text, row.target_text) for row in kept[:PARAGRAPHS]]


def mini_segments() -> list[str]:
    """The segments that `mini` translates."""
    texts = [m["content"] for row in corpora.read_chat("package:conversations", 60) for m in row["messages"]]
    for row in corpora.read_preferences("package:preferences", 60):
        texts += [row["prompt"], row["chosen"][-1]["content"], row["rejected"][-1]["content"]]
    return list(dict.fromkeys(piece for text in texts for piece in split(text, "en", 200).texts))


def plain_batches(translator: Translator, segments: list[str], rows: int = 32) -> float:
    """Characters per second of transformers' own `generate` in sorted batches: each reads the examples again."""
    engine = translator.engine
    tokenizer, model = engine.tokenizer, engine.model
    model.set_attn_implementation("sdpa")
    started = time.monotonic()
    ordered = sorted(segments, key=len)
    for start in range(0, len(ordered), rows):
        prompts = [translator.prompt(text) for text in ordered[start : start + rows]]
        inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
        model.generate(**inputs, max_new_tokens=translator.params.max_new_tokens, do_sample=False,
                       stop_strings=["\n"], tokenizer=tokenizer)  # fmt: skip
    return sum(map(len, segments)) / (time.monotonic() - started)


def print_scores(found: dict[tuple[str, str], dict]) -> None:
    """One line for each condition and set."""
    print(f"{'':16}{'set':9}{'n':>4}  {'chrF':22}{'BLEU':22}copied  loops  cut off  wrong language")
    for (name, kind), scores in found.items():
        chrf, bleu = (f"{s['value']:.2f} [{s['low']:.2f}, {s['high']:.2f}]" for s in (scores["chrf"], scores["bleu"]))
        shares = "  ".join(f"{scores[key]['value']:6.2%}" for key in ("copied", "loop", "truncated", "wrong_language"))
        print(f"{name:16}{kind:9}{scores['chrf']['n']:>4}  {chrf:22}{bleu:22}{shares}")


def main() -> None:
    """Translate everything under three conditions and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--adapter", default="auto", help="folder of an adapter; the packaged one by default")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    folder = packaged_adapter("embedded:gemma-3-270m", "en", "de") if arguments.adapter == "auto" else arguments.adapter
    project = [(row["source_text"], row["target_text"]) for row in corpora.sentence_pairs("en", "de")]
    sets = {"help": held_out_help(), "project": project}
    conditions = {
        "zero-shot base": Translator(TranslationSettings(prompt="alma", adapter="none")),
        "few-shot base": Translator(TranslationSettings(prompt="few_shot", adapter="none")),
        "adapter": Translator(TranslationSettings(adapter=str(folder))),
    }
    segments = mini_segments()
    characters = sum(map(len, segments))
    found, hypotheses, speed = {}, {}, {}
    with training.quiet():
        for name, translator in conditions.items():
            hypotheses[name] = measure.translate_sets(translator, sets)
            if name != "zero-shot base":
                started = time.monotonic()
                translator.translate_segments(segments)
                speed[name] = characters / (time.monotonic() - started)
            for kind, rows in sets.items():
                found[name, kind] = measure.scores(rows, hypotheses[name][kind], "de", "en")
    print_scores(found)
    for kind, rows in sets.items():
        gain = measure.chrf_gain(rows, hypotheses["few-shot base"][kind], hypotheses["adapter"][kind])
        print(f"chrF above few-shot, {kind}: {_shown(gain)}")
    ratio = speed["adapter"] / speed["few-shot base"]
    with training.quiet():
        plain = plain_batches(conditions["few-shot base"], segments[:200])
    print(
        f"mini's {characters:,} characters: few-shot {speed['few-shot base']:.0f}/s, adapter {speed['adapter']:.0f}/s"
    )
    print(f"adapter is {ratio:.2f}x faster per source character; the engine reads the examples once for all segments")
    print(f"against transformers' own batches of 32 with the few-shot prompt ({plain:.0f}/s): "
          f"{speed['adapter'] / plain:.2f}x")  # fmt: skip
    minutes = models.read_lineage(Path(folder)).get("training", {}).get("seconds", 0) / 60
    print(f"trained in {minutes:.1f} minutes")
    after = {kind: found["adapter", kind] for kind in sets}
    result = {
        "chrf_help_before": found["zero-shot base", "help"]["chrf"]["value"],
        "chrf_help_few_shot": found["few-shot base", "help"]["chrf"]["value"],
        "chrf_help_after": after["help"]["chrf"]["value"],
        "chrf_project_before": found["few-shot base", "project"]["chrf"]["value"],
        "chrf_project_after": after["project"]["chrf"]["value"],
        "bleu_help_after": after["help"]["bleu"]["value"],
        "bleu_project_after": after["project"]["bleu"]["value"],
        **{f"{plural}_after": max(after[kind][fault]["value"] for kind in sets)
           for plural, fault in (("copies", "copied"), ("loops", "loop"), ("truncations", "truncated"))},
        "speed_ratio": ratio,
        "speed_ratio_plain_batches": speed["adapter"] / plain,
        "minutes": minutes,
    }  # fmt: skip
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def _shown(interval: Interval) -> str:
    return f"{interval.value:+.2f} [{interval.low:+.2f}, {interval.high:+.2f}]"


if __name__ == "__main__":
    main()
