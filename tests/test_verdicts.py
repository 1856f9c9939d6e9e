"""What judges' replies mean: hundreds of them, each form by itself, and what is no verdict."""

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phoenix_utils import sources
from phoenix_utils.evaluation import verdicts

REPLIES = [row for _, row in sources.json_lines(sources.packaged("judge_replies.jsonl"))]


def test_the_projects_replies_are_read_right_and_no_score_is_invented():
    found = {row["reply_id"]: verdicts.score(row["reply"]).score for row in REPLIES}
    wrong = [row["reply_id"] for row in REPLIES if found[row["reply_id"]] != row["score"]]
    assert len(wrong) <= 0.01 * len(REPLIES), wrong
    assert [row["reply_id"] for row in REPLIES if row["score"] is None and found[row["reply_id"]] is not None] == []


def test_strict_reading_is_right_or_silent():
    read = [(row, verdicts.score(row["reply"], lenient=False).score) for row in REPLIES]
    assert [row["reply_id"] for row, score in read if score not in (None, row["score"])] == []
    assert sum(score is not None for row, score in read if row["strict"]) >= 0.95 * sum(
        row["strict"] for row in REPLIES
    )


def test_replies_that_were_written_later_are_read_right_too():
    """Each wave was written before the reading was extended for it. When it was new, 52 of 60 were read right in wave 1
    without a false score, 34 of 40 in wave 2 with one, 19 of 20 in wave 3 without; for wave 3 nothing was changed."""
    rows = [row for _, row in sources.json_lines(Path(__file__).parent / "later_judge_replies.jsonl")]
    assert len(rows) == 120
    found = [(row, verdicts.score(row["reply"]).score) for row in rows]
    wrong = [row["reply"] for row, score in found if score != row["score"]]
    assert len(wrong) <= 0.01 * len(rows), wrong
    assert [row["reply"] for row, score in found if row["score"] is None and score is not None] == []


@pytest.mark.parametrize(
    "reply, score",
    [
        ("Ich würde der Antwort eine 8 von 10 geben, da sie klar ist.", 8),
        ("Final Score: **7/10**", 7),
        ("Bewertung: [[7,5]]", 7.5),
        ("Von den 10 Quellen sind 6 falsch.", None),
        ("6 of 10 sources are wrong.", None),
        ("Schritt 7 ist falsch.", None),
        ("Bewertung: 11/10", None),
        ("Bewertung: 85/100", None),
        ("Score: 7-8", None),
        ("[[7]] [[8]]", None),
        ("Please answer as [[rating]], for example [[5]].", None),
        ("Die Antwort nennt die Zahl: 9.", None),
        ("我给这个回答打分：很好。", None),
        ("", None),
    ],
)
def test_replies_of_other_judges(reply, score):
    assert verdicts.score(reply).score == score


@given(st.text(alphabet=st.sampled_from('0123456789 .,/[]():-\nabBewrtung„“"<>{}|*sieben'), max_size=200))
def test_any_text_gives_a_score_in_range_or_none(reply):
    for found in (verdicts.score(reply), verdicts.score(reply, lenient=False)):
        assert found.score is None or 1 <= found.score <= 10
    assert verdicts.preference(reply).score in (None, 0.0, 0.5, 1.0)


@pytest.mark.parametrize("unit", ["(", "7 ", "„", "{", "[[", "Bewertung ", "<think>"])
def test_a_reply_of_fifty_thousand_characters_is_read_in_time(unit):
    started = time.monotonic()
    verdicts.score(unit * (50_000 // len(unit)))
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    "reply, score",
    [("B ist zu lang. [[A]]", 1), ("[[B]]", 0), ("[[C]]", 0.5), ("Verdict: tie", 0.5), ("Antwort B ist besser.", 0),
     ("[[A]] oder [[B]]", None), ("[[A]] [[a]]", 1), ("Gewinner: Antwort A", 1), ("Urteil = Unentschieden", 0.5),
     ("Answer B wins", 0), ("[[A]] Urteil: B", 1), ("Assistent A ist insgesamt besser.", 1),
     ("Beide gut.", None), ("Answer A is not better", None)],
)  # fmt: skip
def test_preferences(reply, score):
    assert verdicts.preference(reply).score == score


# reply, score, form, score read strictly
FORMS = [
    ('[[7]]', 7, 'brackets', 7),
    ('[[7]] und [[7]]', 7, 'brackets', 7),
    ('Gesamt: 6\n[[7]]', None, 'brackets', 7),
    ('Gesamt: 4/5\n[[7]]', 7, 'brackets', 7),
    ('[[7]] Gesamtnote: 8/10. Korrektur: [[9]]', None, 'brackets', 9),
    ('zum Beispiel [[5]]. Ich gebe [[7]].', 7, 'brackets', None),
    ('e.g. [[5]]', None, '', 5),
    ('{"score": 7}', 7, 'json', None),
    ('{"overall": {"score": 6}, "note": 3}', None, 'json', None),
    ('{"gesamtbewertung": 8, "note": 3}', 8, 'json', None),
    ('{broken {"score": 7}', 7, 'json', None),
    ('{"score": 7} {"score": 8}', None, 'json', None),
    ('{"score": true}', None, '', None),
    ('[{"score": 7}]', 7, 'json', None),
    ('{"a": [{"score": "7/10"}, 3]}', 7, 'json', None),
    ('{}{"score": 5}', 5, 'json', None),
    ('x{"score": 5}', 5, 'json', None),
    ('{{"score": 5}', 5, 'json', None),
    ('{"max_score": 10}', None, '', None),
    ('{"reasoning": "The answer is wrong", "confidence": 10}', None, '', None),
    ('{"rating": "refused", "code": 4}', None, '', None),
    ('{"a": 3} [[8]]', 8, 'brackets', 8),
    ('{"score": "n/a", "max_score": 10', None, '', None),
    ('{"id": 7,}', None, '', None),
    ('{"reason": "wrong", "score": 7', 7, 'label', 7),
    ('{"rating": [[7]]}', 7, 'json', None),
    ('{"rating": [7, 8]}', None, 'json', None),
    ('Gesamtnote: 7,5', 7.5, 'whole', 7.5),
    ('Gesamtbewertung: 6 von 10', 6, 'whole', None),
    ('| Kriterium | Note |\n|---|---|\n| Stil | 7 |', 7, 'table', None),
    ('| Stil | Note |\n|---|---|\n| a | 7 |\n| b | 8 |', None, '', None),
    ('Stil;Note\ngut;7', 7, 'table', None),
    ('Note,Stil\n7,gut', 7, 'table', None),
    ('| Note | Bewertung |\n|---|---|\n| 6 | 7 |', None, '', None),
    ('| Note |\n|---|\n| viel 3 |', None, '', None),
    ('| 5 | x |\n| Note | Stil |\n| 7 | gut |', 7, 'table', None),
    ('  | Note | Stil |\n  | 7 | gut |', 7, 'table', None),
    ('Korrektur: [[7]] und [[8]]', None, 'brackets', None),
    ('Nach der Korrektur: Ich vergebe 7. Ich vergebe 6.', None, 'given', None),
    ('Ich vergebe 7. Ich vergebe 6. Die Korrektur ist gelesen.', None, 'given', None),
    ('Bewertung: einen Punkt', 1, 'label', None),
    ('Score: one point', 1, 'label', None),
    ('Bewertung: 7/10', 7, 'label', 7),
    ('Eine 7 ist meine Note.', 7, 'named after', None),
    ('Das sind 7 von 10.', 7, 'of ten', None),
    ('Das ist 8/10', 8, 'of ten', None),
    ('Genauigkeit: 8/10', None, '', None),
    ('Kurz und falsch: 2/10', 2, 'of ten', None),
    ('Kurz und sehr Falsch: 2/10', None, '', None),
    ('Ganz kurz falsch: 2/10', 2, 'of ten', None),
    ('a b c: 2/10', 2, 'of ten', None),
    ('x\nStil: 2/10\nMacht 6/10', 6, 'of ten', None),
    ('Ich vergebe 7.', 7, 'given', None),
    ('Ich vergebe 7. Korrektur: ich vergebe 6.', 6, 'given', None),
    ('Am Ende 7 Punkte.', 7, 'points', None),
    ('Sieben.', 7, 'word', None),
    ('sieben komma fünf', 7.5, 'word', None),
    ('sieben von zehn Punkten', 7, 'of ten', None),
    ('siebeneinhalb', 7.5, 'word', None),
    ('Nun\n7\n', 7, 'alone', None),
    ('7 von mir', 7, 'last', None),
    ('Punkte nach langem Zögern: 7', 7, 'last', None),
    ('Ich bleibe bei der 6, weil', 6, 'given', None),
    ('daher die 6.', 6, 'closing', None),
    ('Nicht mehr als 6.', 6, 'no more', None),
    ('Mehr als 6 geht nicht.', 6, 'no more', None),
    ('Ich hätte 8 vergeben. Ich vergebe 6.', 6, 'given', None),
    ('Ich schwanke zwischen 6 und 8, entscheide mich für 7.', 7, 'given', None),
    ('Keine 8, sondern 6.', 6, 'closing', None),
    ('Ich gebe nicht 8.', None, '', None),
    ('Bewertung: 1', 1, 'label', 1),
    ('Bewertung: 10', 10, 'label', 10),
    ('Bewertung: 0', None, 'label', None),
    ('Bewertung: 0,9', None, 'label', None),
    ('Bewertung: 10,1', None, 'label', None),
    ('Bewertung: 7 von zehn', 7, 'label', None),
    ('Bewertung: 7 von ten', 7, 'label', None),
    ('Bewertung: 7 von TEN', 7, 'label', None),
    ('Score: 7 OUT OF TEN', 7, 'label', None),
    ('Bewertung: 7 von fünf', None, 'label', None),
    ('Bewertung: -3', None, 'label', None),
    ('Bewertung: −3', None, 'label', None),
    ('Bewertung: 6 bis 7', None, 'label', None),
    ('Meine Note wäre eine 6.', 6, 'closing', None),
    ('Note: 6 nicht', None, '', None),
    ('Gut! Nicht toll? 6 Punkte', 6, 'points', None),
    ('Nicht gut. Ich gebe 6.', 6, 'given', None),
    ('Nicht gut; ich gebe 6.', 6, 'given', None),
    ('Nicht gut! Ich gebe 6.', 6, 'given', None),
    ('Nicht gut? Ich gebe 6.', 6, 'given', None),
    ('Nicht gut\nIch gebe 6.', 6, 'given', None),
    ('Gut, ich gebe 6. Nicht mehr.', 6, 'given', None),
    ('<think>[[3]]</think>[[7]]', 7, 'brackets', 7),
    ('<THINK>[[3]]', None, '', None),
    ('~~[[3]]~~ [[7]]', 7, 'brackets', 7),
    ('<!-- [[3]] --> [[7]]', 7, 'brackets', 7),
    ('Er sagt „Note: 3“. Note: 7', 7, 'label', None),
    ('Bewertung: „7/10“', 7, 'label', 7),
    ('\\[\\[7\\]\\]', 7, 'brackets', 7),
    ('<tr><td>Note</td><td>7</td></tr>', 7, 'label', 7),
    ('<score>7</score>', 7, 'label', 7),
    ('Note: &#55;', 7, 'label', 7),
    ('Note: 7½', 7.5, 'label', 7.5),
    ('**Note:** 7', 7, 'label', 7),
    ('Auf einer Skala von 1 bis 10: 7.', 7, 'word', None),
    ('\\boxed{7}', 7, 'brackets', None),
    ('[[sieben]]', 7, 'brackets', None),
    ('[[7 Punkte]]', 7, 'brackets', None),
    ('[7]', 7, 'brackets', None),
    ('BEWERTUNG: SIEBEN', 7, 'label', None),
    ('Bewertung: eine gute 7', 7, 'label', None),
    ('Bewertung: sieben komma fünf', 7.5, 'label', None),
    ('Bewertung: seven point five', 7.5, 'label', None),
    ('Bewertung: ein Punkt', 1, 'label', None),
    ('seven and a half points', 7.5, 'points', None),
    ('Score: seven and a half', 7.5, 'label', None),
    ('Ich vergebe 7. Ich vergebe 6. Korrektur: ich vergebe 8.', 8, 'given', None),
    ('Nicht 6 Punkte.', None, '', None),
    ('Gut.\nNicht 6 Punkte.', None, '', None),
    ('Stil:\n8/10', 8, 'of ten', None),
    ('<THINK>\n{"score": 3}\n</THINK>{"score": 7}', 7, 'json', None),
    ('  | Stil | Note |\n| gut | 7 |', 7, 'table', None),
]  # fmt: skip


@pytest.mark.parametrize("reply, score, form, strict", FORMS)
def test_each_form_is_read_as_such(reply, score, form, strict):
    assert verdicts.score(reply) == verdicts.Verdict(score, form) == verdicts.score(reply, lenient=True)
    assert verdicts.score(reply, lenient=False).score == strict


def test_only_both_ends_of_a_long_reply_are_read():
    long = "x " * 2500
    assert verdicts.score(f"{long}[[7]]{long}").score is None
    assert verdicts.score(f"[[7]]{long}{long}").score == verdicts.score(f"{long}{long}[[7]]").score == 7
    assert verdicts.score(f'{{"score": 7}}{long}{long}').score is None
    assert verdicts.score(f'{long}{long}{{"score": 7}}').score == 7
    rest = "x " * 3994
    assert verdicts.score(f'{{"score": 7}}{rest}').score == 7 and verdicts.score(f'{{"score": 7}}{rest}x').score is None
    before, after = "x " * 1998 + " ", "x" * 3997
    assert len(f"{before}[[10]]{after}") == 8000 and verdicts.score(f"{before}[[10]]{after}").score == 10


def test_strict_reading_names_its_two_forms():
    assert verdicts.score("[[7]]", lenient=False).form == "brackets"
    assert verdicts.score("Bewertung: 7/10", lenient=False).form == "line"


def test_what_stands_too_far_before_a_mark_does_not_touch_it():
    assert verdicts.score(f"nicht {'x ' * 247}gebe 6").score is None
    assert verdicts.score(f"nicht  {'x ' * 247}gebe 6").score == 6
    assert verdicts.score(f"zum Beispiel{' ' * 28}[[6]]").score is None
    assert verdicts.score(f"zum Beispiel{' ' * 29}[[6]]").score == 6
