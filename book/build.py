"""Build the book from the pages in `book/` and the executed notebooks of a run.

    python book/build.py --run runs/mini --adapt runs/adapt

The pages, the executed copies, `_config.yml` and `_toc.yml` are laid out in `book/_build/source`; `glance.py` puts a
box at the head of each chapter, and `reference.py` adds the pages that it writes from the code and the run's
manifests. Jupyter Book builds `book/_build/html` from it with warnings as errors, and `finish.py` adds the drawings
for dark pages. The result is looked over: every page of the table of contents is there, every notebook shows its
outputs without debris, every picture has words, every link leads somewhere, nothing is fetched from the network.
"""

import argparse
import html.parser
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import urllib.parse
from pathlib import Path

import finish
import glance
import reference
import yaml

from phoenix_utils.artifacts import STAGE_FOLDERS, read_json
from phoenix_utils.errors import PhoenixError

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "book" / "_build"
# The badge that the notebooks show on a hub is a picture from the network; the book brings its own.
REMOTE_BADGE = re.compile(r"https://colab\.research\.google\.com/assets/colab-badge\.svg")
WIDGET = "application/vnd.jupyter.widget-view+json"
# Where on the builder's disk a run lies is nobody's business.
FOLDERS = re.compile(r"(?<![\w:/.])/(?:[\w.-]+/)+runs/")
LOCAL_BADGE = "../book/figures/open-in-colab.svg"
# A traceback, a warning with its line number, a progress bar.
DEBRIS = re.compile(
    r"Traceback \(most recent call last\)|\w+Warning: .*|.*(?:it/s\]|s/it\]|%\|[█▏ ]).*|.*(?:Float|Int)Progress\(.*"
)


# It trains nothing and shows a stored table, so no run has it: the build executes it.
LAB = "notebooks/06_ablations"


def toc_pages(toc: Path) -> list[str]:
    """The pages of a table of contents in reading order, without suffix, for example `notebooks/03_sft`."""
    content = yaml.safe_load(toc.read_text(encoding="utf-8"))
    parts = content.get("parts", [content])
    return [content["root"], *(entry["file"] for part in parts for entry in part.get("chapters", []))]


def executed_copies(run: Path, adapt: Path, notebooks: list[str]) -> dict[str, Path]:
    """Where each notebook's executed copy lies: the translator's training is a run of its own."""
    own = f"notebooks/{STAGE_FOLDERS['adapt']}"
    copies = {page: (adapt if page == own else run) / f"{page}.ipynb" for page in notebooks}
    return copies | {page: BUILD / f"{page}.ipynb" for page in notebooks if page == LAB}


def execute_lab(target: Path) -> None:
    """Execute the notebook of the ablation lab into `target`."""
    import nbclient
    import nbformat

    notebook = nbformat.read(ROOT / f"{LAB}.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, resources={"metadata": {"path": str(ROOT)}}).execute()
    target.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, target)


def check_runs(run: Path, adapt: Path, notebooks: dict[str, Path]) -> None:
    """Raise PhoenixError unless every stage is complete and its notebooks are current and whole."""
    for stage, folder in STAGE_FOLDERS.items():
        place = adapt if stage == "adapt" else run
        manifest = place / folder / "manifest.json"
        if not manifest.is_file() or read_json(manifest).get("status") != "complete":
            command = "phoenix adapt" if stage == "adapt" else "make mini"
            raise PhoenixError(f"{place} has no finished {stage} stage to show: run `{command}` first")
    for page, executed in notebooks.items():
        source = ROOT / f"{page}.ipynb"
        if not executed.is_file():
            raise PhoenixError(f"{executed} is missing: run `make mini` first")
        cells = read_json(executed)["cells"]
        if _own_sources(cells) != _own_sources(read_json(source)["cells"]):
            raise PhoenixError(f"{executed} is of another version of {page}.ipynb: run `make mini` again")
        _check_outputs(executed, cells)


def _own_sources(cells: list[dict]) -> list[str]:
    """Source of each cell of the notebook itself; the runner adds one cell with its parameters."""
    return ["".join(cell["source"]) for cell in cells if "injected-parameters" not in _tags(cell)]


def _tags(cell: dict) -> list[str]:
    return cell.get("metadata", {}).get("tags", [])


def _check_outputs(path: Path, cells: list[dict]) -> None:
    code = [cell for cell in cells if cell["cell_type"] == "code" and "".join(cell["source"]).strip()]
    if any(output["output_type"] == "error" for cell in code for output in cell["outputs"]):
        raise PhoenixError(f"{path} ends in an error: look at it, mend the cause and run `make mini` again")
    if any(cell["execution_count"] is None for cell in code) or not any(cell["outputs"] for cell in code):
        raise PhoenixError(f"{path} was not executed to its end: run `make mini` again")
    for output in (output for cell in code for output in cell["outputs"]):
        text = _shown_text(output)
        debris = text if output.get("name") == "stderr" else next(iter(DEBRIS.findall(text)), None)
        if debris:
            raise PhoenixError(f"{path} shows a library's notice, {debris[:80]!r}: silence it where it arises")
        for kind in (kind for kind in output.get("data", {}) if kind.startswith("image/")):
            if not output["metadata"].get(kind, {}).get("alt"):
                raise PhoenixError(f"{path} shows a picture without words: give the figure a title")


def _shown_text(output: dict) -> str:
    """An output as text; not as HTML, in which rows of data speak of warnings and tracebacks."""
    parts = [output.get("text", ""), output.get("data", {}).get("text/plain", "")]
    return "\n".join("".join(part) for part in parts)


def lay_out(notebooks: dict[str, Path], source: Path, run: Path, adapt: Path) -> None:
    """Copy pages, executed notebooks and configuration to `source`, in the places the project has them."""
    chapters = {f"notebooks/{folder}": stage for stage, folder in STAGE_FOLDERS.items()} | {LAB: glance.LAB}
    shutil.copytree(ROOT / "book", source / "book", ignore=shutil.ignore_patterns("_build", "__pycache__"))
    for name in ("_config.yml", "_toc.yml", "CITATION.cff"):
        shutil.copy(ROOT / name, source / name)
    (source / "_static").mkdir()
    shutil.copy(ROOT / "book" / "book.css", source / "_static" / "book.css")
    # Jupyter Book puts every .js below _static into every page; this one belongs to those with formulas.
    shutil.copy(_mathjax(), source / "_static" / "mathjax.mjs")
    for page, executed in notebooks.items():
        notebook = read_json(executed)
        for cell in notebook["cells"]:
            if cell["cell_type"] == "markdown":
                cell["source"] = REMOTE_BADGE.sub(LOCAL_BADGE, "".join(cell["source"]))
                continue
            if "injected-parameters" in _tags(cell):
                cell["metadata"]["tags"].append("hide-input")
            if ".from_namespace(globals())" in "".join(cell["source"]):  # shows the parameters cell once more
                cell["metadata"].setdefault("tags", []).append("hide-output")
            for output in cell["outputs"]:
                if WIDGET in output.get("data", {}):
                    output["data"] = {"text/html": "<em>Buttons stand here when the notebook is open in Jupyter.</em>"}
            given = [kind for output in cell["outputs"] for kind in output.get("metadata", {}).values()]
            alt = [kind["alt"] for kind in given if isinstance(kind, dict) and "alt" in kind]
            if alt:
                cell["metadata"]["mystnb"] = {"image": {"alt": " ".join(alt)}}
        box = {
            "cell_type": "markdown",
            "id": "glance",
            "metadata": {},
            "source": glance.box(chapters[page], run, adapt),
        }
        notebook["cells"].insert(1, box)
        target = source / f"{page}.ipynb"
        target.parent.mkdir(exist_ok=True)
        target.write_text(FOLDERS.sub("runs/", json.dumps(notebook)), encoding="utf-8")


def _mathjax() -> Path:
    """MathJax in one file that draws formulas as SVG and so needs no fonts, from the `book` extra."""
    files = importlib.metadata.files("sphinx-mathjax-offline") or []
    return next(Path(file.locate()) for file in files if file.name == "tex-svg-full.js")


class _Page(html.parser.HTMLParser):
    """Collects of a page what a browser fetches by itself from another host, its anchors and its links."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.urls: list[str] = []
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.anchors |= {values[name] for name in ("id", "name") if values.get(name)}
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        if tag == "link" and not {"stylesheet", "preload", "icon"} & set((values.get("rel") or "").split()):
            return
        for name in ("src", "href", "data") if tag != "a" else ():
            if re.match(r"(https?:)?//", values.get(name) or ""):
                self.urls.append(values[name])


def check_pages(pages: list[str], notebooks: list[str], built: Path) -> None:
    """Raise PhoenixError for a page that is missing, shows no outputs or needs the network to be read."""
    read: dict[Path, _Page] = {}
    for page in pages:
        path = built / f"{page}.html"
        if not path.is_file():
            raise PhoenixError(f"{path} was not built though _toc.yml names {page}")
        text = path.read_text(encoding="utf-8")
        if page in notebooks and "cell_output" not in text:
            raise PhoenixError(f"{path} shows no output of its notebook")
        read[path.resolve()] = _Page(text)
        if read[path.resolve()].urls:
            url = read[path.resolve()].urls[0]
            raise PhoenixError(f"{path} fetches {url}: keep a copy in book/figures and name that")
    check_links(read)


def check_links(read: dict[Path, _Page]) -> None:
    """Raise PhoenixError for a link between pages whose page or anchor is not there."""
    for path, page in read.items():
        for link in page.links:
            target, _, anchor = urllib.parse.unquote(link).partition("#")
            if re.match(r"[a-z]+:|//", link) or target.endswith((".ipynb", ".md")):
                continue
            file = (path.parent / target).resolve() if target else path
            known = read[file].anchors if file in read else None
            if not file.exists() or (anchor and known is not None and anchor not in known):
                raise PhoenixError(f"{path} links to {link}, which is not there")


def build(run: Path, adapt: Path) -> Path:
    """Build the book and return its first page; raises PhoenixError for whatever is not whole."""
    pages = toc_pages(ROOT / "_toc.yml")
    notebooks = [page for page in pages if page.startswith("notebooks/")]
    copies = executed_copies(run, adapt, notebooks)
    check_runs(run, adapt, {page: copy for page, copy in copies.items() if page != LAB})
    shutil.rmtree(BUILD, ignore_errors=True)
    if LAB in copies:
        execute_lab(copies[LAB])
        check_runs(run, adapt, copies)
    source = BUILD / "source"
    lay_out(copies, source, run, adapt)
    reference.write_pages(source, run, adapt)
    command = ["jupyter-book", "build", "-W", "-n", "--keep-going", "--path-output", str(BUILD.parent), "."]
    command[0] = str(Path(sys.executable).with_name(command[0]))
    if subprocess.run(command, cwd=source).returncode:
        raise PhoenixError("the book was not built; its warnings stand above, and each counts as an error")
    finish.finish_pages(BUILD / "html")
    check_pages(pages, notebooks, BUILD / "html")
    return BUILD / "html" / f"{pages[0]}.html"


def main() -> int:
    """Read the command line, build, say where to look."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--run", default="runs/mini", type=Path, help="run whose notebooks are shown")
    parser.add_argument("--adapt", default="runs/adapt", type=Path, help="run of the translator's training")
    arguments = parser.parse_args()
    try:
        first = build(ROOT / arguments.run, ROOT / arguments.adapt)
    except PhoenixError as error:
        print(f"make book: {error}", file=sys.stderr)
        return 2
    print(f"The book is ready: open {first.relative_to(ROOT)} in a browser.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
