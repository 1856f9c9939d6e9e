"""The generated cells of our notebooks, and the checks that keep a notebook and its settings one thing.

Papermill only warns about an unknown parameter or a missing parameters cell, and its inspector is a line regex that
a `=` in a comment defeats (papermill #818). So the parameters cell is generated from the stage's settings model,
one literal a line, and is compared with the model before any kernel starts.
"""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

from pydantic import Field

from phoenix_utils import strict_json
from phoenix_utils.errors import PhoenixError
from phoenix_utils.profile import Strict

LAB = "06_ablations.ipynb"
EXTRAS = "[qlora,harness]"
BADGE = re.compile(r"(\[!\[Open in Colab\]\([^)]*\)\]\()[^)]*(\))")


class LabSettings(Strict):
    """Parameters of the ablation lab's notebook, which is no stage: it shows a sweep and its stored table."""

    sweep: str = Field("profiles/sweeps/ablations.yaml", description="file of the sweep that is explained")
    table: str = Field("ablations", description="stored table of book/results that is shown")


def parameters_source(model: type[Strict]) -> str:
    """The parameters cell for a settings model: every setting with its default and its help as a comment."""
    lines = []
    for name, field in model.model_fields.items():
        if "=" in (field.description or ""):
            raise ValueError(f"{model.__name__}.{name}: papermill loses a parameter whose comment holds a '='")
        lines.append(f"{name} = {json_literal(field.default)}  # {field.description}")
    return "\n".join(lines)


def json_literal(value: Any) -> str:
    """A Python literal in double quotes, as ruff formats it."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (str, list)) else repr(value)


def install_source(extras: str, url: str) -> str:
    """The install cell: on Colab, fetch the project with its pinned versions; elsewhere, do nothing."""
    return "\n".join(
        [
            "keep_on_drive = False  # on Colab: True keeps runs/ on your Google Drive, where a disconnect spares it",
            "",
            "import importlib.util, subprocess, sys",
            "",
            "if importlib.util.find_spec('phoenix_utils') is None:  # a fresh Colab: the pins come before any import",
            f"    subprocess.run(['git', 'clone', '-q', '{url}', 'phoenix'], check=True)",
            "    install = [sys.executable, '-m', 'pip', 'install', '-q', '-c', 'phoenix/constraints/gpu.txt']",
            f"    subprocess.run([*install, '-e', 'phoenix{extras}'], check=True)",
            "    sys.path.insert(0, 'phoenix')",
            "",
            "from phoenix_utils import colab",
            "from phoenix_utils.artifacts import installed_versions",
            "",
            "colab.prepare(keep_on_drive)",
            "installed_versions()",
        ]
    )


def badge_url(url: str, notebook: str) -> str:
    """Where Colab opens a notebook of the repository at `url`."""
    return f"https://colab.research.google.com/github/{url.split('github.com/')[-1]}/blob/main/notebooks/{notebook}"


def read_notebook(path: Path) -> dict[str, Any]:
    """A notebook's JSON; raises PhoenixError where it is missing or damaged."""
    try:
        notebook = strict_json.loads(path.read_text(encoding="utf-8"))
        notebook["cells"]
    except FileNotFoundError:
        raise PhoenixError(f"the notebook {path} does not exist: restore it from the repository") from None
    except (ValueError, KeyError, TypeError):
        raise PhoenixError(f"{path} is not a notebook (damaged JSON): restore it from the repository") from None
    return notebook


def tagged_cell(notebook: dict[str, Any], tag: str) -> dict[str, Any] | None:
    """The first cell that carries `tag`."""
    for cell in notebook["cells"]:
        if isinstance(cell, dict) and tag in cell.get("metadata", {}).get("tags", []):
            return cell
    return None


def read_parameters(path: Path) -> dict[str, Any]:
    """The parameters of a notebook with their default values.

    Raises PhoenixError where there is no parameters cell or where it holds anything but `name = literal`.
    """
    cell = tagged_cell(read_notebook(path), "parameters")
    if cell is None:
        raise PhoenixError(
            f"{path.name} has no cell tagged 'parameters', so nothing could be set: "
            "tag its first code cell, or run 'make notebooks'"
        )
    try:
        lines = ast.parse("".join(cell["source"])).body
    except (SyntaxError, ValueError, TypeError, KeyError, RecursionError, MemoryError):  # the last: nested too deeply
        raise PhoenixError(f"{path.name}: its parameters cell is no Python; run 'make notebooks'") from None
    parameters = {}
    for node in lines:
        try:
            if not isinstance(node, ast.Assign) or len(node.targets) != 1:
                raise ValueError
            parameters[node.targets[0].id] = ast.literal_eval(node.value)
        except (ValueError, AttributeError):
            raise PhoenixError(
                f"{path.name}: line {node.lineno} of the parameters cell is not 'name = literal'; "
                "derived values belong in a later cell"
            ) from None
    return parameters


def check_notebook(path: Path, model: type[Strict]) -> None:
    """Raise PhoenixError unless the notebook's parameters cell is exactly the stage's settings."""
    found, known = read_parameters(path), model.model_fields
    for name in found:
        if name not in known:
            raise PhoenixError(f"{path.name} sets the parameter {name!r}, which {model.__name__} does not know")
    for name, field in known.items():
        if name not in found:
            raise PhoenixError(f"{path.name} lacks the parameter {name!r} of {model.__name__}: run 'make notebooks'")
        if found[name] != field.default or type(found[name]) is not type(field.default):
            raise PhoenixError(
                f"{path.name} sets {name} to {found[name]!r} where {model.__name__} has {field.default!r}: "
                "change the settings and run 'make notebooks'"
            )


def fill_notebook(path: Path, model: type[Strict], url: str) -> bool:
    """Write the generated cells (badge, install, parameters) into a notebook; True if anything changed."""
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    before = nbformat.writes(notebook)
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if "parameters" in tags:
            cell.source = parameters_source(model)
        elif "install" in tags:
            cell.source = install_source(EXTRAS, url)
        elif cell.cell_type == "markdown":
            cell.source = BADGE.sub(rf"\g<1>{badge_url(url, path.name)}\g<2>", cell.source)
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:02d}"
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    notebook.nbformat_minor = 5
    after = nbformat.writes(notebook)
    if after != before:
        path.write_text(after + "\n", encoding="utf-8")
    return after != before


def repository_url(root: Path) -> str:
    """The one place where the repository's address stands: `repository.url` in `_config.yml`."""
    import yaml

    return yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))["repository"]["url"].rstrip("/")
