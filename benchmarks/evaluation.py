"""Evaluation measured: replies read, intervals that hold, batches against single prompts, the harness against itself.

    python benchmarks/evaluation.py [--part parsing --part statistics …] [--json FILE]

parsing     the project's 200 judge replies: share read right, scores made of replies that mean none
statistics  2,000 simulated evaluations by a judge of known bias: do the intervals hold the truth?
speed       MT-Bench answers of the embedded model in batches against one prompt at a time
harness     benchmarks.measure against lm_eval's own command line on the embedded model
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from phoenix_utils import chat, models, sources, training
from phoenix_utils.decoding import GenerationParams
from phoenix_utils.engine_transformers import TransformersEngine
from phoenix_utils.evaluation import benchmarks, judged, mt_bench, verdicts

MODEL, LANGUAGES = "embedded:gemma-3-270m", ("en", "de")
SIMULATIONS, QUESTIONS = 2000, 80
TRUTH = {"base": 3.0, "sft": 5.0, "dpo": 5.4}
FIRST, LONGER = 0.6, 0.8  # points for the first place; for 1,000 more characters


def parsing() -> dict:
    """Replies of judges in all shapes. The grammar was written against half of them; on the other half its first
    version read 79 % right (no false score), the next one 87 % of what was still unseen; then the rest was mended."""
    rows = [row for _, row in sources.raw_rows("package:judge_replies", "chat")]
    found = [verdicts.score(row["reply"]).score for row in rows]
    strict = [verdicts.score(row["reply"], lenient=False).score for row in rows]
    right = sum(score == row["score"] for score, row in zip(found, rows, strict=True))
    false = sum(row["score"] is None and score is not None for score, row in zip(found, rows, strict=True))
    silent = sum(score is None for score in strict)
    wrong = sum(score not in (None, row["score"]) for score, row in zip(strict, rows, strict=True))
    print(f"parsing: lenient {right} of {len(rows)} right, {false} false scores")
    print(f"         strict  {len(rows) - silent} read, {wrong} of them wrong")
    return {"judge_parse_accuracy": right / len(rows), "false_scores": false}


def simulation(seed: int) -> tuple[list[dict], list[dict]]:
    """Scores of three models and preferences between two, by a judge who likes the first place and length."""
    g = np.random.default_rng(seed)
    hard = g.normal(0, 1.2, QUESTIONS)
    scores, pairs = [], []
    for model, level in TRUTH.items():
        quality = level + hard + g.normal(0, 0.6, QUESTIONS)
        lengths = g.integers(200, 2200, (QUESTIONS, 2))
        seen = quality[:, None] + LONGER * (lengths - 1199.5) / 1000 + g.normal(0, 1, (QUESTIONS, 2))
        for q in range(QUESTIONS):
            for turn in (0, 1):
                about = {
                    "model": model,
                    "question_id": q,
                    "turn": turn,
                    "category": "",
                    "length": int(lengths[q, turn]),
                }
                scores.append({**about, "score": float(seen[q, turn]), "why": ""})
    for q in range(QUESTIONS):
        for first in ("sft", "dpo"):
            about = {"model": first, "earlier": "sft", "later": "dpo", "question_id": q, "category": "", "why": ""}
            pairs.append({**about, "longer": 0, "score": float(g.random() < FIRST)})
    return scores, pairs


def statistics(simulations: int) -> dict:
    """How often 95 % intervals hold what was put in, and how often the true ranking comes out."""
    held = {"difference": 0, "mean": 0, "length bias": 0, "position bias": 0}
    ranked = 0
    for seed in range(simulations):
        scores, pairs = simulation(seed)
        found = judged.compare(scores, [("sft", "dpo")], seed)["dpo-sft"]
        table = judged.score_tables(scores)
        means = [table[model]["average"]["value"] for model in TRUTH]
        ranked += means == sorted(means)
        average, length = table["base"]["average"], judged.length_bias(scores, seed)
        first = judged.preferences(pairs, seed)["first"]
        held["difference"] += found["low"] <= TRUTH["dpo"] - TRUTH["sft"] <= found["high"]
        held["mean"] += average["low"] <= TRUTH["base"] <= average["high"]
        held["length bias"] += length.low <= LONGER <= length.high
        held["position bias"] += first["low"] <= FIRST <= first["high"]
    shares = {name: count / simulations for name, count in held.items()}
    print(
        f"statistics: {simulations:,} simulations of {QUESTIONS} questions, "
        f"true ranking found in {ranked / simulations:.1%}"
    )
    for name, share in shares.items():
        print(f"            95 % intervals of the {name} hold the truth in {share:.1%}")
    return {
        "interval_coverage": shares["difference"],
        "interval_coverage_mean": shares["mean"],
        "interval_coverage_length_bias": shares["length bias"],
        "interval_coverage_position_bias": shares["position bias"],
        "ranking_found": ranked / simulations,
    }


def speed(questions: int, tokens: int) -> dict:
    """The same questions, model and limit: our batches against a plain `generate` call for each prompt."""
    import torch

    asked = mt_bench.read_questions(None, "de", questions)
    params = GenerationParams(max_new_tokens=tokens, repetition_penalty=1.1)
    with training.quiet():
        model = models.load_model(MODEL, LANGUAGES).eval()
        tokenizer = chat.apply_template(models.load_tokenizer(MODEL, LANGUAGES))
        chat.set_stop_token(model, tokenizer)
        few = asked[:: max(1, len(asked) // 8)]
        started = time.monotonic()
        written = 0
        for question in few:
            history = []
            for turn in question.turns:
                history.append({"role": "user", "content": turn})
                inputs = tokenizer(chat.render(tokenizer, history), return_tensors="pt", add_special_tokens=False)
                sampled = question.temperature > 0
                with torch.inference_mode():
                    options = (
                        {"do_sample": True, "temperature": question.temperature} if sampled else {"do_sample": False}
                    )
                    out = model.generate(**inputs, max_new_tokens=tokens, repetition_penalty=1.1, **options)
                new = out[0, inputs["input_ids"].shape[1] :]
                written += len(new)
                history.append({"role": "assistant", "content": tokenizer.decode(new, skip_special_tokens=True)})
        single = written / (time.monotonic() - started)
        engine = TransformersEngine(model, tokenizer)
        started = time.monotonic()
        rows = mt_bench.answer(engine, "base", asked, params, LANGUAGES)
        seconds = time.monotonic() - started
    batched = sum(len(tokenizer(row["answer"], add_special_tokens=False)["input_ids"]) for row in rows) / seconds
    print(
        f"speed: one prompt at a time {single:.1f} tokens/s, batches of {len(asked)} questions {batched:.1f} tokens/s"
    )
    return {"batch_speedup": batched / single, "batched_tokens_per_second": batched}


def harness(limit: int) -> dict:
    """Largest difference between our accuracies and those of lm_eval's command line, same model and tasks."""
    tasks = ["phoenix_mc_de", "phoenix_grammar_de"]
    with tempfile.TemporaryDirectory() as name, training.quiet():
        folder = Path(name)
        model = models.load_model(MODEL, LANGUAGES)
        tokenizer = chat.apply_template(models.load_tokenizer(MODEL, LANGUAGES))
        model.save_pretrained(folder / "model")
        tokenizer.save_pretrained(folder / "model")
        ours = benchmarks.measure(
            model, tokenizer, tasks, folder / "tasks", name="base", limit=limit, templates=(False,)
        )
        command = [
            *(sys.executable, "-m", "lm_eval", "--model", "hf", "--device", "cpu", "--batch_size", "16"),
            *("--model_args", f"pretrained={folder / 'model'},dtype=float32", "--limit", str(limit)),
            *("--include_path", str(folder / "tasks"), "--tasks", ",".join(tasks), "--num_fewshot", "0"),
            *("--output_path", str(folder / "out")),
        ]
        subprocess.run(command, check=True, capture_output=True)
        [stored] = (folder / "out").rglob("results_*.json")
        theirs = json.loads(stored.read_text())["results"]
    pairs = [(row["task"], row["value"], theirs[row["task"]]["acc,none"]) for row in ours]
    for task, own, cli in pairs:
        print(f"harness: {task} {own:.4f}, lm_eval's command line {cli:.4f}")
    return {"harness_difference": max(abs(own - cli) for _, own, cli in pairs)}


def main() -> None:
    """Run the parts asked for and write their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", action="append", choices=["parsing", "statistics", "speed", "harness"])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--questions", type=int, default=QUESTIONS, help="questions of the part `speed`")
    parser.add_argument("--simulations", type=int, default=SIMULATIONS, help="of the part `statistics`")
    parser.add_argument("--tokens", type=int, default=96, help="longest answer of the part `speed`")
    parser.add_argument("--limit", type=int, default=60, help="rows of each task of the part `harness`")
    options = parser.parse_args()
    parts = {
        "parsing": parsing,
        "statistics": lambda: statistics(options.simulations),
        "speed": lambda: speed(options.questions, options.tokens),
        "harness": lambda: harness(options.limit),
    }
    figures = {}
    for name in options.part or parts:
        figures |= parts[name]()
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
