"""dlcli runs rm | restore | purge"""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import typer

from dlcli.cli.arguments import RunNames, RunsDir, with_format
from dlcli.cli.columns import RUN, outcome
from dlcli.cli.output import Column, Format, age, byte_size, emit, say
from dlcli.core.errors import ConfigError
from dlcli.core.options import convert
from dlcli.runs import cleanup, trash
from dlcli.runs.names import compact, find
from dlcli.runs.run import Run, all_runs
from dlcli.runs.trash import Change

_SIZE = Column("bytes", "size", lambda value: byte_size(value), right=True)
_PATH = Column("path", "now in", fixed=True)

TrashedNames = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="RUN",
        help="Runs in the trash: 42, runs/42, names, latest, best:METRIC, 40:45 or 4,7. May be repeated.",
    ),
]


@with_format
def rm(
    names: RunNames = None,
    status: Annotated[
        list[str] | None,
        typer.Option(
            "--status",
            metavar="STATUS",
            help=f"Only runs of this status: {', '.join(cleanup.STATUSES)}. May be repeated.",
        ),
    ] = None,
    older_than: Annotated[
        str | None,
        typer.Option("--older-than", metavar="AGE", help="Only runs that started longer ago, such as 7d, 12h, 30min."),
    ] = None,
    keep_best: Annotated[
        str | None,
        typer.Option("--keep-best", metavar="N", help="Keep the N best runs of each data set and metric."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List these runs, and move none.")] = False,
    runs_dir: RunsDir = "runs",
    *,
    format: Format,
) -> None:
    """Move runs to the trash, the folder .trash in the runs folder.

    --status, --older-than and --keep-best select from the named runs, or from
    all runs if none is named. Runs that are being trained, and folders that
    are not runs of dlcli, are never removed.
    """
    chosen = _chosen(names or [], runs_dir, status=status or [], older_than=older_than, keep_best=keep_best)
    if not chosen and format is Format.table:
        say(f"no run in {runs_dir} matches: nothing is moved")
        return
    if dry_run:
        trash.check_removable(chosen)
        rows = trash.rows_of(chosen)
        _print_runs(rows, format)
        if format is Format.table:
            say(f"{_counted(len(rows))}, {byte_size(sum(row['bytes'] for row in rows))}: none is moved (--dry-run)")
        return
    moved = trash.remove(chosen)
    _print(moved, [RUN, _SIZE, _PATH], format)
    if format is Format.table:
        back = f"`dlcli runs restore {compact(change.run for change in moved)}` brings {_it(moved)} back"
        size = byte_size(sum(change.size for change in moved))
        say(f"{_counted(len(moved))}, {size}: {back}; `dlcli runs purge` frees the space")


@with_format
def restore(names: TrashedNames = None, runs_dir: RunsDir = "runs", *, format: Format) -> None:
    """Move runs from the trash back to the runs folder; without RUN, list the trash."""
    if names:
        restored = trash.restore(_named(names, lambda name: trash.find(name, runs_dir)))
        _print(restored, [RUN, _SIZE, _PATH], format)
        return
    rows = trash.rows(runs_dir)
    if not rows and format is Format.table:
        say(f"the trash of {runs_dir} is empty")
        return
    _print_runs(rows, format)


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


def _chosen(
    names: Sequence[str], runs_dir: str, *, status: Sequence[str], older_than: str | None, keep_best: str | None
) -> list[Run]:
    """The named runs; with an option, those of them (or of all runs, if none is named) that match."""
    if not names and not status and older_than is None and keep_best is None:
        raise ConfigError("no run is named: name some, or select with --status, --older-than or --keep-best")
    statuses = [each for text in status for each in text.split(",")]
    for each in statuses:
        if each not in cleanup.STATUSES:
            raise ConfigError(f"--status {each} is not one of {', '.join(cleanup.STATUSES)}")
    oldest = 0.0 if older_than is None else cleanup.seconds(older_than)
    best = 0 if keep_best is None else convert(keep_best, int, name="--keep-best")
    if best < 1 and keep_best is not None:
        raise ConfigError(f"--keep-best {best} must be at least 1")
    named = _named(names, lambda name: find(name, runs_dir)) if names else all_runs(runs_dir)
    if not status and older_than is None and keep_best is None:
        return named
    chosen, others = cleanup.select(named, statuses=statuses, older_than=oldest, keep_best=best)
    for run in others:
        say(f"{run} does not prove to be a run of dlcli, so it is left alone")
    return chosen


def _counted(count: int) -> str:
    return f"{count:,} run{'s' * (count != 1)}"


def _it(changes: Sequence[Change]) -> str:
    return "it" if len(changes) == 1 else "them"


def _print_runs(rows: Sequence[Mapping[str, Any]], format: Format) -> None:
    emit(rows, [*outcome(rows), _SIZE, Column("started", "age", age, right=True, drop=10)], format=format)


def _named(names: Sequence[str], find: Callable[[str], list[Run]]) -> list[Run]:
    """The runs with these names, each once; an error in a name is raised before anything is done."""
    return list({run.path.absolute(): run for name in names for run in find(name)}.values())


def _agreed(chosen: Sequence[Run]) -> bool:
    if not sys.stdin.isatty():
        raise ConfigError("purge deletes for good and there is no terminal to ask on: add --yes")
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
