"""Parallel text: what is read, how it is judged, and what is refused in which words."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from phoenix_utils import corpora
from phoenix_utils.errors import PhoenixError
from phoenix_utils.translation import parallel
from phoenix_utils.translation.parallel import ParallelRow, Rejected, clean, read_parallel

ROWS = [(row["source_text"], row["target_text"]) for row in corpora.sentence_pairs("en", "de")[:30]]


def texts(name, source="en", target="de"):
    return [(row.source_text, row.target_text) for row in read_parallel(str(name), source, target)]


def written(tmp_path, kind):
    """The same pairs in one of the layouts that people have."""
    path = tmp_path / f"corpus.{kind}"
    if kind == "tsv":
        path.write_text("".join(f"{a}\t{b}\n" for a, b in ROWS), encoding="utf-8")
    elif kind == "tsv.gz":
        with gzip.open(path, "wt", encoding="utf-8") as file:
            file.write("de\tpage\ten\n" + "".join(f"{b}\tp{i}\t{a}\n" for i, (a, b) in enumerate(ROWS)))
    elif kind == "jsonl":
        path.write_text("".join(json.dumps({"translation": {"en": a, "de": b}}) + "\n" for a, b in ROWS))
    elif kind == "json":
        path.write_text(json.dumps([{"src": a, "tgt": b} for a, b in ROWS]))
    elif kind == "parquet":
        pq.write_table(pa.table({"en": [a for a, _ in ROWS], "de": [b for _, b in ROWS]}), path)
    elif kind == "moses":
        for side, language in enumerate(("en", "de")):
            (tmp_path / f"corpus.{language}").write_text("".join(f"{row[side]}\n" for row in ROWS), encoding="utf-8")
        return tmp_path / "corpus"
    return path


@pytest.mark.parametrize("kind", ["tsv", "tsv.gz", "jsonl", "json", "parquet", "moses"])
def test_every_layout_gives_the_same_pairs(tmp_path, kind):
    assert texts(written(tmp_path, kind)) == ROWS


def test_documents_come_from_their_column(tmp_path):
    assert [row.document for row in read_parallel(str(written(tmp_path, "tsv.gz")), "en", "de")][:2] == ["p0", "p1"]


def test_the_packages_training_pairs_are_none_of_the_measuring_pairs():
    trained = {row.source_text for row in read_parallel("package:pairs", "en", "de")}
    assert len(trained) == 400
    assert not trained & {row["source_text"] for row in corpora.sentence_pairs("en", "de")}


def test_pages_are_held_out_by_a_hash_of_their_names():
    # The rule must never move: every measurement on the help text, past and future, rests on it.
    assert parallel.held_out_page("shared/fontwork_toolbar.html") and parallel.held_out_page(
        "shared/optionen/01020000.html"
    )
    assert not parallel.held_out_page("swriter/guide/pagenumbers.html")
    share = sum(parallel.held_out_page(f"page {number}") for number in range(5000)) / 5000
    assert 0.08 < share < 0.12


def test_html_paragraphs_are_found_by_id():
    page = """<h1 id="a">Title</h1><p id="b">One <b>two</b>
      three &amp; four</p><p>no id</p><div id="c">no text element</div><p id="d"></p>"""
    assert parallel.html_paragraphs(page) == {"a": ("h1", "Title"), "b": ("p", "One two three & four"), "d": ("p", "")}


def test_debian_help_is_paired_by_page_and_id(tmp_path, monkeypatch):
    monkeypatch.setattr(parallel, "HELP_FOLDER", tmp_path)
    for folder, text in (("en-US", "Save the file."), ("de", "Speichern Sie die Datei.")):
        (tmp_path / folder / "text" / "swriter").mkdir(parents=True)
        (tmp_path / folder / "text" / "swriter" / "a.html").write_text(f'<p id="x">{text}</p><p id="{folder}">y</p>')
    (tmp_path / "en-US" / "text" / "alone.html").write_text('<p id="x">Alone.</p>')
    assert list(read_parallel(parallel.DEBIAN_HELP, "en", "de")) == [
        ParallelRow("Save the file.", "Speichern Sie die Datei.", "swriter/a.html", "swriter/a.html x")
    ]
    with pytest.raises(PhoenixError, match="libreoffice-help-nl: run apt-get install libreoffice-help-nl"):
        list(read_parallel(parallel.DEBIAN_HELP, "en", "nl"))


def judged(rows, **options):
    found = [ParallelRow(a, b, "", f"row {number}") for number, (a, b) in enumerate(rows, 1)]
    return list(clean(found, "en", "de", **options))


@pytest.mark.parametrize(
    "pair, rule, words",
    [
        (("The ferry leaves at noon.", ""), "empty", "row 31: the target side is empty"),
        (("", "Die Fähre fährt um zwölf."), "empty", "row 31: the source side is empty"),
        (("x" * 5001, "Die Fähre fährt um zwölf."), "long", "row 31: the source side has 5,001 characters"),
        (("README", "README"), "identical", "row 31: both sides are the same"),
        (
            ("Press Ctrl and the letter F to search.", "Drücken Sie BefehlStrg und F zum Suchen."),
            "run_together",
            "row 31",
        ),
        (("The ferry leaves at noon from the old harbour.", "Die Fähre."), "length", "row 31"),
        (ROWS[3], "duplicate", "row 31"),
    ],
)
def test_a_bad_pair_is_rejected_with_its_place(pair, rule, words):
    *good, last = judged([*ROWS, pair])
    assert all(isinstance(row, ParallelRow) for row in good)
    assert isinstance(last, Rejected) and last.rule == rule and words in last.reason


def test_swapped_columns_are_refused(tmp_path):
    with pytest.raises(PhoenixError, match=r"row 1: the source side reads as 'de' .* swap the columns"):
        judged([(b, a) for a, b in ROWS])


def test_a_corpus_without_translation_is_refused():
    with pytest.raises(PhoenixError, match=r"row 1: both sides are the same text, as in 30 of the first 30 rows"):
        judged([(a, a) for a, _ in ROWS])


def test_files_of_different_length_are_refused(tmp_path):
    prefix = written(tmp_path, "moses")
    file = tmp_path / "corpus.de"
    file.write_text("".join(file.read_text(encoding="utf-8").splitlines(keepends=True)[:-1]), encoding="utf-8")
    with pytest.raises(PhoenixError, match=r"corpus.de ends before line 30 of its partner"):
        texts(prefix)
    file.unlink()
    with pytest.raises(PhoenixError, match=r"two files, and .*corpus.de does not exist"):
        texts(prefix)


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("one.tsv", "only one column\n", r"line 1, has 1 column\(s\)"),
        ("other.jsonl", '{"text": "x"}\n', r"has the columns text; two of them must be named en and de"),
        ("number.jsonl", '{"en": "x", "de": 3}\n', r"holds str and int, not two texts"),
        ("missing.tsv", None, r"does not exist"),
    ],
)
def test_what_is_no_parallel_text_is_refused(tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(PhoenixError, match=words):
        texts(tmp_path / name)
