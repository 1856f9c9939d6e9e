"""MT-Bench in any language: questions in two turns, answers by a model, requests for a judge.

Questions come from FastChat's `question.jsonl` (answers of reference models beside it), from FastEval's dictionary of
ids, from a hub data set with such rows, or from the package (80 German questions). Each model answers the second turn
after its *own* first answer, as MT-Bench does (Zheng et al. 2023), with the temperature of the question's category.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from phoenix_utils import chat, corpora, sources, strict_json
from phoenix_utils.decoding import GenerationParams
from phoenix_utils.errors import PhoenixError
from phoenix_utils.evaluation import answers, judge_prompts
from phoenix_utils.evaluation.judge import Request
from phoenix_utils.evaluation.kept import Kept
from phoenix_utils.evaluation.metrics import in_target_language, is_loop
from phoenix_utils.evaluation.prompts import held_out_rows

# FastChat's llm_judge samples where many answers are good and takes the likeliest where one is right; a category it
# does not know gets 0.7.
TEMPERATURES = {
    **{name: 0.7 for name in ("writing", "roleplay")},
    **{name: 0.0 for name in ("extraction", "math", "coding", "reasoning")},
    **{name: 0.1 for name in ("stem", "humanities", "arena-hard-200")},
}
OTHER_TEMPERATURE = 0.7


@dataclass(frozen=True)
class Question:
    """A question: its turns, and a reference answer for each turn that has one ("" or nothing otherwise)."""

    id: str
    category: str
    turns: tuple[str, ...]
    references: tuple[str, ...] = ()

    def reference(self, turn: int) -> str:
        """The reference answer of a turn, counted from 0, or ""."""
        return self.references[turn] if turn < len(self.references) else ""

    @property
    def temperature(self) -> float:
        """MT-Bench's temperature for the category."""
        return TEMPERATURES.get(self.category.casefold(), OTHER_TEMPERATURE)


def read_questions(
    source: str | None, language: str, limit: int | None = None, run_dir: str | None = None
) -> list[Question]:
    """The questions of `source`, `limit` of them evenly from all categories.

    None takes the package's in `language`, or where it has none those that the run in `run_dir` has translated.

    Raises PhoenixError with the place of the first row that is no question, and for a source without any.
    """
    if source is None:
        rows = [(f"question {row['question_id']}", row) for row in held_out_rows("questions", language, run_dir)]
    elif Path(source).is_file() and (whole := _dictionary(Path(source))) is not None:
        rows = [(f"{source}, question {key},", {"question_id": key, **_fields(row, key)}) for key, row in whole.items()]
    else:
        rows = list(sources.raw_rows(source, "chat"))
    references = _reference_answers(Path(source)) if source else {}
    questions = [_question(place, row, references) for place, row in rows]
    if not questions:
        raise PhoenixError(f"{source} holds no questions: give FastChat's question.jsonl or a file in its layout")
    if repeated := [id_ for id_, count in Counter(question.id for question in questions).items() if count > 1]:
        raise PhoenixError(f"{source} has the question id {sorted(repeated)[0]!r} more than once: give each its own")
    return corpora.spread(questions, limit)


def answer(
    engine: Any,
    model: str,
    questions: Sequence[Question],
    params: GenerationParams,
    languages: tuple[str, str],
    kept: Kept | None = None,
    fingerprint: str = "",
    on_answers: Callable[[int], None] | None = None,
) -> list[dict]:
    """Let a model answer all turns of all questions; rows with `model`, `question_id`, `category`, `turn`, `prompt`,
    `reference`, `answer`, `finish_reason`, `in_target_language`, `is_loop`.

    All questions of one temperature are asked at once, turn by turn. `kept` holds answers of earlier calls;
    `fingerprint` names the model's weights there. Greedy where the category says so, otherwise drawn with
    `params.seed`. A conversation that has outgrown what the model reads gets "" with the reason "too long".
    """
    source_language, language = languages
    histories: dict[str, list[dict]] = {question.id: [] for question in questions}
    rows = []
    for turn in range(max(len(question.turns) for question in questions)):
        playing = [question for question in questions if turn < len(question.turns)]
        for question in playing:
            histories[question.id].append({"role": "user", "content": question.turns[turn]})
        rendered = {
            question.id: chat.render(engine.tokenizer, histories[question.id], add_generation_prompt=True)
            for question in playing
        }
        answered = _complete(engine, (model, fingerprint), playing, rendered, params, kept, on_answers)
        for question in playing:
            text, reason = answered[question.id]
            histories[question.id].append({"role": "assistant", "content": text})
            rows.append(
                {
                    "model": model,
                    "question_id": question.id,
                    "category": question.category,
                    "turn": turn,
                    "prompt": question.turns[turn],
                    "reference": question.reference(turn),
                    "answer": text,
                    "finish_reason": reason,
                    "in_target_language": in_target_language(text, language, source_language),
                    "is_loop": is_loop(text),
                }
            )
    return rows


def score_requests(rows: Iterable[dict], language: str) -> list[Request]:
    """What a judge is asked for scores: every answer with the turns before it, and its reference where there is one."""
    requests = []
    for (model, question), turns in _conversations(rows).items():
        for place, row in enumerate(turns):
            shown = [(each["prompt"], each["answer"]) for each in turns[: place + 1]]
            about = {"model": model, "question_id": question, "category": row["category"], "turn": row["turn"]}
            about["length"] = len(row["answer"])
            requests.append(Request(about, judge_prompts.single(shown, row["reference"], language)))
    return requests


def pair_requests(rows: Iterable[dict], earlier: str, later: str, language: str) -> list[Request]:
    """What a judge is asked for preferences: whole conversations of two models, in both orders."""
    found = _conversations(rows)
    requests = []
    for model, question in found:
        if model != later or (earlier, question) not in found:
            continue
        turns = {name: [(r["prompt"], r["answer"]) for r in found[name, question]] for name in (earlier, later)}
        for first, second in ((earlier, later), (later, earlier)):
            about = {"model": first, "earlier": earlier, "later": later, "question_id": question}
            about["category"] = found[later, question][0]["category"]
            about["longer"] = sum(len(a) for _, a in turns[first]) - sum(len(a) for _, a in turns[second])
            prompt = judge_prompts.pairwise(turns[first], turns[second], language)
            requests.append(Request(about, prompt, "preference"))
    return requests


def _complete(engine, names, playing, rendered, params, kept, on_answers) -> dict[str, tuple[str, str]]:
    """Answer and finish reason by question id, one temperature after the other."""
    found: dict[str, tuple[str, str]] = {}
    for temperature in sorted({question.temperature for question in playing}):
        own = replace(params, temperature=temperature)
        group = [question.id for question in playing if question.temperature == temperature]
        told = answers.complete(engine, names, [rendered[id_] for id_ in group], own, kept, on_answers)
        found |= {id_: (said.text.strip(), said.finish_reason) for id_, said in zip(group, told, strict=True)}
    return found


def _conversations(rows: Iterable[dict]) -> dict[tuple[str, str], list[dict]]:
    grouped: dict[tuple[str, str], list[dict]] = {}
    for row in sorted(rows, key=lambda row: row["turn"]):
        grouped.setdefault((row["model"], row["question_id"]), []).append(row)
    return grouped


def _dictionary(path: Path) -> dict | None:
    """FastEval's form: one JSON object of ids; None where the file is something else."""
    if path.suffix != ".json":
        return None
    try:
        whole = strict_json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, UnicodeDecodeError) as error:
        raise PhoenixError(
            f"{path} is not valid JSON ({error}): give FastEval's dictionary or a list of rows"
        ) from None
    return whole if isinstance(whole, dict) and "turns" not in whole else None


def _fields(row: object, key: str) -> dict:
    if not isinstance(row, dict):
        raise PhoenixError(f"question {key} is {type(row).__name__}, not an object with category, turns and reference")
    return row


def _reference_answers(path: Path) -> dict[str, list[str]]:
    """FastChat's `reference_answer/*.jsonl` beside question.jsonl: the first file's turns by question id."""
    folder = path.parent / "reference_answer"
    files = sorted(folder.glob("*.jsonl")) if path.is_file() and folder.is_dir() else []
    found = {}
    for place, row in (item for file in files[:1] for item in sources.raw_rows(str(file), "chat")):
        try:
            found[str(row["question_id"])] = [str(text) for text in row["choices"][0]["turns"]]
        except (KeyError, IndexError, TypeError):
            raise PhoenixError(f"{place} has no question_id with choices[0].turns, as FastChat writes them") from None
    return found


def _question(place: str, row: dict, answers: dict[str, list[str]]) -> Question:
    turns, id_ = row.get("turns") or row.get("prompt"), row.get("question_id", row.get("prompt_id", row.get("id")))
    turns = [turns] if isinstance(turns, str) else turns
    if (
        id_ is None
        or not isinstance(turns, list)
        or not turns
        or not all(isinstance(t, str) and t.strip() for t in turns)
    ):
        raise PhoenixError(
            f"{place} is no question: it needs question_id and turns, a list of texts that are not empty"
        )
    references = row.get("reference") or answers.get(str(id_)) or []
    references = [references] if isinstance(references, str) else references
    return Question(
        str(id_), str(row.get("category") or "other"), tuple(turns), tuple(str(text or "") for text in references)
    )
