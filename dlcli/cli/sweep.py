"""dlcli sweep, and its show, resume, stop and best. `dlcli train --seeds` comes here, too."""

import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
import typer.core

from dlcli.cli.arguments import Assignments, Configs, Model, RunsDir, with_format
from dlcli.cli.flags import check_options, layer, with_settings
from dlcli.cli.output import Format, emit, print_json, say, write
from dlcli.cli.sweep_run import Place, drive, start
from dlcli.cli.sweep_table import columns, document, print_trials, row, show_importance
from dlcli.cli.sweep_table import show as show_trials
from dlcli.config.settings import TrainConfig
from dlcli.config.toml import read_table
from dlcli.core.documents import COUNT, TABLE, TEXT, WHOLE, check, list_of
from dlcli.core.errors import ConfigError, RunError, did_you_mean
from dlcli.runs.sweeps import find_sweep

_CONTEXT = {"help_option_names": ["-h", "--help"]}

# What a [sweep] table of a file may hold.
_IN_A_FILE = {
    "over": TABLE, "method": TEXT, "trials": COUNT, "seeds": COUNT, "prune": TEXT, "confirm": WHOLE,
    "listed": list_of(TABLE),
}  # fmt: skip


class _Sweep(typer.core.TyperGroup):
    """`dlcli sweep MODEL` beside `dlcli sweep show 3`: the first word decides."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        known = bool(args) and args[0] in self.commands
        ctx.allow_interspersed_args = not known
        return super().parse_args(ctx, ["", *args] if known else args)


app = typer.Typer(cls=_Sweep, invoke_without_command=True, add_completion=False, context_settings=_CONTEXT)

Jobs = Annotated[int, typer.Option("--jobs", "-j", min=1, metavar="N", help="Runs at the same time.")]
Devices = Annotated[
    str, typer.Option("--devices", metavar="LIST", help="CUDA devices such as 0,1: each job gets the next of them.")
]
FailFast = Annotated[bool, typer.Option("--fail-fast", help="Stop at the first trial that fails.")]
Confirm = Annotated[
    int | None,
    typer.Option("--confirm", min=1, metavar="N", help="In the end, train the best with N fresh seeds."),
]
On = Annotated[
    str,
    typer.Option(
        "--on",
        metavar="local|workers|ray|ray://HOST:PORT",
        help="Where runs are trained: here, by workers that join with `dlcli sweep work`, or on a Ray cluster "
        "(dlcli[ray]).",
    ),
]
SweepNumber = Annotated[str, typer.Argument(metavar="SWEEP", help="The number of a sweep, or latest.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]


@app.callback()
@with_settings
@with_format
def sweep(
    context: typer.Context,
    *,
    settings: dict[str, Any],
    model: Model = None,
    over: Annotated[
        list[str] | None,
        typer.Option(
            "--over",
            metavar="NAME=VALUES",
            help="A setting and its values: 0.1,0.01 or range(1,9,2), uniform(0,1), loguniform(1e-4,1e-1), int(8,512), "
            "logint(8,512). May be repeated.",
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            metavar="grid|random|tpe|cmaes|qmc",
            help="Which settings are tried. The last three need dlcli[sweep]. (default: grid of single values; tpe of "
            "ranges, or random without dlcli[sweep])",
        ),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option("--trials", min=1, metavar="N", help="Settings to try. (default: all of a grid, else 20)"),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option("--seeds", min=1, metavar="N", help="Runs of each trial, with N seeds. (default: 1)")
    ] = None,
    prune: Annotated[
        str | None,
        typer.Option(
            "--prune", metavar="off|median|asha", help="Whether bad trials are stopped before their end. (default: off)"
        ),
    ] = None,
    confirm: Confirm = None,
    trials_from: Annotated[
        str | None,
        typer.Option("--trials-from", metavar="FILE", help="The trials as CSV: a column for each setting."),
    ] = None,
    print_: Annotated[
        bool, typer.Option("--print-trials", help="Print the trials and stop; with --csv for --trials-from.")
    ] = False,
    needed: Annotated[
        bool, typer.Option("--needed", help="Take the result of a finished run with equal settings and data.")
    ] = False,
    jobs: Jobs = 1,
    devices: Devices = "",
    on: On = "local",
    fail_fast: FailFast = False,
    config: Configs = None,
    set_: Assignments = None,
    runs_dir: RunsDir = "runs",
    quiet: Quiet = False,
    format: Format,
) -> None:
    """Train a model with many settings, and find the best of them.

    Each trial is a run for each seed, in processes that import torch once.
    The best validation result decides; the test split is never looked at.
    """
    if context.invoked_subcommand is not None:
        return
    files = config or []
    written = _tables(files)
    base = layer(model=model, files=files, assignments=set_ or [], settings=settings)
    from dlcli.sweeps import plan as plans
    from dlcli.sweeps.listed import read_trials

    plan = plans.make(
        base=base,
        over=over or [f"{name}={text}" for name, text in written.get("over", {}).items()],
        method=method or written.get("method"),
        trials=trials or written.get("trials"),
        seeds=seeds or written.get("seeds", 1),
        prune=prune or written.get("prune", "off"),
        confirm=confirm or written.get("confirm", 0),
        listed=read_trials(trials_from) if trials_from else None if over else written.get("listed"),
    )
    check_options(TrainConfig.from_flat(plan.layers_to_check()[0]), settings)
    if print_:
        print_trials(plan, format)
        return
    place = Place(on, jobs, devices)
    start(plan, runs_dir, place, needed=needed, fail_fast=fail_fast, quiet=quiet, format=format)


@app.command()
@with_format
def show(
    sweep: SweepNumber,
    importance: Annotated[
        bool, typer.Option("--importance", help="Show how much each setting matters, instead of the trials.")
    ] = False,
    runs_dir: RunsDir = "runs",
    *,
    format: Format,
) -> None:
    """Show the trials of a sweep, the best first."""
    found = find_sweep(sweep, runs_dir)
    if importance:
        show_importance(found, format)
    else:
        show_trials(found, format)


@app.command()
@with_format
def resume(
    sweep: SweepNumber,
    trials: Annotated[str, typer.Option("--trials", metavar="+N", help="Try N settings more.")] = "+0",
    failed: Annotated[bool, typer.Option("--failed", help="Try the failed runs again.")] = False,
    confirm: Confirm = None,
    jobs: Jobs = 1,
    devices: Devices = "",
    on: On = "local",
    fail_fast: FailFast = False,
    runs_dir: RunsDir = "runs",
    quiet: Quiet = False,
    *,
    format: Format,
) -> None:
    """Go on with a sweep: first its unfinished runs, from their checkpoints."""
    found = find_sweep(sweep, runs_dir)
    more = trials.removeprefix("+")
    if not more.isdigit():
        raise ConfigError(f"--trials {trials} is not of the form +20")
    from dlcli.sweeps.plan import from_document
    from dlcli.sweeps.workers import Workers

    with found.driven():
        record = found.plan()
        before = from_document(record, file=str(found.path / "sweep.json"))
        plan = before.extended(trials=int(more), confirm=confirm)
        if plan != before:
            found.write_plan(record | plan.as_document(), plan.to_toml())
        place = Place(on, jobs, devices)
        workers = Workers(runs_dir=runs_dir, jobs=place.local_jobs, devices=place.devices)
        drive(found, plan, place, workers, again=failed, fail_fast=fail_fast, quiet=quiet, format=format)


@app.command()
def work(sweep: SweepNumber, runs_dir: RunsDir = "runs") -> None:
    """Train runs of a sweep that another process drives, also on another machine."""
    found = find_sweep(sweep, runs_dir)
    from dlcli.sweeps.joining import join
    from dlcli.sweeps.worker import work as train

    connection = join(found)
    say(f"works for {found}")
    train(connection, runs_dir, len(os.sched_getaffinity(0)))


@app.command()
def stop(sweep: SweepNumber, runs_dir: RunsDir = "runs") -> None:
    """Stop a sweep that another process drives, after the checkpoints of its runs."""
    found = find_sweep(sweep, runs_dir)
    if not found.is_driven():
        raise RunError(f"{found} is not running: see dlcli sweep show {found.number}")
    found.ask_to_stop()
    say(f"{found} saves its checkpoints and stops; go on with dlcli sweep resume {found.number}")


@app.command()
@with_format
def best(
    sweep: SweepNumber,
    config: Annotated[
        bool, typer.Option("--config", help="Print its settings as TOML, for dlcli train --config.")
    ] = False,
    runs_dir: RunsDir = "runs",
    *,
    format: Format,
) -> None:
    """Print the number of the best run, the one of the best trial with the best value."""
    found = find_sweep(sweep, runs_dir)
    from dlcli.runs.run import Run
    from dlcli.runs.trials import ranked, trials

    first = next((one for one in ranked(trials(found.trials())) if one.loss is not None), None)
    if first is None:
        raise RunError(f"no trial of {found} has finished")
    chosen = min(first.runs, key=lambda one: (one.loss is None, one.loss))
    assert chosen.run is not None
    if config:
        from dlcli.config.toml import to_toml

        settings = Run(found.root, chosen.run).config()
        if format is Format.json:
            print_json(settings.as_dict())
        else:
            write(to_toml(settings))
    elif format is Format.table:
        write(f"{chosen.run}\n")
    else:
        emit([row(first)], columns([first]), format=format, document=document(first) | {"run": chosen.run})


def train_seeds(base: Mapping[str, Any], seeds: int, runs_dir: str, *, jobs: int, quiet: bool, format: Format) -> None:
    """One setting with several seeds: a sweep of one trial."""
    from dlcli.sweeps import plan as plans

    plan = plans.make(base=base, over=[], method=None, trials=None, seeds=seeds, prune="off", confirm=0, listed=[{}])
    start(plan, runs_dir, Place("local", jobs), quiet=quiet, format=format)


def _tables(files: Sequence[str]) -> Mapping[str, Any]:
    """The [sweep] tables of the files, a later one over an earlier one. ConfigError for what none has."""
    merged: dict[str, Any] = {}
    for file in files:
        table = read_table(file, "sweep")
        for name in table:
            if name not in _IN_A_FILE:
                raise ConfigError(f"unknown setting sweep.{name}: {did_you_mean(name, _IN_A_FILE)}")
        try:
            check(table, _IN_A_FILE)
        except ValueError as error:
            raise ConfigError(f"config file {file}: sweep.{error}") from None
        merged |= table
    return merged
