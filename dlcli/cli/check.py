"""dlcli check: test a promise on this machine."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dlcli.cli.arguments import Assignments, Configs, Model, RunsDir, with_format
from dlcli.cli.flags import resolve, with_settings
from dlcli.cli.output import Column, Format, duration, emit, plain, say, write
from dlcli.config.environment import read_environment
from dlcli.core.errors import CheckError

if TYPE_CHECKING:
    from dlcli.checks.determinism import DeterminismReport
    from dlcli.checks.resume import ResumeReport

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Prove on this machine: exact resume, determinism, a working installation.",
)

Keep = Annotated[bool, typer.Option("--keep", help="Keep the runs that the check made. A failed check keeps them.")]


@app.command()
@with_settings
@with_format
def resume(
    *,
    settings: dict[str, Any],
    model: Model = None,
    config: Configs = None,
    set_: Assignments = None,
    kills: Annotated[int, typer.Option("--kills", min=1, metavar="N", help="How often to kill the training.")] = 5,
    keep: Keep = False,
    runs_dir: RunsDir = "runs",
    format: Format,
) -> None:
    """Kill a training at random moments, resume it, and compare the result.

    Every tensor is compared with that of a training that was never killed.
    The exit code is 7 if one differs. Without --epochs the training takes
    about 200 steps, and without --checkpoint-every it saves 20 times.
    """
    chosen = resolve(model=model, files=config or [], assignments=set_ or [], settings=settings)
    from dlcli.checks.resume import check_resume
    from dlcli.checks.shorten import shorten

    short = shorten(chosen, saves=True, tell=say)

    def check(folder: Path) -> "ResumeReport":
        return check_resume(short, kills=kills, folder=folder, tell=say)

    def summary(report: "ResumeReport") -> str:
        in_saves = sum(kill.phase == "in a save" for kill in report.kills)
        return (
            f"{len(report.kills)} kill{'s' * (len(report.kills) != 1)}, {in_saves} of them in a save; resumed from "
            f"step {', '.join(map(str, report.resumed_from)) or '-'} of {report.steps}"
        )

    _prove("resume", check, summary, runs_dir=runs_dir, keep=keep, format=format)


@app.command()
@with_settings
@with_format
def determinism(
    *,
    settings: dict[str, Any],
    model: Model = None,
    config: Configs = None,
    set_: Assignments = None,
    times: Annotated[int, typer.Option("--times", min=2, metavar="N", help="How often to train.")] = 2,
    keep: Keep = False,
    runs_dir: RunsDir = "runs",
    format: Format,
) -> None:
    """Train the same config in fresh processes, and compare every step.

    Every tensor is compared after every step. The exit code is 7 if one
    differs; the error names the first step and tensor. Without --epochs the
    training takes about 200 steps.
    """
    chosen = resolve(model=model, files=config or [], assignments=set_ or [], settings=settings)
    from dlcli.checks.determinism import check_determinism
    from dlcli.checks.shorten import shorten

    short = shorten(chosen, saves=False, tell=say)

    def check(folder: Path) -> "DeterminismReport":
        return check_determinism(short, times=times, folder=folder, tell=say)

    def summary(report: "DeterminismReport") -> str:
        return f"{report.steps} steps, {report.hashes:,} hashes per training, {report.trainings} trainings"

    _prove("determinism", check, summary, runs_dir=runs_dir, keep=keep, format=format)


@app.command()
@with_format
def install(
    runs_dir: RunsDir = "runs",
    data_dir: Annotated[
        str | None,
        typer.Option("--data-dir", metavar="PATH", help="Folder of data sets. (default: the user's cache folder)"),
    ] = None,
    *,
    format: Format,
) -> None:
    """Check that this machine has what a training needs.

    Looks at versions, devices, threads, the runs folder and data sets, and
    trains a model whose result is known. The exit code is 7 if something
    fails. Nothing is downloaded.
    """
    from dlcli.checks.children import leave_on_signals
    from dlcli.checks.install import check_install

    start = time.perf_counter()
    with leave_on_signals():
        folder = data_dir or read_environment().get("data_dir")
        lines = check_install(runs_dir=runs_dir, data_dir=folder, tell=say)
    columns = [Column("what", "what", fixed=True), Column("value", "value"), Column("verdict", "verdict", fixed=True)]
    failed = [line for line in lines if line.verdict == "fail"]
    rows = [line.as_dict() for line in lines]
    emit(rows, [*columns, Column("note", "note")], format=format, document={"passed": not failed, "lines": rows})
    say(f"{len(lines)} lines in {duration(time.perf_counter() - start)}")
    if failed:
        raise CheckError("; ".join(f"{line.what}: {line.note}" for line in failed))


_COMPARISON = [
    Column("part", "part", fixed=True),
    Column("compared", "compared", lambda count: f"{count:,}", right=True),
    Column("equal", "verdict", lambda equal: "equal" if equal else "DIFFERENT"),
    Column("first_difference", "first difference"),
]


def _prove(
    what: str,
    check: Callable[[Path], Any],
    summary: Callable[[Any], str],
    *,
    runs_dir: str,
    keep: bool,
    format: Format,
) -> None:
    """Run a check in a new folder in the runs folder, and show its report. CheckError (exit 7) if it failed."""
    from dlcli.checks.children import leave_on_signals, place_in

    start = time.perf_counter()
    with leave_on_signals(), place_in(runs_dir, what, keep=keep) as place:
        report = check(place.path)
        place.kept = keep or report.failure is not None
    emit(
        [comparison.as_dict() for comparison in report.comparisons],
        _COMPARISON,
        format=format,
        document=report.as_dict() | {"folder": str(place.path) if place.kept else None},
    )
    if format is Format.table:
        write(plain(summary(report)) + "\n")
    if place.kept:
        say(f"the runs are in {place.path}")
    say(f"{'failed' if report.failure else 'passed'} in {duration(time.perf_counter() - start)}")
    if report.failure:
        raise CheckError(report.failure)
