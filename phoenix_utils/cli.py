"""The `phoenix` command: run, check, doctor, and one command for each stage."""

from __future__ import annotations

import contextlib
import errno
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from phoenix_utils import __version__, secrecy
from phoenix_utils.artifacts import stage_path
from phoenix_utils.errors import PhoenixError, machine_trouble, printable

app = typer.Typer(
    name="phoenix",
    help="Teach an open model another language: translation, filtering, SFT, DPO, evaluation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ProfileName = Annotated[str, typer.Argument(help="mini, laptop, colab, single_gpu, paper, or a path to a .yaml file")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="STAGE.KEY=VALUE", help="change one setting; may be repeated"),
]
Out = Annotated[
    str | None, typer.Option("--out", metavar="DIR", help="run directory, by default runs/PROFILE or the file's own")
]
Run = Annotated[str, typer.Argument(help="a run's folder, for example runs/mini")]
Redo = Annotated[bool, typer.Option("--redo", help="move results made by other settings aside and start again")]


@app.command()
def run(
    profile: ProfileName,
    start: Annotated[str | None, typer.Option("--from", metavar="STAGE", help="first stage to run")] = None,
    only: Annotated[str | None, typer.Option("--only", metavar="STAGE", help="the one stage to run")] = None,
    overrides: Overrides = None,
    out: Out = None,
    redo: Redo = False,
) -> None:
    """Validate everything, then run the stages' notebooks; finished stages are skipped, a cut-off one resumes."""
    from rich.console import Console
    from rich.markup import escape

    from phoenix_utils import pipeline

    started = time.monotonic()
    plan = pipeline.make_plan(profile, overrides, out, start=start, only=only, redo=redo)
    console = Console(stderr=False, highlight=False, soft_wrap=True)
    _say_where(console, plan.profile.name, plan.run_dir)
    if console.is_terminal:
        with console.status("starting") as status:
            pipeline.execute(plan, console.print, lambda line: status.update(escape(line)))
    else:
        pipeline.execute(plan, lambda line: print(line, flush=True), _every(30))
    _show_result(plan, console, time.monotonic() - started)


def _say_where(console, what: str, run_dir) -> None:
    """What is run and where to; brackets in a name are no markup."""
    from rich.text import Text

    console.print(Text.assemble((what, "bold"), f" → {run_dir}"))


def _every(seconds: float) -> Callable[[str], None]:
    """Print a progress line now and then, for logs that cannot rewrite a line."""
    last = [time.monotonic()]

    def show(line: str) -> None:
        if time.monotonic() - last[0] >= seconds:
            last[0] = time.monotonic()
            print(f"  {line}", flush=True)

    return show


def _show_result(plan, console, seconds: float) -> None:
    """Where to look, what the run took, and the scores if there are any."""
    from rich.table import Table

    from phoenix_utils.artifacts import read_json
    from phoenix_utils.hardware import peak_memory_gb
    from phoenix_utils.statistics import shown

    folder = stage_path(str(plan.run_dir), "evaluation")
    if (folder / "scores.json").is_file():
        scores = read_json(folder / "scores.json")
        table = Table("metric", *scores, title="value [95 % interval]", title_justify="left")
        for metric in next(iter(scores.values())):
            cells = (row[metric] for row in scores.values())
            table.add_row(metric, *map(shown, cells))
        console.print(table)
    console.print(f"took {seconds:.0f} s, peak memory of one process {peak_memory_gb(children=True)} GB")
    console.print(f"notebooks: {plan.run_dir / 'notebooks'}", markup=False)
    if (folder / "report.html").is_file():
        console.print(f"report:    {folder / 'report.html'}", markup=False)


@app.command()
def check(profile: ProfileName, overrides: Overrides = None, out: Out = None) -> None:
    """Validate a profile, print every resolved setting, memory, time and cost, and whether this machine can run it."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from phoenix_utils import hardware, needs, pipeline
    from phoenix_utils.translation import forecast

    plan = pipeline.make_plan(profile, overrides, out)
    console = Console(highlight=False)
    console.print(f"[bold]{escape(plan.profile.name)}[/bold]: {escape(printable(plan.profile.description))}")
    for stage, settings in plan.profile.stages.items():
        table = Table(title=stage, title_justify="left", title_style="bold")
        for column in ("setting", "value", "meaning"):
            table.add_column(column, overflow="fold")
        for name, field in type(settings).model_fields.items():
            if name not in ("run_dir", "redo"):
                table.add_row(name, escape(printable(str(getattr(settings, name)))), field.description)
        console.print(table)
    machine, settings = hardware.describe(), plan.settings("translation")
    for line in needs.memory_lines(plan) + forecast.cost_lines(settings, plan.profile.hardware, machine):
        console.print(line, markup=False)
    for stage, command in needs.launch_commands(plan, profile, overrides or [], out).items():
        console.print(f"{stage} on all GPUs: {command}", soft_wrap=True, markup=False)
    if plan.profile.name == "paper":
        from phoenix_utils import scale

        for times in (1, 10):
            rows = scale.plan_rows(scale.paper_plans(times))
            table = Table(title=f"{1.5 * times:g} billion characters on A100 80GB, worked out", title_justify="left")
            for column in rows[0]:
                table.add_column(column, overflow="fold")
            for row in rows:
                table.add_row(*row.values())
            console.print(table)
        console.print("how each figure is worked out: phoenix_utils/scale.py, and the book's page on scale")
    console.print(f"this machine: {machine}")
    verdict = "; ".join(plan.problems)
    console.print(f"cannot run here: {verdict}" if verdict else "this machine can run it", markup=False)


@app.command()
def doctor() -> None:
    """Say what this machine is, which dtype it trains in and why, and which profiles it can run."""
    from phoenix_utils import hardware, pipeline
    from phoenix_utils.artifacts import data_folder, installed_versions
    from phoenix_utils.profile import shipped_profiles

    machine = hardware.describe()
    choice = hardware.choose_training_dtype(machine)
    print(f"phoenix {__version__} on {machine}")
    print(f"dtype: {choice.name} ({choice.reason})")
    for package, version in installed_versions().items():
        print(f"{package}: {version}")
    for path in shipped_profiles(data_folder("profiles")):
        problems = pipeline.make_plan(path.stem).problems
        print(f"profile {path.stem}: {'; '.join(problems) or 'can run'}")


def _add_stage_command(stage: str) -> None:
    def command(profile: ProfileName = "mini", overrides: Overrides = None, out: Out = None, redo: Redo = False):
        from phoenix_utils import pipeline

        plan = pipeline.make_plan(profile, overrides, out, only=stage, redo=redo)
        plan.refuse_problems()
        pipeline.STAGES[stage].module.run(plan.settings(stage))
        print(f"{stage}: {stage_path(str(plan.run_dir), stage)}")

    app.command(stage, help=f"Run the {stage} stage alone, without its notebook; same settings, same result.")(command)


for _stage in ("translation", "filtering", "sft", "dpo", "evaluation"):
    _add_stage_command(_stage)


@app.command("filter")
def filter_row(
    run: Run,
    explain: Annotated[str, typer.Option("--explain", metavar="PROMPT_ID", help="the row that is asked about")],
) -> None:
    """Say why a row of a filtered run was kept or rejected, rule by rule, with the texts."""
    from phoenix_utils import filtering

    print(filtering.explain(run, explain))


@app.command()
def adapt(
    settings_file: Annotated[str | None, typer.Argument(help="a .yaml file, such as profiles/adapt_en_de.yaml")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="change one setting; may be repeated")
    ] = None,
    out: Out = None,
    redo: Redo = False,
) -> None:
    """Train a translator of one's own by running its notebook; without a file, in minutes on the package's pairs."""
    from rich.console import Console
    from rich.markup import escape

    from phoenix_utils import pipeline

    started = time.monotonic()
    settings = pipeline.make_adapt_settings(settings_file, overrides or [], out, redo)
    console = Console(highlight=False, soft_wrap=True)
    _say_where(console, "adapt", settings.run_dir)
    if console.is_terminal:
        with console.status("starting") as status:
            pipeline.execute_stage("adapt", settings, console.print, lambda line: status.update(escape(line)))
    else:
        pipeline.execute_stage("adapt", settings, lambda line: print(line, flush=True), _every(30))
    _show_adaptation(stage_path(settings.run_dir, "adapt"), console)
    console.print(f"took {time.monotonic() - started:.0f} s; use it with --set translation.adapter=ADAPTER")


def _show_adaptation(folder, console) -> None:
    """Scores before and after, and where the adapter lies."""
    from rich.table import Table

    from phoenix_utils.artifacts import read_json
    from phoenix_utils.statistics import shown

    scores = read_json(folder / "scores.json")
    table = Table("set", "measure", "before", "after", title="value [95 % interval]", title_justify="left")
    for name, found in scores.items():
        for measure in found["before"] if "before" in found else ():
            cells = (found[when][measure] for when in ("before", "after"))
            table.add_row(name, measure, *map(shown, cells))
    console.print(table)
    console.print(f"training: {scores['training']['seconds'] / 60:.1f} minutes")
    console.print(f"adapter:  {folder / 'adapter'}", markup=False)


@app.command()
def sweep(
    file: Annotated[str, typer.Argument(help="a .yaml file, such as profiles/sweeps/ablations.yaml")],
    out: Annotated[str | None, typer.Option("--out", metavar="DIR", help="folder, runs/sweeps/NAME by default")] = None,
) -> None:
    """Run every cell of a grid of settings, sharing equal stages; a failing cell does not stop the others."""
    from phoenix_utils import pipeline, sweep, sweep_cells, sweep_table

    started = time.monotonic()
    asked = sweep_cells.load_sweep(Path(file))
    cells = sweep.run_sweep(asked, lambda line: print(line, flush=True), _every(30), out)
    print("\n".join(["", *sweep_table.table_lines(asked, cells)]))
    took, saved = time.monotonic() - started, sweep_cells.seconds_saved(cells)
    print(f"took {took / 60:.1f} minutes; sharing equal stages saved {saved / 60:.1f} minutes")
    print(f"table and pictures: {sweep_cells.sweep_folder(asked, out)}")
    if failed := [cell for cell in cells if cell.failure]:
        names = "\n".join(f"  {cell.plan.run_dir.name}: {cell.failure}" for cell in failed)
        raise pipeline.StageFailed(f"{len(failed)} of {len(cells)} cells failed, the others are done:\n{names}", False)


@app.command()
def release(
    run: Run,
    to: Annotated[str | None, typer.Option("--to", metavar="FOLDER", help="RUN/release by default")] = None,
    stage: Annotated[str | None, typer.Option(help="sft or dpo; by default the last one that was trained")] = None,
    vocabulary: Annotated[
        str,
        typer.Option(
            help="trimmed keeps the tokens that the run worked with; full brings back the others, with their vectors "
            "from the published base (only an embedded base was ever trimmed)"
        ),
    ] = "trimmed",
    gguf: Annotated[bool, typer.Option("--gguf", help="also write a GGUF file, full vocabulary, float32")] = False,
    allow_license: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="a licence not known here that you have looked up; may be repeated"),
    ] = None,
    push: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="upload the model there, the data to OWNER/NAME-data")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="new repositories are public, not private")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="list every file with its size; leave and upload nothing")
    ] = False,
) -> None:
    """Give a run's model away: merge it, write its cards, check measurements, licences and secrets, and push it."""
    from phoenix_utils import gate, profile, training
    from phoenix_utils import release as releases

    profile.choose("vocabulary", vocabulary, ("trimmed", "full"))
    if stage:
        profile.choose("stage", stage, ("sft", "dpo"))
    if push:
        releases.check_push(push, dry_run)
    source, target = gate.find_source(run, stage), Path(to) if to else None
    wish = releases.Wish(vocabulary, gguf, tuple(allow_license or ()))
    with training.quiet():
        if dry_run:
            with releases.rehearsal(source, target, wish, push) as folder:
                print("\n".join([*releases.listing(folder, push), "dry run: nothing was kept, nothing was uploaded"]))
            return
        folder = releases.make_release(source, target, wish)
        print("\n".join([*releases.listing(folder, push), f"release: {folder}"]))
        for address in releases.push(folder, push, public) if push else ():
            print(f"pushed:  {address}")


@app.command()
def chat(
    run: Run,
    models: Annotated[
        str | None, typer.Option(metavar="NAMES", help="base,sft,dpo or some of them; by default all that are there")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="longest answer in tokens")] = 256,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token, above 0 samples")] = 0.0,
) -> None:
    """Talk to the models of a run, side by side; from a pipe, each line is a turn. /reset begins anew, /quit ends."""
    from rich.console import Console

    from phoenix_utils import talk

    names = [name.strip() for name in models.split(",") if name.strip()] if models else None
    talking = talk.open_run(run, names, max_new_tokens=max_new_tokens, temperature=temperature)
    sys.stdin.reconfigure(errors="replace")  # bytes that are no text; no tokenizer takes halves of characters
    console = Console(highlight=False)
    interactive = sys.stdin.isatty() and console.is_terminal
    if interactive:
        print(f"{', '.join(talking.names)} of {run}; {talk.COMMANDS}")
    side_by_side = interactive and len(talking.names) > 1

    def turn(text: str) -> None:
        if side_by_side:
            talk.draw_turn(talking, text, console)
        else:
            talk.write_turn(talking, text, sys.stdout)

    talk.converse(talking, _typed() if interactive else sys.stdin, turn, sys.stdout)


def _typed() -> Iterator[str]:
    """Lines as a person types them, until Ctrl-D or Ctrl-C."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - arrow keys and earlier lines for input(); not on Windows
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            yield input("> ")


@app.command()
def notebooks() -> None:
    """Write the generated cells (badge, install, parameters) into the notebooks after settings have changed."""
    from phoenix_utils import pipeline

    print("\n".join(pipeline.fill_notebooks()) or "unchanged")


@app.command()
def version() -> None:
    """Print the version."""
    print(__version__)


def main() -> None:
    """Entry point: a user's mistake is one sentence and exit code 2; a failed stage exits with 1."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: kernels end too, and a sentence is said
    try:
        app(standalone_mode=True)
    except PhoenixError as error:
        print(f"phoenix: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("phoenix: interrupted; the same command resumes", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        from phoenix_utils.pipeline import StageFailed

        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:  # wherever a name was given
            print(f"phoenix: {PhoenixError(machine_trouble(error, Path()))}", file=sys.stderr)
            sys.exit(2)
        if not isinstance(error, StageFailed):  # a defect of ours, whose traceback may quote what it was given
            print(secrecy.hide(traceback.format_exc()), file=sys.stderr)
            sys.exit(1)
        print(f"phoenix: {error}", file=sys.stderr)
        sys.exit(2 if error.user_error else 1)


if __name__ == "__main__":
    main()
