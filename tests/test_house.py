"""The house agrees with itself: pins, targets, links, addresses and what the documents promise."""

import ast
import graphlib
import importlib
import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PAGES = [ROOT / "README.md", *sorted((ROOT / "book").glob("*.md"))]
SETS = {  # which extras each constraints file is for
    "constraints/cpu.txt": ["book", "browser", "notebooks", "dev", "qlora", "harness", "scale", "fuzz"],
    "constraints/vllm_cpu.txt": [],
    "constraints/gpu.txt": ["book", "browser", "notebooks", "dev", "qlora", "harness", "vllm", "scale"],
}

# The floors of the package. What is in no list is shared ground, floor 1; whoever starts a program stands on top.
STAGES = {"translation", "filtering", "sft", "dpo", "evaluation"}
RUNNERS = {"pipeline", "sweep_cells", "sweep_table", "sweep", "cards", "release", "scale", "talk"}


def pins(path: str) -> dict[str, str]:
    """Name and version of each line of a constraints file; anything but `name==version` fails."""
    found = {}
    for line in (ROOT / path).read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            match = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.!]+)", line)
            assert match, f"{path}: {line!r} is not name==version without a local part"
            found[canonicalize_name(match[1])] = match[2]
    return found


def requirements(extras: list[str]) -> list[Requirement]:
    """The base dependencies and those of `extras`, without the project's references to itself."""
    lines = list(PROJECT["dependencies"])
    for extra in extras:
        lines += PROJECT["optional-dependencies"][extra]
    return [found for found in map(Requirement, lines) if found.name != PROJECT["name"]]


def project_files() -> list[Path]:
    """Everything that is or could be committed."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    return [ROOT / name for name in listed if (ROOT / name).is_file()]


def make_variable(name: str) -> str:
    return re.search(rf"^{name}\s*\?=\s*(.*)$", (ROOT / "Makefile").read_text(), re.M)[1].strip()


def floor(module: str) -> int:
    """The floor of a module, by its name below `phoenix_utils`."""
    room, door = module.partition(".")[0], module.rpartition(".")[2]
    if door == "__main__" or room == "cli":
        return 4
    return 3 if room in RUNNERS else 2 if room in STAGES else 1


def arrows() -> dict[str, set[str]]:
    """Each module of the package with the modules of it that it imports, wherever in the file and for types alone too.

    Names stand without `phoenix_utils.`; a stage's package is its `__init__`, the whole package is no module here.
    """
    package = ROOT / "phoenix_utils"
    paths = {
        ".".join(path.relative_to(package).with_suffix("").parts).removesuffix(".__init__"): path
        for path in package.rglob("*.py")
    }
    found: dict[str, set[str]] = {name: set() for name in paths if name != "__init__"}
    for name in found:
        for node in ast.walk(ast.parse(paths[name].read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                named = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{paths[name]}:{node.lineno}: write phoenix_utils.… in full"
                named = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            for target in (target.removeprefix("phoenix_utils.") for target in named if "phoenix_utils" in target):
                # `from a import b` names a module `a.b` or something in the module `a`.
                found[name] |= {target, target.rpartition(".")[0]} & found.keys()
    return found


def test_imports_point_downwards_and_no_stage_knows_another():
    assert STAGES | RUNNERS | {"cli"} <= arrows().keys()
    wrong = []
    for name, targets in arrows().items():
        for target in targets:
            rooms = {name.partition(".")[0], target.partition(".")[0]}
            if floor(target) > floor(name) or len(rooms) == 2 and rooms <= STAGES:
                wrong.append(f"{name} imports {target}")
    assert wrong == []


def test_no_two_modules_need_each_other():
    graphlib.TopologicalSorter(arrows()).prepare()  # a circle is a CycleError that names its modules


def test_the_guide_places_every_module_of_the_upper_floors_and_the_ground():
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    missing = {name for name in arrows() if "." not in name} - set(re.findall(r"`(\w+)/?`", guide))
    assert not missing, f"CONTRIBUTING.md, 'How the house is built', does not say where {sorted(missing)} stand"


@pytest.mark.parametrize("folder", ["phoenix_utils", "benchmarks", "book"])
def test_modules_have_400_lines_and_functions_60_at_most(folder):
    found = []
    for path in (path for path in project_files() if path.suffix == ".py" and ROOT / folder in path.parents):
        text = path.read_text(encoding="utf-8")
        places = [(path.name, text.count("\n"), 400)]
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                places.append((f"{path.name}, {node.name}", node.end_lineno - node.lineno + 1, 60))
        found += [f"{place}: {lines} lines" for place, lines, most in places if lines > most]
    assert found == []


@pytest.mark.parametrize("path", SETS)
def test_constraints_pin_every_declared_dependency_within_its_range(path):
    pinned = pins(path)
    for wanted in requirements(SETS[path]):
        name = canonicalize_name(wanted.name)
        assert name in pinned, f"{path} does not pin {wanted.name}"
        assert wanted.specifier.contains(pinned[name]), f"{path} pins {name}=={pinned[name]}, not {wanted}"


def test_both_sets_compute_with_the_same_libraries():
    cpu, gpu = pins("constraints/cpu.txt"), pins("constraints/gpu.txt")
    for name in ("transformers", "trl", "peft", "accelerate", "datasets", "bitsandbytes", "tokenizers"):
        assert cpu[name] == gpu[name]
    assert (cpu["torch"], gpu["torch"], gpu["vllm"]) == ("2.13.0", "2.14.0", "0.33.0")


def test_conda_environment_installs_what_make_installs():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    [pip_part] = [item["pip"] for item in environment["dependencies"] if isinstance(item, dict)]
    assert pip_part == [f"-c {make_variable('CONSTRAINTS')}", f"-e .[{make_variable('EXTRAS')}]"]
    assert set(make_variable("EXTRAS").split(",")) <= set(PROJECT["optional-dependencies"])
    [python] = [item for item in environment["dependencies"] if str(item).startswith("python=")]
    assert SpecifierSet(PROJECT["requires-python"]).contains(python.removeprefix("python="))


def test_every_import_of_the_package_is_a_declared_dependency():
    # The book, the notebooks and the tests need more; whoever installs the package alone does not get that.
    everything = requirements(
        [name for name in PROJECT["optional-dependencies"] if name not in ("book", "notebooks", "dev")]
    )
    declared = {canonicalize_name(found.name) for found in everything}
    owners = packages_distributions()
    for path in (ROOT / "phoenix_utils").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules = [node.module]
            else:
                continue
            for top in {module.partition(".")[0] for module in modules}:
                if top in sys.stdlib_module_names or top == "phoenix_utils":
                    continue
                names = {canonicalize_name(name) for name in owners.get(top, [top])}
                place = f"{path.relative_to(ROOT)}:{node.lineno}"
                assert names & declared, f"{place} imports {top}, which pyproject.toml does not declare"


def test_jupyter_book_is_version_1():
    # Version 2 ignores _config.yml, exits 0 and builds nothing.
    for found in (version("jupyter-book"), pins("constraints/cpu.txt")["jupyter-book"]):
        assert found.split(".")[0] == "1"


def test_pre_commit_runs_the_pinned_tools():
    revisions = {
        hook["id"]: repo["rev"].removeprefix("v")
        for repo in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
        for hook in repo["hooks"]
    }
    cpu = pins("constraints/cpu.txt")
    assert revisions == {"ruff-check": cpu["ruff"], "nbstripout": cpu["nbstripout"]}


@pytest.mark.parametrize("path", [*PAGES, ROOT / ".ci" / "run"], ids=lambda path: path.name)
def test_make_targets_named_in_the_documents_exist(path):
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    # In running text a target stands in code: `make mini`; in a block or script it begins a line.
    named = set(re.findall(r"(?:`|^|&& |step )make ([a-z]+)", path.read_text(encoding="utf-8"), re.M))
    assert named <= targets


def test_table_of_contents_names_existing_pages():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    pages = [toc["root"], *(entry["file"] for part in toc["parts"] for entry in part["chapters"])]
    for page in pages:
        files = [ROOT / f"{page}{suffix}" for suffix in (".md", ".ipynb")]
        assert any(file.is_file() for file in files), f"_toc.yml: no page {page}"
    written = {
        path.relative_to(ROOT).with_suffix("").as_posix()
        for path in (ROOT / "book").rglob("*.md")
        if not {"_build", "results"} & set(path.parts)
    }
    assert written == {page for page in pages if page.startswith("book/")}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_relative_links_lead_somewhere(path):
    text = path.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"^```\{(?:image|figure)\} (\S+)", text, re.M)
    for link in links:
        if not re.match(r"[a-z]+:", link):
            assert (path.parent / link.partition("#")[0]).exists(), f"{path.name} links to {link}"


def test_no_file_names_a_package_registry():
    # The environment decides where packages come from. The names are in pieces so that this file passes too.
    hosts = [
        ".".join(parts)
        for parts in (
            ("pypi", "org"),
            ("files", "pythonhosted", "org"),
            ("download", "pytorch", "org"),
            ("registry", "npmjs", "org"),
            ("conda", "anaconda", "org"),
            ("deb", "debian", "org"),
        )
    ]
    for path in project_files():
        content = path.read_bytes()
        for host in hosts:
            assert host.encode() not in content, f"{path.relative_to(ROOT)} names {host}"


def test_the_projects_address_stands_in_one_form():
    address = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
    assert PROJECT["urls"]["Repository"] == address
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["repository-code"] == address
    clones = {found for path in PAGES for found in re.findall(r"git clone (?:-q )?(\S+)", path.read_text())}
    assert clones == {address}


def test_one_version_everywhere():
    import phoenix_utils

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)[1]
    assert PROJECT["version"] == phoenix_utils.__version__ == citation["version"] == newest


def test_make_refuses_an_old_python_in_one_sentence(tmp_path):
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.2" && exit 0\nexit 1\n')
    old.chmod(0o755)
    for name in ("Makefile", "pyproject.toml", "constraints/cpu.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text((ROOT / name).read_text())
    done = subprocess.run(
        ["make", "env", f"PYTHON={old}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 2
    assert "needs Python 3.11 or newer" in done.stderr and "Python 3.9.2" in done.stderr
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize(
    ("given", "locale", "words"), [(["LANG=nl"], "de_DE.UTF-8", ["language=nl", "runs/mini-nl"]), ([], "nl_NL", [])]
)
def test_make_takes_a_language_that_is_given_and_never_the_locale(given, locale, words):
    done = subprocess.run(
        ["make", "--dry-run", "mini", *given],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/usr/bin:/bin", "LANG": locale},
    )
    ran = done.stdout.strip().splitlines()[-1]
    assert all(word in ran for word in words) and ("language=" in ran) == bool(words)


def test_what_pages_notebooks_and_benchmarks_import_from_the_package_is_there():
    texts = {
        path: path.read_text(encoding="utf-8") for path in [*ROOT.glob("benchmarks/*.py"), *ROOT.glob("book/*.py")]
    }
    for path in ROOT.glob("notebooks/*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        texts[path] = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    for path in ROOT.glob("book/**/*.md"):
        if "_build" not in path.parts:
            texts[path] = "\n".join(re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.S))
    asked = {
        (path.name, node.module, alias.name)
        for path, text in texts.items()
        for node in ast.walk(ast.parse(re.sub(r"^[!%].*", "", text, flags=re.M)))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "phoenix_utils"
        for alias in node.names
    }
    assert len(asked) > 100
    missing = []
    for where, module, name in sorted(asked):
        loaded = importlib.import_module(module)
        if not hasattr(loaded, name) and not importlib.util.find_spec(f"{module}.{name}"):
            missing.append(f"{where}: from {module} import {name}")
    assert missing == []
