"""The book's builder: what it refuses, and what it builds from a run."""

import importlib.util
import json
import shutil
from pathlib import Path

import nbformat
import pytest

from phoenix_utils.artifacts import STAGE_FOLDERS
from phoenix_utils.errors import PhoenixError

ROOT = Path(__file__).resolve().parent.parent
COLAB = "https://colab.research.google.com"
BADGE = f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]({COLAB}/github/phoenix-book/phoenix)"


@pytest.fixture
def book(tmp_path, monkeypatch):
    """The builder at work on a project with the real pages, and a finished run of five short notebooks."""
    spec = importlib.util.spec_from_file_location("book_build", ROOT / "book" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    shutil.copytree(ROOT / "book", tmp_path / "book", ignore=shutil.ignore_patterns("_build", "__pycache__"))
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(ROOT / name, tmp_path / name)
    for folder in STAGE_FOLDERS.values():
        (tmp_path / "runs/mini" / folder).mkdir(parents=True)
        (tmp_path / "runs/mini" / folder / "manifest.json").write_text('{"status": "complete"}')
        write_notebooks(tmp_path, folder)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "BUILD", tmp_path / "book" / "_build")
    return module


def write_notebooks(root: Path, name: str, text: str = "", output: dict | None = None) -> None:
    """A notebook and its executed copy, which has one cell more: the runner's parameters."""
    new = nbformat.v4
    title = new.new_markdown_cell(f"# {name}\n\n{BADGE}\n\n$\\beta = 0.1$ {text}")
    parameters = new.new_code_cell('language = "de"', metadata={"tags": ["parameters"]})
    cell = new.new_code_cell("print('Grüße')")
    injected = new.new_code_cell('language = "de"', metadata={"tags": ["injected-parameters"]})
    injected.execution_count = 2
    output = output or {"output_type": "stream", "name": "stdout", "text": "Grüße\n"}
    done = new.new_code_cell(cell.source, execution_count=3, outputs=[nbformat.from_dict(output)])
    for path, cells in (
        (root / "notebooks", [title, parameters, cell]),
        (root / "runs/mini/notebooks", [title, {**parameters, "execution_count": 1}, injected, done]),
    ):
        path.mkdir(exist_ok=True)
        notebook = new.new_notebook(cells=[nbformat.from_dict(one) for one in cells])
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        notebook.metadata["kernelspec"] = kernel
        nbformat.write(notebook, path / f"{name}.ipynb")


def test_the_book_holds_every_page_and_reads_without_a_network(book, tmp_path):
    first = book.build(tmp_path / "runs/mini", tmp_path / "runs/mini")
    assert first == tmp_path / "book/_build/html/book/welcome.html" and first.is_file()
    page = (tmp_path / "book/_build/html/notebooks/03_sft.html").read_text(encoding="utf-8")
    assert "Grüße" in page and "open-in-colab.svg" in page and "colab-badge" not in page
    assert (tmp_path / "book/_build/html/_static/mathjax.js").stat().st_size > 1_000_000
    assert "_static/mathjax.js" in page and "<h1>03_sft" in page


def test_a_warning_fails_the_build(book, tmp_path):
    write_notebooks(tmp_path, "04_dpo", text="[a page that is not there](nowhere.md)")
    with pytest.raises(PhoenixError, match="each counts as an error"):
        book.build(tmp_path / "runs/mini", tmp_path / "runs/mini")


def test_an_unfinished_run_is_refused(book, tmp_path):
    (tmp_path / "runs/mini/04_dpo/manifest.json").write_text('{"status": "running"}')
    with pytest.raises(PhoenixError, match="no finished dpo stage.*make mini"):
        book.build(tmp_path / "runs/mini", tmp_path / "runs/mini")


def test_outputs_of_an_older_notebook_are_refused(book, tmp_path):
    path = tmp_path / "notebooks/02_filtering.ipynb"
    path.write_text(path.read_text(encoding="utf-8").replace("Gr\u00fc\u00dfe", "Hallo"), encoding="utf-8")
    with pytest.raises(PhoenixError, match="is of another version of notebooks/02_filtering.ipynb"):
        book.build(tmp_path / "runs/mini", tmp_path / "runs/mini")


def test_a_failed_or_half_executed_notebook_is_refused(book, tmp_path):
    failure = {"output_type": "error", "ename": "ValueError", "evalue": "no", "traceback": []}
    write_notebooks(tmp_path, "01_translation", output=failure)
    with pytest.raises(PhoenixError, match="01_translation.ipynb ends in an error"):
        book.build(tmp_path / "runs/mini", tmp_path / "runs/mini")
    path = tmp_path / "runs/mini/notebooks/01_translation.ipynb"
    notebook = json.loads(path.read_text())
    notebook["cells"][-1].update(outputs=[], execution_count=None)
    path.write_text(json.dumps(notebook))
    with pytest.raises(PhoenixError, match="not executed to its end"):
        book.build(tmp_path / "runs/mini", tmp_path / "runs/mini")


def test_a_librarys_notice_among_the_outputs_is_refused(book, tmp_path):
    notice = {"output_type": "stream", "name": "stderr", "text": "could be faster with more packages\n"}
    write_notebooks(tmp_path, "01_translation", output=notice)
    with pytest.raises(PhoenixError, match="01_translation.ipynb shows a library's notice, 'could be faster"):
        book.build(tmp_path / "runs/mini", tmp_path / "runs/mini")


@pytest.mark.parametrize(
    "tag",
    [
        '<img src="https://example.org/a.png">',
        '<script src="//example.org/a.js"></script>',
        '<link rel="stylesheet" href="https://example.org/a.css">',
    ],
)
def test_a_page_that_fetches_from_the_network_is_refused(book, tmp_path, tag):
    (tmp_path / "page.html").write_text(f'<a href="https://example.org">a link is fine</a>{tag}')
    with pytest.raises(PhoenixError, match="page.html fetches (https:)?//example.org/a"):
        book.check_pages(["page"], [], tmp_path)
