"""How a sweep is run, and shown while it runs."""

import contextlib
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from dlcli.cli.output import Format, number, say
from dlcli.cli.progress import Reporter
from dlcli.cli.sweep_table import show
from dlcli.core.errors import ConfigError, TrialsError
from dlcli.runs.run import now
from dlcli.runs.sweeps import Sweep

if TYPE_CHECKING:
    from dlcli.sweeps.driver import Event
    from dlcli.sweeps.plan import Plan
    from dlcli.sweeps.workers import Workers


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
                drive(made, plan, place, workers, needed=needed, fail_fast=fail_fast, quiet=quiet, format=format)
            finally:
                if not (made.path / "log.jsonl").exists():  # nothing was begun
                    shutil.rmtree(made.path, ignore_errors=True)
    finally:
        workers.close()


def drive(
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
    from dlcli.sweeps import driver
    from dlcli.training.signals import Stop

    stop = Stop(tell=lambda line: say(line.replace("a checkpoint", "checkpoints")))
    try:
        with Reporter(quiet=quiet) as reporter, stop.receiving(), place.opened(found, plan, workers) as watch:
            shown = _Shown(found, plan, reporter)
            for line in (shown.opening(place.jobs), *place.lines(found)):
                reporter.line(line)
            for event in driver.drive(
                found, plan, workers, jobs=place.jobs, stop=stop.reason, watch=watch, needed=needed, again=again,
                fail_fast=fail_fast,
            ):  # fmt: skip
                shown.event(event)
            asked = found.asked_to_stop()
    except BaseException:
        workers.close(at_once=True)
        raise
    workers.close()
    trials = show(found, format)
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
