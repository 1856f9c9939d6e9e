"""What the models are asked: held-out conversations turn by turn, and first turns of the questions.

Every turn of a conversation is its own prompt, with the *reference* answers as history. So all models answer
the same prompts, and an answer can be held against the reference of the same turn. The turns of one
conversation are not independent of each other, which is why intervals draw whole conversations.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from phoenix_utils import corpora, sources
from phoenix_utils.artifacts import fingerprint, stage_path, trained_weights
from phoenix_utils.errors import PhoenixError
from phoenix_utils.evaluation.benchmarks import check_tasks
from phoenix_utils.evaluation.judge import check_judge
from phoenix_utils.evaluation.settings import EvaluationSettings
from phoenix_utils.tables import read_rows

# The words before question and answer where a base model, new to chat templates, is asked in plain text.
PLAIN_LABELS = {
    "cs": ("Otázka", "Odpověď"),
    "da": ("Spørgsmål", "Svar"),
    "de": ("Frage", "Antwort"),
    "en": ("Question", "Answer"),
    "es": ("Pregunta", "Respuesta"),
    "fr": ("Question", "Réponse"),
    "it": ("Domanda", "Risposta"),
    "ja": ("質問", "回答"),
    "nl": ("Vraag", "Antwoord"),
    "pl": ("Pytanie", "Odpowiedź"),
    "pt": ("Pergunta", "Resposta"),
    "sv": ("Fråga", "Svar"),
    "sw": ("Swali", "Jibu"),
}


@dataclass(frozen=True)
class Prompt:
    """One turn to be answered.

    `unit` is the conversation or question it belongs to, `kind` "conversation" or "question", `turn` counts
    from 0, `messages` end with the user's turn, `reference` is the answer to compare with ("" where there is none).
    """

    unit: str
    kind: str
    category: str
    turn: int
    messages: tuple[dict[str, str], ...]
    reference: str


@dataclass(frozen=True)
class Pair:
    """A held-out preference: the messages before the answer, the better and the worse answer."""

    unit: str
    messages: tuple[dict[str, str], ...]
    chosen: str
    rejected: str


def conversation_prompts(rows: list[dict]) -> list[Prompt]:
    """A prompt for each assistant turn of chat rows, its history taken from the reference."""
    return [
        Prompt(row["prompt_id"], "conversation", "", turn, tuple(row["messages"][:place]), message["content"])
        for row in rows
        for turn, (place, message) in enumerate(
            (place, message) for place, message in enumerate(row["messages"]) if message["role"] == "assistant"
        )
    ]


def question_prompts(rows: list[dict]) -> list[Prompt]:
    """The first turn of each question, with its reference answer where it has one."""
    return [
        Prompt(
            f"question-{row['question_id']}",
            "question",
            row["category"],
            0,
            ({"role": "user", "content": row["turns"][0]},),
            (row["reference"] or [""])[0],
        )
        for row in rows
    ]


def preference_pairs(rows: list[dict]) -> list[Pair]:
    """Preference rows as pairs of answers to the same messages."""
    return [
        Pair(
            row["prompt_id"],
            tuple(row["chosen"][:-1]),
            row["chosen"][-1]["content"],
            row["rejected"][-1]["content"],
        )
        for row in rows
    ]


def held_out_rows(kind: str, language: str, run_dir: str | None = None) -> list[dict]:
    """Held-out rows of `kind` ("chat", "preferences" or "questions") as the package has them, where it does.

    Else those that the run's own translation stage has made from the English ones, without the rows in which a segment
    failed. Raises PhoenixError where there are neither.
    """
    if corpora.has_held_out(language):
        packaged = {
            "chat": corpora.held_out_chat,
            "preferences": corpora.held_out_preferences,
            "questions": corpora.questions,
        }
        return packaged[kind](language)
    folder = stage_path(run_dir, "translation") / f"held_out_{kind}" if run_dir else None
    found = [row for row in read_rows(folder) if row["good"]] if folder and folder.is_dir() else []
    if not found:
        raise PhoenixError(
            f"there is nothing to ask in {language!r}: the package has held-out rows in English and German, and "
            f"{folder or 'no run'} holds no translated ones; run the translation stage with "
            "translation.held_out_rows above 0"
        )
    return found


def held_out_prompts(language: str, max_prompts: int | None = None, run_dir: str | None = None) -> list[Prompt]:
    """Prompts from the held-out conversations and questions, `max_prompts` taken evenly from both.

    Raises PhoenixError where there are none in `language`, see :func:`held_out_rows`.
    """
    conversations = conversation_prompts(held_out_rows("chat", language, run_dir))
    questions = question_prompts(held_out_rows("questions", language, run_dir))
    if max_prompts is None or max_prompts >= len(conversations) + len(questions):
        return conversations + questions
    from_conversations = max(min((max_prompts + 1) // 2, len(conversations)), max_prompts - len(questions))
    return corpora.spread(conversations, from_conversations) + corpora.spread(
        questions, max_prompts - from_conversations
    )


def held_out_references(language: str, run_dir: str | None = None) -> list[Prompt]:
    """Every turn of the held-out conversations, whatever `max_prompts` says: answers as they should be written.

    Finding out how likely a model thinks a text is takes one pass, writing an answer takes hundreds: so few prompts
    are answered, and all references are scored. The questions' references are left out: they are keys for a judge (a
    number, a program, a list), not answers in the style that a model is taught.
    """
    return conversation_prompts(held_out_rows("chat", language, run_dir))


def held_out_pairs(language: str, run_dir: str | None = None) -> list[Pair]:
    """The held-out preference pairs."""
    return preference_pairs(held_out_rows("preferences", language, run_dir))


def stage_inputs(settings: EvaluationSettings) -> dict[str, Path | str]:
    """What this stage reads, for the manifest: both trained models, and the held-out rows by their
    fingerprint.

    A trained model is the stage's `adapter/`, or its `model/` after full fine-tuning.
    """
    trained: dict[str, Path | str] = {}
    # The SFT stage also gives the chat template that the base is asked with.
    names = [*({"sft"} if "base" in settings.models else ()), *(n for n in ("sft", "dpo") if n in settings.models)]
    for name in dict.fromkeys(names):
        trained[name] = trained_weights(stage_path(settings.run_dir, name))
    language, run_dir = settings.language, settings.run_dir
    asked = [
        *held_out_prompts(language, settings.max_prompts, run_dir),
        *held_out_references(language, run_dir),
        *held_out_pairs(language, run_dir),
    ]
    found = {**trained, "held_out": fingerprint([asdict(item) for item in asked])}
    if settings.mt_bench_questions != 0 and settings.mt_bench and Path(settings.mt_bench).exists():
        found["mt_bench"] = Path(settings.mt_bench)
    return found


def problems(settings: EvaluationSettings) -> list[str]:
    """What would stop this stage after the training: a benchmark that is not known, questions that are not there, a
    judge without its key.
    """
    checks = [functools.partial(check_tasks, settings.tasks())]
    if settings.mt_bench and settings.mt_bench_questions != 0:
        checks.append(functools.partial(sources.raw_rows, settings.mt_bench, "chat"))  # which reads no row yet
    if settings.judge and settings.mt_bench_questions != 0:
        checks.append(functools.partial(check_judge, settings.judge, settings.judge_base_url))
    found = []
    for check in checks:
        try:
            check()
        except PhoenixError as error:
            found.append(str(error))
    return found


def plain_prompt(messages: Sequence[dict[str, str]], language: str) -> str:
    """The messages as plain text, for example "Frage: …\\nAntwort:\\n"; the answer starts on its own line.

    The line break keeps the answer's tokens the same as behind the chat template, which also ends with one.
    """
    question, answer = PLAIN_LABELS.get(language, PLAIN_LABELS["en"])
    text = ""
    for message in messages:
        if message["role"] == "assistant":
            text += f"{answer}:\n{message['content']}\n\n"
        else:
            text += f"{question}: {message['content']}\n"
    return f"{text}{answer}:\n"
