"""The stages at their smallest, for `faults.py`: real code, an engine that answers at once, random models.

A `Workshop` holds one run whose stages are all finished, undisturbed. A stage is tried in a copy of what stands before
it, always in a forked child, so that a trial costs what the stage takes and not what importing it takes.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import math
import os
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import http_server  # noqa: E402 - tests/http_server.py
import tiny_models  # noqa: E402 - tests/tiny_models.py

from phoenix_utils import (  # noqa: E402
    artifacts,
    corpora,
    dpo,
    engine_server,
    filtering,
    pipeline,
    plots,
    sft,
    sweep,
    sweep_cells,
    tables,
)
from phoenix_utils.decoding import Completion  # noqa: E402
from phoenix_utils.errors import PhoenixError  # noqa: E402
from phoenix_utils.evaluation import stage as evaluation  # noqa: E402
from phoenix_utils.translation import adapt  # noqa: E402
from phoenix_utils.translation import translate as translation  # noqa: E402
from phoenix_utils.translation.translator import Translator  # noqa: E402

# Several shards and commits of a few rows; little to score; pages without pictures, which take longer than the rest.
translation.SHARD_ROWS, translation.ROWS_AT_ONCE = 4, 4
for _name in ("held_out_chat", "held_out_preferences"):
    setattr(corpora, _name, functools.partial(lambda read, language: read(language)[:2], getattr(corpora, _name)))
plots.data_uri = lambda *_, **__: "data:,"
STAGES = list(pipeline.RUN_STAGES)
LANGUAGES = ("en", "de")
# What differs between two undisturbed runs.
TIMES = {
    *("seconds", "tokens_per_second", "characters_per_second", "resumed_from_step", "peak_memory_gb", "finished"),
    *("machine", "versions", "segments_reused", "outputs", "checksum", "phoenix", "translator", "engine", "reference"),
    *("seconds_saved", "cost"),
}


class Instant:
    """An engine that answers at once, a few prompts a batch: the segment behind a letter that English has not."""

    def generate(self, prompts, params, on_batch=None):
        """Complete each prompt (see Engine)."""
        done = [Completion(self.answer(prompt), "stop", -0.5) for prompt in prompts]
        for start in range(0, len(done), 10) if on_batch else ():
            on_batch(list(range(len(done)))[start : start + 10], done[start : start + 10])
        return done

    @staticmethod
    def answer(prompt: str) -> str:
        """What it says to a prompt in ALMA's words."""
        return "Ä" + prompt.rpartition("\nEnglish: ")[2].removesuffix("\nGerman:")


class Servers:
    """What stands for the servers of engine and judge, in the process that asks; `fault` spoils its answers."""

    def __init__(self, tokenizer, fault: Callable[[http_server.Server, int], Any] | None = None):
        self.tokenizer, self.fault = tokenizer, fault
        self.server = http_server.Server(self.reply)

    def reply(self, body: dict, number: int) -> Any:
        """The answer to a request, or what `fault` makes of it; None from `fault` is no fault."""
        spoilt = self.fault(self.server, number) if self.fault else None
        if spoilt is not None:
            return None if spoilt == "hang up" else spoilt
        if "messages" in body:
            usage = {"prompt_tokens": 9, "completion_tokens": 3}
            score = sum(body["messages"][0]["content"].encode()) % 10 + 1
            return {"choices": [{"message": {"content": f"[[{score}]]"}}], "usage": usage}
        text = Instant.answer(self.tokenizer.decode(body["prompt"], skip_special_tokens=True))
        return {"choices": [{"text": text, "finish_reason": "stop", "logprobs": {"token_logprobs": [-0.5]}}]}

    def engine(self, *_: Any, **__: Any) -> engine_server.ServerEngine:
        """The real client of these servers, which does not wait for long."""
        engine_server.FIRST_WAIT = 0.01
        return _CLIENT(self.server.url, "tiny", self.tokenizer, concurrency=4, timeout=0.5, retries=1)


_CLIENT = engine_server.ServerEngine


class Workshop:
    """Where trials are made: the tiny model, the finished run, and how long each stage takes."""

    def __init__(self, folder: Path, stages: list[str]):
        self.folder = folder
        folder.chmod(0o755)  # a trial may be another user's
        self.model = str(tiny_models.save_tiny(folder / "model"))
        for path in Path(self.model).iterdir():
            path.chmod(0o644)  # safetensors' are their owner's alone
        self.tokenizer = tiny_models.gemma_like()
        self.seconds: dict[str, float] = {}
        self.template, self.profile = folder / "template", folder / "tiny.yaml"
        self._write_profile()
        bare_notebooks(folder / "notebooks")
        pipeline.notebook_path = lambda name: folder / "notebooks" / f"{artifacts.STAGE_FOLDERS[name]}.ipynb"
        last = max((STAGES.index(stage) for stage in stages if stage in STAGES), default=-1)
        for stage in [*STAGES[: last + 1], *(stage for stage in stages if stage not in STAGES)]:
            self._make_template(stage)
            if stage in stages:
                self.copy(stage, timed := folder / f"timed_{stage}")
                started = time.monotonic()
                self.start(stage, timed).wait()
                self.seconds[stage] = time.monotonic() - started

    def _make_template(self, stage: str) -> None:
        """Run a stage undisturbed, and have here what it has imported, so that no trial has to import it."""
        self.template.mkdir(exist_ok=True)
        if stage in ("translation", "filtering"):  # these leave no threads behind, and language models loaded
            self.run(stage, self.template)
            return
        listed = self.folder / "modules.json"

        def work() -> None:
            self.run(stage, self.template)
            listed.write_text(json.dumps(list(sys.modules)))

        told = Child(work, self.folder / "log.txt").wait(300)
        if told.how != "done":
            sys.exit(f"the undisturbed {stage} ended as {told.how}: {told.text}")
        for name in json.loads(listed.read_text()):
            if name not in sys.modules and not name.startswith("_"):
                with contextlib.suppress(Exception):
                    importlib.import_module(name)

    def settings(self, stage: str, root: Path) -> Any:
        """A stage's settings, tiny."""
        few = {"max_length": 2048, "learning_rate": 5e-3, "global_batch": 4, "save_steps": 1, "dtype": "float32"}
        own = {
            "translation": {"max_rows": 12, "prompt": "alma", "adapter": "none"},
            # The engine's German is none, so only what does not read it decides.
            "filtering": {"skip_rules": [rule for rule in filtering.RULES if rule not in ("length", "too_long")]},
            "sft": {**few, "lora_r": 2, "num_train_epochs": 1.0},
            "dpo": {**few, "watch_prompts": 0, "gradient_checkpointing": False},
            "adapt": {
                **{"max_instruction_pairs": 6, "sample_pairs": 2, "measure_rows": 2, "save_steps": 1, "lora_r": 2},
                **{"max_length": 2048, "batch_tokens": 2048, "dtype": "float32"},
            },
            "evaluation": {
                **{"max_prompts": 2, "max_new_tokens": 4, "harness_tasks": [], "bootstrap_samples": 100},
                **{
                    "models": ["base", "dpo"],
                    "mt_bench_questions": 2,
                    "judge": "judge",
                    "judge_base_url": "http://judge.example/v1",
                },
            },
        }[stage]
        model = pipeline.STAGES[stage].settings_model()
        return model(run_dir=str(root / "run"), model=self.model, **own)

    def run(self, stage: str, root: Path, servers: Servers | None = None) -> None:
        """Run a stage, the runner or the sweep in `root`; called in a child. `servers` answer for the engine too."""
        os.environ["PHOENIX_CACHE"] = str(root / "cache")
        if stage == "runner":
            self._execute(root)
        elif stage == "sweep":
            cells = sweep.run_sweep(sweep_cells.load_sweep(self.folder / "sweep.yaml"), print, out=str(root / "sweep"))
            if failed := [cell.failure for cell in cells if cell.failure]:
                raise PhoenixError(failed[0])
        elif stage == "translation":
            settings = self.settings(stage, root)
            translation.run(settings, Translator(settings, servers.engine() if servers else Instant()))
        elif stage == "evaluation":
            engine_server.ServerEngine = (servers or Servers(self.tokenizer)).engine
            evaluation.run(self.settings(stage, root))
        elif stage == "adapt":
            adapt.adapt_and_measure(self.settings(stage, root))
        else:
            {"filtering": filtering, "sft": sft, "dpo": dpo}[stage].run(self.settings(stage, root))

    def _execute(self, root: Path) -> None:
        """Two stages by the runner, each in a kernel."""
        plan = pipeline.make_plan(str(self.profile), out=str(root / "runner"))
        plan.stages, plan.problems = ["translation", "filtering"], []
        pipeline.execute(plan, print)

    def _write_profile(self) -> None:
        import yaml

        values = yaml.safe_load((ROOT / "profiles" / "mini.yaml").read_text(encoding="utf-8"))
        values |= {"name": "tiny", "model": self.model, "hardware": {"ram_gb": 0.0}}
        self.profile.write_text(yaml.safe_dump(values))
        asked = {"name": "tiny", "profile": str(self.profile), "until": "filtering", "metrics": []}
        asked["arms"] = {"plain": {}, "other": {"filtering.max_repeats": 5}}
        (self.folder / "sweep.yaml").write_text(yaml.safe_dump(asked))

    def start(self, stage: str, root: Path, prepare: Callable[[], None] = lambda: None, **keywords: Any) -> Child:
        """The stage in a child, after `prepare` has been called there."""
        root.mkdir(parents=True, exist_ok=True)

        def work() -> None:
            prepare()
            self.run(stage, root, **keywords)

        return Child(work, self.folder / "log.txt")

    def copy(self, stage: str, root: Path, finished: bool = False) -> None:
        """What stands before a stage is copied to `root`, and where it is `finished` the stage itself."""
        places = {"runner": "runner", "sweep": "sweep"}
        root.mkdir(parents=True)
        if stage in places:
            names = [places[stage]] if finished else []
        else:
            earlier = STAGES[: STAGES.index(stage)] if stage in STAGES else []
            names = [f"run/{artifacts.STAGE_FOLDERS[s]}" for s in [*earlier, *[stage] * finished]]
            names += ["cache"] if finished and stage == "dpo" else []
        for name in names:
            shutil.copytree(self.template / name, root / name)

    def place(self, stage: str, root: Path) -> Path:
        """The folder of a stage's products."""
        return root / stage if stage in ("runner", "sweep") else root / "run" / artifacts.STAGE_FOLDERS[stage]


def bare_notebooks(folder: Path) -> None:
    """Notebooks of two stages that leave packaged rows at once, since a kernel takes long enough to start."""
    import nbformat

    from phoenix_utils import notebooks

    work = (
        "from phoenix_utils import artifacts, corpora, pipeline, tables\n"
        "stage = pipeline.STAGES['{stage}']\n"
        "settings = stage.settings_model().from_namespace(globals())\n"
        "with artifacts.open_stage('{stage}', settings, stage.inputs(settings)) as run:\n"
        "    if not run.is_complete:\n"
        "        for name, schema in (('chat', corpora.CHAT), ('preferences', corpora.PREFERENCES)):\n"
        "            file = f'{{name}}/rows.parquet' if '{stage}' == 'translation' else f'{{name}}.parquet'\n"
        "            rows = getattr(corpora, 'read_' + name)('package:' + source[name], 8)\n"
        "            tables.write_rows(run.folder / file, rows, schema)\n"
        "            run.count(name, 8)\n"
    ).replace("source[name]", "{{'chat': 'conversations', 'preferences': 'preferences'}}[name]")
    folder.mkdir()
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    for stage in STAGES:
        source = notebooks.parameters_source(pipeline.STAGES[stage].settings_model())
        parameters = nbformat.v4.new_code_cell(source, metadata={"tags": ["parameters"]})
        cells = [parameters, nbformat.v4.new_code_cell(work.format(stage=stage))]
        path = folder / f"{artifacts.STAGE_FOLDERS[stage]}.ipynb"
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)


# ---------------------------------------------------------------- children


@dataclass
class Told:
    """How a process ended: "done", "refused" (a sentence), "interrupted", "killed" (by a signal), else "unclear"."""

    how: str
    text: str = ""


class Child:
    """A forked process that does `work` and tells how it ended."""

    def __init__(self, work: Callable[[], None], log: Path):
        self.read, write = os.pipe()
        self.process = os.fork()
        if self.process:
            os.close(write)
            return
        told = ["done", ""]
        try:
            os.setpgid(0, 0)
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            os.dup2(output, 1), os.dup2(output, 2)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            work()
        except (PhoenixError, pipeline.StageFailed) as error:
            told = ["refused", str(error)]
        except KeyboardInterrupt:
            told = ["interrupted", ""]
        except BaseException:
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.getrlimit(resource.RLIMIT_AS)[1]))
            told = ["unclear", traceback.format_exc()]
        os.write(write, json.dumps(told).encode())
        os._exit(0)

    def send(self, number: int) -> None:
        """Send a signal, unless the child has ended."""
        os.kill(self.process, number)

    def wait(self, most: float = 100.0) -> Told:
        """How it ended; what takes longer than `most` seconds hangs and is "unclear"."""
        timer = time.monotonic() + most
        while (ended := os.waitpid(self.process, os.WNOHANG))[0] == 0:
            if time.monotonic() > timer:
                os.killpg(self.process, signal.SIGKILL)
                os.waitpid(self.process, 0), os.close(self.read)
                return Told("unclear", f"it hung for {most:.0f} s")
            time.sleep(0.002)
        told = os.read(self.read, 1 << 16)
        os.close(self.read)
        if told:
            return Told(*json.loads(told))
        return Told("killed", signal.Signals(os.WTERMSIG(ended[1])).name if os.WIFSIGNALED(ended[1]) else "")


# ---------------------------------------------------------------- comparing


def contents(folder: Path) -> dict[str, Any]:
    """What a folder of products says, by file: rows, values, weights; without times, pages and pictures."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and kept(path)):
        try:
            found[str(path.relative_to(folder))] = read(path)
        except Exception as error:  # whatever a reader says to a file that nobody has noticed to be damaged
            found[str(path.relative_to(folder))] = f"unreadable: {error}"
    return found


def kept(path: Path) -> bool:
    """Whether a file is compared: not progress, locks, what was replaced, or what products are made from."""
    unlike = {"progress.json", *artifacts.GROWING}
    return path.name not in unlike and path.suffix != ".lock" and "replaced" not in path.parts


@functools.singledispatch
def timeless(value: Any) -> Any:
    """A value without what differs between two undisturbed runs."""
    return value


@timeless.register
def _(value: dict) -> dict:
    return {key: timeless(item) for key, item in value.items() if key not in TIMES}


@timeless.register
def _(value: list) -> list:
    return [timeless(item) for item in value]


def read(path: Path) -> Any:
    """A product's content, comparable."""
    if path.suffix == ".parquet":
        return list(tables.read_rows(path))
    if path.suffix == ".jsonl":
        return timeless(tables.read_lines(path))
    if path.suffix == ".json":
        return timeless(artifacts.read_json(path))
    if path.suffix == ".safetensors":
        from safetensors.numpy import load_file

        return {name: tensor.ravel().tolist() for name, tensor in load_file(path).items()}
    # Pages and pictures hold times, executed notebooks too; that they are there has to do.
    return path.read_bytes() if path.suffix in (".jinja", ".txt", ".md") else True


def difference(asked: Any, found: Any, where: str = "") -> tuple[int, str]:
    """(rows lost, the first other difference in words) between two contents; numbers may differ by rounding."""
    if isinstance(asked, dict) and isinstance(found, dict):
        lost, words = 0, ""
        for name in sorted({*asked, *found}):
            missing, other = difference(asked.get(name), found.get(name), f"{where}/{name}")
            lost, words = lost + missing, words or other
        return lost, words
    if isinstance(asked, list) and isinstance(found, list) and len(asked) == len(found):
        each = (difference(a, b, f"{where}[{place}]") for place, (a, b) in enumerate(zip(asked, found, strict=True)))
        return 0, next((f"{words} ({lost} lost)" if lost else words for lost, words in each if words or lost), "")
    if isinstance(asked, list):
        found = found or []
        return max(0, len(asked) - len(found)), f"{where}: {len(found)} rows, not {len(asked)}"
    if isinstance(asked, float) and isinstance(found, float):
        same = math.isclose(asked, found, rel_tol=1e-4, abs_tol=1e-5) or (math.isnan(asked) and math.isnan(found))
        return 0, "" if same else f"{where}: {found}, not {asked}"
    return 0, "" if asked == found else f"{where}: {str(found)[:80]}, not {str(asked)[:80]}"
