"""The notebooks as files: generated cells current, nothing stored that a run makes, every cell parses."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from phoenix_utils import notebooks
from phoenix_utils.errors import PhoenixError
from phoenix_utils.pipeline import STAGES, notebook_path
from phoenix_utils.translation import TranslationSettings

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = [notebook_path(stage) for stage in STAGES]


@pytest.fixture(params=list(STAGES))
def stage(request):
    return request.param


def test_the_parameters_cell_is_the_stage_settings(stage):
    notebooks.check_notebook(notebook_path(stage), STAGES[stage].settings_model())


def test_generated_cells_are_current(stage, tmp_path):
    copy = tmp_path / notebook_path(stage).name
    copy.write_bytes(notebook_path(stage).read_bytes())
    url = notebooks.repository_url(ROOT)
    assert not notebooks.fill_notebook(copy, STAGES[stage].settings_model(), url), "run: make notebooks"
    text = copy.read_text()
    assert notebooks.badge_url(url, copy.name) in text and "BADGE" not in text


def test_papermill_sees_every_parameter(stage):
    import papermill

    seen = papermill.inspect_notebook(str(notebook_path(stage)))
    model = STAGES[stage].settings_model()
    assert list(seen) == list(model.model_fields)
    for name, field in model.model_fields.items():
        assert seen[name]["help"] == field.description, "papermill shows the comment as help"


def test_no_outputs_valid_json_and_every_cell_parses(stage):
    notebook = nbformat.read(notebook_path(stage), as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None
            ast.parse(cell.source)


def test_nothing_is_imported_before_the_install_cell(stage):
    notebook = notebooks.read_notebook(notebook_path(stage))
    first = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    assert "install" in first["metadata"]["tags"] and "torch" not in "".join(first["source"])


def test_the_labs_notebook_trains_nothing_and_installs_like_the_others():
    notebook = nbformat.read(ROOT / "notebooks" / "06_ablations.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert notebooks.tagged_cell(notebook, "parameters") is None
    url = notebooks.repository_url(ROOT)
    assert notebooks.tagged_cell(notebook, "install")["source"] == notebooks.install_source("[qlora]", url)
    assert notebooks.badge_url(url, "06_ablations.ipynb") in notebook.cells[0].source
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None
            ast.parse(cell.source)


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


def test_the_package_is_cheap_to_import():
    heavy = ("torch", "transformers", "trl", "peft", "datasets", "matplotlib", "pandas", "lingua", "pyarrow")
    code = (
        "import sys, phoenix_utils, phoenix_utils.cli, phoenix_utils.pipeline\n"
        "phoenix_utils.pipeline.settings_models()\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
