"""The packaged corpora in numbers: counts, variety, near-repeats, what length tells, languages, code, arithmetic.

    python benchmarks/corpora.py [--json FILE]

Prints each check with its outcome and exits with 1 if one fails. ../shared/data is read for comparison where it is
there.
"""

import argparse
import ast
import csv
import gzip
import io
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rapidfuzz import fuzz, process

from phoenix_utils import pairs, sources

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"
FENCE = re.compile(r"^[ \t]*```(\w*)[^\n]*\n(.*?)^[ \t]*```", re.MULTILINE | re.DOTALL)
WORD = re.compile(r"\w+")
# How statements begin, and the clauses and expressions that answers show alone.
SQL = re.compile(
    r"\s*(--|select|with|insert|update|delete|create|alter|where|order by|group by|sum\s*\(|and|join)", re.IGNORECASE
)


def rows(name: str) -> list[dict]:
    """The rows of a packaged file."""
    return [json.loads(line) for line in sources.packaged(name).read_text(encoding="utf-8").splitlines()]


def texts(row: dict) -> list[str]:
    """Every text of a row, prompt first."""
    if "messages" in row:
        return [message["content"] for message in row["messages"]]
    if "chosen" in row:
        return [row["prompt"], row["chosen"][-1]["content"], row["rejected"][-1]["content"]]
    if "turns" in row:
        return [*row["turns"], *row["reference"]]
    names = ("source_text", "target_text", "good", "bad", "reply", "question", "explanation")
    return [row[name] for name in names if name in row] + row.get("options", [])


def prompts() -> dict[str, str]:
    """{id: first user turn} of all conversations, pairs and questions."""
    found = {
        row["prompt_id"]: texts(row)[0] for name in ("conversations", "preferences") for row in rows(f"{name}.jsonl")
    }
    return found | {f"question {row['question_id']}": row["turns"][0] for row in rows("questions.de.jsonl")}


def closest_prompts() -> tuple[float, str, str]:
    """The two prompts that are most alike: (token_sort_ratio, id, id)."""
    named = prompts()
    ids, values = list(named), list(named.values())
    scores = process.cdist(values, values, scorer=fuzz.token_sort_ratio, processor=str.lower)
    np.fill_diagonal(scores, 0)
    first, second = np.unravel_index(scores.argmax(), scores.shape)
    return float(scores[first, second]), ids[first], ids[second]


def shared_runs(size: int = 8) -> dict[str, list[str]]:
    """Runs of `size` words that our texts share with the public sets in ../shared/data, by set."""
    ours = {
        run for name in corpora_names() for row in rows(name) for text in texts(row) for run in word_runs(text, size)
    }
    found = {}
    for name, lines in public_texts().items():
        theirs = {run for text in lines for run in word_runs(text, size)}
        found[name] = sorted(" ".join(run) for run in ours & theirs)
    return found


def word_runs(text: str, size: int) -> Iterator[tuple[str, ...]]:
    """All runs of `size` words in small letters."""
    words = [word.lower() for word in WORD.findall(text)]
    return zip(*(words[start:] for start in range(size)), strict=False)


def public_texts() -> dict[str, list[str]]:
    """English texts of the sets in ../shared/data."""
    if not SHARED.is_dir():
        return {}
    seeds = (SHARED / "self_instruct/seed_tasks.jsonl").read_text(encoding="utf-8").splitlines()
    pairs_ = json.loads((SHARED / "rasbt_preference/instruction-data-with-preference.json").read_text(encoding="utf-8"))
    with gzip.open(SHARED / "libreoffice_help/en_de_pairs.tsv.gz", "rt", encoding="utf-8") as file:
        help_ = [line.split("\t")[3] for line in file]
    return {
        "self_instruct": [
            text
            for row in map(json.loads, seeds)
            for text in (row["instruction"], *(i["output"] for i in row["instances"]))
        ],
        "rasbt_preference": [row[name] for row in pairs_ for name in ("instruction", "chosen", "rejected")],
        "libreoffice_help": help_,
    }


def variety(lines: list[str], words: int = 5000) -> float:
    """Type-token ratio over the first `words` words, so that sets of different size compare."""
    found = [word.lower() for line in lines for word in WORD.findall(line)][:words]
    return len(set(found)) / max(1, len(found))


def histogram(lengths: list[int], edges: tuple[int, ...] = (10, 25, 50, 100, 200, 400)) -> str:
    """How many texts have at most so many words."""
    counts = Counter(next((edge for edge in edges if length <= edge), ">") for length in lengths)
    return "  ".join(f"{'≤' if edge != '>' else ''}{edge}: {counts[edge]}" for edge in (*edges, ">"))


def told_by_length() -> float:
    """Cross-validated accuracy of guessing chosen against rejected by length and format alone (0 to 1)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features, labels, groups = [], [], []
    for number, row in enumerate(rows("preferences.jsonl")):
        sides = [form(row[side][-1]["content"]) for side in ("chosen", "rejected")]
        for sign in (1, -1):
            features.append(sign * (sides[0] - sides[1]))
            labels.append(sign)
            groups.append(number)
    model = make_pipeline(StandardScaler(), LogisticRegression())
    folds = GroupKFold(10, shuffle=True, random_state=0)
    return float(cross_val_score(model, np.array(features), labels, groups=groups, cv=folds).mean())


def form(text: str) -> np.ndarray:
    """Length and format of an answer: what a judge must not go by."""
    marks = (r"^\s*[-*]\s", r"^\s*\d+\.\s", r"\*\*", "```", r"^\|", "!", r"\?", "\n", r"\$")
    counts = [len(re.findall(mark, text, re.MULTILINE)) for mark in marks]
    return np.array([len(text), np.log(len(text)), len(WORD.findall(text)), *counts], float)


def corpora_names() -> list[str]:
    """All packaged files."""
    return sorted(path.name for path in (ROOT / "phoenix_utils" / "data").glob("*.jsonl"))


def languages_of(name: str) -> tuple[str, ...]:
    """The language of each text of a file's rows: one for all, or one for each side of a pair."""
    if name.startswith("pairs"):
        return "en", "de"
    return ("de",) if ".de." in name else ("en",)


def wrong_language() -> list[str]:
    """Texts whose language is not the one that their file says."""
    found = []
    for name in corpora_names():
        if name in ("judge_replies.jsonl", "grammar.de.jsonl"):  # both languages, and broken sentences on purpose
            continue
        sides = languages_of(name)
        for row in rows(name):
            prose = row["turns"] if "turns" in row else texts(row)  # a reference may be a program
            for place, text in enumerate(prose):
                language = sides[place % len(sides)]
                other = "de" if language == "en" else "en"
                share = pairs.foreign_share(text, language, other)
                if share is not None and share > 0.5:
                    found.append(f"{name}: {text[:60]!r}")
    return found


def code_blocks() -> Iterator[tuple[str, str, str]]:
    """(place, language, code) of every fenced block in an answer that ought to be right."""
    for name in ("conversations", "conversations.de", "preferences", "preferences.de"):
        for row in rows(f"{name}.jsonl"):
            kept = [m["content"] for m in row.get("messages") or row["chosen"] if m["role"] == "assistant"]
            for text in kept:
                for language, code in FENCE.findall(text):
                    yield f"{name} {row['prompt_id']}", language.lower(), code


def code_fault(language: str, code: str) -> str | None:
    """What is wrong with a block of code, or None; "unchecked" where this machine has no tool for its language."""
    try:
        if language in ("python", "py"):
            ast.parse(code)
        elif language == "json":
            json.loads(code)
        elif language == "yaml":
            import yaml

            list(yaml.safe_load_all(code))
        elif language in ("bash", "sh") and shutil.which("bash"):
            return _ran(["bash", "-n"], code, ".sh")
        elif language in ("javascript", "js") and shutil.which("node"):
            return _ran(["node", "--check"], code, ".js")
        elif language == "c" and shutil.which("gcc"):
            whole = "main" in code or "#include" in code
            return _ran(["gcc", "-fsyntax-only", "-w"], code if whole else f"void f(void) {{\n{code}}}\n", ".c")
        elif language == "java" and shutil.which("javac"):
            return _java_fault(code)
        elif language == "csv":
            return None if len({len(row) for row in csv.reader(io.StringIO(code)) if row}) == 1 else "uneven rows"
        elif language == "sql":
            return None if SQL.match(code) else "no SQL"
        else:
            return "unchecked"
    except (SyntaxError, ValueError) as error:
        return str(error)
    return None


def _java_fault(code: str) -> str | None:
    """Methods and statements are shown alone; javac wants a class around them. Missing types are no syntax error."""
    wraps = ("{}", "class Shown {{ {} }}", "class Shown {{ void shown() {{ {} }} }}")
    faults = []
    for wrap in wraps:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "Shown.java"
            file.write_text(wrap.format(code), encoding="utf-8")
            done = subprocess.run(["javac", "-proc:none", "-d", folder, str(file)], capture_output=True, text=True)
        lines = [line.partition("error: ")[2] for line in done.stderr.splitlines() if "error: " in line]
        syntax = [line for line in lines if not line.startswith(("cannot find symbol", "class ", "package "))]
        if not syntax:
            return None
        faults.append(syntax[0])
    return faults[-1]


def _ran(command: list[str], code: str, suffix: str) -> str | None:
    with tempfile.NamedTemporaryFile("w", suffix=suffix) as file:
        file.write(code)
        file.flush()
        done = subprocess.run([*command, file.name], capture_output=True, text=True)
    return None if done.returncode == 0 else done.stderr.strip().splitlines()[0][:120]


def sums() -> Iterator[tuple[str, str, bool]]:
    """(place, equation, right) of every `a + b = c` in an answer, reference or key that ought to be right."""
    number = r"\d+(?:\.\d+)?"
    unit = r"(?: ?(?:€|EUR|euros?|Euro|%|km|m|cm|g|kg|l|ml|h|min|s|°C)\b)?"
    term = number + unit
    # Neither the start of a longer term, nor a mixed fraction (58 2/3).
    end = r"(?![\d,]|\.\d| *[-+*×·/÷^]| \d+/\d)"
    equation = re.compile(rf"(?<![\w.,^/])({term}(?: *[-+*×·/÷−:] *{term})+) *= *({number})( ?%| min)?{end}")
    for place, text in right_texts():
        for left, right, scale in equation.findall(text):
            digits = re.sub(r"[^\d.+*/−-]", "", re.sub("[×·]", "*", left).replace("÷", "/").replace(":", "/"))
            value = eval(digits.replace("−", "-"), {"__builtins__": {}})  # nothing but digits and signs is left
            if "%" in scale and "%" not in left:
                value *= 100
            if "min" in scale and " h" in left:
                value *= 60
            decimals = len(right.partition(".")[2])
            yield place, f"{left} = {right}{scale}", abs(value - float(right)) <= 0.51 * 10**-decimals


def right_texts() -> Iterator[tuple[str, str]]:
    """(place, text without code) of all that ought to be right, numbers written with a decimal point."""
    for name in ("conversations", "preferences", "conversations.de", "preferences.de"):
        for row in rows(f"{name}.jsonl"):
            for message in row.get("messages") or row["chosen"]:
                if message["role"] == "assistant":
                    yield row["prompt_id"], _pointed(message["content"], german=name.endswith(".de"))
    for row in rows("questions.de.jsonl"):
        for text in row["reference"]:
            yield f"question {row['question_id']}", _pointed(text, german=True)
    for row in rows("multiple_choice.de.jsonl"):
        yield row["question"][:40], _pointed(row.get("explanation", ""), german=True)


def _pointed(text: str, german: bool) -> str:
    text = FENCE.sub("", text)
    if german:
        return re.sub(r"(?<=\d),(?=\d)", ".", re.sub(r"(?<=\d)\.(?=\d{3}\b)", "", text))
    return re.sub(r"(?<=\d),(?=\d{3})", "", text)


def main() -> int:
    """Print everything; 1 if a check fails."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    failed = []

    def check(name: str, value: object, good: bool) -> None:
        print(f"{'ok  ' if good else 'FAIL'} {name}: {value}")
        if not good:
            failed.append(name)

    figures: dict[str, float] = {}
    for name in corpora_names():
        words = [len(WORD.findall(text)) for row in rows(name) for text in texts(row)]
        figures[f"rows_{name}"] = len(rows(name))
        median = statistics.median(words)
        print(f"{name:24} {len(rows(name)):>4} rows {sum(words):>7,} words, median {median:>4.0f}   {histogram(words)}")
    for name, lines in {
        "conversations": [text for row in rows("conversations.jsonl") for text in texts(row)],
        "preferences": [text for row in rows("preferences.jsonl") for text in texts(row)],
        **public_texts(),
    }.items():
        words = [len(WORD.findall(text)) for text in lines]
        print(f"type-token ratio over 5,000 words, {name:18} {variety(lines):.3f}   {histogram(words)}")
    talks = rows("conversations.jsonl")
    figures["multi_turn"] = sum(len(row["messages"]) > 2 for row in talks)
    check("conversations with several turns", int(figures["multi_turn"]), figures["multi_turn"] >= 40)
    for what, pattern in {
        "lists": r"^\s*([-*]|\d+\.)\s", "code": "```", "tables or formulas": r"^\||\$[^$\n]+\$|\\\(",
    }.items():  # fmt: skip
        count = sum(any(re.search(pattern, t, re.MULTILINE) for t in texts(row)[1::2]) for row in talks)
        figures[f"with_{what.split()[0]}"] = count
        check(f"conversations with {what}", count, count >= 20)
    ratio, *both = closest_prompts()
    figures["closest_prompts"] = ratio
    check("closest two prompts, token_sort_ratio", f"{ratio:.0f} ({', '.join(both)})", ratio <= 85)
    for name, runs in shared_runs().items():
        check(f"runs of 8 words shared with {name}", runs[:3] or 0, not runs)
    figures["told_by_length"] = told_by_length()
    share = figures["told_by_length"]
    check("chosen told by length and format alone", f"{share:.1%}", share <= 0.6)
    wrong = wrong_language()
    check("texts in the wrong language", wrong[:3] or 0, not wrong)
    faults = {place: code_fault(language, code) for place, language, code in code_blocks()}
    blocks = Counter(language or "plain" for _, language, _ in code_blocks())
    broken = {place: fault for place, fault in faults.items() if fault not in (None, "unchecked")}
    print(f"     blocks in languages without a tool here: {sum(fault == 'unchecked' for fault in faults.values())}")
    check(f"code blocks that do not parse, of {dict(blocks)}", broken or 0, not broken)
    recomputed = list(sums())
    false = [found for found in recomputed if not found[2]]
    check(f"sums that are wrong, of {len(recomputed)} recomputed", false or 0, not false)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
