"""Rules about a text and its translation: each catches its own fault, and human translations pass."""

import gzip
import hashlib
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phoenix_utils import corpora, pairs

SOURCE = "Bread needs flour, water, salt and time. Let the dough rest over night, then bake it very hot."
GERMAN = "Brot braucht Mehl, Wasser, Salz und Zeit. Lassen Sie den Teig über Nacht ruhen und backen Sie ihn sehr heiß."
OTHER = "Many people who live near the river have learned to watch the weather and to help each other."


def reasons(source: str, translation: str) -> set[str]:
    return set(pairs.pair_reasons(source, translation, "de", "en"))


def human_pairs() -> list[tuple[str, str]]:
    found = [(row["source_text"], row["target_text"]) for row in corpora.sentence_pairs("en", "de")]
    english = {row["prompt_id"]: row for row in corpora.held_out_chat("en")}
    for row in corpora.held_out_chat("de"):
        messages = zip(english[row["prompt_id"]]["messages"], row["messages"], strict=True)
        found += [(source["content"], text["content"]) for source, text in messages]
    english = {row["prompt_id"]: row for row in corpora.held_out_preferences("en")}
    for row in corpora.held_out_preferences("de"):
        source = english[row["prompt_id"]]
        found += [(source["prompt"], row["prompt"])]
        found += [(source[side][-1]["content"], row[side][-1]["content"]) for side in ("chosen", "rejected")]
    return found


def test_human_translations_of_this_project_pass():
    rejected = {text: found for source, text in human_pairs() if (found := reasons(source, text))}
    assert not rejected


def test_few_human_translations_of_the_libreoffice_help_are_rejected(shared_data):
    with gzip.open(shared_data / "libreoffice_help" / "en_de_pairs.tsv.gz", "rt", encoding="utf-8") as file:
        rows = [line.rstrip("\n").split("\t") for line in file]
    held_out = [row for row in rows if int(hashlib.sha256(row[0].encode()).hexdigest(), 16) % 10 == 0]
    clean = [row for row in held_out if "CommandCtrl" not in row[3] and "BefehlStrg" not in row[4]][::3]
    found = [reasons(row[3], row[4]) for row in clean]
    # Words that the help's pages really run together are found, and are no mistake of the rule.
    share = sum(bool(each - {"run_together"}) for each in found) / len(clean)
    rules = Counter(rule for each in found for rule in each)
    print(f"rejected {share:.2%} of {len(clean)} human pairs: {dict(rules)}")
    assert len(clean) > 1000
    assert share < 0.03
    assert rules["run_together"] < 0.03 * len(clean)


@pytest.mark.parametrize(
    "translation, rule",
    [
        ("", "empty"),
        (" \n", "empty"),
        (OTHER, "language"),
        (
            "Brood heeft bloem, water, zout en tijd nodig. Laat het deeg een nacht rusten en bak het heet.",
            "language",
        ),
        (SOURCE, "copied"),
        (GERMAN + " Let the dough rest over night, then bake it very hot.", "copied"),
        ("Brot braucht Mehl.", "length"),
        (GERMAN + " " + GERMAN.replace("Brot", "Kuchen") + " Und noch etwas dazu.", "length"),
        (GERMAN + " Und dann und dann und dann und dann und dann und dann.", "repetition"),
        (GERMAN + " sehr" * 12, "repetition"),
        (GERMAN[:-10], "truncation"),
        (GERMAN + " Dann weiterBacken.", "run_together"),
        (GERMAN + " Fertig.Dann essen.", "run_together"),
        (GERMAN + "\n```python\nbacken()", "truncation"),
    ],
)
def test_each_fault_is_named(translation, rule):
    assert reasons(SOURCE, GERMAN) == set()
    assert rule in reasons(SOURCE, translation)


def test_repetition_forms():
    sentence = "Das kann ich leider nicht sagen. "
    assert pairs.repeated("Well.", "".join(f"{sentence}Grund {name}. " for name in "ABCDEFG")) is not None
    assert pairs.repeated("Well.", "Das ist se" + "hr" * 15) == "a word is stuck: 'hrhrhrhrhrhrhrhrhrhrhrhrhrhrhr'"
    assert "in a row" in pairs.repeated("About 10.59 each.", "Das macht " + "10.60, " * 9)
    song = "Row, row, row, row, row, row your boat."
    assert pairs.repeated(song, "Rudre, rudre, rudre, rudre, rudre, rudre dein Boot.") is None
    assert pairs.repeated("Well.", "Das ist sehr, sehr, sehr gut.") is None
    assert pairs.repeated("A table", "| a | 1 |\n|---|---|\n| b | 2 |\n|---|---|\n" + "_" * 60) is None


@given(st.lists(st.sampled_from("abc"), max_size=40), st.integers(1, 6), st.integers(2, 9))
def test_longest_loop_finds_what_was_put_in(before, period, times):
    phrase = [f"wort{number}" for number in range(period)]
    found, repeats = pairs.longest_loop(" ".join([*before, *phrase * times]))
    assert repeats >= times
    text = " ".join([*before, *phrase * times])
    assert " ".join([found] * repeats) in text


@given(st.text(max_size=300), st.text(max_size=300))
def test_rules_take_any_text(source, translation):
    for rule, reason in pairs.pair_reasons(source, translation, "de", "en").items():
        assert rule in {"empty", "language", "copied", "length", "repetition", "truncation"} and reason


def test_code_formulas_and_addresses_are_not_judged_as_prose():
    code = "```python\nfor word in the_list_of_words_that_we_have:\n    print(word)  # print the word here\n```"
    source, german = (
        f"Use a loop to print every word:\n\n{code}",
        f"Gib jedes Wort in einer Schleife aus:\n\n{code}",
    )
    assert reasons(source, german) == set()
    assert pairs.prose(german).strip() == "Gib jedes Wort in einer Schleife aus:"
    assert pairs.prose("Die Formel $a^2 + b^2$ und $$c$$ und \\(x\\)").split() == [
        "Die",
        "Formel",
        "und",
        "und",
    ]
    assert "5" in pairs.prose("It costs $5 and then $10")
    assert pairs.prose("Siehe https://example.org/the/long/path oder <b>hier</b> {name}").split() == [
        "Siehe", "oder", "hier",
    ]  # fmt: skip
    assert pairs.prose("vorher\n```\nnie geschlossen").strip() == "vorher"


def test_names_and_short_quotations_may_stay():
    names = "Marie Curie, Ada Lovelace, Emmy Noether, Lise Meitner, Grace Hopper"
    assert pairs.copied(names, names) is None
    source = "What does the message “permissions are too open for this file” mean and what should I do?"
    german = "Was bedeutet die Meldung „permissions are too open for this file“ und was soll ich tun?"
    assert pairs.copied(source, german) is None


def test_short_texts_get_the_benefit_of_the_doubt():
    for text in (
        "OK.",
        "Hello!",
        "Paris",
        "42",
        "Berlin, Hamburg",
        "ja",
        "- Norby: 8:05\n- Holm: 8:40\n- Sandvik",
    ):
        assert pairs.wrong_language(text, "de", "en") is None
    assert reasons("Hi", "Guten Tag") == set()


def test_foreign_share_counts_lines():
    assert pairs.foreign_share(GERMAN, "de", "en") == 0
    assert pairs.foreign_share(OTHER, "de", "en") == 1
    mixed = pairs.foreign_share(f"{GERMAN}\n{OTHER}", "de", "en")
    assert 0.3 < mixed < 0.6
    assert "of the text is not in 'de'" in pairs.wrong_language(f"{GERMAN}\n{GERMAN}\n{OTHER}", "de", "en", 0.1)
    assert pairs.foreign_share("42", "de", "en") is None


def test_other_languages():
    french = "Le pain demande de la farine, de l'eau, du sel et du temps. Laissez reposer la pâte toute la nuit."
    assert pairs.wrong_language(french, "fr", "en") is None
    assert pairs.wrong_language(SOURCE, "fr", "en") is not None
    japanese = "パンには小麦粉と水と塩と時間が必要です。生地を一晩寝かせてから、とても熱い窯で焼きます。"
    assert pairs.pair_reasons(SOURCE, japanese, "ja", "en") == {}
    assert not pairs.known_language("mt")
    assert pairs.wrong_language(SOURCE, "mt", "en") is None
    norwegian = "Brød trenger mel, vann, salt og tid. La deigen hvile over natten, og stek det veldig varmt."
    assert pairs.wrong_language(norwegian, "no", "en") is None


def test_limits_are_respected():
    loose = pairs.PairLimits(min_length_ratio=0.1, max_length_ratio=9, max_copied_share=1, max_repeats=99,
                             max_foreign_share=1)  # fmt: skip
    assert pairs.pair_reasons(SOURCE, OTHER, "de", "en", loose) == {}
    assert pairs.pair_reasons(SOURCE, SOURCE, "de", "en", loose) == {}
    assert pairs.pair_reasons(SOURCE, "Brot.", "de", "en", loose) == {}


def test_words_that_leave_no_doubt_say_what_the_identifier_says():
    sides = [text for pair in human_pairs() for text in pair]
    for text in sides:
        asked = pairs.detect_language(text, "de", "en")
        assert pairs._language(text, "de", "en") in ({asked} if asked else {None, "de"}), text


def plain_longest_loop(words: list[str]) -> int:
    """How often the phrase of up to 30 words that is said most often in a row is said."""
    best = 1
    for size in range(1, 31):
        for at in range(len(words) - size):
            times = 1
            while words[at + times * size : at + (times + 1) * size] == words[at : at + size]:
                times += 1
            best = max(best, times)
    return best


@given(st.lists(st.sampled_from("abc"), max_size=60))
def test_the_longest_loop_is_the_one_that_a_plain_search_finds(words):
    assert pairs.longest_loop(" ".join(words))[1] == plain_longest_loop(words)
