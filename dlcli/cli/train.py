"""dlcli train"""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from dlcli.cli.arguments import CSV, JSON, MD, RunsDir
from dlcli.cli.flags import resolve, with_settings
from dlcli.cli.output import Column, Format, Reporter, choose_format, duration, emit, number, print_json, say, write
from dlcli.core.errors import ConfigError


@with_settings
def train(
    *,
    settings: dict[str, Any],
    model: Annotated[
        str | None, typer.Argument(help="A model of `dlcli models`, or your own package.module:Name.")
    ] = None,
    config: Annotated[
        list[str] | None,
        typer.Option("--config", help="Settings from a .toml or .json file, or recipe:NAME. May be repeated."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Any setting, such as model.hidden=256. May be repeated."),
    ] = None,
    runs_dir: RunsDir = "runs",
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the resolved settings as TOML and stop.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print size, work and memory, and stop; makes no run.")
    ] = False,
    print_: Annotated[
        str | None, typer.Option("--print", metavar="run|path", help="Print nothing but the run's id, or its path.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
    json: JSON = False,
    csv: CSV = False,
    md: MD = False,
) -> None:
    """Train a model in a new run, and print its best result."""
    if print_ not in (None, "run", "path"):
        raise ConfigError(f"--print {print_} is not one of run, path")
    format = choose_format(json=json, csv=csv, md=md)
    chosen = resolve(model=model, files=config or [], assignments=set_ or [], settings=settings)
    from dlcli.experiment.build import build, resolve_options
    from dlcli.experiment.load import import_own

    import_own(chosen, runs_dir=runs_dir)

    if print_config:
        from dlcli.config.toml import to_toml

        chosen = resolve_options(chosen)
        if json:
            print_json(chosen.as_dict())
        else:
            write(to_toml(chosen))
        return

    built = build(chosen)
    if dry_run:
        from dlcli.experiment.estimate import estimate

        rows = [{"what": name, "value": value} for name, value in estimate(built).items()]
        columns = [Column("what", "what"), Column("value", "value", _counted, right=True)]
        emit(rows, columns, format=format, document={r["what"]: r["value"] for r in rows})
        return

    from dlcli.experiment.estimate import check_space
    from dlcli.runs.run import Run

    check_space(built, runs_dir)
    with Reporter(quiet=quiet) as reporter, stop_signals() as stop:
        run = Run.create(runs_dir)  # from here on a signal leaves a run that can go on
        show(run, built, reporter, stop, lines=_opening(run, built))
    finish(run, built, stop, format=format, quiet=quiet, print_=print_)


def show(run: Any, built: Any, reporter: Reporter, stop: "Stop", *, lines: list[str], saved: Any = None) -> None:
    """Train, and show it: some opening lines, a line an epoch, a bar."""
    from dlcli.training.loop import Epoch, fit

    for line in lines:
        reporter.line(line)
    watched = ""
    for record in fit(built, run, stop=stop.reason, saved=saved, command=command_line(), log=lines):
        if isinstance(record, Epoch):
            reporter.epoch(str(record))
            value = record.metrics.get(f"val/{built.monitor}")
            watched = "" if value is None else f"  val/{built.monitor} {number(value)}"
        reporter.progress(
            done=record.step,
            total=record.steps,
            what=f"epoch {record.epoch}/{built.config.epochs}",
            note=f"loss {number(record.loss)}{watched}  {record.samples_per_second:,.0f} samples/s",
        )


def finish(run: Any, built: Any, stop: "Stop", *, format: Format, quiet: bool, print_: str | None) -> None:
    """Tell the result, and leave with the code of the signal that stopped the run, if one did."""
    from dlcli.runs.table import row

    result = row(run)
    lines = [_closing(run, built, result), *_compilation(run.info().get("compile"))]
    for line in lines:
        run.log(line)
        if not quiet:
            say(line)
    if print_:
        write(f"{run.number if print_ == 'run' else run.path}\n")
    else:
        emit([result], _RESULT, format=format, document={**result, "path": str(run.path)})
    if stop.signal is not None:
        raise typer.Exit(128 + stop.signal)


_RESULT = [
    Column("run", "run", right=True, fixed=True),
    Column("status", "status"),
    Column("model", "model"),
    Column("data", "data"),
    Column("epochs", "epochs", right=True),
    Column("metric", "metric"),
    Column("best", "best", right=True),
    Column("best_epoch", "at epoch", right=True),
]


class Stop:
    """What the signal handlers leave for the loop. The first signal asks it to stop; the second one stops it."""

    signal: int | None = None

    def reason(self) -> str | None:
        return None if self.signal is None else signal.Signals(self.signal).name

    def receive(self, number: int, frame: object) -> None:
        if self.signal is not None:
            signal.signal(number, signal.SIG_DFL)  # a third one ends the process wherever it is
            raise SystemExit(128 + number)
        self.signal = number
        say(f"{signal.Signals(number).name}: saving a checkpoint and stopping; once more stops at once")


@contextmanager
def stop_signals() -> Iterator[Stop]:
    stop = Stop()
    before = {}
    for which in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(which) is not signal.SIG_IGN:  # `cmd &` and nohup ask to be left alone
            before[which] = signal.signal(which, stop.receive)
    try:
        yield stop
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)


def _opening(run: Any, built: Any) -> list[str]:
    data, config = built.dataset, built.config
    parts = [f"{len(data.train):,} train", f"{len(data.val or ()):,} val", f"{len(data.test or ()):,} test samples"]
    parameters = sum(p.numel() for p in built.model.parameters())
    threads = f", {built.threads} thread{'s' * (built.threads > 1)}" if built.device.type == "cpu" else ""
    lines = [
        f"run {run.number} in {run.path}",
        f"{config.model} ({parameters:,} parameters) on {config.data} ({', '.join(parts)}); {built.device}{threads}",
    ]
    if data.val is None:
        lines.append("nothing is held out for validation (val_fraction = 0): best is the last checkpoint")
    return lines


def _closing(run: Any, built: Any, result: dict[str, Any]) -> str:
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


def command_line() -> str:
    import shlex

    return shlex.join(["dlcli", *sys.argv[1:]])


def _counted(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
