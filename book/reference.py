"""Pages of the book that are written from the code and from a run: settings, commands, API, timings, supply, changelog.

`build.py` calls `write_pages` for each build. In git a page of one sentence stands in place of each, for links on a
hub to lead somewhere; what is generated never enters git, so it cannot disagree with the code.
"""

from __future__ import annotations

import importlib
import inspect
import re
import textwrap
import typing
from pathlib import Path

import supply
import typer

from phoenix_utils import pipeline
from phoenix_utils.artifacts import STAGE_FOLDERS, data_folder, read_json
from phoenix_utils.cli import app
from phoenix_utils.profile import HardwareNeeds, StageSettings, Strict, load_profile, shipped_profiles

ROOT = Path(__file__).resolve().parent.parent
FOLDER = "book/reference"
PROFILES = ("mini", "laptop", "colab", "single_gpu", "paper")
TITLES = {
    "adapt": "A translator of one's own",
    "translation": "Translation",
    "filtering": "Filtering",
    "sft": "SFT",
    "dpo": "DPO",
    "evaluation": "Evaluation",
}


def write_pages(source: Path, run: Path, adapt: Path) -> None:
    """Write every generated page below `source`, the folder that Jupyter Book builds from."""
    folder = source / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    pages = {
        "settings": settings_page(),
        "commands": commands_page(),
        "api": api_page(),
        "timings": timings_page(run, adapt),
        "supply": supply.page(),
        "changelog": (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
    }
    for name, text in pages.items():
        (folder / f"{name}.md").write_text(text, encoding="utf-8")
    supply.write(folder)


def settings_page() -> str:
    """Every setting of every stage: type, default, meaning, and what each shipped profile gives it."""
    models = {"adapt": pipeline.STAGES["adapt"].settings_model(), **pipeline.settings_models()}
    found = {path.stem: load_profile(path, pipeline.settings_models()) for path in _profiles()}
    text = [
        "# Settings",
        "",
        "Written from the code when the book was built. A default is what `mini` does; the other profiles are named "
        "where they differ. Change a value with `--set stage.name=value`, in a copy of a profile, or in a notebook's "
        "parameters cell. The comments in `profiles/*.yaml` say why a value was chosen.",
        "",
        "## Shared by all stages",
        "",
        *_entries(StageSettings, {}),
        "## What a profile needs: `hardware`",
        "",
        *_entries(HardwareNeeds, {name: profile.hardware for name, profile in found.items()}),
    ]
    for stage, model in models.items():
        values = {name: profile.stages[stage] for name, profile in found.items() if stage in profile.stages}
        text += [f"## {TITLES[stage]}: `{stage}`", "", *_entries(model, values, inherited=StageSettings)]
    return "\n".join(text)


def _profiles() -> list[Path]:
    shipped = shipped_profiles(data_folder("profiles"))
    return sorted(shipped, key=lambda path: (*PROFILES, path.stem).index(path.stem))


def _entries(model: type[Strict], values: dict[str, Strict], inherited: type[Strict] | None = None) -> list[str]:
    """One list item a setting: a table would be too wide for a telephone."""
    items = []
    for name, field in model.model_fields.items():
        if inherited and name in inherited.model_fields and field.default == inherited.model_fields[name].default:
            continue
        default = "needed" if field.is_required() else f"default {_code(field.default)}"
        others = [
            f"{profile} {_code(getattr(given, name))}"
            for profile, given in values.items()
            if getattr(given, name) != field.default
        ]
        items += [
            f"- **`{name}`** · {_type(field.annotation)} · {default}",
            "",
            f"  {_plain(field.description or '')}",
            *([f"  <br>*{', '.join(others)}*"] if others else []),
            "",
        ]
    return items


def _type(annotation: typing.Any) -> str:
    if typing.get_origin(annotation) is typing.Annotated:  # what checks it is no part of its type
        return _type(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) is typing.Literal:
        return " or ".join(map(str, typing.get_args(annotation)))
    arguments = [_type(argument) for argument in typing.get_args(annotation)]
    if typing.get_origin(annotation) is list:
        return f"list of {arguments[0]}"
    names = {"str": "text", "int": "whole number", "float": "number", "bool": "true or false", "NoneType": "none"}
    return " or ".join(arguments) or names[annotation.__name__]


def _code(value: typing.Any) -> str:
    return f"`{value}`"


def _plain(text: str) -> str:
    """The text with what Markdown would take for markup escaped."""
    return re.sub(r"([<*_\[\]])", r"\\\1", text)


def _wrapped(doc: str, width: int = 74) -> str:
    """A docstring whose long lines are broken for the page; indented lists keep their indent."""
    lines: list[str] = []
    for paragraph in doc.split("\n\n"):
        if any(line.startswith(" ") for line in paragraph.splitlines()):
            for line in paragraph.splitlines():
                indent = line[: len(line) - len(line.lstrip())]
                lines += textwrap.wrap(line, width, subsequent_indent=indent + "  ") or [""]
        else:
            lines += textwrap.wrap(" ".join(paragraph.split()), width)
        lines.append("")
    return "\n".join(lines).rstrip()


def commands_page() -> str:
    """The help of `phoenix` and of each of its commands, as the terminal shows it."""
    group = typer.main.get_command(app)
    text = [
        "# Commands",
        "",
        "Written from the code when the book was built: what `phoenix COMMAND --help` prints. A mistake in what you "
        "typed is one sentence and exit code 2, a stage that fails gives exit code 1, Ctrl-C gives 130.",
        "",
    ]
    for name, command in {"": group, **group.commands}.items():
        full = f"phoenix {name}".strip()
        command.rich_markup_mode = None  # boxes and colours belong in a terminal
        context = typer.Context(command, info_name=full, max_content_width=76, terminal_width=76)
        text += [f"## `{full}`", "", "```text", command.get_help(context).rstrip(), "```", ""]
    return "\n".join(text)


def api_page() -> str:
    """The functions and classes that each stage package hands on, with their docstrings."""
    text = [
        "# API",
        "",
        "Written from the docstrings when the book was built: what a notebook cell can import from each stage. "
        "Settings models have a page of their own, [](settings.md).",
        "",
    ]
    for stage in ("translation", "filtering", "sft", "dpo", "evaluation"):
        package = importlib.import_module(f"phoenix_utils.{stage}")
        text += [f"## `phoenix_utils.{stage}`", ""]
        for name in sorted(package.__all__, key=str.lower):
            item = getattr(package, name)
            if isinstance(item, type) and issubclass(item, StageSettings) or not callable(item):
                continue
            text += [f"### `{name}`", "", "```python", _signature(name, item), "```", ""]
            if doc := inspect.getdoc(item):
                text += ["```text", _wrapped(doc), "```", ""]
    return "\n".join(text)


def _signature(name: str, item: typing.Any) -> str:
    signature = inspect.signature(item)
    # Annotations are texts here, and without their quotes easier to read; a default keeps its own.
    halves = [str(one).partition(" = ") for one in signature.parameters.values()]
    parameters = [annotated.replace("'", "") + equals + default for annotated, equals, default in halves]
    if any(one.kind is one.KEYWORD_ONLY for one in signature.parameters.values()):
        first = [one.kind for one in signature.parameters.values()].index(inspect.Parameter.KEYWORD_ONLY)
        parameters.insert(first, "*")
    if isinstance(item, type):
        kind, end = "class", ""
    else:
        kind, end = "def", f" -> {inspect.formatannotation(signature.return_annotation)}".replace("'", "")
    line = f"{kind} {name}({', '.join(parameters)}){end}"
    if len(line) > 78:
        line = f"{kind} {name}(\n    " + ",\n    ".join(parameters) + f",\n){end}"
    return re.sub(r"\b(?:phoenix_utils|collections|matplotlib|pathlib)\.(?:\w+\.)*", "", line)


def timings_page(run: Path, adapt: Path) -> str:
    """Seconds, peak memory and the machine of every stage of the run that the book shows."""
    rows, machines = [], set()
    for stage, folder in STAGE_FOLDERS.items():
        manifest = read_json((adapt if stage == "adapt" else run) / folder / "manifest.json")
        finished = manifest.get("finished", "–")[:16].replace("T", " ")
        seconds, memory = manifest.get("seconds"), manifest.get("peak_memory_gb")
        counts = ", ".join(f"{key.replace('_', ' ')} {value:,}" for key, value in manifest.get("counts", {}).items())
        rows.append(
            f"| {TITLES[stage]} | {'–' if seconds is None else f'{seconds / 60:.1f}'} | "
            f"{'–' if memory is None else f'{memory:.2f}'} | {counts or '–'} | {finished} |"
        )
        machine = manifest.get("machine", {})
        machines.add(", ".join(f"{key} {value}" for key, value in machine.items()) or "not recorded")
    return "\n".join(
        [
            "# Timings and memory of this build",
            "",
            "Read from the manifests of the run whose notebooks this book shows. Minutes are wall-clock time of the "
            "stage without the start of its notebook; memory is the peak of its process.",
            "",
            "| stage | minutes | peak memory, GB | what it handled | finished |",
            "|---|---|---|---|---|",
            *rows,
            "",
            f"Machine: {'; '.join(sorted(machines))}. Another machine gives other minutes, and while it is busy with "
            "other things they double easily; the memory should be near.",
            "",
        ]
    )
