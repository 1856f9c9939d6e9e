"""The notebooks as files: generated cells current, nothing stored that a run makes, every cell parses."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from phoenix_utils import notebooks
from phoenix_utils.errors import PhoenixError
from phoenix_utils.pipeline import STAGES, notebook_path
from phoenix_utils.translation import TranslationSettings

ROOT = Path(__file__).resolve().parent.parent
LAB = ROOT / "notebooks" / notebooks.LAB
MODELS = {notebook_path(stage): STAGES[stage].settings_model() for stage in STAGES} | {LAB: notebooks.LabSettings}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(params=list(MODELS), ids=lambda path: path.stem)
def path(request):
    return request.param


def code_cells(path: Path) -> list:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def test_every_notebook_of_the_repository_is_held_to_this():
    assert set((ROOT / "notebooks").glob("*.ipynb")) == set(MODELS)


def test_the_parameters_cell_is_the_stage_settings(path):
    notebooks.check_notebook(path, MODELS[path])


def test_generated_cells_are_current(path, tmp_path):
    copy = tmp_path / path.name
    copy.write_bytes(path.read_bytes())
    url = notebooks.repository_url(ROOT)
    assert not notebooks.fill_notebook(copy, MODELS[path], url), "run: make notebooks"
    assert "BADGE" not in copy.read_text()


def test_another_address_changes_every_badge_and_install_line(path, tmp_path):
    copy = tmp_path / path.name
    copy.write_bytes(path.read_bytes())
    assert notebooks.fill_notebook(copy, MODELS[path], "https://github.com/someone/else")
    text = copy.read_text(encoding="utf-8")
    assert "phoenix-book" not in text and text.count("someone/else") == 2


def test_the_badge_leads_to_this_notebook(path):
    first = nbformat.read(path, as_version=4).cells[0].source
    address = notebooks.repository_url(ROOT).removeprefix("https://github.com/")
    branch = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["branch"]
    [link] = re.findall(r"\]\((https://colab\.research\.google\.com/github/[^)]+)\)", first)
    opened = link.removeprefix(f"https://colab.research.google.com/github/{address}/blob/{branch}/")
    assert ROOT / opened == path and path.is_file()


def test_every_name_is_bound(path):
    """Ruff reads a notebook as one program, so a name of an earlier cell is known in a later one."""
    ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache", "--select", "F821,F811,F823,E9"]
    done = subprocess.run([*ruff, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_install_cell_brings_what_the_notebook_imports(path):
    """All of it, with versions that the constraints pin; `google.colab` and IPython are Colab's own."""
    install, *others = code_cells(path)
    constraints = re.search(r"'phoenix/(constraints/\w+\.txt)'", install.source)[1]
    extras = re.search(r"'phoenix\[([\w,]+)\]'", install.source)[1].split(",")
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in PROJECT["optional-dependencies"][extra])]
    declared = {canonicalize_name(Requirement(line).name) for line in lines}
    pinned = {canonicalize_name(name) for name in re.findall(r"^([\w.-]+)==", (ROOT / constraints).read_text(), re.M)}
    assert declared <= pinned
    for cell in others:
        for node in ast.walk(ast.parse(cell.source)):
            if not isinstance(node, (ast.Import, ast.ImportFrom)):
                continue
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
            for top in {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"phoenix_utils"}:
                owners = {canonicalize_name(name) for name in packages_distributions()[top]}
                assert owners & declared, f"{path.name} imports {top}, which its install cell does not bring"


def test_papermill_sees_every_parameter(path):
    import papermill

    seen = papermill.inspect_notebook(str(path))
    model = MODELS[path]
    assert list(seen) == list(model.model_fields)
    for name, field in model.model_fields.items():
        assert seen[name]["help"] == field.description, "papermill shows the comment as help"


def test_no_outputs_valid_json_and_every_cell_parses(path):
    nbformat.validate(nbformat.read(path, as_version=4))
    for cell in code_cells(path):
        assert not cell.outputs and cell.execution_count is None
        ast.parse(cell.source)


def test_nothing_is_imported_before_the_install_cell_and_it_ends_with_versions(path):
    first = code_cells(path)[0]
    assert "install" in first.metadata.tags and "torch" not in first.source
    assert first.source.endswith("\ninstalled_versions()")


def test_a_chapter_has_three_exercises_with_hidden_solutions(path):
    solutions = [cell for cell in code_cells(path) if "hide-cell" in cell.metadata.get("tags", [])]
    assert len(solutions) >= 3 and all(cell.source.startswith("# Solution") for cell in solutions)


def test_a_chapter_shows_what_goes_wrong_before_its_exercises_and_ends_with_reading(path):
    cells = nbformat.read(path, as_version=4).cells
    titles = ("## What can go wrong", "## Exercises", "## Further reading")
    wrong, exercises, reading = (
        next(place for place, cell in enumerate(cells) if title in cell.source) for title in titles
    )
    assert wrong < exercises < reading == len(cells) - 1
    assert any(cell.cell_type == "code" for cell in cells[wrong:exercises]), "nothing is seen going wrong"


def test_the_labs_notebook_runs_with_its_solutions(tmp_path):
    """It trains nothing, so it is run whole; `make mini` runs the others, with their solutions."""
    import nbclient

    notebook = nbformat.read(LAB, as_version=4)
    nbclient.NotebookClient(notebook, resources={"metadata": {"path": str(ROOT)}}).execute()
    solutions = [cell for cell in notebook.cells if "hide-cell" in cell.metadata.get("tags", [])]
    assert "the luckiest of twelve stands at" in solutions[-1].outputs[0].text
    [drawn] = [
        out for cell in notebook.cells for out in cell.get("outputs", []) if "Twelve coins" in str(out.get("metadata"))
    ]
    assert "image/svg+xml" in drawn.data and "image/png" not in drawn.data


def damaged(tmp_path, change) -> Path:
    notebook = json.loads(notebook_path("translation").read_text())
    change(notebook)
    path = tmp_path / "01_translation.ipynb"
    path.write_text(json.dumps(notebook))
    return path


def parameters(notebook):
    return notebooks.tagged_cell(notebook, "parameters")


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda nb: parameters(nb)["metadata"].update(tags=[]), "no cell tagged 'parameters'"),
        (
            lambda nb: parameters(nb).update(source="seed = 6 * 7"),
            "line 1 of the parameters cell is not 'name = literal'",
        ),
        (lambda nb: parameters(nb).update(source="sede = 42"), "sets the parameter 'sede'"),
        (lambda nb: parameters(nb).update(source="seed = 42"), "lacks the parameter 'run_dir'"),
        (
            lambda nb: parameters(nb).update(
                source=notebooks.parameters_source(TranslationSettings).replace("seed = 42", "seed = 43")
            ),
            "sets seed to 43",
        ),
    ],
)
def test_a_notebook_that_left_its_settings_is_refused(tmp_path, change, words):
    with pytest.raises(PhoenixError, match=words):
        notebooks.check_notebook(damaged(tmp_path, change), TranslationSettings)


def test_missing_and_damaged_notebooks_are_one_sentence(tmp_path):
    with pytest.raises(PhoenixError, match="does not exist"):
        notebooks.read_notebook(tmp_path / "none.ipynb")
    (tmp_path / "bad.ipynb").write_text("{")
    with pytest.raises(PhoenixError, match="is not a notebook"):
        notebooks.read_notebook(tmp_path / "bad.ipynb")


def test_help_and_the_check_of_settings_import_nothing_heavy():
    heavy = {"torch", "transformers", "trl", "peft", "datasets", "matplotlib", "pandas", "lingua", "pyarrow", "ray"}
    for words in (
        ["-m", "phoenix_utils.cli", "--help"],
        ["-m", "phoenix_utils.cli", "release", "--help"],
        ["-c", "from phoenix_utils import pipeline; print(pipeline.settings_models())"],
    ):
        done = subprocess.run([sys.executable, "-X", "importtime", *words], capture_output=True, text=True, check=True)
        imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
        assert "phoenix_utils" in imported and done.stdout and not imported & heavy


def test_notebooks_ask_for_the_runs_own_evaluation_rows():
    """In a language without prompts by people they lie in the run, so a call without its folder fails there."""
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        code = "\n".join(cell.source for cell in code_cells(path))
        for call in re.findall(r"held_out_(?:prompts|references|pairs)\(([^)]*)\)", code):
            assert "run_dir" in call or '"de"' in call, f"{path.name}: held_out_…({call})"
