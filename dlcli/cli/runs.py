"""dlcli runs: the table of all runs, and one of them in full; what removes runs is in trash.py."""

from typing import Annotated

import typer

from dlcli.cli import trash
from dlcli.cli.arguments import CSV, JSON, MD, RunName, RunsDir
from dlcli.cli.output import Column, Format, age, choose_format, duration, emit, say
from dlcli.core.errors import ConfigError, DlcliError
from dlcli.core.options import convert
from dlcli.core.reading import files_below
from dlcli.runs import table as summary
from dlcli.runs.names import find_one

_MOST_FILES = 1000

app = typer.Typer(
    invoke_without_command=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="List all runs, newest first; `runs show RUN` tells all of one, `runs rm RUN` moves it to the trash.",
)
for command in (trash.rm, trash.restore, trash.purge):
    app.command()(command)


@app.callback()
def runs(
    context: typer.Context,
    limit: Annotated[str, typer.Option("--limit", "-n", metavar="N", help="At most so many; 0 is all.")] = "0",
    runs_dir: RunsDir = "runs",
    json: JSON = False,
    csv: CSV = False,
    md: MD = False,
) -> None:
    """List all runs, newest first."""
    if context.invoked_subcommand is not None:
        _refuse_misplaced(context)
        return
    most = convert(limit, int, name="--limit")
    if most < 0:
        raise ConfigError(f"--limit {most} must be at least 0")
    rows = summary.rows(runs_dir, limit=most)
    format = choose_format(json=json, csv=csv, md=md)
    if not rows and format is Format.table:
        say(f"there are no runs in {runs_dir}: make one with `dlcli train cnn`")
        return
    columns = [
        Column("run", "run", right=True, fixed=True),
        Column("status", "status"),
        Column("model", "model"),
        Column("data", "data"),
        Column("epochs", "epochs", right=True),
        Column("metric", "metric"),
        Column("best", "best", right=True),
        Column("seconds", "time", duration, right=True),
        Column("device", "device"),
        Column("started", "age", age, right=True),
    ]
    if any(row["reason"] for row in rows):
        columns.append(Column("reason", "reason"))
    if format is Format.csv:
        columns = [Column(name, name) for name in summary.COLUMNS]
    emit(rows, columns, format=format)


@app.command()
def show(run: RunName, runs_dir: RunsDir = "runs", json: JSON = False, csv: CSV = False, md: MD = False) -> None:
    """Tell all of one run: what it is, its settings, its metrics, what it holds."""
    format = choose_format(json=json, csv=csv, md=md)
    found = find_one(run, runs_dir)
    info = found.info()
    try:
        settings = found.settings()
    except DlcliError as error:
        settings = {"damage": str(error)}
    metrics = found.metrics()
    files = [str(p.relative_to(found.path)) for p in files_below(found.path, most=_MOST_FILES)]
    document = {"run": str(found), "info": info, "config": settings, "metrics": metrics, "files": files}
    if format is Format.json:
        emit([], [], format=format, document=document)
        return
    names = list(metrics[0]) if metrics else []
    history = [Column(n, n, right=True) for n in names]
    if format is not Format.table:
        emit(metrics, history, format=format)
        return
    flat = {k: v for k, v in info.items() if v not in (None, {}, "") and not isinstance(v, dict)}
    pair = [Column("name", "name", fixed=True), Column("value", "value")]
    emit([{"name": k, "value": v} for k, v in flat.items()], pair, format=format, title=str(found))
    emit([{"name": k, "value": v} for k, v in settings.items() if v is not None], pair, format=format, title="settings")
    shown = metrics if len(metrics) <= 20 else metrics[:5] + metrics[-15:]
    title = "metrics" if len(shown) == len(metrics) else f"metrics (20 of {len(metrics)} rows; all are in metrics.csv)"
    if metrics:
        emit(shown, [Column(c.key, c.heading, _cell, right=True) for c in history], format=format, title=title)
    emit([{"file": f} for f in files], [Column("file", "files")], format=format)


def _refuse_misplaced(context: typer.Context) -> None:
    """An option before the name of the inner command would not reach it."""
    for param in context.command.params:
        source = context.get_parameter_source(param.name or "")
        if source is not None and source.name == "COMMANDLINE":
            inner = context.invoked_subcommand
            raise ConfigError(f"{param.opts[0]} goes behind {inner}: dlcli runs {inner} {param.opts[0]} ...")


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if float(value).is_integer() and abs(value) < 1e15 else f"{value:.5g}"
