"""Layouts: the shapes in which other people store conversations and preference pairs, brought into ours.

Pure functions from one raw row (a dict of columns) to the content of our rows. A layout is recognised by the
row's columns alone, so a mixed file works too. Where the rows come from is the business of
:mod:`phoenix_utils.corpora`.

    >>> next(chat_rows({"instruction": "Name a colour.", "output": "Blue."}))["messages"][1]["content"]
    'Blue.'
"""

import json
import re
from collections.abc import Iterator

from phoenix_utils import strict_json

CHAT_LAYOUTS = {
    "messages": "messages [{role, content}] (also UltraChat)",
    "ShareGPT": "conversations [{from, value}]",
    "Alpaca": "instruction, output, optionally input",
    "Dolly": "instruction, response, optionally context",
    "self-instruct": "instruction, instances [{input, output}]",
    "prompt and completion": "prompt, completion or response",
}
PREFERENCE_LAYOUTS = {
    "UltraFeedback (HuggingFaceH4)": "prompt, chosen and rejected as messages, score_chosen, score_rejected",
    "UltraFeedback (Argilla)": "instruction, chosen_response, rejected_response, chosen_avg_rating, ...",
    "UltraFeedback (Argilla, cleaned)": "prompt, chosen and rejected as messages, chosen-rating, ...",
    "texts": "prompt (or question), chosen and rejected as texts",
    "instruction pairs": "instruction, optionally input, chosen, rejected",
    "messages only": "chosen and rejected as messages that begin with the prompt",
}

_ROLES = {
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant",
    "bard": "assistant", "model": "assistant", "system": "system",
}  # fmt: skip


_LIST_OF_OBJECTS = re.compile(r"\s*\[\s*\{")
_NAMES_A_ROLE = re.compile(r"['\"](?:role|from)['\"]\s*:")


class UnknownLayout(ValueError):
    """The row's columns match no layout; the message lists both."""


class Unusable(ValueError):
    """The layout is known, but this row has nothing to learn from; the message is the reason."""


def chat_rows(row: dict) -> Iterator[dict]:
    """Yield ``{"messages": [...]}`` for each conversation in one raw row (self-instruct may hold several).

    Raises:
        UnknownLayout: the columns match none of ``CHAT_LAYOUTS``.
        Unusable: no user text, no assistant text, or a role that is not known.
    """
    for name in ("messages", "conversations", "conversation"):
        if row.get(name) is not None:
            messages = _messages(row[name])
            messages = (
                messages if any(message["role"] == "system" for message in messages) else [*_system(row), *messages]
            )
            break
    else:
        yield from _instruction_rows(row)
        return
    if not any(message["role"] == "user" and message["content"] for message in messages):
        raise Unusable("no user text")
    if not any(message["role"] == "assistant" and message["content"] for message in messages):
        raise Unusable("no assistant text")
    yield {"messages": messages}


def _instruction_rows(row: dict) -> Iterator[dict]:
    if "instruction" in row and "instances" in row:
        items = _objects(row["instances"], "instances")
        pairs = [(_ask(row["instruction"], item.get("input")), item.get("output")) for item in items]
    elif "instruction" in row and "output" in row:
        if row.get("history") not in (None, "", "[]", []):
            raise Unusable("earlier turns in a history column: put all turns into messages")
        pairs = [(_ask(row["instruction"], row.get("input")), row["output"])]
    elif "instruction" in row and "response" in row:
        pairs = [(_ask(row["instruction"], row.get("context")), row["response"])]
    elif isinstance(row.get("prompt"), str) and ("completion" in row or "response" in row):
        pairs = [(row["prompt"], row.get("completion", row.get("response")))]
    else:
        raise _unknown(row, CHAT_LAYOUTS)
    cleaned = [(_clean(question), _clean(answer)) for question, answer in pairs]
    usable = [(question, answer) for question, answer in cleaned if question and answer]
    if not usable:
        raise Unusable("no assistant text" if any(question for question, _ in cleaned) else "no user text")
    for question, answer in usable:
        yield {"messages": [*_system(row), _message("user", question), _message("assistant", answer)]}


def preference_rows(row: dict) -> Iterator[dict]:
    """Yield the one preference pair of a raw row: prompt, chosen, rejected, score_chosen, score_rejected.

    ``chosen`` and ``rejected`` come out as two messages, the prompt and the answer; a system message is put
    before the prompt's text, because the pair's schema has one prompt.

    Raises:
        UnknownLayout: the columns match none of ``PREFERENCE_LAYOUTS``.
        Unusable: no prompt, an empty answer, more than one exchange, answers to different prompts, or a role that
            is not known.
    """
    chosen, rejected = (_first(row, name, f"{name}_response") for name in ("chosen", "rejected"))
    if chosen is None or rejected is None:
        if {"chosen", "rejected"} <= row.keys() or {"chosen_response", "rejected_response"} <= row.keys():
            raise Unusable("no chosen or no rejected answer")
        raise _unknown(row, PREFERENCE_LAYOUTS)
    prompt = _ask(row["instruction"], row.get("input")) if row.get("instruction") else None
    prompt = prompt or _first(row, "prompt", "question")
    if prompt is None and not (_is_messages(chosen) and _is_messages(rejected)):
        raise _unknown(row, PREFERENCE_LAYOUTS)
    system, prompt_text, answers = _pair(prompt, chosen, rejected)
    if not prompt_text:
        raise Unusable("no user text")
    own = "".join(message["content"] for message in _system(row))
    prompt_text = "\n\n".join(text for text in (own or system, prompt_text) if text)
    if not all(answers):
        raise Unusable("no chosen or no rejected answer")
    yield {
        "prompt": prompt_text,
        "chosen": [_message("user", prompt_text), _message("assistant", answers[0])],
        "rejected": [_message("user", prompt_text), _message("assistant", answers[1])],
        "score_chosen": _score(row, "score_chosen", "chosen_avg_rating", "chosen-rating", "chosen_score"),
        "score_rejected": _score(row, "score_rejected", "rejected_avg_rating", "rejected-rating", "rejected_score"),
    }


def _pair(prompt: object, chosen: object, rejected: object) -> tuple[str, str, list[str]]:
    """System text, prompt text and the two answers' texts, whether each came as a text or as messages."""
    texts, asked = [], []
    for side in (chosen, rejected):
        if not _is_messages(side):
            texts.append(_clean(side))
            continue
        messages = _messages(side)
        if not messages or messages[-1]["role"] != "assistant":
            raise Unusable("no chosen or no rejected answer")
        texts.append(messages[-1]["content"])
        asked.append(messages[:-1])
    if _is_messages(prompt):
        asked.append(_messages(prompt))
    for before in asked:
        if sum(message["role"] != "system" for message in before) > 1:
            raise Unusable("more than one exchange")
    systems, users = ({_contents(before, role) for before in asked} - {""} for role in ("system", "user"))
    if len(users) > 1 or len(systems) > 1:
        raise Unusable("the two answers are to different prompts")
    user = "".join(users) if prompt is None or _is_messages(prompt) else _clean(prompt)
    return "".join(systems), user, texts


def _contents(messages: list[dict], role: str) -> str:
    return "\n\n".join(message["content"] for message in messages if message["role"] == role and message["content"])


def _system(row: dict) -> list[dict]:
    """The system message that some layouts keep in a column of its own, before messages without one."""
    texts = [_clean(row[name]) for name in ("system", "system_prompt") if isinstance(row.get(name), str)]
    return [_message("system", text) for text in texts if text][:1]


def _unknown(row: dict, layouts: dict[str, str]) -> UnknownLayout:
    known = "; ".join(f"{name}: {columns}" for name, columns in layouts.items())
    return UnknownLayout(f"columns found: {', '.join(map(str, row)) or 'none'}; layouts known: {known}")


def _first(row: dict, *names: str) -> object:
    return next((row[name] for name in names if row.get(name) is not None), None)


def _ask(instruction: object, extra: object) -> str:
    return "\n\n".join(text for text in (_clean(instruction), _clean(extra)) if text)


def _score(row: dict, *names: str) -> float | None:
    try:
        return float(_first(row, *names))
    except (TypeError, ValueError):
        return None


def _clean(text: object) -> str:
    if text is None or text != text:  # a missing cell is None, or NaN where pandas wrote the file
        return ""
    if not isinstance(text, str | int | float):
        raise Unusable(f"a {type(text).__name__} stands where a text should")
    return str(text).replace("\r\n", "\n").strip()


def _message(role: str, content: str) -> dict:
    return {"role": role, "content": content}


def _is_messages(value: object) -> bool:
    """A list of messages, or the JSON text of one (as CSV files hold it).

    Raises Unusable for the Python text of one, which pandas writes into CSV files: nobody is to learn that.
    """
    if not isinstance(value, str):
        return isinstance(value, list)
    if not _LIST_OF_OBJECTS.match(value):
        return False
    is_list = isinstance(_parsed(value), list)
    if not is_list and _NAMES_A_ROLE.search(value):
        raise Unusable("messages as Python text, not as JSON: write the column with json.dumps")
    return is_list


def _parsed(value: str) -> object:
    try:
        return strict_json.loads(value)
    except json.JSONDecodeError:
        return None


def _messages(value: object) -> list[dict]:
    """Messages with our role names, from role/content or from/value; empty ones stay for the filters."""
    messages = []
    for item in _objects(_parsed(value) if isinstance(value, str) else value, "messages"):
        role = str(_first(item, "role", "from") or "").lower()
        if role not in _ROLES:
            raise Unusable(f"unknown role {role[:40]!r}")
        messages.append(_message(_ROLES[role], _clean(_first(item, "content", "value", "text"))))
    return messages


def _objects(value: object, name: str) -> list[dict]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise Unusable(f"{name} are not a list of objects")
    return value
