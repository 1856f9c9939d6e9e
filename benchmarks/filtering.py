"""The filters against known errors: clean human pairs that are rejected, fourteen corruptions that are found, speed.

    python benchmarks/filtering.py [--pairs 2000] [--scored 200] [--rows 200000] [--json FILE]

Clean pairs are paragraphs of held-out help pages (../shared/data/libreoffice_help) and the project's measuring pairs;
the rules were tuned on other pages and on the project's training pairs. Every rule is on, whatever `mini` skips. The
swapped pairs are judged by rules and by the embedding score together, whose threshold comes from pages that are not
held out. Rows for the speed are conversations of about 5,000 characters made of the same pairs, judged as the stage
does it: rules, tokens, contamination, duplicates. Memory is the peak of a process that filters so many short rows,
beside that of one that filters a tenth of them.
"""

import argparse
import json
import random
import tempfile
import time
from collections import Counter
from pathlib import Path

import corruptions  # benchmarks/corruptions.py and benchmarks/own_process.py, beside this file
from own_process import own_process

from phoenix_utils import artifacts, corpora, tables
from phoenix_utils.filtering import FilteringSettings, scores, stage, token_counter
from phoenix_utils.filtering.near import NearDuplicates
from phoenix_utils.filtering.rules import findings

SETTINGS = FilteringSettings(skip_rules=[])
NAMED = ("other_language", "copied", "untranslated_half", "truncated", "sentence_repeated", "looped_phrase",
         "number_changed", "url_changed", "code_translated", "prompt_left", "register_mixed")  # fmt: skip
GOALS = {**dict.fromkeys(NAMED, 0.95), "swapped": 0.90, "sentence_dropped": 0.80, "negation_removed": 0.60}


def chat_row(answers: list[corruptions.Pair]) -> dict:
    """A conversation whose answers are these pairs."""
    row = {"messages": [], "messages_source": [], "license": "CC0-1.0", "prompt_id": answers[0][0]}
    for source, text in answers:
        for name, question, answer in (("messages", "Hilfe", text), ("messages_source", "Help", source)):
            row[name] += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return row


def broken(pair: corruptions.Pair) -> set[str]:
    """The rules that a pair breaks."""
    return {finding.rule for finding in findings(chat_row([pair]), SETTINGS, lambda messages: 1)}


def large_rows(pairs: list[corruptions.Pair], count: int, size: int = 5000) -> list[dict]:
    """Conversations of three turns and about `size` characters of translation."""
    rows, at = [], 0
    for _ in range(count):
        answers = []
        for _ in range(3):
            joined: list[corruptions.Pair] = []
            while sum(len(text) for _, text in joined) < size / 3:
                joined.append(pairs[at % len(pairs)])
                at += 1
            answers.append(tuple("\n\n".join(side) for side in zip(*joined, strict=True)))
        rows.append(chat_row(answers))
    return rows


def speeds(pairs: list[corruptions.Pair]) -> tuple[float, float]:
    """Rows per second of the whole judgement and of the near-duplicates alone, in one process."""
    judge = stage.Judge(SETTINGS, token_counter(SETTINGS), {"chat": Path()})
    rows = large_rows(pairs, 300)
    for row in rows[:20]:  # loads the detector and the lists of words
        judge.findings(row, "chat")
    started = time.monotonic()
    for row in rows[20:]:
        judge.findings(row, "chat")
    ruled = (len(rows) - 20) / (time.monotonic() - started)
    near = NearDuplicates(SETTINGS.duplicate_similarity)
    texts = ["\n".join(m["content"] for m in row["messages"]) for row in large_rows(pairs[::-1], 600)]
    started = time.monotonic()
    for number, text in enumerate(texts):
        near.seen(str(number), text)
    return ruled, len(texts) / (time.monotonic() - started)


def memory_arm(count: int) -> dict[str, float]:
    """Filter so many short rows in this process; its peak memory and seconds."""
    words = [word for _, text in corruptions.project_pairs(True) for word in text.split() if word.isalpha()]
    draw = random.Random(1)

    def rows():
        for number in range(count):
            text = f"Nummer {number}: " + " ".join(draw.choices(words, k=8)) + "."
            yield {**chat_row([(text, text)]), "prompt_id": str(number), "source": "benchmark"}

    with tempfile.TemporaryDirectory() as folder:
        translated = artifacts.stage_path(folder, "translation")
        tables.Shards(translated / "chat", corpora.TRANSLATED_CHAT, 10_000).append(rows())
        [row] = corpora.held_out_preferences("de")[:1]
        pair = {name: row[name] for name in corpora.PREFERENCES.names}
        tables.Shards(translated / "preferences", corpora.TRANSLATED_PREFERENCES, 10).append([pair])
        started = time.monotonic()
        limits = SETTINGS.model_copy(update={"run_dir": folder, "skip_rules": ["copied", "remainder", "contaminated"]})
        summary = stage.run(limits)
        seconds = time.monotonic() - started
    return {"peak_gb": artifacts.peak_memory_gb(), "seconds": seconds, "kept": summary["chat"]["kept"]}


def memory(count: int) -> dict[str, float]:
    """Peak memory over `count` rows and over a tenth of them, each in a process of its own."""
    few, many = (own_process([__file__, "--memory", str(number)]) for number in (count // 10, count))
    for number, found in ((count // 10, few), (count, many)):
        print(
            f"{number:,} short rows: peak {found['peak_gb']:.2f} GB, {found['seconds']:.0f} s, {found['kept']:,} kept"
        )
    return {"memory_few_gb": few["peak_gb"], "memory_many_gb": many["peak_gb"]}


def main() -> None:
    """Measure and print everything."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=2000, help="clean pairs of the help")
    parser.add_argument("--scored", type=int, default=200, help="swapped pairs that are scored too")
    parser.add_argument("--rows", type=int, default=200_000, help="short rows whose memory is measured, 0 for none")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--memory", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory:
        print(json.dumps(memory_arm(arguments.memory)))
        return
    sets = {"help": corruptions.help_pairs(True, arguments.pairs), "project": corruptions.project_pairs(True)}
    clean = [pair for part in sets.values() for pair in part]
    result: dict[str, float] = {}
    rejected = {name: [(pair, rules) for pair in part if (rules := broken(pair))] for name, part in sets.items()}
    for name, found in rejected.items():
        counts = dict(Counter(rule for _, rules in found for rule in rules).most_common())
        print(f"clean {name}: {len(found)} of {len(sets[name])} rejected ({len(found) / len(sets[name]):.2%}) {counts}")
        for (source, text), rules in found[:5]:
            print(f"    {', '.join(sorted(rules))}: {source[:90]!r} -> {text[:90]!r}")
        result[f"false_reject_share_{name}"] = len(found) / len(sets[name])
    result["false_reject_share"] = sum(map(len, rejected.values())) / len(clean)
    print(f"clean in all: {result['false_reject_share']:.2%} rejected (at most 2 %)")
    print(f"{'corruption':18}{'n':>6}  recall   goal  found by")
    for name in (*corruptions.CORRUPTIONS, "swapped"):
        spoiled = corruptions.spoil(clean, name)
        caught = [broken(pair) for pair in spoiled]
        recall = sum(map(bool, caught)) / len(spoiled)
        if name == "swapped":
            result["recall_swapped_rules"] = recall
            recall = swapped_recall(spoiled, caught, arguments.scored, result)
        result[f"recall_{name}"] = recall
        by = ", ".join(f"{rule} {count}" for rule, count in Counter(r for c in caught for r in c).most_common(3))
        print(f"{name:18}{len(spoiled):>6}  {recall:6.3f}  {GOALS[name]:5.2f}  {by}")
        missed = [pair for pair, rules in zip(spoiled, caught, strict=True) if not rules]
        for source, text in missed[:2]:
            who = "missed by the rules alone" if name == "swapped" else "missed"
            print(f"    one of {len(missed)} {who}: {source[:100]!r} -> {text[:100]!r}")
    result["rows_per_second"], result["dedup_rows_per_second"] = speeds(clean)
    print(f"rules: {result['rows_per_second']:.0f} rows/s (50), near-duplicates: "
          f"{result['dedup_rows_per_second']:.0f} rows/s (333), one process", flush=True)  # fmt: skip
    if arguments.rows:
        result |= memory(arguments.rows)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def swapped_recall(spoiled: list, caught: list[set[str]], count: int, result: dict) -> float:
    """Recall of rules and embedding score together on the first swapped pairs of a fixed order."""
    limit = scores.threshold(scores.cosines(corruptions.help_pairs(False, 300)), keep_rate=0.99)
    clean = scores.cosines(corruptions.help_pairs(True, count))
    result["false_reject_share_cosine"] = sum(value < limit for value in clean) / len(clean)
    found = scores.cosines(spoiled[:count])
    hits = [bool(rules) or value < limit for rules, value in zip(caught, found, strict=False)]
    print(f"cosine below {limit:.3f}: {result['false_reject_share_cosine']:.2%} of clean pairs")
    return sum(hits) / len(hits)


if __name__ == "__main__":
    main()
