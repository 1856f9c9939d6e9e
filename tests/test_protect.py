"""Protected text: found where it is, hidden, put back byte for byte, and missed when it is gone."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phoenix_utils.translation import protect
from phoenix_utils.translation.protect import emphasis_marks, mask, parts, restore, verify

SPANS = [
    "`ls -l`", "``a ` b``", "$x^2 + 1$", "$$\\int f$$", r"\(a_1\)", r"\[b\]", "https://a.example/x_(y)?q=1#z",
    "www.example.org/a", "me.you+x@mail.example.org", "<br/>", '<a href="x y">', "</a>", "<!-- no -->", "&amp;",
    "&#x20;", "{name}", "{0}", "{}", "{user.name!r:>10}", "{{ x | y }}", "{% if a %}", "${HOME}", "$HOME", "%s",
    "%(name)s", "%5.2f", "%PATH%", "<https://b.example>", "<me@b.example>", "[^1]",
]  # fmt: skip
PROSE = st.text(alphabet="abc ÄÖüß,.!?-:;'\"()0123456789\n", max_size=30)
TEXTS = st.lists(
    st.one_of(PROSE, st.sampled_from(SPANS), st.sampled_from(["**", "*", "_", "[", "](", ")", "`", "$", "X1", "\\"])),
    max_size=14,
).map("".join)


@pytest.mark.parametrize("span", SPANS)
def test_each_kind_is_found_between_words(span):
    text = f"Take {span} and go on."
    hidden = mask(text)
    assert hidden.text == "Take X1 and go on." and hidden.spans == (span,)
    assert restore(hidden, "Nimm X1 und weiter.") == (f"Nimm {span} und weiter.", "")


@pytest.mark.parametrize(
    "text",
    ["costs $5 and $6 today", "5 < 6 and 7 > 3", "50% of it, 100%s", "a * b * c", "snake_case_name", "\\`no code\\`",
     "it's {not a name}", "AT&T; R&D", "he@home", "a [note] here", "2*3*4"],
)  # fmt: skip
def test_what_only_looks_protected_stays_text(text):
    assert mask(text).text == text


def test_the_end_of_a_sentence_is_no_part_of_an_address():
    assert mask("See https://a.example/b.html.").text == "See X1."
    assert mask("(see https://a.example/b), then").text == "(see X1), then"
    assert mask("See www.a.example/X_(Y), then https://a.example/(x).").text == "See X1, then X2."
    assert mask("https://a.example/wiki/X_(Y)").spans == ("https://a.example/wiki/X_(Y)",)


def test_a_link_keeps_its_words_and_hides_its_target():
    hidden = mask('Read [the manual](https://a.example "Title") or ![a picture](p.png).')
    assert hidden.text == "Read [the manual]X1 or ![a picture]X2."
    done = "Lies [das Handbuch]X1 oder ![ein Bild]X2."
    assert restore(hidden, done)[0] == 'Lies [das Handbuch](https://a.example "Title") oder ![ein Bild](p.png).'
    assert restore(hidden, "Lies das Handbuch X1 oder ![ein Bild]X2.")[1]


def test_masks_never_meet_words_or_names_that_are_there_already():
    hidden = mask("X1 and <b>bold</b> X2 `x`")
    assert "X1" not in hidden.masks and hidden.text.count(" bold ") == 1
    assert restore(hidden, hidden.text) == ("X1 and <b>bold</b> X2 `x`", "")


@pytest.mark.parametrize(
    ("translation", "fault"),
    [("Nimm X1.", "lost {x}"), ("X1 X1 X2", "`a` stands there 2 times"), ("X1 X2 X3", "X3 stands for nothing"),
     ("X1 und X2 **", "** became"), ("`X1` X2", "became"), ("x1 X2", "lost `a`")],
)  # fmt: skip
def test_what_is_lost_doubled_or_invented_is_said(translation, fault):
    text, said = restore(mask("Take `a` and {x}."), translation)
    assert text == "" and fault in said


def test_an_unmasked_translation_is_held_against_its_source():
    source = "Run `ls` in **this** folder."
    assert verify(source, "Starte `ls` in **diesem** Ordner.") == ""
    for broken in (
        "Starte `dir` in **diesem** Ordner.",
        "Starte `ls` in diesem Ordner.",
        "Starte `ls` `ls` in **diesem**.",
    ):
        assert verify(source, broken)


def test_emphasis_is_told_from_arithmetic_and_names():
    assert emphasis_marks("**a** *b* _c_ ~~d~~ 2 * 3 a_b") == ["**", "**", "*", "*", "_", "_", "~~", "~~"]


@settings(max_examples=500, deadline=None)
@given(TEXTS)
def test_identity_comes_back_byte_for_byte(text):
    hidden = mask(text)
    assert restore(hidden, hidden.text) == (text, "")
    assert "".join(piece for piece, _ in parts(text)) == text
    assert verify(text, text) == ""


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_spans_are_ordered_and_parts_that_are_prose_hold_none_of_them(text):
    places = protect.protected_spans(text)
    assert places == sorted(places) and all(0 <= start < end for start, end in places)
    assert all(left[1] <= right[0] for left, right in zip(places, places[1:], strict=False))
    assert [text[start:end] for start, end in places] == list(mask(text).spans)


@pytest.mark.parametrize(
    "piece",
    [
        "`",
        "$",
        "$a ",
        "<a ",
        "[",
        "{{",
        "](",
        "\\(",
        "`a``b",
        "http://",
        "a@",
        "%",
        "_a",
        "&#",
        "www.",
        "`a` ",
        "{a} ",
        "*a",
    ],
)
def test_long_lines_of_half_open_marks_take_linear_time(piece):
    text = piece * (200_000 // len(piece))
    started = time.process_time()
    hidden = mask(text)
    restore(hidden, hidden.text)
    assert time.process_time() - started < 10  # quadratic time would take minutes


@pytest.mark.parametrize(
    ("text", "hidden", "spans"),
    [
        ("`a`b `c`", "X1 b X2", ["`a`", "`c`"]),
        ("x`a``b`_y", "x X1 _y", ["`a``b`"]),
        ("`` a ` b`` `c`", "X1 X2", ["`` a ` b``", "`c`"]),
        ("`a`` b` `c", "X1 `c", ["`a`` b`"]),
        ("``a` b`", "``a X1", ["` b`"]),
        ("`a`$x$", "X1 X2", ["`a`", "$x$"]),
        ("X1 Z2 `a`", "X1 Z2 Q1", ["`a`"]),
        ("\\* `x`", "\\* X1", ["`x`"]),
        ("\\* {x}", "\\* X1", ["{x}"]),
    ],
)
def test_masks_stand_apart_and_the_spaces_for_it_go_again(text, hidden, spans):
    masked = mask(text)
    assert (masked.text, list(masked.spans)) == (hidden, spans)
    assert restore(masked, hidden) == (text, "")


def test_only_the_space_that_was_added_is_taken_away():
    hidden = mask("a`b`c `d`")
    assert hidden.padded == ((True, True), (False, False))
    assert restore(hidden, "X2 und X1 so") == ("`d` und`b`so", "")
    assert restore(hidden, "X2,X1.") == ("`d`,`b`.", "")
    assert restore(mask("plain"), "schlicht") == ("schlicht", "")
    assert restore(mask("Take `a`"), "Nimm X1, A4") == ("Nimm `a`, A4", "")


@pytest.mark.parametrize(
    ("source", "translation", "fault"),
    [
        ("`a` and {x}", "`a`", "lost {x}"),
        ("`a`", "`a` {x}", "{x} was not in the source"),
        ("**a** b", "a b", "2 marks ** became 0"),
        ("a b", "*a* b", "0 marks * became 2"),
        ("`a` | b", "`a` b", "1 of | became 0"),
        ("[a] b", "[a b", "2 of [ ] became 1"),
        ("[a](b)", "a] [(b)", "lost (b)"),
        ("a { b", "a b", "1 of { } became 0"),
        ("a } b", "a b", "1 of { } became 0"),
        ("a | b", "a b", "1 of | became 0"),
        ("a ~~ b", "a b", "1 of ~~ became 0"),
        ("no marks", "keine", ""),
        ("![a](b) [c]", "!a(b) [c]", "lost (b)"),
    ],
)
def test_faults_of_an_unmasked_translation_by_name(source, translation, fault):
    assert verify(source, translation) == fault


def test_a_link_whose_target_moved_away_lost_its_brackets():
    assert restore(mask("See [it](a) now"), "[Siehe] X1 es") == ("", "a link lost its brackets")


def test_parts_cut_at_spans_and_marks_but_not_at_marks_inside_spans():
    assert parts("a **b** `c*d*`| end") == [
        ("a ", True), ("**", False), ("b", True), ("**", False), (" ", True), ("`c*d*`", False), ("|", False),
        (" end", True),
    ]  # fmt: skip
