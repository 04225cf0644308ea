"""dlcli runs, dlcli runs show: the table of all runs, and one run in full. Removal of runs is in trash.py."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from dlcli.cli import archive, compare, publish, tags, trash
from dlcli.cli.arguments import RunName, RunsDir, one_of, with_format
from dlcli.cli.columns import outcome
from dlcli.cli.output import Column, Format, age, duration, emit, number, say, setting, write
from dlcli.cli.repeating import Seen, repeated
from dlcli.core.errors import ConfigError, RunError, did_you_mean
from dlcli.core.options import convert
from dlcli.runs import differences
from dlcli.runs import table as summary
from dlcli.runs.details import details
from dlcli.runs.names import find, find_one
from dlcli.runs.where import Condition, parse

app = typer.Typer(
    invoke_without_command=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="List all runs, newest first; show, compare, remove or restore them.",
)
app.command(context_settings=tags.DASHES)(tags.tag)
for command in (
    tags.note, compare.compare, compare.diff, archive.verify, archive.archive, archive.import_, publish.publish,
    trash.rm, trash.restore, trash.purge,
):  # fmt: skip
    app.command(command.__name__.rstrip("_"))(command)


Where = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        metavar="CONDITION",
        help="Only runs that fit, such as 'lr < 0.1 and val/accuracy > 0.98 and model = cnn'. May be repeated.",
    ),
]
Sort = Annotated[
    str,
    typer.Option("--sort", metavar="NAME[:desc]", help="Sort by a setting or metric. (default: newest first)"),
]

# Columns that --only-changed keeps.
_RESULT = ("run", "metric", "best")

# How many of the first and of the last rows of metrics.csv the tables of `runs show` have.
_ENDS = (5, 15)

_STATUSES = ("starting", "running", "finished", "interrupted", "pruned", "diverged", "failed", "dead", "broken")

Status = Annotated[
    str | None, typer.Option("--status", metavar="STATUS", help="Only finished, running, dead, ... runs.")
]
Tag = Annotated[
    list[str] | None, typer.Option("--tag", metavar="TAG", help="Only runs with this tag. May be repeated.")
]
OfSweep = Annotated[
    str | None, typer.Option("--sweep", metavar="SWEEP", help="Only the runs of this sweep, by its number.")
]
Last = Annotated[str, typer.Option("--last", metavar="N", help="Only the N newest runs; 0 for all.")]


@app.callback()
@with_format
def runs(
    context: typer.Context,
    where: Where = None,
    sort: Sort = "",
    columns: Annotated[
        str,
        typer.Option(
            "--columns", metavar="NAMES", help="Add or remove columns, +lr,-device, or show only these: lr,val/loss."
        ),
    ] = "",
    only_changed: Annotated[
        bool, typer.Option("--only-changed", help="Leave out columns that are the same for all listed runs.")
    ] = False,
    status: Status = None,
    tag: Tag = None,
    sweep: OfSweep = None,
    last: Last = "0",
    limit: Annotated[str, typer.Option("--limit", "-n", metavar="N", help="List at most N runs; 0 lists all.")] = "0",
    group_by: Annotated[
        str | None,
        typer.Option(
            "--group-by",
            metavar="config",
            help="One row for all finished runs that differ only in their seeds.",
            callback=one_of("--group-by", "config"),
        ),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Show the table again whenever it changes.")] = False,
    runs_dir: RunsDir = "runs",
    *,
    format: Format,
) -> None:
    """List all runs, newest first.

    Conditions, order and columns can name settings (lr, model.hidden), metrics
    (val/loss, test/accuracy), and status, name, data, epochs, seconds, age (7d).
    """
    if context.invoked_subcommand is not None:
        _refuse_misplaced(context)
        return
    conditions, newest, most = _conditions(where, status, tag, sweep), _count(last, "--last"), _count(limit, "--limit")
    if group_by is not None:
        if columns or only_changed or sort or most or watch:
            raise ConfigError(
                "--group-by shows a fixed table: leave out --columns, --only-changed, --sort, --limit and --watch"
            )
        _show_groups(*differences.groups(runs_dir, last=newest, conditions=conditions), runs_dir, format)
        return

    if only_changed and format is Format.json:
        raise ConfigError("--only-changed leaves out columns of a table, and JSON has none: leave out one of them")
    asked = _asked(columns)
    extra = [*asked[0], *asked[2]]

    def look() -> Seen:
        rows, differing = differences.rows(
            runs_dir, limit=most, last=newest, conditions=conditions, sort=sort, extra=extra
        )
        what = [(row["run"], row["status"], row["epochs"], row["best"], row["tags"], row["note"]) for row in rows]
        live = any(row["status"] in ("running", "starting") for row in rows)
        fitting = " that fit" if conditions else ""
        draw = partial(_show, rows, differing, asked, runs_dir, format, fitting=fitting, only_changed=only_changed)
        return Seen(what, live, draw)

    if not watch:
        look().draw()
    elif format is Format.table:
        repeated(look)
    else:
        raise ConfigError("--watch shows a table: leave out --json, --csv and --md")


def _show(
    rows: list[dict[str, Any]],
    differing: Sequence[str],
    asked: tuple[list[str], list[str], list[str]],
    runs_dir: str,
    format: Format,
    *,
    fitting: str,
    only_changed: bool,
) -> None:
    added, removed, only = asked
    if not rows and format is Format.table:
        say(f"there are no runs{fitting} in {runs_dir}" + ("" if fitting else ": make one with `dlcli train cnn`"))
        return
    flat = [{**row["settings"], **row, **_flat(row), **row.pop("extra", {})} for row in rows]
    if format is Format.csv:
        flat = [{**row, "tags": " ".join(row["tags"])} for row in flat]
        names = [*summary.COLUMNS, "test", "test_metric", "test_step", *differing]
        found = [Column(name, name) for name in names]
    else:
        found = _columns(flat, differing)
    further = [Column(name, name, setting, right=True, fixed=True) for name in (*added, *only) if name != "run"]
    if only:
        found = [found[0], *further]
    else:
        headings = {column.heading for column in found}
        if unknown := [name for name in removed if name not in headings]:
            raise ConfigError(f"--columns -{unknown[0]} is no column: {did_you_mean(unknown[0], sorted(headings))}")
        found = [c for c in found if c.heading not in removed and c.key not in added]
        found = (_changed(found, flat) if only_changed else found) + further
    emit(flat, found, format=format, document=rows)


def _show_groups(rows: list[dict[str, Any]], differing: Sequence[str], runs_dir: str, format: Format) -> None:
    if not rows and format is Format.table:
        say(f"there are no finished runs to put together in {runs_dir}: see `dlcli runs`")
        return
    flat = []
    for row in rows:
        low, high = row["interval"] or (None, None)
        flat.append({**row["settings"], **row, "low": low, "high": high})
    columns = [
        Column("runs", "runs", fixed=True),
        Column("model", "model"),
        Column("data", "data", drop=3),
        *(Column(name, name, setting, drop=20 + place) for place, name in enumerate(differing)),
        Column("metric", "metric", drop=1),
        Column("count", "n", right=True),
        Column("mean", "mean", right=True),
        Column("std", "std", right=True, drop=5),
        Column("low", "from", right=True, drop=2),
        Column("high", "to", right=True, drop=2),
    ]
    emit(flat, columns, format=format, document=rows)


def _conditions(
    where: list[str] | None, status: str | None, tags: list[str] | None, sweep: str | None
) -> list[Condition]:
    """--status, --tag and --sweep are short for conditions."""
    if status is not None and status not in _STATUSES:
        raise ConfigError(f"--status {status} is no status: {did_you_mean(status, _STATUSES)}")
    if sweep is not None:
        convert(sweep, int, name="--sweep")
    short = [f"status = {status}"] * (status is not None) + [f"sweep = {sweep}"] * (sweep is not None)
    return parse([*(where or []), *short, *(f"tag = {tag}" for tag in tags or [])])


def _count(text: str, option: str) -> int:
    count = int(convert(text, int, name=option))
    if count < 0:
        raise ConfigError(f"{option} {count} must be at least 0")
    return count


def _asked(columns: str) -> tuple[list[str], list[str], list[str]]:
    """--columns: names to add, names to remove, and the only names to show."""
    names = [name.strip() for name in columns.split(",") if name.strip()]
    added = [name[1:] for name in names if name[0] == "+"]
    removed = [name[1:] for name in names if name[0] == "-"]
    only = [name for name in names if name[0] not in "+-"]
    if only and (added or removed):
        raise ConfigError(f"--columns {columns} mixes the only columns with ones to add or remove: write +{only[0]}")
    return added, removed, only


@app.command()
def select(
    name: Annotated[
        str | None, typer.Argument(metavar="[RUNS]", help="Among these: 40:45, 4,7, a name, latest or best:METRIC.")
    ] = None,
    where: Where = None,
    sort: Sort = "",
    status: Status = None,
    tag: Tag = None,
    sweep: OfSweep = None,
    last: Last = "0",
    all_: Annotated[bool, typer.Option("--all", help="Print all that fit, not only the first.")] = False,
    path: Annotated[bool, typer.Option("--path", help="Print paths instead of numbers.")] = False,
    runs_dir: RunsDir = "runs",
) -> None:
    """Print the number of the newest run that fits, for scripts: dlcli eval
    "$(dlcli runs select --where 'status = finished' --sort val/loss)".

    Exits with code 4 if there is none.
    """
    conditions, newest = _conditions(where, status, tag, sweep), _count(last, "--last")
    rows, configs = differences.listed(runs_dir, last=newest, conditions=conditions, sort=sort)
    numbers = [row["run"] for row in rows]
    if name is not None and (numbers or not conditions):
        named = {run.number for run in find(name, runs_dir, among=list(zip(rows, configs, strict=True)))}
        numbers = [number for number in numbers if number in named]
    if not numbers:
        raise RunError(f"no run in {runs_dir} fits: see `dlcli runs`")
    for found in numbers if all_ else numbers[:1]:
        write(f"{Path(runs_dir) / str(found) if path else found}\n")


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
    tags = [Column("tags", "tags", _tags, cut=20, drop=7)] if any(row["tags"] for row in rows) else []
    note = [Column("note", "note", cut=26, drop=13)] if any(row["note"] for row in rows) else []
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
        *tags,
        *note,
        *reason,
    ]


@app.command()
@with_format
def show(run: RunName, runs_dir: RunsDir = "runs", *, format: Format) -> None:
    """Show one run: its record, its settings, its metrics and its files.

    --csv and --md print the metrics only. Of more than 500,000 rows of metrics,
    those with the lowest and highest values of each of 500 stretches.
    """
    found = details(find_one(run, runs_dir), ends=_ENDS if format is Format.table else None)
    history = [
        Column(name, name, _cell, right=True, drop=max(0, place - 2))  # epoch, step and loss are always shown
        for place, name in enumerate((found["metrics"] or [{}])[0])
    ]
    if format is Format.table:
        _show_tables(found, history)
        return
    if len(found["metrics"]) < found["rows"]:
        say(f"{len(found['metrics']):,} of {found['rows']:,} rows, with the lowest and highest values of each column")
    emit(found["metrics"], history, format=format, document=found)


def _show_tables(found: dict[str, Any], history: list[Column]) -> None:
    pair = [Column("name", "name", fixed=True), Column("value", "value")]
    record = {k: v for k, v in found["info"].items() if v not in (None, {}, "") and not isinstance(v, dict)}
    settings = {k: v for k, v in found["config"].items() if v is not None}
    heading = found["run"] + (f", named {found['name']}" if found["name"] else "")
    for title, values in ((heading, record), ("settings", settings)):
        emit([{"name": k, "value": v} for k, v in values.items()], pair, format=Format.table, title=title)
    shown, rows = found["metrics"], found["rows"]
    title = "metrics" if len(shown) == rows else f"metrics ({len(shown)} of {rows} rows; all are in metrics.csv)"
    if shown:
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


def _tags(value: Sequence[str]) -> str:
    return " ".join(value) or "-"


def _changed(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> list[Column]:
    """Without those that are the same in all rows: the run and its result stay."""
    return [c for c in columns if c.key in _RESULT or any(row.get(c.key) != rows[0].get(c.key) for row in rows)]


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if float(value).is_integer() and abs(value) < 1e15 else f"{value:.5g}"
