"""Evaluation measured: replies read, intervals that hold, batches against single prompts, the harness against itself.

    python benchmarks/evaluation.py [--part parsing --part statistics …] [--json FILE]

parsing     the project's 200 judge replies: share read right, scores made of replies that mean none
statistics  2,000 simulated evaluations by a judge of known bias: do the intervals hold the truth?
speed       MT-Bench answers of three models in batches against one prompt at a time, as one would without an engine
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

from phoenix_utils import chat, embedded, models, sources, training
from phoenix_utils.decoding import GenerationParams
from phoenix_utils.engine_transformers import TransformersEngine
from phoenix_utils.evaluation import benchmarks, judged, likelihood, mt_bench, verdicts
from phoenix_utils.evaluation.contenders import Contenders

MODEL, LANGUAGES = "embedded:gemma-3-270m", ("en", "de")
SIMULATIONS, QUESTIONS = 2000, 80
PENALTY = 1.1
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
    """All questions in both turns by three models, against what one would write without an engine.

    That is the untrimmed model and a plain `generate` for each prompt, on eight questions, one of each tenth of the
    list: their time for each token counts. Ours is the time of everything, from switching the adapters to the last
    answer; the adapters change no weight, so that all three models say what the base says.
    """
    asked = mt_bench.read_questions(None, "de", questions)
    with tempfile.TemporaryDirectory() as name, training.quiet():
        tokenizer = chat.apply_template(models.load_tokenizer(MODEL, LANGUAGES))
        single = one_by_one(asked[:: max(1, len(asked) // 8)], tokens)
        trained = {stage: idle_adapter(Path(name) / stage / "adapter", tokenizer) for stage in ("sft", "dpo")}
        contenders = Contenders(MODEL, LANGUAGES, trained)
        params = GenerationParams(max_new_tokens=tokens, repetition_penalty=PENALTY)
        started, rows = time.monotonic(), []
        for model in ("base", "sft", "dpo"):
            with contenders.playing(model) as engine:
                rows += mt_bench.answer(engine, model, asked, params, LANGUAGES)
        seconds = time.monotonic() - started
    written = sum(len(tokenizer(row["answer"], add_special_tokens=False)["input_ids"]) for row in rows)
    batched = written / seconds
    print(f"speed: one prompt at a time, untrimmed model: {single:.1f} tokens/s")
    print(f"       {len(rows)} answers of three models in {seconds:.0f} s: {batched:.1f} tokens/s, ", end="")
    print(f"{batched / single:.1f} times as fast ({written / single / 60:.0f} min one by one)")
    return {"batch_speedup": batched / single, "batched_seconds": seconds, "batched_tokens_per_second": batched}


def one_by_one(asked: list, tokens: int) -> float:
    """Tokens a second of transformers' `generate`, a prompt at a time, with the category's temperature."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = embedded.ensure_full(MODEL)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = chat.apply_template(AutoTokenizer.from_pretrained(folder))
    chat.set_stop_token(model, tokenizer)
    written, started = 0, time.monotonic()
    for question in asked:
        history, hot = [], question.temperature > 0
        for turn in question.turns:
            history.append({"role": "user", "content": turn})
            inputs = tokenizer(chat.render(tokenizer, history), return_tensors="pt", add_special_tokens=False)
            options = {"do_sample": hot, **({"temperature": question.temperature} if hot else {})}
            with torch.inference_mode():
                out = model.generate(**inputs, max_new_tokens=tokens, repetition_penalty=PENALTY, **options)
            new = out[0, inputs["input_ids"].shape[1] :]
            written += len(new)
            history.append({"role": "assistant", "content": tokenizer.decode(new, skip_special_tokens=True)})
    return written / (time.monotonic() - started)


def idle_adapter(folder: Path, tokenizer) -> Path:
    """A LoRA adapter as training begins with: it has its layers, and changes nothing yet."""
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM")
    get_peft_model(models.load_model(MODEL, LANGUAGES), lora).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def harness(limit: int) -> dict:
    """Largest difference between our accuracies and those of lm_eval's command line, same model and tasks."""
    tasks = ["phoenix_mc_de", "phoenix_grammar_de"]
    differences = []
    with tempfile.TemporaryDirectory() as name, training.quiet():
        folder = Path(name)
        model = models.load_model(MODEL, LANGUAGES)
        tokenizer = chat.apply_template(models.load_tokenizer(MODEL, LANGUAGES))
        model.save_pretrained(folder / "model")
        tokenizer.save_pretrained(folder / "model")
        engine = likelihood.scorer(TransformersEngine(model, tokenizer))
        for template in (False, True):
            started = time.monotonic()
            ours = benchmarks.measure(engine, tasks, folder / "tasks", name="base", limit=limit, templates=(template,))
            own, started = time.monotonic() - started, time.monotonic()
            theirs = command_line(folder, tasks, limit, template)
            print(f"harness: {own:.0f} s with this project's engine, {time.monotonic() - started:.0f} s lm_eval itself")
            for row in ours:
                cli = theirs[row["task"]][f"{row['metric']},none"]
                prompt = "chat template" if template else "plain"
                print(f"         {row['task']}, {prompt}: {row['value']:.4f}, lm_eval's command line {cli:.4f}")
                differences.append(abs(row["value"] - cli))
    return {"harness_difference": max(differences)}


def command_line(folder: Path, tasks: list[str], limit: int, template: bool) -> dict:
    """The results of lm_eval, run as its manual says, on the model and the tasks in `folder`."""
    out = folder / f"out-{template}"
    command = [
        *(sys.executable, "-m", "lm_eval", "--model", "hf", "--device", "cpu", "--batch_size", "16"),
        *("--model_args", f"pretrained={folder / 'model'},dtype=float32", "--limit", str(limit)),
        *("--include_path", str(folder / "tasks"), "--tasks", ",".join(tasks), "--num_fewshot", "0"),
        *("--output_path", str(out), *(["--apply_chat_template"] if template else [])),
    ]
    subprocess.run(command, check=True, capture_output=True)
    [stored] = out.rglob("results_*.json")
    return json.loads(stored.read_text())["results"]


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
