"""The book's builder: what it refuses, and what it builds from a run."""

import importlib
import inspect
import json
import re
import shutil
from pathlib import Path

import nbformat
import pytest
import typer

from phoenix_utils import memory, pipeline
from phoenix_utils.artifacts import STAGE_FOLDERS
from phoenix_utils.cli import app
from phoenix_utils.errors import PhoenixError
from phoenix_utils.profile import StageSettings
from phoenix_utils.translation import cost

ROOT = Path(__file__).resolve().parent.parent
COLAB = "https://colab.research.google.com"
BADGE = f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]({COLAB}/github/phoenix-book/phoenix)"


def load(name: str, monkeypatch):
    """A module of `book/`, which is no package: its scripts find each other as a run of them does."""
    monkeypatch.syspath_prepend(ROOT / "book")
    return importlib.import_module(name)


@pytest.fixture
def reference(monkeypatch):
    """What writes the generated pages."""
    return load("reference", monkeypatch)


@pytest.fixture
def book(tmp_path, monkeypatch):
    """The builder at work on a project with the real pages, and a finished run of five short notebooks."""
    module = load("build", monkeypatch)
    shutil.copytree(ROOT / "book", tmp_path / "book", ignore=shutil.ignore_patterns("_build", "__pycache__"))
    for name in ("_config.yml", "_toc.yml", "CITATION.cff"):
        shutil.copy(ROOT / name, tmp_path / name)
    for folder in STAGE_FOLDERS.values():
        (tmp_path / "runs/mini" / folder).mkdir(parents=True)
        (tmp_path / "runs/mini" / folder / "manifest.json").write_text('{"status": "complete"}')
        write_notebooks(tmp_path, folder)
    write_notebooks(tmp_path, "06_ablations")
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
    for path in (ROOT / "book/reference").glob("*.md"):  # what stands in git only says that the build writes it
        assert "stands here in the built book" in path.read_text(encoding="utf-8")
        written = (tmp_path / f"book/_build/html/book/reference/{path.stem}.html").read_text(encoding="utf-8")
        assert "stands here in the built book" not in written


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


def test_every_setting_with_each_profiles_value_is_on_the_settings_page(reference):
    page = reference.settings_page()
    models = {"adapt": pipeline.STAGES["adapt"].settings_model(), **pipeline.settings_models()}
    for stage, model in models.items():
        section = page.split(f": `{stage}`", 1)[1].split("\n## ")[0]
        for name, field in model.model_fields.items():
            if name not in StageSettings.model_fields:
                item = section.split(f"- **`{name}`** ", 1)[1].split("\n- **")[0]
                assert field.description.split(";")[0] in item.replace("\\", "")
    item = page.split("## DPO")[1].split("- **`learning_rate`** ", 1)[1].split("\n- **")[0]
    assert "default `5e-05`" in item and "paper `5e-07`" in item and "mini" not in item


def test_every_command_and_option_is_on_the_commands_page(reference):
    page = reference.commands_page()
    for name, command in typer.main.get_command(app).commands.items():
        section = page.split(f"## `phoenix {name}`", 1)[1].split("\n## ")[0]
        for parameter in command.params:
            assert (parameter.opts[0] if parameter.opts[0].startswith("--") else parameter.name) in section
    assert "\x1b" not in page and "╭" not in page


def test_everything_a_stage_hands_on_is_on_the_api_page_with_its_docstring(reference):
    page = reference.api_page()
    for stage in pipeline.RUN_STAGES:
        package = importlib.import_module(f"phoenix_utils.{stage}")
        section = page.split(f"## `phoenix_utils.{stage}`", 1)[1].split("\n## `phoenix_utils")[0]
        for name in package.__all__:
            item = getattr(package, name)
            if inspect.isfunction(item):
                assert f"def {name}(" in section and " ".join(item.__doc__.split())[:60] in " ".join(section.split())


def test_the_timings_page_reads_the_manifests(reference, tmp_path):
    for stage, folder in STAGE_FOLDERS.items():
        (tmp_path / folder).mkdir()
        manifest = {"seconds": 90, "peak_memory_gb": 2.5, "counts": {"rows": 1200}, "machine": {"cores": 2}}
        (tmp_path / folder / "manifest.json").write_text(json.dumps(manifest if stage == "sft" else {}))
    page = reference.timings_page(tmp_path, tmp_path)
    assert "| SFT | 1.5 | 2.50 | rows 1,200 |" in page and "| DPO | – | – |" in page and "cores 2" in page


def pages() -> dict[str, str]:
    """Every page that stands in git, by its path below the project."""
    found = [path for path in (ROOT / "book").rglob("*.md") if "_build" not in path.parts]
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in found}


def test_every_page_is_in_the_table_of_contents(monkeypatch):
    listed = set(load("build", monkeypatch).toc_pages(ROOT / "_toc.yml"))
    written = {name.removesuffix(".md") for name in pages() if not name.startswith("book/results/")}
    generated = {f"book/reference/{name}" for name in ("settings", "commands", "api", "timings", "changelog")}
    notebooks = {f"notebooks/{folder}" for folder in STAGE_FOLDERS.values()} | {load("build", monkeypatch).LAB}
    assert listed == written | generated | notebooks


def test_every_bibliography_entry_is_complete_and_cited():
    entries = re.findall(r"@(\w+)\{(\w+),(.*?)\n\}", (ROOT / "book/references.bib").read_text(encoding="utf-8"), re.S)
    notebooks = [path.read_text(encoding="utf-8") for path in (ROOT / "notebooks").glob("*.ipynb")]
    cited = set(
        ",".join(re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", "\n".join([*pages().values(), *notebooks]))).split(",")
    )
    assert {key for _, key, _ in entries} == cited
    place = {"misc": "note", "article": "journal", "inproceedings": "booktitle", "book": "publisher"}
    for kind, key, fields in entries:
        missing = {"author", "title", "year", place[kind]} - set(re.findall(r"^\s*(\w+)\s*=", fields, re.M))
        assert not missing, f"{key} has no {missing}"


def test_every_picture_exists_is_described_and_comes_from_code(monkeypatch):
    shown = set()
    for name, text in pages().items():
        for picture, options in re.findall(r"```\{image\} (\S+)\n(.*?)```", text, re.S):
            path = (ROOT / name).parent / picture
            assert path.is_file(), f"{name} shows {picture}, which is not there"
            assert len(re.search(r":alt: (.*)", options)[1]) > 60, f"{name}: {picture} is not described"
            shown.add(path.stem)
    monkeypatch.syspath_prepend(ROOT / "book" / "figures")
    make = importlib.import_module("make")
    assert shown - {"flow"} == set(make.FIGURES)
    for name in ("dpo_beta", "training_memory", "translation_cost", "translator_arms", "rows_kept"):
        assert make.FIGURES[name]().axes


def test_numbers_worked_out_on_the_pages_are_what_the_code_gives(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "book" / "figures")
    mistral = {"max_length": 2048, "per_device_batch": 1, "dtype": "bfloat16", "device": "cuda"}
    mistral |= {"gradient_checkpointing": True}
    mistral |= importlib.import_module("make").MISTRAL
    full, qlora = (memory.parts_gb(method=method, **mistral) for method in ("full", "qlora"))
    prices = {row["where"]: row for row in cost.cost_table(cost.PAPER_CHARACTERS)}
    own, rented, service = cost.paper_figures()
    lora = 16 * 18 * (2 * (640 + 1024) + 2 * (640 + 256) + 3 * (640 + 2048))
    flop = 8 * 7.24e9 * 228 * 512 * 2048
    said = {
        "book/deep/lora_memory.md": [
            f"{lora:,} trained",
            f"16\nbytes a parameter: {full['weights'] + full['gradients'] + full['optimizer']:.0f} GB",
            f"16 bits: {qlora['weights']:.1f} GB",
            f"{7.24e9 * 2 / 2**30:.1f} GB",
        ],
        "book/at_scale.md": [
            f"{228 * 512:,} sequences",
            f"{228 * 512 * 2048 / 1e6:.0f} million tokens",
            f"{941 * 64:,} pairs",
            f"| own hardware | 30 | 0.15: 500 W at 0.30 EUR per kWh | {own.job.hours:.0f} | "
            f"{own.job.characters_per_second:,.0f} | {own.euros_per_million:.2f} |",
            f"| rented A100 80GB | 300 | 2.00 | {rented.job.hours:.0f} | {rented.job.characters_per_second:,.0f} |",
            f"{service.euros_per_million:.0f} |",
            f"An L40S then needs {prices['L40S']['hours']:.0f} hours and {prices['L40S']['EUR']:.0f} EUR",
            f"an H100 {prices['H100 80GB']['hours']:.0f} hours and {prices['H100 80GB']['EUR']:.0f} EUR",
            f"{flop / 1e19:.1f} × 10¹⁹",
            f"{12 * 7.24:.0f} GB",
        ],
        "book/questions/q09_architecture.md": [
            f"{32 * 8 * 128 * 2 * 2:,} bytes",
            f"{32 * 8 * 128 * 2 * 2 * 2048 // 2**20} MiB instead of",
            f"{32 * 2048**2 * 2 // 2**20} MiB for one row",
        ],
        "book/deep/misleading.md": [
            f"= {(60 * 8 + 40 * 4) / 100}",
            f"= {(60 * 8 + 30 * 4) / 90:.2f}",
        ],
        "book/deep/tokenizers.md": [f"{262_144 * 640:,} parameters"],
    }
    found = pages()
    for name, numbers in said.items():
        for number in numbers:
            assert number in found[name], f"{name} should say {number!r}"


def test_numbers_from_stored_tables_are_those_of_the_tables():
    found = pages()
    arms, downstream = found["book/results/adapt_arms.md"], found["book/results/adapt_downstream.md"]
    assert "| 44.7 [42.3, 47.1] | 43.7 [41.9, 45.3] |" in arms and "| 45.8 [43.3, 48.4] | 44.3 [42.6, 45.8] |" in arms
    assert "44.7 and 43.7 against 45.8 and 44.3" in found["book/deep/machine_translation.md"]
    assert "-0.045 [-0.065, -0.026]" in downstream and "36 of 60 | 34 of 60" in downstream
    assert "0.045 nats per token (0.026 to 0.065)" in found["book/questions/q01_translators.md"]
    quoted = found["book/results/quoted_run.md"]
    for stored, name, said in (
        (
            "| stop share | 0.042 [0.000, 0.167] | 0.958 [0.875, 1.000] |",
            "q02_sft_and_dpo",
            "4 % (0 to 17) | 96 % (88 to 100)",
        ),
        ("3.034 [", "q02_sft_and_dpo", "| 3.034 | 2.989 | 2.990 |"),
        ("reward: 0.867 [0.767, 0.950]", "q02_sft_and_dpo", "87 % (77 to 95)"),
        ("-0.045 [-0.073, -0.018]", "q07_benchmarks", "0.045 nats per token, 0.018 to 0.073"),
        ("-1.896 [-7.011, 3.464]", "q07_benchmarks", "−1.9, −7.0 to 3.5"),
        ("0.917 [0.792, 1.000]", "q07_benchmarks", "92 points (79 to 100)"),
        ("0.000 [-0.003, 0.004]", "q05_one_epoch", "0.000\n(−0.003 to 0.004)"),
    ):
        assert stored in quoted and said in found[f"book/questions/{name}.md"]
    assert (
        "| sft | 114 | 3.89 |" in quoted
        and "3.89 GB and of the DPO process 3.63 GB" in found["book/deep/lora_memory.md"]
    )
    assert "36 and 34 were kept after the one, 55 and 57 after the other" in found["book/deep/filters.md"]
