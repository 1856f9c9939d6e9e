"""Segments: nothing is lost, code stays, prose goes to the translator."""

import json

from hypothesis import example, given, settings
from hypothesis import strategies as st

from phoenix_utils import sources
from phoenix_utils.translation import split

PIECES = st.sampled_from(
    [
        "Hello there. How are you?",
        "- a point",
        "1. one",
        "```python\nx = 1\n```",
        "~~~\nraw",
        "```",
        "| a | b |",
        "|---|---|",
        "",
        "   ",
        "# Title",
        "> quoted",
        "$x^2$",
        "A long line. " * 30,
        "\t- deep",
        "ünï",
        "🙂",
        "\r",
        "x\u2028y",
    ]
)
TEXTS = st.one_of(
    st.text(max_size=200),
    st.lists(PIECES, max_size=12).map("\n".join),
    st.lists(PIECES, max_size=6).map("\r\n".join),
)


@settings(max_examples=300, deadline=None)
@given(TEXTS)
@example("```\nnever closed\n\n")
@example("")
def test_an_identity_translation_gives_the_text_back(text):
    document = split(text)
    assert document.join(document.texts) == text


@settings(max_examples=100, deadline=None)
@given(TEXTS)
def test_segments_are_trimmed_lines_with_a_letter(text):
    for segment in split(text).texts:
        assert segment == segment.strip() and any(character.isalpha() for character in segment)


def test_every_text_of_the_packaged_corpora_survives():
    for name in ("conversations.jsonl", "preferences.jsonl", "conversations.de.jsonl"):
        for line in sources.packaged(name).read_text().splitlines():
            row = json.loads(line)
            for message in row.get("messages") or row["chosen"] + row["rejected"]:
                document = split(message["content"])
                assert document.join(document.texts) == message["content"]


def test_code_is_never_a_segment_and_prose_around_it_is():
    text = "Look:\n\n```python\nprint('hello world')\n```\nDone."
    assert split(text).texts == ["Look:", "Done."]
    nested = "````md\n```\ninner text\n```\nstill code\n````\nafter"
    assert split(nested).texts == ["after"]


def test_marks_stay_in_front_and_tables_go_cell_by_cell():
    text = "# Title\n- [ ] first point\n  2) second\n> > quoted\n| Name | Age |\n|---|---|\n| Ann Lee | 40 |"
    document = split(text)
    assert document.texts == ["Title", "first point", "second", "quoted", "Name", "Age", "Ann Lee"]
    assert document.join([piece.upper() for piece in document.texts]) == text.upper().replace("[ ]", "[ ]")


def test_columns_set_apart_by_tabs_stay_apart():
    assert split("name:\tred shoes\tsize\fnext page").texts == ["name:", "red shoes", "size", "next page"]
    assert split("See `a\tb` there").segments[0].spans == ("`a\tb`",)


def test_long_lines_are_packed_sentence_by_sentence():
    text = "This is one sentence. " * 20
    segments = split(text, max_chars=100).texts
    assert all(len(segment) <= 100 for segment in segments) and len(segments) == 5
    assert split("a" * 5000, max_chars=100).texts == []  # a blob is no prose


def test_joining_the_wrong_number_is_an_error():
    document = split("One.\nTwo.")
    try:
        document.join(["Eins."])
    except ValueError as error:
        assert "1 translations for 2 segments" in str(error)
    else:
        raise AssertionError("a missing translation went unnoticed")
