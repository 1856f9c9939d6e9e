"""Whether the models and datasets of a run can be had from the hub, asked before anything starts."""

from __future__ import annotations

import os
from collections.abc import Iterable

# Long enough for a slow line, short enough to wait for.
TIMEOUT_SECONDS = 10.0


def unreachable(models: Iterable[str], datasets: Iterable[str]) -> list[str]:
    """Sentences about the hub ids that can neither be found in the local cache nor asked for on the hub.

    After the first sign that there is no network at all, nothing more is asked. Nothing is downloaded; a token
    is taken from the environment by the hub's own library and is never shown.
    """
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    wanted = [(name, "model", "config.json") for name in dict.fromkeys(models)]
    wanted += [(name, "dataset", "README.md") for name in dict.fromkeys(datasets)]
    problems = []
    for name, kind, file in wanted:
        if isinstance(try_to_load_from_cache(name, file, repo_type=kind), str):
            continue
        if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
            problems.append(f"lacks the {kind} {name}, which is not in the local cache, and HF_HUB_OFFLINE is set")
            continue
        try:
            HfApi().repo_info(name, repo_type=kind, timeout=TIMEOUT_SECONDS)
        except GatedRepoError:
            problems.append(f"may not read the {kind} {name}: accept its terms on the hub and set HF_TOKEN")
        except RepositoryNotFoundError:
            problems.append(f"finds no {kind} {name} on the hub: check its name, or set HF_TOKEN if it is private")
        except Exception as error:  # whatever the network raises: there is no line to the hub
            problems.append(f"cannot reach the hub for the {kind} {name} ({type(error).__name__}): check the network")
            break
    return problems
