"""dlcli check: prove a promise on this machine."""

import math
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from dlcli.cli.arguments import CSV, JSON, MD, RunsDir
from dlcli.cli.flags import resolve, with_settings
from dlcli.cli.output import Column, Format, choose_format, duration, emit, plain, say, write
from dlcli.config.environment import read_environment
from dlcli.config.settings import TrainConfig
from dlcli.core.errors import CheckError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Prove a promise on this machine: exact resume, determinism, a sound installation.",
)

Model = Annotated[
    str | None, typer.Argument(help="A model of `dlcli models`, or your own package.module:Name.")
]  # fmt: skip
Configs = Annotated[
    list[str] | None,
    typer.Option("--config", help="Settings from a .toml or .json file, or recipe:NAME. May be repeated."),
]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Any setting, such as model.hidden=256. May be repeated."),
]
Keep = Annotated[bool, typer.Option("--keep", help="Keep the runs that were made; they are kept after a failure.")]

# Steps that show what there is to see, where --epochs is not given.
_STEPS = 200
_SAVES = 20


@app.command()
@with_settings
def resume(
    *,
    settings: dict[str, Any],
    model: Model = None,
    config: Configs = None,
    set_: Assignments = None,
    kills: Annotated[int, typer.Option("--kills", min=1, metavar="N", help="How often to kill the training.")] = 5,
    keep: Keep = False,
    runs_dir: RunsDir = "runs",
    json: JSON = False,
    csv: CSV = False,
    md: MD = False,
) -> None:
    """Kill a training at random moments, resume it, and compare every tensor with one that was never killed.

    Exit 7 when one differs. Without --epochs it takes about 200 steps, and without --checkpoint-every 20 saves.
    """
    format = choose_format(json=json, csv=csv, md=md)
    chosen = _shortened(resolve(model=model, files=config or [], assignments=set_ or [], settings=settings), saves=True)
    from dlcli.checks.children import place_in
    from dlcli.checks.resume import check_resume

    start = time.perf_counter()
    with _children_end_with_us(), place_in(runs_dir, "resume", keep=keep) as place:
        report = check_resume(chosen, kills=kills, folder=place.path, tell=say)
        place.kept = keep or report.failure is not None
    emit(
        [comparison.as_dict() for comparison in report.comparisons],
        _COMPARISON,
        format=format,
        document=report.as_dict() | {"folder": str(place.path) if place.kept else None},
    )
    in_saves = sum(kill.phase == "in a save" for kill in report.kills)
    line = (
        f"{len(report.kills)} kill{'s' * (len(report.kills) != 1)}, {in_saves} of them in a save; resumed from step "
        f"{', '.join(map(str, report.resumed_from)) or '-'} of {report.steps}"
    )
    if format is Format.table:
        write(plain(line) + "\n")
    if len(report.kills) < kills and report.failure is None:
        say(f"only {len(report.kills)} of {kills} kills came before the end of a training: give more --epochs")
    _end(report.failure, place, start)


@app.command()
@with_settings
def determinism(
    *,
    settings: dict[str, Any],
    model: Model = None,
    config: Configs = None,
    set_: Assignments = None,
    times: Annotated[int, typer.Option("--times", min=2, metavar="N", help="How often to train.")] = 2,
    keep: Keep = False,
    runs_dir: RunsDir = "runs",
    json: JSON = False,
    csv: CSV = False,
    md: MD = False,
) -> None:
    """Train the same config twice in fresh processes, and compare every tensor after every step.

    Exit 7, naming the first step and tensor, when one differs. Without --epochs it takes about 200 steps.
    """
    format = choose_format(json=json, csv=csv, md=md)
    chosen = _shortened(
        resolve(model=model, files=config or [], assignments=set_ or [], settings=settings), saves=False
    )
    from dlcli.checks.children import place_in
    from dlcli.checks.determinism import check_determinism

    start = time.perf_counter()
    with _children_end_with_us(), place_in(runs_dir, "determinism", keep=keep) as place:
        report = check_determinism(chosen, times=times, folder=place.path, tell=say)
        place.kept = keep or report.failure is not None
    emit(
        [comparison.as_dict() for comparison in report.comparisons],
        _COMPARISON,
        format=format,
        document=report.as_dict() | {"folder": str(place.path) if place.kept else None},
    )
    if format is Format.table:
        write(f"{report.steps} steps, {report.hashes:,} hashes a training, {report.trainings} trainings\n")
    _end(report.failure, place, start)


@app.command()
def install(
    runs_dir: RunsDir = "runs",
    data_dir: Annotated[
        str | None, typer.Option("--data-dir", help="Folder of data sets. (default: the user's cache folder)")
    ] = None,
    json: JSON = False,
    csv: CSV = False,
    md: MD = False,
) -> None:
    """Look at versions, devices, threads, the runs folder, data sets, and a training whose result is known.

    Exit 7 when something of it fails. Nothing is downloaded.
    """
    format = choose_format(json=json, csv=csv, md=md)
    from dlcli.checks.install import check_install

    start = time.perf_counter()
    with _children_end_with_us():
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


def _shortened(config: TrainConfig, *, saves: bool) -> TrainConfig:
    """The settings, made short where they do not say how long: two epochs at least, and about 200 steps.

    saves: where they do not say either how often to save, about twenty times.
    """
    from dlcli.experiment.build import build

    per_epoch = build(config).steps_per_epoch
    if config.epochs is not None and "epochs" not in config.given:
        config = config.replace(epochs=min(config.epochs, max(2, math.ceil(_STEPS / per_epoch))))
    steps = config.total_steps(per_epoch)
    if saves and "checkpoint_every" not in config.given:
        config = config.replace(checkpoint_every=f"{max(1, steps // _SAVES)}steps")
    length = f"{steps} step{'s' * (steps > 1)}"
    if config.epochs is not None:
        length = f"{config.epochs} epoch{'s' * (config.epochs > 1)} of {per_epoch} step{'s' * (per_epoch > 1)}"
    how = f", saved every {config.checkpoint_every}" if saves else ""
    say(f"{config.model} on {config.data}: {length}{how}")
    return config


@contextmanager
def _children_end_with_us() -> Iterator[None]:
    """SIGTERM and SIGHUP end this process as Ctrl-C does, so that no child goes on alone."""

    def leave(number: int, frame: object) -> None:
        sys.exit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(failure: str | None, place: Any, start: float) -> None:
    if place.kept:
        say(f"the runs are in {place.path}")
    say(f"{'failed' if failure else 'passed'} in {duration(time.perf_counter() - start)}")
    if failure:
        raise CheckError(failure)
