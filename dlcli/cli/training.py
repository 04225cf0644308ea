"""What train and resume share: an opened training is shown while it goes on, and its result told."""

import contextlib
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dlcli.cli.arguments import one_of
from dlcli.cli.columns import OUTCOME
from dlcli.cli.output import Column, Format, duration, emit, number, say, tell_damage, write
from dlcli.cli.progress import Reporter

if TYPE_CHECKING:
    from dlcli.training.session import Session

Print = Annotated[
    str | None,
    typer.Option(
        "--print",
        metavar="run|path",
        help="Print only the run's number, or its path, as soon as it exists.",
        callback=one_of("--print", "run", "path"),
    ),
]


def command_line() -> str:
    return shlex.join(["dlcli", *sys.argv[1:]])


def show(
    opened: Callable[[], AbstractContextManager["Session"]],
    *,
    lines: Callable[["Session"], Sequence[str]],
    format: Format,
    quiet: bool,
    print_: str | None,
) -> None:
    """Open a session, train, and show it: some opening lines, a line for each evaluation, a bar, the result.

    Leaves with the code of the signal that stopped the training, if one did.
    """
    from dlcli.training.signals import Stop

    stop = Stop(tell=say)
    with Reporter(quiet=quiet) as reporter, stop.receiving(), opened() as session:
        if print_:
            with contextlib.suppress(SystemExit):  # the reader has gone away, which never stops a training
                write(f"{session.run.number if print_ == 'run' else session.run.path}\n")
        tell_damage(session.damage)
        for line in lines(session):
            session.run.log(line)
            reporter.line(line)
        follow(session, reporter, stop.reason)
    _tell_result(session, format=format, quiet=quiet, printed=print_ is not None)
    if stop.signal is not None:
        raise typer.Exit(128 + stop.signal)


def follow(session: "Session", reporter: Reporter, stop: Callable[[], str | None]) -> None:
    """Train an opened session and show each record."""
    from dlcli.training.records import Row
    from dlcli.training.train import fit

    built = session.built
    watched: list[str] = []
    for record in fit(session, stop=stop):
        if isinstance(record, Row):
            reporter.epoch(str(record))
            value = record.metrics.get(f"val/{built.monitor}")
            watched = [] if value is None else [f"val/{built.monitor} {number(value)}"]
        reporter.progress(
            done=record.step,
            total=record.steps,
            what=f"epoch {record.epoch}/{session.info['epochs']}",
            notes=[f"loss {number(record.loss)}", *watched, f"{record.samples_per_second:,.0f}/s"],
        )


def _tell_result(session: "Session", *, format: Format, quiet: bool, printed: bool) -> None:
    from dlcli.runs.table import row

    run = session.run
    result = row(run)
    for line in (_closing(session, result), *_compilation(run.info().get("compile"))):
        run.log(line)
        if not quiet:
            say(line)
    if not printed:
        emit([result], _RESULT, format=format, document={**result, "path": str(run.path)})


_RESULT = [
    *OUTCOME,
    Column("best_epoch", "at epoch", right=True),
]


def _closing(session: "Session", result: dict[str, Any]) -> str:
    run, built = session.run, session.built
    if result["status"] == "interrupted":
        return f"interrupted after epoch {result['epochs']}; go on with: dlcli resume {run.path}"
    early = f" early, without a better one for {built.config.patience} evaluations" if result["reason"] else ""
    best = f": best {result['metric']} {number(result['best'])} in epoch {result['best_epoch']}"
    return f"{result['status']}{early}{best if result['metric'] else ''}; measure it: dlcli eval {run.path}"


def _compilation(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return []
    verdict = "paid for itself" if found["paid"] else "did not pay for itself"
    return [
        f"compile {verdict}: {duration(found['seconds'])} of training, about {duration(found['eager_seconds'])} without"
    ]
