"""Segments: nothing is lost, code stays, prose goes to the translator."""

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from phoenix_utils import sources
from phoenix_utils.translation import segments, split

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
    for put_together in (document.join, document.assemble):
        for texts in (["Eins."], ["Eins.", "Zwei.", "Drei."]):
            with pytest.raises(ValueError, match=f"{len(texts)} translations for 2 segments"):
                put_together(texts)


def shown(text: str, **settings) -> list:
    """The pieces of a text that are not empty: what is kept as str, segments in a tuple."""
    return [piece if isinstance(piece, str) else (piece.text,) for piece in split(text, **settings).pieces if piece]


@pytest.mark.parametrize(
    ("text", "texts"),
    [
        ("\\[\nx + y\n\\]\nDone with it.", ["Done with it."]),
        ("\\[ x \\] is one.\nAnd two.\n\\[\nnever closed", ["X1 is one.", "And two.", "never closed"]),
        ("\\[ x \\] is one.\nAnd two.\n\\[\ny\n\\]", ["X1 is one.", "And two."]),
        ("> \\[\n> let x be\n> \\]\n> so it goes", ["so it goes"]),
        ("Some \\] here.\n\\[\nsum of x\n\\]\nAnd \\]\nmore.", ["Some \\] here.", "And \\]", "more."]),
        ("\\begin{align}\na b\n\\end{align}\nwords", ["words"]),
        ("\\begin{align} a \\end{align}\nwords", ["words"]),
        ("$$\na b\n$$\nwords", ["words"]),
        ("$$\na b\n$$ (eq)\nwords", ["words"]),
        ("Text:\n\n    indented code\n\nmore", ["Text:", "more"]),
        ("words\n    and more", ["words", "and more"]),
        ("<PRE>\nshown as is\n</PRE>\n\ntext", ["text"]),
        ("<!-- not shown -->\ntext", ["text"]),
        ("<div>\nwords\n</div>", ["words"]),
        ("<div>\nwords\n</div>\n\n```\ncode\n```", ["words"]),
        ("[a]: https://x.example words\n[^n]: a note", ["a note"]),
        ("Name of | Age of\n---|---\nAnn | Bob", ["Name of", "Age of", "Ann", "Bob"]),
        ("```\na\n```\nTom | Ann", ["Tom | Ann"]),
        ("|Tom|", ["Tom"]),
        ("|Tom and Ann", ["|Tom and Ann"]),
    ],
)
def test_blocks_are_kept_up_to_their_last_line_and_no_further(text, texts):
    assert split(text).texts == texts


def test_emphasis_around_a_segment_and_white_space_stay_in_place():
    assert shown("  **Some words**: ") == ["  ", "**", ("Some words",), "**: "]
    assert shown("a\t ***x y***!") == [("a",), "\t", " ***", ("x y",), "***!"]
    assert shown("**a** and **b**") == [("**a** and **b**",)]


def test_a_cell_ends_behind_code_and_not_in_it():
    assert shown("|`a|b`|word of it|") == ["|", "`a|b`", "|", ("word of it",), "|"]


@pytest.mark.parametrize(
    "text, kept", [("w" * 200, False), ("w" * 201, True), ("字" * 300, False), ("w " * 101, False)]
)
def test_only_a_word_of_more_than_two_hundred_letters_is_a_blob(text, kept):
    assert split(text, max_chars=1000).texts == ([] if kept else [text.strip()])


def test_a_line_is_split_from_its_length_on_and_runs_are_filled_to_the_last_character():
    first, second = f"A{'a' * 98}.", f"B{'b' * 98}."
    assert split(f"{first} {second}").texts == [first, second]
    assert split(f"{first} {second[:-2]}.").texts == [f"{first} {second[:-2]}."]
    assert shown("One two. Six ten. And more.", max_chars=17) == [("One two. Six ten.",), " ", ("And more.",)]
    address = "See https://a.example/b.c.d?x=1 now. Then go home. Say it again to us. Bye then."
    assert split(address, max_chars=40).texts == ["See X1 now.", "Then go home. Say it again to us.", "Bye then."]
    row = "| This is a cell. It has two sentences. | b |"
    assert split(row, max_chars=20).texts == ["This is a cell. It has two sentences.", "b"]


@pytest.mark.parametrize(
    ("sentence", "pieces"),
    [
        ("abcdefghij klmno", ["abcdefghij ", "klmno"]),
        ("abcdefgh ijklmn", ["abcdefgh ijklmn"]),  # one and a half times as long is not too long
        ("abcdefgh ijklmno", ["abcdefgh ", "ijklmno"]),
        ("abcdefghijklmnop qrs", ["abcdefghijklmnop ", "qrs"]),
        ("abcdefghijklmnop", ["abcdefghijklmnop"]),
        ("a, bcd efghijklmnop", ["a, bcd ", "efghijklmnop"]),  # a comma in the first third is too early
        ("ab, cdef ghijklmnop", ["ab, ", "cdef ghijklmnop"]),
        ("ab cdefghijklmnop q", ["ab ", "cdefghijklmnop ", "q"]),
        ("a; b; c, d, e f ghijklmnop", ["a; b; ", "c, d, ", "e f ghijklmnop"]),
        ("字" * 16, ["字" * 10, "字" * 6]),
        ("a b c d e f g h i j k l", ["a b c d e ", "f g h i j k l"]),
        ("", []),
    ],
)
def test_a_sentence_that_is_too_long_is_cut_at_its_best_place(sentence, pieces):
    assert segments._chop(sentence, 10) == pieces
