"""What the usual licences of models and data let one do with what was made of them; a help, not legal advice."""

from __future__ import annotations

from dataclasses import dataclass

from phoenix_utils import embedded
from phoenix_utils.paths import expanded


@dataclass(frozen=True)
class License:
    """A licence: the hub's id for it, what it asks for, and whether a changed work may be published, and sold."""

    hub_id: str
    asks: str
    publish: bool = True
    commercial: bool = True


_NAME_AND_SHARE = "name the authors, say what was changed, and publish what is made of it under the same licence"
_LLAMA = "pass on the licence and its use policy, say “Built with Llama”, and begin the model's name with Llama"
# By SPDX id in small letters, or the hub's id where there is none.
LICENSES = {
    "cc0-1.0": License("cc0-1.0", "nothing"),
    "mit": License("mit", "keep its copyright notice"),
    "apache-2.0": License("apache-2.0", "keep its notices and say what was changed"),
    "bsd-2-clause": License("bsd-2-clause", "keep its copyright notice"),
    "bsd-3-clause": License("bsd-3-clause", "keep its copyright notice, and do not advertise with the authors' names"),
    "cc-by-3.0": License("cc-by-3.0", "name the authors and say what was changed"),
    "cc-by-4.0": License("cc-by-4.0", "name the authors and say what was changed"),
    "cc-by-sa-3.0": License("cc-by-sa-3.0", _NAME_AND_SHARE),
    "cc-by-sa-4.0": License("cc-by-sa-4.0", _NAME_AND_SHARE),
    "odc-by-1.0": License("odc-by", "name the authors of the database"),
    "odc-by": License("odc-by", "name the authors of the database"),
    "cdla-permissive-2.0": License("cdla-permissive-2.0", "pass on the agreement's text"),
    "gemma": License(
        "gemma", "pass on the Gemma Terms of Use with their prohibited uses, and say that the model was changed"
    ),
    **{name: License(name, _LLAMA) for name in ("llama2", "llama3", "llama3.1", "llama3.2", "llama3.3")},
    "cc-by-nc-3.0": License("cc-by-nc-3.0", "name the authors, and earn nothing with it", commercial=False),
    "cc-by-nc-4.0": License("cc-by-nc-4.0", "name the authors, and earn nothing with it", commercial=False),
    "cc-by-nc-sa-4.0": License("cc-by-nc-sa-4.0", f"{_NAME_AND_SHARE}; earn nothing with it", commercial=False),
    "cc-by-nd-4.0": License("cc-by-nd-4.0", "publish nothing that was changed", publish=False),
    "cc-by-nc-nd-4.0": License("cc-by-nc-nd-4.0", "publish nothing that was changed", publish=False, commercial=False),
}


def find(name: str) -> License | None:
    """The licence of that SPDX or hub id, or None where the table does not know it."""
    return LICENSES.get(name.strip().lower())


def of_model(model: str) -> str:
    """The licence that a model's card states (`license:` in its front matter), "unknown" where none does.

    `model` is what settings call it: embedded, a folder, or a hub id, whose card is read from the cache or the hub.
    """
    if embedded.is_embedded(model):
        return "gemma"
    from huggingface_hub import ModelCard

    folder = expanded(model)
    try:
        card = ModelCard.load(folder / "README.md" if folder.is_dir() else model)
    except Exception:  # no card, no network, a damaged one: all mean that nothing is stated
        return "unknown"
    stated = card.data.license
    return card.data.license_name or "unknown" if stated in (None, "other", "unknown") else str(stated)
