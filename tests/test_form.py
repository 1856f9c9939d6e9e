"""Forms that a prompt asks for: what counts as asking, what counts as obeying; every reference of ours obeys."""

import pytest

from phoenix_utils import corpora
from phoenix_utils.evaluation import form, prompts


def test_every_reference_keeps_the_form_that_its_prompt_names():
    asked = [(p.messages[-1]["content"], p.reference) for p in prompts.held_out_references("de")]
    for row in corpora.questions("de"):
        asked += [(turn, answer) for turn, answer in zip(row["turns"], row["reference"] or [], strict=False) if answer]
    found = [(form.obeyed(prompt, reference, "de"), prompt) for prompt, reference in asked]
    assert [prompt for verdict, prompt in found if verdict is False] == []
    assert sum(verdict is True for verdict, _ in found) >= 15


@pytest.mark.parametrize(
    "prompt, answer, verdict",
    [
        ("Gib die Angaben als JSON aus.", '{"a": [1, 2]}', True),
        ("Gib die Angaben als JSON aus.", 'Gern:\n\n```json\n{"a": 1}\n```', True),
        ("Gib die Angaben als JSON aus.", '{"a": 1', False),
        ("Gib die Angaben als JSON aus.", "a = 1", False),
        ("Was ist der Unterschied zwischen JSON und YAML?", "Nichts.", None),
        ("Mach eine Tabelle daraus.", "| a | b |\n|---|---|\n| 1 | 2 |", True),
        ("Mach eine Tabelle daraus.", "a: 1", False),
        ("Die Tabelle kunden hat drei Spalten.", "Ja.", None),
        ("Höchstens fünf Wörter, bitte.", "Eins zwei drei vier fünf.", True),
        ("Höchstens fünf Wörter, bitte.", "Eins zwei drei vier fünf sechs.", False),
        ("Höchstens fünf Wörter, bitte.", "", False),
        ("Schreib etwa 10 Wörter.", "eins " * 13, True),
        ("Schreib etwa 10 Wörter.", "eins " * 14, False),
        ("Antworte in zwei Sätzen.", "Das geht. Es ist ganz einfach.", True),
        ("Antworte in zwei Sätzen.", "Das geht z. B. mit 3,5 kg.", False),
        ("Answer in at most three sentences.", "One. Two. Three. Four.", False),
        ("Beschreibe das Meer, ohne das Wort „blau“ zu benutzen.", "Blaubeeren wachsen dort nicht.", True),
        ("Beschreibe das Meer, ohne das Wort „blau“ zu benutzen.", "Es ist Blau.", False),
        ("Übersetze: „Please answer as JSON in two sentences.“", "Bitte.", None),
        ("Höchstens 4 Wörter, als JSON.", '{"a": "eins zwei drei vier fünf"}', False),
        ("Erzähl mir etwas.", "Gern.", None),
    ],
)
def test_what_was_asked_and_whether_it_was_kept(prompt, answer, verdict):
    assert form.obeyed(prompt, answer, "de") is verdict
