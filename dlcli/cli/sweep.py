"""dlcli sweep, and its show, resume, stop and best. `dlcli train --seeds` comes here, too."""

import contextlib
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

from dlcli.cli.arguments import Assignments, Configs, Model, RunsDir, with_format
from dlcli.cli.flags import check_options, layer, with_settings
from dlcli.cli.output import Column, Format, emit, number, print_json, say, write
from dlcli.cli.progress import Reporter
from dlcli.config.settings import TrainConfig
from dlcli.config.toml import read_table
from dlcli.core.errors import ConfigError, RunError, TrialsError, did_you_mean
from dlcli.runs.run import now
from dlcli.runs.sweeps import Sweep, find_sweep

if TYPE_CHECKING:
    from dlcli.runs.trials import Trial
    from dlcli.sweeps.driver import Event
    from dlcli.sweeps.plan import Plan
    from dlcli.sweeps.workers import Workers

_CONTEXT = {"help_option_names": ["-h", "--help"]}

# What a [sweep] table of a file may hold.
_IN_A_FILE = ("over", "method", "trials", "seeds", "prune", "confirm", "listed")


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


@dataclass(frozen=True)
class Place:
    """Where the runs of a sweep are trained. on: local, workers, ray or ray://HOST:PORT. devices: as --devices."""

    on: str
    jobs: int
    devices_text: str = ""

    def __post_init__(self) -> None:
        if self.on not in ("local", "workers", "ray") and not self.on.startswith("ray://"):
            raise ConfigError(f"--on {self.on} is not one of local, workers, ray, ray://HOST:PORT")
        if self.on != "local" and self.devices:
            raise ConfigError(f"--devices {self.devices_text} is for this machine, and --on is {self.on}: leave it out")
        if self.on.startswith("ray"):
            from dlcli.sweeps.on_ray import check_installed

            check_installed()

    @property
    def devices(self) -> list[str]:
        words = [word.strip() for word in self.devices_text.split(",") if word.strip()]
        if any(not word.isdigit() for word in words):
            raise ConfigError(f"--devices {self.devices_text} is not a list of numbers such as 0,1")
        return words

    @property
    def local_jobs(self) -> int:
        return self.jobs if self.on == "local" else 0

    def lines(self, found: Sweep) -> list[str]:
        return [f"workers join with: dlcli sweep work {found.number}"] if self.on == "workers" else []

    @contextlib.contextmanager
    def opened(self, found: Sweep, plan: "Plan", workers: "Workers") -> Iterator[Callable[[], None]]:
        """Let workers join, if they are elsewhere. Yields a function to call often, which raises if they cannot."""
        if self.on == "local":
            yield lambda: None
            return
        from dlcli.sweeps.joining import Door

        with contextlib.ExitStack() as stack:
            workers.door = Door(found)
            stack.callback(workers.door.close)
            watch: Callable[[], None] = lambda: None  # noqa: E731
            if self.on != "workers":
                from dlcli.sweeps.on_ray import OnRay

                cpus, gpus = plan.cpus_and_gpus
                on_ray = OnRay(self.on, found, jobs=self.jobs, cpus=cpus, gpus=gpus)
                stack.callback(on_ray.close)
                watch = on_ray.check
            yield watch


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
    print_trials: Annotated[
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
    if print_trials:
        _print_trials(plan, format)
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
        _show_importance(found, format)
    else:
        _show(found, format)


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
        document = found.plan()
        before = from_document(document, file=str(found.path / "sweep.json"))
        plan = before.extended(trials=int(more), confirm=confirm)
        if plan != before:
            found.write_plan(document | plan.as_document(), plan.to_toml())
        place = Place(on, jobs, devices)
        workers = Workers(runs_dir=runs_dir, jobs=place.local_jobs, devices=place.devices)
        _drive(found, plan, place, workers, again=failed, fail_fast=fail_fast, quiet=quiet, format=format)


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
        emit([_row(first)], _columns([first]), format=format, document=_document(first) | {"run": chosen.run})


def train_seeds(base: Mapping[str, Any], seeds: int, runs_dir: str, *, jobs: int, quiet: bool, format: Format) -> None:
    """One setting with several seeds: a sweep of one trial."""
    from dlcli.sweeps import plan as plans

    plan = plans.make(base=base, over=[], method=None, trials=None, seeds=seeds, prune="off", confirm=0, listed=[{}])
    start(plan, runs_dir, Place("local", jobs), quiet=quiet, format=format)


def start(
    plan: "Plan",
    runs_dir: str,
    place: Place,
    *,
    needed: bool = False,
    fail_fast: bool = False,
    quiet: bool,
    format: Format,
) -> None:
    """Make a new sweep and run it."""
    from dlcli.cli.training import command_line
    from dlcli.core.version import __version__
    from dlcli.sweeps.workers import Workers

    workers = Workers(runs_dir=runs_dir, jobs=place.local_jobs, devices=place.devices)
    try:
        workers.check(plan.layers_to_check())
        made = Sweep.create(runs_dir)
        with made.driven():
            about = {"started": now(), "command": command_line(), "dlcli": __version__}
            made.write_plan(plan.as_document() | about, plan.to_toml())
            try:
                _drive(made, plan, place, workers, needed=needed, fail_fast=fail_fast, quiet=quiet, format=format)
            finally:
                if not (made.path / "log.jsonl").exists():  # nothing was begun
                    shutil.rmtree(made.path, ignore_errors=True)
    finally:
        workers.close()


def _drive(
    found: Sweep,
    plan: "Plan",
    place: Place,
    workers: "Workers",
    *,
    needed: bool = False,
    again: bool = False,
    fail_fast: bool,
    quiet: bool,
    format: Format,
) -> None:
    """Run what is left of a sweep, show how it goes, and then its table.

    Raises TrialsError (exit 8) if some trials failed.
    """
    from dlcli.sweeps.driver import drive
    from dlcli.training.signals import Stop

    stop = Stop(tell=lambda line: say(line.replace("a checkpoint", "checkpoints")))
    try:
        with Reporter(quiet=quiet) as reporter, stop.receiving(), place.opened(found, plan, workers) as watch:
            shown = _Shown(found, plan, reporter)
            for line in (shown.opening(place.jobs), *place.lines(found)):
                reporter.line(line)
            for event in drive(
                found, plan, workers, jobs=place.jobs, stop=stop.reason, watch=watch, needed=needed, again=again,
                fail_fast=fail_fast,
            ):  # fmt: skip
                shown.event(event)
            asked = found.asked_to_stop()
    except BaseException:
        workers.close(at_once=True)
        raise
    workers.close()
    trials = _show(found, format)
    if stop.signal is not None or asked:
        raise typer.Exit(128 + (stop.signal or signal.SIGTERM))
    failed = [one for one in trials if one.status in ("failed", "diverged")]
    if failed:
        why = f": trial {failed[0].number}: {failed[0].reason}" if failed[0].reason else ""
        raise TrialsError(f"{len(failed)} of {len(trials)} trials failed{why}")


class _Shown:
    """How a sweep is shown while it runs: a line for each run that ended, and a bar on a terminal."""

    def __init__(self, found: Sweep, plan: "Plan", reporter: Reporter) -> None:
        self._sweep, self._plan, self._reporter = found, plan, reporter
        self._runs = {(one.trial, one.seed): one for one in found.trials()}
        self._shares: dict[tuple[int, int], float] = {}

    def opening(self, jobs: int) -> str:
        plan, count = self._plan, self._plan.size
        what = f"{count:,} trial{'s' * (count != 1)}" if count is not None else "trials"
        parts = [f"{what} of {', '.join(plan.names)}" if plan.names else what]
        parts += [f"{plan.seeds} seeds each"] if plan.seeds > 1 else []
        parts += ["from a file" if plan.method == "list" and plan.names else ""] if plan.method == "list" else []
        parts += [plan.method] if plan.method != "list" else []
        parts += [f"pruned by {plan.prune}"] if plan.prune != "off" else []
        parts += [f"{jobs} at a time"] if jobs > 1 else []
        return f"sweep {self._sweep.number} in {self._sweep.path}: {', '.join(part for part in parts if part)}"

    def event(self, event: "Event") -> None:
        one = event.trial
        key = (one.trial, one.seed)
        self._runs[key] = one
        self._shares[key] = event.share if event.what == "evaluated" else self._shares.get(key, 0.0)
        who = f"trial {one.trial}" + (f", seed {one.seed}" if self._plan.seeds > 1 or one.confirms else "")
        if event.what in ("retried", "equal"):
            self._reporter.line(f"{who} {event.note}" if event.what == "equal" else f"{who} goes on: {event.note}")
        elif event.what == "ended":
            self._reporter.line(self._ended(who, one))
        self._progress()

    def _ended(self, who: str, one: Any) -> str:
        from dlcli.runs.trials import best_trial
        from dlcli.sweeps.space import told

        place = f"run {one.run}" if one.run is not None else "no run"
        result = f"{one.metric} {number(one.value)}" if one.value is not None else ""
        notes = [] if one.status == "finished" else [one.status]
        notes += ["taken from that run"] if not one.needed else []
        notes += [one.reason] if one.reason and one.status != "finished" else []
        if one.status == "finished" and not one.confirms and self._plan.names:
            notes += ["best"] if best_trial(self._runs.values()) == one.trial else []
        parts = [who, place, told(one.settings) if one.settings else "", result, "  ".join(notes)]
        return "  ".join(part for part in parts if part)

    def _progress(self) -> None:
        from dlcli.runs.trials import ranked, trials

        found = trials(self._runs.values())
        count = Counter(one.status for one in found)
        done = sum(count[status] for status in ("finished", "pruned", "failed", "diverged"))
        best = next((one for one in ranked(found) if one.loss is not None), None)
        notes = []
        if best is not None and best.value is not None:
            notes.append(f"best {best.runs[0].metric} {number(best.value.mean)} (trial {best.number})")
        running = sum(one.status == "running" for one in self._runs.values())
        notes += [f"{running} running"] + [f"{count[s]} {s}" for s in ("pruned", "failed", "diverged") if count[s]]
        total = max(self._plan.size or 0, len(found)) * self._plan.seeds
        ended = [one.status not in ("waiting", "running") for one in self._runs.values()]
        partly = sum(self._shares.get(key, 0.0) for key, one in self._runs.items() if one.status == "running")
        self._reporter.progress(
            done=round(100 * (sum(ended) + partly)), total=100 * total, notes=notes,
            what=f"{done}/{self._plan.size or len(found)} trials",
        )  # fmt: skip


def _show(found: Sweep, format: Format) -> list["Trial"]:
    """Print the trials of a sweep, the best first, and a word about the best."""
    from dlcli.runs.trials import ranked, trials
    from dlcli.sweeps.plan import from_document

    plan = from_document(found.plan(), file=str(found.path / "sweep.json"))
    runs = found.trials()
    rows = ranked(trials(runs))
    metrics = sorted({one.metric for one in runs if one.metric is not None})
    finished = [one for one in rows if one.loss is not None]
    status = "running" if found.is_driven() and any(one.status == "running" for one in runs) else "stopped"
    if rows and not any(one.status in ("running", "waiting", "interrupted") for one in rows):
        status = "finished" if plan.size is None or len(rows) >= plan.size else "stopped"
    document = {
        "sweep": found.number,
        "path": str(found.path),
        "status": status,
        "metric": metrics[0] if len(metrics) == 1 else None,
        "method": plan.method,
        "best": _document(finished[0]) if finished else None,
        "trials": [_document(one) for one in rows],
    }
    if format is Format.table and not rows:
        say(f"{found} has no trials yet")
        return rows
    emit([_row(one) for one in rows], _columns(rows), format=format, title=", ".join(metrics), document=document)
    if format is Format.table:
        for line in _remarks(found, finished, len(rows)):
            say(line)
    return rows


def _show_importance(found: Sweep, format: Format) -> None:
    """Print by how much each setting matters, and whether that can be trusted."""
    from dlcli.runs.trials import trials
    from dlcli.sweeps.importance import importances

    result = importances(trials(found.trials()))
    rows = [{"setting": one.name, "importance": one.mean, "std": one.std} for one in result.settings]
    columns = [
        Column("setting", "setting"),
        Column("importance", "importance", number, right=True),
        Column("std", "sd", number, right=True),
    ]
    emit(rows, columns, format=format, document={"settings": rows, "r2": result.r2, "trials": result.trials})
    if format is Format.table:
        doubt = ": do not trust them" if result.r2 < 0.3 else ""
        say(f"of {result.trials} trials; the forest behind it predicts unseen ones with R2 {result.r2:.2f}{doubt}")


def _remarks(found: Sweep, finished: Sequence["Trial"], tried: int) -> list[str]:
    if not finished:
        return []
    best = finished[0]
    lines = []
    if tried > 1 and best.confirmed is None:
        lines.append(
            f"best: trial {best.number}, picked from {tried}, so its value is optimistic; measure it with fresh seeds: "
            f"dlcli sweep resume {found.number} --confirm 5"
        )
    if best.confirmed is not None and best.value is not None:
        lines.append(
            f"best: trial {best.number}, {number(best.value.mean)} when it was picked from {tried}; with fresh seeds "
            f"{_told(best.confirmed)}"
        )
    elif tried == 1 and best.value is not None and best.value.count > 1:
        lines.append(_told(best.value))
    return lines


def _told(summary: Any) -> str:
    text = f"{number(summary.mean)}, the mean of {summary.count}"
    if summary.interval is None:
        return text
    return f"{text} (95 % interval {number(summary.interval.low)} to {number(summary.interval.high)})"


def _columns(rows: Sequence["Trial"]) -> list[Column]:
    names = list(dict.fromkeys(name for one in rows for name in one.settings))
    several = any(len(one.runs) > 1 for one in rows)
    confirmed = any(one.confirmed for one in rows)
    return [
        Column("trial", "trial", right=True, fixed=True),
        Column("status", "status"),
        *(Column(f"set:{name}", name, right=True) for name in names),
        Column("value", "mean" if several else "value", number, right=True),
        *([Column("std", "sd", number, right=True), Column("n", "n", right=True)] if several else []),
        *([Column("confirmed", "confirmed", number, right=True)] if confirmed else []),
        Column("runs", "runs" if several else "run", drop=5),
        Column("reason", "reason", drop=9),
    ]


def _row(one: "Trial") -> dict[str, Any]:
    from dlcli.sweeps.space import shown

    summary = one.value
    return {
        "trial": one.number,
        "status": one.status,
        **{f"set:{name}": shown(value) for name, value in one.settings.items()},
        "value": None if summary is None else summary.mean,
        "std": None if summary is None else summary.std,
        "n": None if summary is None else summary.count,
        "confirmed": None if one.confirmed is None else one.confirmed.mean,
        "runs": " ".join(str(run.run) for run in (*one.runs, *one.confirming) if run.run is not None),
        "reason": one.reason,
    }


def _document(one: "Trial") -> dict[str, Any]:
    return {
        "trial": one.number,
        "status": one.status,
        "settings": dict(one.settings),
        "value": _summary(one.value),
        "confirmed": _summary(one.confirmed),
        "reason": one.reason,
        "runs": [
            {"run": run.run, "seed": run.seed, "status": run.status, "metric": run.metric, "value": run.value,
             "confirms": run.confirms, "needed": run.needed}
            for run in (*one.runs, *one.confirming)
        ],
    }  # fmt: skip


def _summary(summary: Any) -> dict[str, Any] | None:
    if summary is None:
        return None
    return {
        "mean": summary.mean,
        "std": summary.std,
        "n": summary.count,
        "interval": None if summary.interval is None else list(summary.interval),
    }


def _print_trials(plan: "Plan", format: Format) -> None:
    from dlcli.sweeps.samplers import SAMPLERS
    from dlcli.sweeps.space import shown

    if plan.method in SAMPLERS:
        raise ConfigError(f"--print-trials: those of --method {plan.method} depend on results: take --method random")
    suggested = plan.method_of(jobs=1, earlier=0)
    rows: list[dict[str, Any]] = []
    while plan.trials is None or len(rows) < plan.trials:
        settings = suggested.suggest(len(rows) + 1)
        if settings is None:
            break
        rows.append({"trial": len(rows) + 1, **settings})
    as_text: Callable[[Any], str] = lambda value: "" if value is None else _typeable(value, shown)  # noqa: E731
    columns = [Column("trial", "trial", right=True), *(Column(n, n, as_text, right=True) for n in plan.names)]
    emit(rows, columns, format=format)


def _typeable(value: Any, shown: Callable[[Any], str]) -> str:
    return repr(value) if isinstance(value, float) else shown(value)


def _tables(files: Sequence[str]) -> Mapping[str, Any]:
    """The [sweep] tables of the files, a later one over an earlier one. ConfigError for what none has."""
    merged: dict[str, Any] = {}
    for file in files:
        merged |= read_table(file, "sweep")
    for name in merged:
        if name not in _IN_A_FILE:
            raise ConfigError(f"unknown setting sweep.{name}: {did_you_mean(name, _IN_A_FILE)}")
    return merged
