"""dlcli runs rm | restore | purge"""

import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from dlcli.cli.arguments import RunNames, RunsDir, with_format
from dlcli.cli.columns import OUTCOME, RUN
from dlcli.cli.output import Column, Format, age, byte_size, emit, say
from dlcli.core.errors import ConfigError
from dlcli.runs import trash
from dlcli.runs.names import find
from dlcli.runs.run import Run, all_runs
from dlcli.runs.trash import Change

_SIZE = Column("bytes", "size", lambda value: byte_size(value), right=True)
_PATH = Column("path", "now in", fixed=True)

TrashedNames = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="RUN", help="Runs in the trash: 42, runs/42, latest, best:METRIC or 40:45. May be repeated."
    ),
]


@with_format
def rm(names: RunNames, runs_dir: RunsDir = "runs", *, format: Format) -> None:
    """Move runs to the trash, which is the folder .trash beside them.

    Runs that are being trained, and folders that are no runs of dlcli, are
    refused.
    """
    moved = trash.remove(_named(names, lambda name: find(name, runs_dir)))
    _print(moved, [RUN, _SIZE, _PATH], format)
    if format is Format.table:
        numbers = " ".join(str(change.run) for change in moved)
        say(f"`dlcli runs restore {numbers}` brings back; `dlcli runs purge` deletes for good")


@with_format
def restore(names: TrashedNames = None, runs_dir: RunsDir = "runs", *, format: Format) -> None:
    """Move runs from the trash back to where they were; without RUN, list the trash."""
    if names:
        restored = trash.restore(_named(names, lambda name: trash.find(name, runs_dir)))
        _print(restored, [RUN, _SIZE, _PATH], format)
        return
    rows = trash.rows(runs_dir)
    if not rows and format is Format.table:
        say(f"the trash of {runs_dir} is empty")
        return
    columns = [
        *OUTCOME,
        _SIZE,
        Column("started", "age", age, right=True, drop=10),
    ]
    emit(rows, columns, format=format)


@with_format
def purge(
    names: TrashedNames = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Delete without asking.")] = False,
    runs_dir: RunsDir = "runs",
    *,
    format: Format,
) -> None:
    """Delete runs in the trash for good; without RUN, all of them."""
    if names:
        chosen = _named(names, lambda name: trash.find(name, runs_dir))
    else:
        chosen, others = trash.purgeable(runs_dir)
        for run in others:
            say(f"{run} does not prove to be a run of dlcli, so it is left alone")
    if chosen and not yes and not _agreed(chosen):
        chosen = []
    deleted = trash.purge(chosen, runs_dir)
    if not deleted and format is Format.table:
        say("nothing was deleted" if all_runs(trash.trash_of(runs_dir)) else f"the trash of {runs_dir} is empty")
        return
    _print(deleted, [RUN, _SIZE], format)
    if format is Format.table:
        say(f"{byte_size(sum(change.size for change in deleted))} freed")


def _named(names: Sequence[str], find: Callable[[str], list[Run]]) -> list[Run]:
    """All runs that the names name, each once; an error in a name comes before anything is done."""
    return list({run.path.absolute(): run for name in names for run in find(name)}.values())


def _agreed(chosen: Sequence[Run]) -> bool:
    if not sys.stdin.isatty():
        raise ConfigError("purge deletes for good and there is no terminal to ask on: say --yes")
    numbers = ", ".join(str(run.number) for run in chosen)
    taken = byte_size(sum(trash.size(run.path) for run in chosen))
    what = f"run {numbers}" if len(chosen) == 1 else f"{len(chosen)} runs ({numbers})"
    return typer.confirm(f"delete {what} for good, {taken}?", err=True)


def _print(changes: Sequence[Change], columns: Sequence[Column], format: Format) -> None:
    rows: list[dict[str, Any]] = [
        {"run": change.run, "bytes": change.size, "path": change.path and str(change.path)} for change in changes
    ]
    keys = [column.key for column in columns]
    emit([{key: row[key] for key in keys} for row in rows], columns, format=format)
