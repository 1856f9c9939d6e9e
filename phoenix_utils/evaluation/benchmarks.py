"""Benchmarks with lm-evaluation-harness: the paper's German tasks, and two of this project's that need no network.

The harness computes, through its Python interface; what is added here are local tasks, cards that say what a task is
worth, and intervals. Its own command line gives the same numbers on the same model:

    lm_eval --model hf --model_args pretrained=FOLDER --include_path TASKS --tasks phoenix_mc_de --num_fewshot 0
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from phoenix_utils import sources
from phoenix_utils.artifacts import write_atomic
from phoenix_utils.errors import PhoenixError
from phoenix_utils.statistics import bootstrap_mean, bootstrap_share, paired_test

if TYPE_CHECKING:
    from phoenix_utils.engine_transformers import TransformersEngine


@dataclass(frozen=True)
class Card:
    """What a task tests, where it comes from, and what is known against it (after EuroEval's and the Hub's cards).

    `shots` is the number that others used with it; `chance` is what guessing gets.
    """

    title: str
    tests: str
    origin: str
    native: bool
    size: str
    shots: int
    chance: float
    flaws: str
    metric: str = "acc"
    data: str = ""


CARDS = {
    "arc_de": Card(
        "ARC-de",
        "science questions for pupils, with three to five options",
        "ARC-Challenge, machine-translated by the Okapi project (alexandrainst/m_arc)",
        native=False,
        size="a little under the 1,172 test questions of the original",
        shots=25,
        chance=0.25,
        flaws="translation errors; questions of American schools; options are scored by their letters' likelihood",
        metric="acc_norm",
    ),
    "hellaswag_de": Card(
        "HellaSwag-de",
        "the likeliest end of an everyday scene, with four options",
        "HellaSwag, machine-translated by the Okapi project (alexandrainst/m_hellaswag)",
        native=False,
        size="a little under the 10,042 validation scenes of the original",
        shots=10,
        chance=0.25,
        flaws="a scene and its ends were translated apart, so grammar can give the answer away or rule it out; the "
        "original has faulty rows itself",
        metric="acc_norm",
    ),
    "m_mmlu_de": Card(
        "MMLU-de",
        "knowledge in 57 subjects, with four options",
        "MMLU, machine-translated by the Okapi project (alexandrainst/m_mmlu)",
        native=False,
        size="a little under the 14,042 test questions of the original",
        shots=5,
        chance=0.25,
        flaws="American law and history asked in German; wrong keys of the original; the prompt ends with the English "
        "word 'Answer:'",
    ),
    "phoenix_mc_de": Card(
        "Multiple choice (project)",
        "facts about Germany, Austria, Switzerland and everyday life, with four options",
        "written in German for this project",
        native=True,
        size="60 questions",
        shots=0,
        chance=0.25,
        flaws="small, so its interval spans about 24 points; one author's idea of general knowledge",
        metric="acc",
        data="multiple_choice.de.jsonl",
    ),
    "phoenix_grammar_de": Card(
        "Minimal pairs (project)",
        "which of two sentences, alike but for one fault, is correct German",
        "written in German for this project",
        native=True,
        size="400 pairs",
        shots=0,
        chance=0.5,
        flaws="the correct sentence can be the commoner one word for word; says nothing about meaning",
        data="grammar.de.jsonl",
    ),
}

_SPLITS = "dataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {data}\ntest_split: test\n"
_METRICS = (
    "metric_list:\n  - {{metric: acc, aggregation: mean, higher_is_better: true}}\n"
    "  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}\nmetadata:\n  version: 1.0\n"
)
_TASKS = {
    "phoenix_mc_de": 'doc_to_text: "Frage: {{{{question}}}}\\nAntwort:"\ndoc_to_choice: options\n'
    "doc_to_target: answer\nfewshot_split: test\n",
    # The harness puts the model's own first token where a context is empty, as for BLiMP.
    "phoenix_grammar_de": 'doc_to_text: ""\ndoc_to_choice: "{{{{[good, bad]}}}}"\ndoc_to_target: 0\nnum_fewshot: 0\n',
}


def write_tasks(folder: Path) -> Path:
    """Write the project's task files for the harness (and its --include_path) to `folder`, which is returned."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, body in _TASKS.items():
        text = f"task: {name}\n{_SPLITS}output_type: multiple_choice\n{body}{_METRICS}"
        with write_atomic(folder / f"{name}.yaml") as partial:
            partial.write_text(text.format(data=json.dumps(str(sources.packaged(CARDS[name].data)))), encoding="utf-8")
    return folder


def check_tasks(tasks: Sequence[str]) -> None:
    """Raise PhoenixError where the harness is not installed, or does not know one of `tasks`."""
    import importlib.util

    if not tasks:
        return
    if importlib.util.find_spec("lm_eval") is None:
        raise PhoenixError(
            f"harness_tasks names {', '.join(tasks)}, but lm-evaluation-harness is not installed: "
            "pip install 'phoenix-utils[harness]', or set evaluation.harness_tasks to []"
        )
    unknown = [name for name in tasks if name not in CARDS]
    for name in unknown:
        if name not in _harness_tasks():
            raise PhoenixError(
                f"harness_tasks names {name!r}, which lm-evaluation-harness does not know; this project adds "
                f"{', '.join(_TASKS)}"
            )


@functools.cache
def _harness_tasks() -> frozenset[str]:
    """What the harness knows; it reads thousands of files to tell."""
    with _quiet():
        from lm_eval.tasks import TaskManager

        return frozenset(TaskManager().all_tasks)


def measure(
    engine: TransformersEngine,
    tasks: Sequence[str],
    folder: Path,
    *,
    name: str,
    shots: int | None = None,
    limit: int | None = None,
    templates: Sequence[bool] = (False, True),
    seed: int = 0,
) -> list[dict]:
    """Run harness tasks on an engine's model, without and with its chat template; one row a task and template.

    `shots` None takes each card's number; `limit` the first so many rows of each task. A row has `model`, `task`,
    `chat_template`, `shots`, `metric`, `value` with `low`, `high`, `n`, `rows` (the size of the whole task), `chance`,
    `version` of harness and task, and `hits`, the result of each row in order, for paired comparisons.
    """
    with _quiet():
        import lm_eval
        from lm_eval.tasks import TaskManager

        from phoenix_utils.evaluation.harness_model import EngineLM

        # Reading the harness's own thousands of task files takes longer than a small run.
        manager = TaskManager(include_path=str(write_tasks(folder)), include_defaults=not {*tasks} <= {*_TASKS})
        model = EngineLM(engine)
        found = []
        for template in templates:
            for number, group in _by_shots(tasks, shots).items():
                result = lm_eval.simple_evaluate(
                    model,
                    tasks=group,
                    num_fewshot=number,
                    limit=limit,
                    apply_chat_template=template,
                    task_manager=manager,
                    bootstrap_iters=0,
                    random_seed=seed,
                    numpy_random_seed=seed,
                    torch_random_seed=seed,
                    fewshot_random_seed=seed,
                )
                found += [_row(name, task, template, number, result, seed) for task in group]
    return found


def compare(rows: Sequence[dict], pairs: Sequence[tuple[str, str]], seed: int = 0) -> list[dict]:
    """Paired differences on the same rows of each task and template: `later` minus `earlier`, interval and p-value."""
    by = {(row["model"], row["task"], row["chat_template"]): row for row in rows}
    found = []
    for earlier, later in pairs:
        for model, task, template in by:
            if model != later or (earlier, task, template) not in by:
                continue
            a, b = by[earlier, task, template]["hits"], by[later, task, template]["hits"]
            change = bootstrap_mean([y - x for x, y in zip(a, b, strict=True)], seed)
            about = {"pair": f"{later}-{earlier}", "task": task, "chat_template": template}
            found.append({**about, **change.as_dict(), "p": paired_test(a, b, seed)})
    return found


def _by_shots(tasks: Sequence[str], shots: int | None) -> dict[int, list[str]]:
    grouped: dict[int, list[str]] = {}
    for task in tasks:
        number = shots if shots is not None else CARDS[task].shots if task in CARDS else 0
        grouped.setdefault(number, []).append(task)
    return grouped


def _row(name: str, task: str, template: bool, shots: int, result: dict, seed: int) -> dict:
    import lm_eval

    card = CARDS.get(task)
    metric = card.metric if card else "acc"
    samples = sorted(result["samples"][task], key=lambda sample: sample["doc_id"])
    hits = [float(sample[metric]) for sample in samples]
    return {
        "model": name,
        "task": task,
        "title": card.title if card else task,
        "chat_template": template,
        "shots": shots,
        "metric": metric,
        **bootstrap_share(hits, seed=seed).as_dict(),
        "rows": result["n-samples"][task]["original"],
        "chance": card.chance if card else None,
        "version": f"lm-eval {lm_eval.__version__}, task {result['versions'][task]}",
        "hits": hits,
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The harness without its progress bars and notices; errors are raised as ever."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)
