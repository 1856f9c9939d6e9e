"""The whole evaluation stage: answer, score, compare, report.

05_evaluation/
    answers.parquet     every answer of every model (grows by one model at a time)
    logprobs.parquet    log-probabilities of references and preference pairs (likewise)
    mt_bench.jsonl      MT-Bench answers (likewise), where any were asked for
    harness.jsonl       benchmark results (likewise), with the result of each row
    answers_kept.jsonl  every answer as soon as it is given, so that none is asked for twice
    judgements.jsonl    every reply of the judge and what it means; judged.json the tables made of them
    scores.json         {model: {metric: {"value", "low", "high", "n"}}}
    differences.json    paired differences between the models, and how the numbers were made
    report.html         all of it on one page that needs nothing else
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from phoenix_utils import corpora, hardware, training
from phoenix_utils.artifacts import StageRun, open_stage, read_manifest, stage_path, write_atomic, write_json
from phoenix_utils.engine_transformers import TransformersEngine
from phoenix_utils.engines import GenerationParams
from phoenix_utils.errors import PhoenixError
from phoenix_utils.evaluation import answers, benchmarks, judged, likelihood, mt_bench, report, scores
from phoenix_utils.evaluation.contenders import Contenders, comparisons
from phoenix_utils.evaluation.judge import Costs, open_judge
from phoenix_utils.evaluation.kept import Kept
from phoenix_utils.evaluation.prompts import (
    Pair,
    Prompt,
    held_out_pairs,
    held_out_prompts,
    held_out_references,
    problems,
    stage_inputs,
)
from phoenix_utils.evaluation.settings import EvaluationSettings
from phoenix_utils.tables import read_lines, read_rows, write_lines, write_rows


def run(settings: EvaluationSettings) -> Path:
    """Evaluate `settings.models`; returns the stage's folder.

    A finished evaluation is left as it is; an interrupted one continues with the first model that is not
    done, and a judge behind the replies that it has given. Raises PhoenixError where the SFT or DPO stage has not
    been run, was run on another model, there is nothing to ask in the language, a benchmark is not known or
    the judge cannot be asked.
    """
    prompts = held_out_prompts(settings.language, settings.max_prompts, settings.run_dir)
    pairs = held_out_pairs(settings.language, settings.run_dir)
    inputs = stage_inputs(settings)
    if found := problems(settings):
        raise PhoenixError(found[0])
    with open_stage("evaluation", settings, inputs) as stage, training.quiet():
        if stage.is_complete:
            return stage.folder
        check_same_base(settings)
        questions = asked_questions(settings)
        references = held_out_references(settings.language, settings.run_dir)
        collect(stage, settings, prompts, references, pairs, questions)
        found, differences = scores.evaluate(
            read_rows(stage.folder / "answers.parquet"),
            read_rows(stage.folder / "logprobs.parquet"),
            settings.bootstrap_samples,
            settings.seed,
        )
        judge_answers(stage, settings)
        differences["not_run"] = settings.not_run()
        differences["machine_references"] = not corpora.has_held_out(settings.language)
        write_json(stage.folder / "scores.json", found)
        write_json(stage.folder / "differences.json", differences)
        with write_atomic(stage.folder / "report.html") as partial:
            partial.write_text(report.render(stage.folder, settings), encoding="utf-8")
        stage.count("prompts", len(prompts))
        stage.count("references", len(references))
        stage.count("pairs", len(pairs))
        stage.count("questions", len(questions))
        return stage.folder


def asked_questions(settings: EvaluationSettings) -> list[mt_bench.Question]:
    """The MT-Bench questions that settings ask for."""
    if settings.mt_bench_questions == 0:
        return []
    return mt_bench.read_questions(settings.mt_bench, settings.language, settings.mt_bench_questions, settings.run_dir)


def collect(
    stage: StageRun,
    settings: EvaluationSettings,
    prompts: list[Prompt],
    references: list[Prompt],
    pairs: list[Pair],
    questions: list[mt_bench.Question],
) -> None:
    """Let one model after the other answer, score and take the benchmarks; what is in its file is done."""
    files = {
        "answers": _Growing(stage, "answers.parquet", answers.ANSWERS),
        "logprobs": _Growing(stage, "logprobs.parquet", likelihood.LOGPROBS),
        "mt_bench": _Growing(stage, "mt_bench.jsonl", wanted=bool(questions)),
        "harness": _Growing(stage, "harness.jsonl", wanted=bool(settings.tasks())),
    }
    missing = [name for name in settings.models if not all(file.has(name) for file in files.values())]
    if not missing:
        return
    languages = settings.languages
    trained = {name: path for name, path in stage_inputs(settings).items() if name in ("sft", "dpo")}
    contenders = Contenders(settings.model, languages, trained, quantize=trained_in_4_bit(settings))
    stage.note("dtype_reason", hardware.choose_dtype(hardware.describe()).reason)
    params = GenerationParams(
        max_new_tokens=settings.max_new_tokens,
        temperature=settings.temperature,
        repetition_penalty=settings.repetition_penalty,
        seed=settings.seed,
    )
    each = len(prompts) + sum(len(question.turns) for question in questions)
    progress = stage.progress(len(settings.models) * each, "answers")
    done = (len(settings.models) - len(missing)) * each
    kept = Kept(stage.folder / "answers_kept.jsonl")
    for name in missing:
        with contenders.playing(name) as engine:
            stage.note("dtype", str(engine.model.dtype).removeprefix("torch."))
            count = _Counter(progress, done, name)
            weights = str(stage.manifest["inputs"].get(name, name))
            told = (kept, weights, count)
            if not files["answers"].has(name):
                files["answers"].add(answers.answer_prompts(engine, name, prompts, params, *languages[::-1], *told))
            if not files["mt_bench"].has(name):
                files["mt_bench"].add(mt_bench.answer(engine, name, questions, params, languages, *told))
            done += each
            progress.update(done, model=name, now="scoring")
            if not files["logprobs"].has(name):
                files["logprobs"].add(_logprobs(likelihood.scorer(engine), name, references, pairs, settings.language))
            if not files["harness"].has(name):
                progress.update(done, model=name, now="benchmarks")
                files["harness"].add(_harness(stage, settings, likelihood.scorer(engine), name))
    progress.close(f"{len(settings.models)} models answered {each} prompts each")


def _logprobs(scorer: TransformersEngine, name: str, references: list[Prompt], pairs: list[Pair], language: str):
    # Only the base chooses between two prompts: SFT and DPO were trained on the chat template.
    if name == "base":
        found = likelihood.score_base_references(scorer, name, references, language)
    else:
        found = likelihood.score_references(scorer, name, references, language, ("chat",))
    return found + likelihood.score_pairs(scorer, name, pairs, language)


def _harness(stage: StageRun, settings: EvaluationSettings, engine: TransformersEngine, name: str) -> list[dict]:
    return benchmarks.measure(
        engine,
        settings.tasks(),
        stage.folder / "harness_tasks",
        name=name,
        shots=settings.harness_shots,
        limit=settings.harness_limit,
        seed=settings.seed,
    )


def judge_answers(stage: StageRun, settings: EvaluationSettings) -> None:
    """Have MT-Bench answers judged, if there are any and a judge is named: judgements.jsonl and judged.json."""
    path = stage.folder / "mt_bench.jsonl"
    if not settings.judge or not path.is_file():
        return
    rows = read_lines(path)
    costs = Costs(*settings.judge_prices, settings.judge_budget)
    chosen = open_judge(
        settings.judge,
        settings.judge_base_url,
        Kept(stage.folder / "judge_kept.jsonl"),
        languages=settings.languages,
        costs=costs,
        concurrency=settings.judge_concurrency,
        seed=settings.seed,
    )
    pairs = comparisons(settings.models)
    requests = mt_bench.score_requests(rows, chosen.language)
    for earlier, later in pairs if settings.judge_pairs else ():
        requests += mt_bench.pair_requests(rows, earlier, later, chosen.language)
    progress = stage.progress(len(requests), "judgements")
    count = _Counter(progress, 0, settings.judge)
    judgements = chosen.judge(requests, count)
    write_lines(stage.folder / "judgements.jsonl", judgements)
    table = judged.summary(judgements, pairs, settings.seed)
    write_json(stage.folder / "judged.json", {**table, "cost": costs.told()})
    progress.close(
        f"{settings.judge} judged {len(requests)} times: {costs.told()}; {table['missing']} without a verdict"
    )


def take_over(source: Path, target: Path, names: tuple[str, ...]) -> None:
    """Begin an evaluation with the rows of `names` ("base", "sft") from a finished one, so that none is made twice.

    For a sweep, whose cells have these models and the evaluation's settings in common. An evaluation that has begun is
    left alone.
    """
    for file, schema in (("answers.parquet", answers.ANSWERS), ("logprobs.parquet", likelihood.LOGPROBS)):
        if not (target / file).is_file():
            rows = [row for row in read_rows(source / file) if row["model"] in names]
            write_rows(target / file, rows, schema)


def check_same_base(settings: EvaluationSettings) -> None:
    """Raise PhoenixError where this run's adapters were trained on another base than `settings.model`."""
    for name in {"sft", "dpo"} & {*settings.models}:
        trained = _trained_with(settings, name).get("model")
        if trained not in (None, settings.model):
            raise PhoenixError(
                f"evaluation.model is {settings.model!r}, but the {name} stage of this run trained "
                f"{trained!r}: use the same model"
            )


def trained_in_4_bit(settings: EvaluationSettings) -> bool:
    """Whether SFT trained its adapter on a 4-bit base: the adapter is then measured on that same base."""
    return _trained_with(settings, "sft").get("method") == "qlora"


def _trained_with(settings: EvaluationSettings, stage: str) -> dict:
    manifest = stage_path(settings.run_dir, stage) / "manifest.json"
    return read_manifest(manifest)["settings"] if manifest.is_file() else {}


class _Growing:
    """A file of rows that grows by one model's at a time; each time it is written anew, as a whole.

    Parquet with a schema, else JSON lines. Of a file that is not `wanted` every model counts as done.
    """

    def __init__(self, stage: StageRun, name: str, schema: pa.Schema | None = None, wanted: bool = True):
        self.stage, self.path, self.schema, self.wanted = stage, stage.folder / name, schema, wanted
        self.rows: list[dict] = []
        if self.path.is_file():
            self.rows = list(read_rows(self.path)) if schema else read_lines(self.path)

    def has(self, model: str) -> bool:
        """Whether nothing of this model is left to do."""
        return not self.wanted or any(row["model"] == model for row in self.rows)

    def add(self, rows: list[dict]) -> None:
        """Append one model's rows."""
        self.rows += rows
        self.stage.forget(self.path)
        if self.schema:
            write_rows(self.path, self.rows, self.schema)
        else:
            write_lines(self.path, self.rows)
        self.stage.keep(self.path)


class _Counter:
    """Counts answers of one model into the stage's progress line."""

    def __init__(self, progress, done: int, model: str):
        self.progress, self.done, self.model = progress, done, model

    def __call__(self, fresh: int) -> None:
        self.done += fresh
        self.progress.update(self.done, model=self.model)
