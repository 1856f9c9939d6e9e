"""The rules that need a whole row: what exactly they find, where, and in which words."""

import pytest

from phoenix_utils.filtering.rules import _limits, findings, parts
from phoenix_utils.filtering.settings import FilteringSettings

LIMITS = FilteringSettings(skip_rules=[], allow_unknown_license=False, language="de", source_language="en")
QUESTION, ANSWER = "Was isst die Katze am Morgen?", "Die Katze isst am Morgen etwas Fisch."


def turns(*roles_and_texts: tuple[str, str | None]) -> list[dict]:
    return [{"role": role, "content": text} for role, text in roles_and_texts]


def exchange(answer: str | None = ANSWER, question: str | None = QUESTION) -> list[dict]:
    return turns(("user", question), ("assistant", answer))


def chat(messages: list[dict] | None, **columns) -> dict:
    return {"license": "MIT", "messages": messages, **columns}


def pair(chosen=None, rejected=None, prompt: str | None = QUESTION, **columns) -> dict:
    return {"license": "MIT", "prompt": prompt, "chosen": chosen, "rejected": rejected, **columns}


def said(row: dict, rule: str, limits: FilteringSettings = LIMITS, tokens: int = 1) -> list[tuple[str, str]]:
    found = findings(row, limits, lambda messages: tokens)
    return [(finding.part, finding.detail) for finding in found if finding.rule == rule]


@pytest.mark.parametrize(
    ("roles", "shown"),
    [
        ("", "no message"),
        ("u", "user"),
        ("s", "system"),
        ("uu", "user, user"),
        ("au", "assistant, user"),
        ("ua", None),
        ("uau", "user, assistant, user"),
        ("uaua", None),
        ("uaau", "user, assistant, assistant, user"),
        ("uauaua", None),
        ("sua", None),
        ("sau", "system, assistant, user"),
        ("usa", "user, system, assistant"),
        ("ssua", "system, system, user, assistant"),
    ],
)
def test_turns_alternate_behind_at_most_one_system_message(roles, shown):
    names = {"u": "user", "a": "assistant", "s": "system"}
    row = chat(turns(*((names[role], ANSWER) for role in roles)) or None)
    assert said(row, "structure") == ([("row", f"roles are out of order: {shown}")] if shown else [])


def test_empty_turns_and_lost_turns_are_named():
    for text in (None, " \n"):
        assert said(chat(exchange(text)), "structure") == [("row", "message 1 (assistant) is empty")]
        assert {finding.rule for finding in findings(chat(exchange(text)), LIMITS, len)} == {"structure"}
    lost = [("row", "the translation has other turns than its source")]
    assert said(chat(exchange(), messages_source=exchange()), "structure") == []
    assert said(chat(exchange(), messages_source=[*exchange(), *exchange()]), "structure") == lost
    assert said(chat(exchange(), messages_source=exchange()[::-1]), "structure") == lost
    assert said(chat(None, messages_source=exchange()), "structure")[1:] == lost


def test_a_pairs_answers_begin_with_its_prompt():
    assert said(pair(exchange(), exchange("Fisch isst sie.")), "structure") == []
    nothing = "roles are out of order: no message"
    assert said(pair(), "structure") == [("chosen", nothing), ("rejected", nothing)]
    other = exchange(question="Und der Hund?")
    assert said(pair(exchange(), other), "structure") == [("rejected", "the first message is not the prompt")]
    assert said(pair(other, exchange()), "structure") == [("chosen", "the first message is not the prompt")]
    for prompt in (None, " "):
        found = said(pair(exchange(question=prompt), exchange(question=prompt), prompt), "structure")
        assert found[0] == ("prompt", "the prompt is empty") and len(found) == 3


def test_parts_are_the_texts_beside_their_sources():
    asked, answered = exchange("An answer.", "A question?"), exchange()
    assert parts(chat(answered, messages_source=asked)) == [("0", "A question?", QUESTION), ("1", "An answer.", ANSWER)]
    assert parts(chat(answered, messages_source=asked[:1])) == [("0", None, QUESTION), ("1", None, ANSWER)]
    assert parts(chat(exchange(None), messages_source=asked))[1] == ("1", "An answer.", "")
    assert parts(chat(None)) == []
    sources = {"prompt_source": "A question?", "chosen_source": asked, "rejected_source": None}
    assert parts(pair(answered, None, **sources)) == [
        ("prompt", "A question?", QUESTION), ("chosen", "An answer.", ANSWER), ("rejected", None, ""),
    ]  # fmt: skip
    assert parts(pair(exchange("Ja.") + answered, None))[1] == ("chosen", None, ANSWER)
    assert parts(pair(None, answered, None)) == [
        ("prompt", None, ""), ("chosen", None, ""), ("rejected", None, ANSWER),
    ]  # fmt: skip


def test_a_pair_is_judged_as_a_pair():
    assert said(pair(exchange(), exchange()), "same_answers") == [("row", "chosen and rejected say the same")]
    assert said(chat(exchange()), "same_answers") == []


def test_reports_of_the_translator_become_findings():
    def segment(finish: str, **fault) -> dict:
        return {"part": "1", "text": "w" * 70, "finish_reason": finish, **fault}

    silent = [segment("stop", fault=fault) for fault in ("", None, "cut off", "copied from the source")]
    row = chat(exchange(), segments=[segment("stop"), *silent, segment("length"), segment("stop", fault="lost X1")])
    assert said(row, "truncation") == [("1", f"the translator ran out of room at '{'w' * 60}'")]
    assert said(row, "failed_segment") == [("1", f"lost X1, at '{'w' * 60}'")]
    assert findings(chat(exchange(), segments=None), LIMITS, len) == []


def test_licenses_are_compared_without_case_and_space():
    for stated in (None, "", " Unknown", "OTHER"):
        assert said(chat(exchange(), license=stated), "license") == [("row", "the source states no licence")]
    assert said(chat(exchange(), license=" mit "), "license") == []
    assert said(chat(exchange(), license=" No-Go "), "license") == [("row", "the licence 'No-Go' is not allowed")]
    # Each character takes six in the reason; ten thousand of them made a reason of 60 kB for one row (fuzz.py).
    [(_, reason)] = said(chat(exchange(), license="\u2066" * 10_000), "license")
    assert len(reason) < 1000 and reason.endswith("is not allowed")
    assert said({"messages": exchange()}, "license", LIMITS.model_copy(update={"allow_unknown_license": True})) == []


def test_only_the_user_is_held_to_one_form_of_address():
    formal, familiar = "Können Sie mir helfen?", "Kannst du mir helfen?"
    changed = [("row", "the user says 'Sie' in one question and 'du' in another")]
    assert said(chat(exchange(question=formal) + exchange(question=familiar)), "address_form") == changed
    assert said(chat(exchange(question=familiar) + exchange(question=formal)), "address_form") == changed
    assert said(chat(exchange(question=familiar) + exchange(question=familiar)), "address_form") == []
    assert said(chat(exchange(formal, familiar)), "address_form") == []
    assert said(chat(exchange(question=familiar) + exchange(question=None)), "address_form") == []
    both = f"{formal} {familiar}"
    assert [part for part, _ in said(chat(exchange(question=both) + exchange(question=formal)), "address_form")] == [
        "0"
    ]


def test_a_task_that_translation_undoes_is_named_at_its_answer():
    undone = exchange("The cat.", "Translate into German: Die Katze.")
    message = "the task was to translate between these two languages"
    fine = exchange("Fish.", "What does it eat?")
    row = chat(exchange() + exchange() + exchange(), messages_source=fine + undone + undone)
    assert said(row, "task_undone") == [("3", message), ("5", message)]
    prompted = turns(("system", ANSWER)) + exchange()
    assert said(chat(prompted, messages_source=turns(("system", "Help.")) + undone), "task_undone") == [("2", message)]
    assert said(chat(exchange()[:1], messages_source=undone), "task_undone") == []
    assert said(chat(exchange(None), messages_source=exchange(None, undone[0]["content"])), "task_undone") == [
        ("1", message)
    ]
    row = pair(exchange(), exchange("Fisch."), chosen_source=undone, rejected_source=fine)
    assert said(row, "task_undone") == [("chosen", message)]
    assert said(pair(None, None, chosen_source=None), "task_undone") == []
    stands = exchange(question=f"Verbessere bitte diesen Satz: {ANSWER}")
    asked = exchange("The cat eats fish.", "Correct: The cat eat fish.")
    row = chat(exchange("Fisch.") + stands + exchange("Fisch."), messages_source=fine + asked + fine)
    assert said(row, "task_undone") == [("3", "the answer stands in the question already")]


def test_length_counts_where_the_turns_are_sound_up_to_the_limit_and_with_it():
    limits = LIMITS.model_copy(update={"max_length": 1000})
    longer = "1,001 tokens (most: 1,000)"
    assert said(chat(exchange()), "too_long", limits, tokens=1000) == []
    assert said(chat(exchange()), "too_long", limits, tokens=1001) == [("row", longer)]
    assert said(chat(exchange(), license=None), "too_long", limits, tokens=1001) == [("row", longer)]
    assert said(chat(exchange()[:1]), "too_long", limits, tokens=1001) == []
    both = [("chosen", longer), ("rejected", longer)]
    assert said(pair(exchange(), exchange("Fisch.")), "too_long", limits, tokens=1001) == both


def test_without_a_source_what_compares_with_one_abstains():
    short, joined = "Ja.", f"{ANSWER} Dann noch die EinstellungenSpeichern."
    assert findings(chat(exchange(short)), LIMITS, len) == findings(chat(exchange(joined)), LIMITS, len) == []
    source = exchange("The cat eats some fish in the morning.", "What does the cat eat in the morning?")
    assert said(chat(exchange(joined), messages_source=source), "run_together")
    assert said(chat(exchange(short), messages_source=source), "length")


def test_limits_of_length_are_moved_by_the_usual_ratio():
    moved = _limits(LIMITS, 2.0)
    assert moved.min_length_ratio == 2 * LIMITS.min_length_ratio
    assert moved.max_length_ratio == 2 * LIMITS.max_length_ratio
    source = exchange("The cat eats some fish in the morning.", "What does the cat eat in the morning?")
    row = chat(exchange(), messages_source=source)
    assert [f.rule for f in findings(row, LIMITS, len, centre=1.0)] == []
    assert {f.rule for f in findings(row, LIMITS, len, centre=5.0)} >= {"length"}
    unmeasured = LIMITS.model_copy(update={"language": "cy"})
    by_itself, as_long, twice_as_long = (findings(row, unmeasured, len, centre) for centre in (None, 1.0, 2.0))
    assert by_itself == as_long != twice_as_long


def test_a_text_that_breaks_off_where_its_source_does_not():
    source = exchange("The cat eats (in the morning) some fish.", "What does the cat eat in the morning?")
    row = chat(exchange("Die Katze isst (am Morgen etwas Fisch."), messages_source=source)
    assert said(row, "truncation") == [("1", "'(' is never closed")]
