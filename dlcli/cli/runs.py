"""dlcli runs, dlcli runs show: the table of all runs, and one run in full. Removal of runs is in trash.py."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from dlcli.cli import compare, trash
from dlcli.cli.arguments import RunName, RunsDir, with_format
from dlcli.cli.columns import outcome
from dlcli.cli.output import Column, Format, age, duration, emit, number, say, setting
from dlcli.core.errors import ConfigError
from dlcli.core.options import convert
from dlcli.runs import differences
from dlcli.runs import table as summary
from dlcli.runs.details import details
from dlcli.runs.names import find_one

app = typer.Typer(
    invoke_without_command=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="List all runs, newest first; show, compare, remove or restore them.",
)
for command in (compare.compare, trash.rm, trash.restore, trash.purge):
    app.command()(command)


@app.callback()
@with_format
def runs(
    context: typer.Context,
    limit: Annotated[str, typer.Option("--limit", "-n", metavar="N", help="List at most N runs; 0 lists all.")] = "0",
    runs_dir: RunsDir = "runs",
    *,
    format: Format,
) -> None:
    """List all runs, newest first."""
    if context.invoked_subcommand is not None:
        _refuse_misplaced(context)
        return
    most = convert(limit, int, name="--limit")
    if most < 0:
        raise ConfigError(f"--limit {most} must be at least 0")
    rows, differing = differences.rows(runs_dir, limit=most)
    if not rows and format is Format.table:
        say(f"there are no runs in {runs_dir}: make one with `dlcli train cnn`")
        return
    flat = [{**row["settings"], **row, **_flat(row)} for row in rows]
    if format is Format.csv:
        names = [*summary.COLUMNS, "test", "test_metric", "test_step", *differing]
        emit(flat, [Column(name, name) for name in names], format=format)
    else:
        emit(flat, _columns(flat, differing), format=format, document=rows)


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """The result of `dlcli eval` as separate values, and as a text, `measured`. The text names the metric and the step
    if they are not those of the best checkpoint."""
    test = row["test"]
    if test is None:
        return {"test": None, "test_metric": None, "test_step": None, "measured": None}
    metric = "" if row["metric"] in (test["metric"], f"val/{test['metric']}") else f"{test['metric']} "
    step = "" if test["step"] == row["best_step"] else f" at step {test['step']}"
    told = f"{metric}{number(test['value'])}{step}"
    return {"test": test["value"], "test_metric": test["metric"], "test_step": test["step"], "measured": told}


def _columns(rows: Sequence[Mapping[str, Any]], differing: Sequence[str]) -> list[Column]:
    """The run, the settings that differ between the listed runs, and the results."""
    settings = []
    for place, name in enumerate(differing):
        numeric = all(row[name] is None or type(row[name]) in (int, float) for row in rows)
        settings.append(Column(name, name, setting, right=numeric, drop=(5, 8)[place] if place < 2 else 20 + place))
    measured = [Column("measured", "test", right=True, drop=6)] if any(row["measured"] for row in rows) else []
    reason = [Column("reason", "reason", cut=26, drop=2)] if any(row["reason"] for row in rows) else []
    *what, epochs, metric, best = outcome(rows)
    return [
        *what,
        *settings,
        epochs,
        metric,
        best,
        *measured,
        Column("seconds", "time", duration, right=True, drop=11),
        Column("device", "device", drop=12),
        Column("started", "age", age, right=True, drop=10),
        *reason,
    ]


@app.command()
@with_format
def show(run: RunName, runs_dir: RunsDir = "runs", *, format: Format) -> None:
    """Show one run: its record, its settings, its metrics and its files.

    --csv and --md print the metrics only.
    """
    found = details(find_one(run, runs_dir))
    history = [
        Column(name, name, _cell, right=True, drop=max(0, place - 2))  # epoch, step and loss are always shown
        for place, name in enumerate((found["metrics"] or [{}])[0])
    ]
    if format is Format.table:
        _show_tables(found, history)
    else:
        emit(found["metrics"], history, format=format, document=found)


def _show_tables(found: dict[str, Any], history: list[Column]) -> None:
    pair = [Column("name", "name", fixed=True), Column("value", "value")]
    record = {k: v for k, v in found["info"].items() if v not in (None, {}, "") and not isinstance(v, dict)}
    settings = {k: v for k, v in found["config"].items() if v is not None}
    heading = found["run"] + (f", named {found['name']}" if found["name"] else "")
    for title, values in ((heading, record), ("settings", settings)):
        emit([{"name": k, "value": v} for k, v in values.items()], pair, format=Format.table, title=title)
    metrics = found["metrics"]
    shown = metrics if len(metrics) <= 20 else metrics[:5] + metrics[-15:]
    title = "metrics" if len(shown) == len(metrics) else f"metrics (20 of {len(metrics)} rows; all are in metrics.csv)"
    if metrics:
        emit(shown, history, format=Format.table, title=title)
    emit([{"file": f} for f in found["files"]], [Column("file", "files")], format=Format.table)


def _refuse_misplaced(context: typer.Context) -> None:
    """ConfigError for an option before the name of a sub-command, which would have no effect."""
    for param in context.command.params:
        source = context.get_parameter_source(param.name or "")
        if source is not None and source.name == "COMMANDLINE":
            inner, option = context.invoked_subcommand, param.opts[0]
            taken = {o for p in getattr(context.command, "commands", {})[inner].params for o in p.opts}
            if option not in taken:
                raise ConfigError(f"{option} is only for `dlcli runs`: leave it out of `dlcli runs {inner}`")
            raise ConfigError(f"{option} must follow {inner}: dlcli runs {inner} {option} ...")


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if float(value).is_integer() and abs(value) < 1e15 else f"{value:.5g}"
