"""Whether the models and datasets of a run can be had from the hub, asked before anything starts."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

# Long enough for a slow line, short enough to wait for.
TIMEOUT_SECONDS = 10.0


def unreachable(models: Iterable[str], datasets: Iterable[str]) -> list[str]:
    """Sentences about the hub ids that can neither be found in the local cache nor asked for on the hub.

    A file of each is asked for, since the hub lists a gated repository to everybody and refuses its files only. After
    the first sign that there is no network at all, or that the hub refuses the token, nothing more is asked. Nothing
    is downloaded; a token is taken from the environment by the hub's own library and is never shown.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, HfHubHTTPError, RepositoryNotFoundError
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    wanted = [(name, "model", "config.json") for name in dict.fromkeys(models)]
    wanted += [(name, "dataset", "README.md") for name in dict.fromkeys(datasets)]
    problems = []
    for name, kind, file in wanted:
        try:
            validate_repo_id(name)
        except HFValidationError:
            problems.append(f"finds no {kind} {name!r}, which is no folder here and no name that the hub has: check it")
            continue
        if _cached(name, kind):
            continue
        if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
            problems.append(f"lacks the {kind} {name}, which is not in the local cache, and HF_HUB_OFFLINE is set")
            continue
        try:
            get_hf_file_metadata(hf_hub_url(name, file, repo_type=kind), timeout=TIMEOUT_SECONDS)
        except EntryNotFoundError:  # the repository is there and open; a dataset may have no README
            continue
        except GatedRepoError:
            problems.append(f"may not read the {kind} {name}: accept its terms on the hub and set HF_TOKEN")
        except RepositoryNotFoundError:
            problems.append(f"finds no {kind} {name} on the hub: check its name, or set HF_TOKEN if it is private")
        except HfHubHTTPError as error:
            status = error.response.status_code
            if status == 401:  # an invalid token is refused even where none is needed
                problems.append(f"may not read the {kind} {name}: the hub refuses HF_TOKEN; renew it or unset it")
            else:
                problems.append(f"gets no {kind} {name}: the hub answers with error {status}; try again later")
            break
        except Exception as error:  # whatever the network raises: there is no line to the hub
            problems.append(f"cannot reach the hub for the {kind} {name} ({type(error).__name__}): check the network")
            break
    return problems


def _cached(name: str, kind: str) -> bool:
    """Whether a model has been downloaded, or a dataset been prepared by `datasets`, which reads it offline too.

    A dataset's card says nothing: streaming, which leaves nothing else behind, downloads it first of all.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    if kind == "model":
        return isinstance(try_to_load_from_cache(name, "config.json"), str)
    cache = Path(os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME) / "datasets")
    # `datasets` writes owner/MyData as owner___my_data.
    wanted = name.replace("/", "").replace("_", "").casefold()
    found = (folder for folder in cache.glob("*___*") if folder.name.replace("_", "").casefold() == wanted)
    return any(any(folder.rglob("dataset_info.json")) for folder in found)
