"""The book's builder: what it refuses, what it builds from a run, and how that reads in a browser."""

import contextlib
import importlib
import inspect
import json
import re
import shutil
from pathlib import Path

import nbformat
import pytest
import typer
import yaml

from phoenix_utils import embedded, memory, notebooks, pipeline, plots, scale
from phoenix_utils.artifacts import STAGE_FOLDERS
from phoenix_utils.cli import app
from phoenix_utils.errors import PhoenixError
from phoenix_utils.profile import StageSettings, find_profile, load_profile, load_settings
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
    return project(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The book of such a project, built once: its first page."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        return project(folder, patch).build(folder / "runs/mini", folder / "runs/mini")


def project(tmp_path, monkeypatch):
    """The builder, with a project of its own in `tmp_path`."""
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


# What a cell that greets and draws leaves behind.
DRAWING = {
    "output_type": "display_data",
    "data": {
        "text/plain": "Grüße",
        "image/svg+xml": '<svg xmlns="http://www.w3.org/2000/svg"><rect width="9" height="9" fill="#ffffff"/></svg>',
    },
    "metadata": {"image/svg+xml": {"alt": "A white square"}},
}


def write_notebooks(root: Path, name: str, text: str = "", output: dict | None = None) -> None:
    """A notebook and its executed copy, which has one cell more: the runner's parameters."""
    new = nbformat.v4
    title = new.new_markdown_cell(f"# {name}\n\n{BADGE}\n\n$\\beta = 0.1$ {text}")
    parameters = new.new_code_cell('language = "de"', metadata={"tags": ["parameters"]})
    cell = new.new_code_cell("print('Grüße')")
    injected = new.new_code_cell('language = "de"', metadata={"tags": ["injected-parameters"]})
    injected.execution_count = 2
    output = output or DRAWING
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


def test_the_book_holds_every_page_and_reads_without_a_network(built):
    html = built.parent.parent
    assert built == html / "book/welcome.html" and built.is_file()
    page = (html / "notebooks/03_sft.html").read_text(encoding="utf-8")
    assert "open-in-colab.svg" in page and "colab-badge" not in page
    assert (html / "_static/mathjax.mjs").stat().st_size > 1_000_000
    assert page.count("_static/mathjax.mjs") == 1 and "<h1>03_sft" in page and "THEBE_JS_URL" not in page
    for path in (ROOT / "book/reference").glob("*.md"):  # what stands in git only says that the build writes it
        assert "stands here in the built book" in path.read_text(encoding="utf-8")
        written = (html / f"book/reference/{path.stem}.html").read_text(encoding="utf-8")
        assert "stands here in the built book" not in written


def test_a_chapter_begins_with_goal_needs_and_minutes_on_each_profile(built):
    for folder in STAGE_FOLDERS.values():
        page = (built.parent.parent / f"notebooks/{folder}.html").read_text(encoding="utf-8")
        box = page.split("At a glance", 1)[1].split("</div>", 1)[0]
        assert "Goal:" in box and "You need:" in box and "Minutes:" in box
        if folder != STAGE_FOLDERS["adapt"]:
            assert all(f">{name}</span>" in box for name in ("mini", "laptop", "colab", "single_gpu", "paper"))


def test_estimated_minutes_agree_with_the_sums_of_the_page_on_the_papers_run(monkeypatch):
    glance = load("glance", monkeypatch)
    paper = load_profile(find_profile("paper", [ROOT / "profiles"]), pipeline.settings_models())
    assert glance.estimate("translation", paper) == pytest.approx(60 * 150, rel=0.05)
    assert glance.estimate("sft", paper) == pytest.approx(13_900 / 60, rel=0.3)  # rows of a mean length, not packed
    assert glance.estimate("evaluation", paper) is None
    assert [glance._round(value) for value in (0.2, 7.4, 93, 8_960)] == ["1", "7", "93", "9,000"]


def test_a_drawing_has_words_and_a_version_for_the_dark(built):
    page = (built.parent.parent / "notebooks/03_sft.html").read_text(encoding="utf-8")
    tags = [tag for tag in re.findall(r"<img[^>]*>", page) if "A white square" in tag]
    assert [re.search(r"only-(\w+)", tag)[1] for tag in tags] == ["light", "dark"]
    light, dark = (re.search(r'src="([^"]+)"', tag)[1] for tag in tags)
    folder = built.parent.parent / "notebooks"
    assert "#ffffff" in (folder / light).read_text() and "#121212" in (folder / dark).read_text()


def test_the_colours_of_the_data_stand_out_on_both_papers(monkeypatch):
    finish = load("finish", monkeypatch)

    def light(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(share * part for share, part in zip((0.2126, 0.7152, 0.0722), parts, strict=True))

    dark = light(finish.PAPER) + 0.05
    for colour in plots.PALETTE:
        assert (light(finish.darken(colour)) + 0.05) / dark >= 3, colour
    assert (light(finish.darken(plots.INK)) + 0.05) / dark >= 7
    used = {value.lower() for value in plots._STYLE.values() if isinstance(value, str) and value.startswith("#")}
    assert used <= set(finish.EXCHANGED), "a colour of the style has no counterpart in the dark"


@pytest.fixture(scope="module")
def chromium():
    """A real browser, where Playwright and a Chromium are installed."""
    pytest.importorskip("playwright", reason="Playwright is not installed: make book-browser")
    from playwright.sync_api import Error

    with pytest.MonkeyPatch.context() as patch:
        module = load("browser", patch)
    with contextlib.ExitStack() as stack:
        try:
            browser = stack.enter_context(module.chromium())
        except Error as error:
            pytest.skip(f"Playwright finds no browser to drive: {str(error).splitlines()[0]}")
        yield module, browser


def test_the_built_book_reads_well_in_a_real_browser(built, chromium):
    module, browser = chromium
    html = built.parent.parent
    # One page of each kind, since all of them (`make book-browser`) take a minute.
    assert module.check_pages(browser, html, only="welcome|dpo_derivation|03_sft|q04|glossary|commands|search") == []
    assert module.check_gestures(browser, html, "book/setup", "notebooks/03_sft") == []


def test_the_browser_sees_what_a_reader_would_stumble_over(tmp_path, chromium):
    module, browser = chromium
    (tmp_path / "page.html").write_text(
        """<!doctype html><html><head><script src="missing.js"></script></head><body><main>
        <p style="color:#999;background:#fff">faint</p><p style="width:2000px">wide</p><img src="a.png">
        <img src="b.png" alt="b.png"><img src="http://elsewhere.invalid/c.png" alt="from elsewhere">
        <script>console.error("a fault"); null.x</script></main></body></html>"""
    )
    found = "\n".join(module.check_pages(browser, tmp_path))
    for words in (
        "console: a fault",
        "script error: Cannot read properties of null",
        "does not load: file://",
        "fetches http://elsewhere.invalid/c.png",
        "sticks out: the page is 20",
        "no words for the picture a.png",
        "no words for the picture b.png",
        'faint (light): <p class=""> rgb(153, 153, 153) on rgb(255,255,255) has 2.85: "faint"',
    ):
        assert f"page.html at 1280 px: {words}" in found and f"page.html at 390 px: {words}" in found, words


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
    "text, shown",
    [
        ("Traceback (most recent call last):\n", "Traceback"),
        ("lib/a.py:3: FutureWarning: `x` goes away\n  warn()\n", "FutureWarning: `x` goes away"),
        (" 40%|████      | 4/10 [00:01<00:02,  3.1it/s]", "40%"),
    ],
)
def test_debris_among_the_outputs_is_refused(book, tmp_path, text, shown):
    write_notebooks(tmp_path, "01_translation", output={"output_type": "stream", "name": "stdout", "text": text})
    with pytest.raises(PhoenixError, match=f"01_translation.ipynb shows a library's notice, '.*{re.escape(shown)}"):
        book.build(tmp_path / "runs/mini", tmp_path / "runs/mini")


def test_a_picture_without_words_is_refused(book, tmp_path):
    write_notebooks(tmp_path, "01_translation", output={**DRAWING, "metadata": {}})
    with pytest.raises(PhoenixError, match="shows a picture without words"):
        book.build(tmp_path / "runs/mini", tmp_path / "runs/mini")


def test_a_link_to_an_anchor_that_is_not_there_is_refused(book, tmp_path):
    (tmp_path / "a.html").write_text('<h1 id="top">A</h1><a href="b.html#here">there</a><a href="#top">up</a>')
    (tmp_path / "b.html").write_text('<h1 id="here">B</h1>')
    book.check_pages(["a", "b"], [], tmp_path)
    (tmp_path / "b.html").write_text('<h1 id="elsewhere">B</h1>')
    with pytest.raises(PhoenixError, match="a.html links to b.html#here, which is not there"):
        book.check_pages(["a", "b"], [], tmp_path)


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


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "book").glob("*.py")))
def test_every_script_of_the_book_finds_what_it_imports(name, monkeypatch):
    assert load(name, monkeypatch).__doc__


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


def test_the_supply_page_and_the_bill_of_materials_name_every_package_and_the_models_hash(monkeypatch, tmp_path):
    supply = load("supply", monkeypatch)
    bill = json.loads(supply.write(tmp_path).read_text(encoding="utf-8"))
    places = {one["bom-ref"]: one for one in bill["components"]}
    assert len(places) == len(bill["components"]) and f"pkg:pypi/pyyaml@{yaml.__version__}" in places
    assert places["gemma-3-270m"]["hashes"] == [{"alg": "SHA-256", "content": embedded.SHA256}]
    [own] = [one["dependsOn"] for one in bill["dependencies"] if one["ref"] == "phoenix-utils"]
    assert len(own) > 30 and set(own) <= places.keys(), "what the package needs is in the list"
    assert sum("licenses" in one for one in places.values()) > 0.9 * len(places)
    page = supply.page()
    assert embedded.SHA256 in page and all(sha256 in page for _, _, sha256 in embedded.PARTS)


def test_every_page_is_in_the_table_of_contents(monkeypatch):
    listed = set(load("build", monkeypatch).toc_pages(ROOT / "_toc.yml"))
    written = {name.removesuffix(".md") for name in pages() if not name.startswith("book/results/")}
    generated = {f"book/reference/{name}" for name in ("settings", "commands", "api", "timings", "supply", "changelog")}
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
    for name in (
        "dpo_beta",
        "training_memory",
        "translation_cost",
        "translator_arms",
        "rows_kept",
        "released_vocabulary",
    ):
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
            f"adapter 0.2: {qlora['weights']:.1f} GB",
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
            f"one in {scale.GPU_HOURS_BETWEEN_FAILURES:,.0f} card hours",
            f"meet {scale.paper_plans(10, 8)[0].gpu_hours / 24:.0f} of them",
            f"is {4 * memory.EMBEDDED['parameters_b'] * 1e9 * 22_466 / 83 / 1e12:.2f} × 10¹² operations",
            *(
                f"| {row['stage']}, 8 cards | " + " | ".join(list(row.values())[3:]) + " |"
                for times in (1, 10)
                for row in scale.plan_rows(scale.paper_plans(times, 8))
            ),
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
        ("| 2.995 [2.768, 3.204] | 2.996 [", "q02_sft_and_dpo", "| 3.034 | 2.995 | 2.996 |"),
        ("reward: 0.817 [0.717, 0.900]", "q02_sft_and_dpo", "82 % (72 to 90)"),
        ("-0.151 [-0.232, -0.056] |", "q02_sft_and_dpo", "−0.151, −0.232 to −0.056"),
        ("-0.039 [-0.064, -0.011]", "q07_benchmarks", "0.039 nats per token, 0.011 to 0.064"),
        ("-0.369 [-6.214, 5.722]", "q07_benchmarks", "−0.4, −6.2 to 5.7"),
        ("0.917 [0.792, 1.000]", "q07_benchmarks", "92 points (79 to 100)"),
        ("0.001 [-0.003, 0.005]", "q05_one_epoch", "0.001\n(−0.003 to 0.005)"),
    ):
        assert stored in quoted and said in found[f"book/questions/{name}.md"]
    assert (
        "| sft | 83 | 3.68 |" in quoted
        and "3.68 GB and of the DPO process 2.95 GB" in found["book/deep/lora_memory.md"]
    )
    for name, value, said in (
        ("speedup 2", "2.008", "2.01 times as fast"),
        ("speedup 2 whole stage", "1.396", "1.40 times with splitting"),
        ("overhead ms per row", "0.011", "0.011 ms (0.015 ms in one process)"),
        ("start seconds", "11.474", "| 8 to 11 s |"),
        ("model speedup 2", "0.684", "0.68 times as fast"),
        ("model same texts", "1.000", "all 192 translations the same"),
    ):
        assert f"| ray {name} | {value} |" in found["book/results/scale.md"] and said in found["book/at_scale.md"]
    assert "| driver memory growth mb | 4.020 |" in found["book/results/scale.md"]
    assert "4 MB, of 270 MB" in found["book/at_scale.md"]
    assert "36 and 34 were kept after the one, 55 and 57 after the other" in found["book/deep/filters.md"]
    lab = found["book/results/ablations.md"]
    for row, name, said in (
        ("| DPO only | 1 | 42 % [28, 55] | 80 % [", "q02_sft_and_dpo", "| – | – | 80 % | 82 and 88 % |"),
        (
            "| 3.081 [2.860, 3.282] | 0.016 [0.012, 0.020] |",
            "q02_sft_and_dpo",
            "by 0.016 nats per token (0.012 to 0.020)",
        ),
        (
            "| 2 epochs | 1 | 47 % [33, 60] | 85 % [",
            "q05_one_epoch",
            "| 2 | 0.156 | 85 % | +0.017 (0.010 to 0.024) |",
        ),
        ("| 0.056 [0.019, 0.092] |", "q05_one_epoch", "+0.053 and +0.059"),
        ("| half of the pairs | 1 | 45 % [32, 58] | 73 % [", "q04_hyperparameters", "unseen pairs falls to 73 %"),
    ):
        assert row in lab and said in found[f"book/questions/{name}.md"]
    arms = found["book/results/sft_arms.md"]
    assert "batch 2 | 2.976 | 2.315 |" in arms and "rate 1e-3 | 3.176 | 1.958 |" in arms
    assert "rank 64 | 3.170 | 1.899 |" in arms and "1 epoch | 2.952 |" in arms
    assert "from 2.976 to 3.176 and 3.170" in found["book/questions/q04_hyperparameters.md"]


def test_what_two_seeds_gave_follows_from_the_stored_mean_and_interval():
    """Student's t for two runs reaches 12.706 half distances to each side, so each run can be worked out again."""
    found = pages()
    rows = {
        cells[0]: cells[1:]
        for line in found["book/results/ablations.md"].splitlines()
        if len(cells := [cell.strip() for cell in line.strip("|").split("|")]) > 5
    }
    columns = {name: place for place, name in enumerate(rows["arm"])}
    for arm, column, name, said, digits in (
        ("SFT + DPO", "reward_accuracy", "q02_sft_and_dpo", "| 80 % | {} and {} % |", 0),
        ("SFT + DPO", "nll_per_token", "q02_sft_and_dpo", "| 3.081 | {} and {} |", 3),
        ("SFT + DPO", "loss_last", "q04_hyperparameters", "| 0.1 | {} and {} |", 3),
        ("beta 0.01", "loss_last", "q04_hyperparameters", "| 0.01 | {} and {} |", 3),
        ("beta 0.5", "loss_last", "q04_hyperparameters", "| 0.5 | {} and {} |", 3),
        ("beta 0.5", "nll_per_token", "q04_hyperparameters", "0.217 | {} and {} |", 3),
        ("batch of 1 at the same rate", "nll_per_token_minus_sft", "q04_hyperparameters", "by {} and {} nats", 3),
        ("batch of 1 at the same rate", "reward_accuracy", "q04_hyperparameters", "no better, {} and {} %", 0),
        ("3 epochs", "loss_last", "q05_one_epoch", "| 3 | {} and {} (two seeds) |", 3),
        ("3 epochs", "nll_per_token_minus_sft", "q05_one_epoch", "80 % | +{} and +{} |", 3),
    ):
        cell = rows[arm][columns[column]]
        mean, low = (float(value) for value in re.findall(r"-?[\d.]+", cell)[:2])
        page, half = found[f"book/questions/{name}.md"], (mean - low) / 12.706
        values = re.search(re.escape(said).replace(r"\{\}", r"([\d.]+)"), page)
        assert values, f"{name} says no {said!r}"
        # Stored figures are rounded: a last digit more or less.
        step = 10.0**-digits
        read = sorted(map(float, values.groups()))
        assert read == pytest.approx([mean - half, mean + half], abs=1.01 * step), f"{name}: {said}"


def phoenix_commands() -> list[tuple[str, list[str]]]:
    """Every `phoenix` command in shell blocks of README and pages: page and words, with loops' values filled in."""
    found = []
    for name, text in {"README.md": (ROOT / "README.md").read_text(encoding="utf-8"), **pages()}.items():
        for block in re.findall(r"^```bash\n(.*?)^```", text, re.S | re.M):
            for line in block.replace("\\\n", " ").splitlines():
                for command in re.findall(r"(?:^|do |; )\s*(?:\S*bin/)?phoenix (.+?)(?:;| +[#<] |$)", line):
                    found.append((name, re.sub(r"\$\w+", "2", command.replace("$RULES", "numbers,code")).split()))
    return found


def test_every_command_on_the_pages_is_one_that_the_command_line_takes():
    commands, models = typer.main.get_command(app).commands, pipeline.settings_models()
    profiles = {path.stem for path in (ROOT / "profiles").glob("*.yaml")}
    seen = phoenix_commands()
    assert len(seen) > 25
    for page, (name, *words) in seen:
        if name in ("release", "chat"):
            commands[name].make_context(name, words)
            continue
        if name in ("doctor", "sweep") or "PROFILE" in words:
            assert name in commands
            continue
        options = commands[name].make_context(name, words).params  # an unknown option would end here
        texts = options.get("overrides") or []
        if name == "adapt":
            changes = dict(text.split("=", 1) for text in texts)
            load_settings(None, pipeline.STAGES["adapt"].settings_model(), changes)
            continue
        assert options["profile"] in profiles, page
        load_profile(ROOT / "profiles" / f"{options['profile']}.yaml", models, pipeline.parse_overrides(texts))


def test_a_first_result_is_three_actions_away():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    first = re.search(r"^```bash\n(.*?)^```", text, re.S | re.M)[1].splitlines()
    actions = [line.split("#")[0].strip() for line in first[: 1 + next(n for n, s in enumerate(first) if "make" in s)]]
    assert actions == [f"git clone {notebooks.repository_url(ROOT)} && cd phoenix", "make mini"]
    assert "05_evaluation/report.html" in text[: text.index("## Which profile")]  # the third: open it
    assert text[: text.index("```bash")].count("\n") < 20


def test_the_pictures_of_the_readme_are_there_and_small():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"!\[([^\]]+)\]\(([^)]+)\)", text)
    assert {Path(path).name for _, path in shown} == {"flow.svg", "screen_book.png", "screen_report.png"}
    for words, path in shown:
        assert len(words) > 60 and (ROOT / path).stat().st_size < 200_000


def test_issue_templates_are_whole_and_lead_to_this_repository():
    paths = list((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))
    assert "config.yml" in {path.name for path in paths} and len(paths) > 1
    for path in paths:
        template = yaml.safe_load(path.read_text(encoding="utf-8"))
        if path.name == "config.yml":
            address = template["contact_links"][0]["url"]
            assert address == f"{notebooks.repository_url(ROOT)}/blob/main/book/troubleshooting.md"
            continue
        assert template["name"] and template["description"]
        ids = [field["id"] for field in template["body"] if field["type"] != "markdown"]
        assert len(ids) == len(set(ids)) and all(field["attributes"] for field in template["body"])


# Sentences that tell what came out here, and the names of those whose numbers a sentence may tell instead.
RESULT = re.compile(
    r"\b(?:our (?:own )?(?:runs?|comparison|experiment)|(?:in|of) (?:one|the|a real|this) run|measured|we trained"
    r"|rose from|went from|held-out|were kept|trained model)\b",
    re.I,
)
NAMED = re.compile(
    r"\{cite|\]\(|\bpaper|Table \d|PHOENIX|Zephyr|handbook|LAION|LeoLM|ALMA|WMT|MT-Bench|LibreOffice|data sheet"
    r"|\breport(?:s|ed)\b|assum|estimate",
    re.I,
)
NUMBER = re.compile(r"(?<![\w./,])(\d[\d,]*(?:\.\d+)?)( ?%| percent| of \d+)?")


def result_sentences(text: str) -> list[str]:
    """Sentences of a page that tell a result of ours and name no one else as its source."""
    found = []
    for section in re.split(r"^(?=## )", text, flags=re.M):
        everything = section.startswith("## What our runs showed")
        prose = re.sub(r"```.*?```|\$\$.*?\$\$|^\|.*$|`[^`]*`", " ", section, flags=re.S | re.M)
        for paragraph in re.split(r"\n\s*\n|^#.*$|^- ", prose, flags=re.M):
            for sentence in re.split(r"(?<=[.:?])\s+(?=[A-Z*\[])", " ".join(paragraph.split())):
                if (everything or RESULT.search(sentence)) and not NAMED.search(sentence):
                    found.append(sentence)
    return found


def stored_numbers() -> set[float]:
    """Every number of the stored results, of the packaged adapters' cards and of `mini`'s settings."""
    results = [path for path in (ROOT / "book/results").glob("*.md") if path.stem != "mutants"]  # full of constants
    files = [*results, *(ROOT / "phoenix_utils/data/adapters").rglob("README.md")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in [*files, ROOT / "profiles/mini.yaml"])
    text = re.sub(r"\b[a-f0-9]{7,}\b|\d{4}-\d\d-\d\d", " ", text)
    return {float(number.replace(",", "").rstrip(".")) for number, _ in NUMBER.findall(text)}


def untraced(sentence: str, stored: set[float]) -> list[str]:
    """Decimals, shares and large numbers of a sentence that no stored one rounds to, as it stands or in per cent."""
    told = [number for number, unit in NUMBER.findall(sentence) if "." in number or unit or len(number) > 2]
    missing = []
    for number in told:
        digits, value = len(number.partition(".")[2]), float(number.replace(",", ""))
        if not any(round(scale * known, digits) == value for known in stored for scale in (1, 100)):
            missing.append(number)
    return missing


def test_numbers_in_sentences_about_results_come_from_a_stored_result():
    texts = {name: text for name, text in pages().items() if not name.startswith("book/results/")}
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        texts[path.name] = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    stored, seen = stored_numbers(), 0
    for name, text in texts.items():
        for sentence in result_sentences(text):
            seen += 1
            assert not untraced(sentence, stored), f"{name}: {untraced(sentence, stored)} in {sentence!r}"
    assert seen > 30
    assert untraced("In our run 61.7 % of 24 answers ended.", {0.617}) == []
    assert untraced("In our run 61.7 % of 24 answers ended.", {0.716, 24}) == ["61.7"]
