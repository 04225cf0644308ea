"""Drives a sweep: asks the method for settings, gives their runs to the workers, and writes down how each ended.

Only this process writes the sweep's log. A run is made and logged before a worker trains it, so that a kill at any
moment loses neither a number nor a trial.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dlcli.config.layers import flatten
from dlcli.core.errors import DataError, DlcliError, RunError, with_code
from dlcli.runs.run import Run, all_runs
from dlcli.runs.sweeps import ENDED, Sweep, TrialRun
from dlcli.runs.trials import best_trial, loss_of
from dlcli.sweeps.plan import Plan
from dlcli.sweeps.pruning import Pruner
from dlcli.sweeps.space import told
from dlcli.sweeps.workers import Worker, Workers, how_it_ended

# Kills of a run's process, without an evaluation between them, after which the run has failed.
_MOST_KILLS = 3

# Seconds until a run is tried again that another process, left by a driver that was killed, still trains.
_BUSY = 0.2

# Seconds between looks for a request to stop.
_LOOK = 0.25


@dataclass(frozen=True)
class Event:
    """what: began, evaluated, retried, ended, or equal. note: for a person."""

    what: str
    trial: TrialRun
    note: str = ""
    share: float = 0.0


def drive(
    sweep: Sweep,
    plan: Plan,
    workers: Workers,
    *,
    jobs: int,
    stop: Callable[[], str | None] = lambda: None,
    watch: Callable[[], None] = lambda: None,
    needed: bool = False,
    again: bool = False,
    fail_fast: bool = False,
) -> Iterator[Event]:
    """Run the trials of a sweep that have not ended, then new ones, and yield what happens.

    The caller holds the sweep's lock. jobs: how many runs are expected at a time. stop: asked often;
    after a reason, the runs save a checkpoint and end. watch: called as often; what it raises ends the sweep. needed:
    whether an equal finished run in the folder is taken as the answer. again: whether failed runs are tried again.
    fail_fast: whether the first failure stops the sweep.
    Raises the error of a trial that cannot be built if there is no run yet: then all of them are wrong.
    """
    yield from _Driver(sweep, plan, workers, jobs, stop, watch, needed, fail_fast).drive(again=again)


class _Driver:
    def __init__(
        self,
        sweep: Sweep,
        plan: Plan,
        workers: Workers,
        jobs: int,
        stop: Callable[[], str | None],
        watch: Callable[[], None],
        needed: bool,
        fail_fast: bool,
    ) -> None:
        self._sweep, self._plan, self._workers = sweep, plan, workers
        self._stop, self._watch, self._fail_fast = stop, watch, fail_fast
        self._known = {(one.trial, one.seed): one for one in sweep.trials()}
        self._settings = {one.trial: dict(one.settings) for one in self._known.values()}
        self._queue: deque[TrialRun] = deque()
        self._running: dict[int, TrialRun] = {}  # by the place of the worker
        self._kills: dict[tuple[int, int], int] = {}
        self._method = plan.method_of(jobs=jobs, earlier=len(self._settings))
        self._told: set[int] = set()
        self._pruner = Pruner(plan.prune)
        self._seeds = [plan.first_seed + number for number in range(plan.seeds)]
        self._answers = _finished_runs(sweep) if needed else {}
        self._equal: dict[str, TrialRun] = {}
        self._fingerprint: str | None = None
        self._stopping: str | None = None
        self._exhausted = False
        self._left = True

    def drive(self, *, again: bool) -> Iterator[Event]:
        self._take_up(again=again)
        while True:
            self._look_for_a_stop()
            if self._stopping is None:
                yield from self._hand_out()
            if not self._running and (self._stopping is not None or not self._left):
                return
            self._watch()
            for worker, message in list(self._workers.heard(seconds=_LOOK)):
                yield from self._hear(worker, message)

    # what there is to do

    def _take_up(self, *, again: bool) -> None:
        """Start from what the log says: its unfinished runs come first."""
        for one in self._known.values():
            if again and one.status in ("failed", "diverged"):
                one.status = "waiting"
            if one.status not in ENDED:
                self._queue.append(one)
            if self._plan.prune != "off":
                self._recall(one)
        for trial, settings in self._settings.items():
            missing = [seed for seed in self._seeds if (trial, seed) not in self._known]
            if missing and not self._is_given_up(trial):
                self._queue.extend(self._new(trial, settings, seed) for seed in missing)
            self._tell_if_done(trial)

    def _hand_out(self) -> Iterator[Event]:
        """Give each worker without a run the next one."""
        self._left = True
        while (worker := self._workers.free(self._running)) is not None:
            one = self._next()
            if one is None:
                self._left = False
                return
            if (info := self._ended_unseen(one)) is not None:
                self._take(one, info.get("best") or {}, info["step"])
                yield from self._close(one, info["status"], info.get("reason") or info.get("stop"))
                continue
            self._running[worker.place] = one
            worker.send(
                "train", base=dict(self._plan.base), settings=dict(one.settings), seed=one.seed, run=one.run,
                sweep=self._sweep.number, trial=one.trial, confirms=one.confirms, prunes=self._plan.prune != "off",
            )  # fmt: skip
            if one.run is not None:
                yield Event("began", one)

    def _next(self) -> TrialRun | None:
        while not self._queue:
            if not self._ask_for_a_trial() and not self._confirm():
                return None
        return self._queue.popleft()

    def _ask_for_a_trial(self) -> bool:
        """Queue the runs of another trial; False if there is none."""
        trial = max(self._settings, default=0) + 1
        if self._exhausted or (self._plan.trials is not None and trial > self._plan.trials):
            return False
        settings = self._method.suggest(trial)
        if settings is None:
            self._exhausted = True
            return False
        self._settings[trial] = settings
        self._queue.extend(self._new(trial, settings, seed) for seed in self._seeds)
        return True

    def _confirm(self) -> bool:
        """Queue the runs of the best trial with fresh seeds, when all others have ended; False if there are none."""
        if not self._plan.confirm or self._running:
            return False
        best = best_trial(self._known.values())
        if best is None:
            return False
        there = [one.seed for one in self._known.values() if one.confirms and one.trial == best]
        first = max([*self._seeds, *there]) + 1
        for seed in range(first, first + self._plan.confirm - len(there)):
            self._queue.append(self._new(best, self._settings[best], seed, confirms=True))
        return bool(self._queue)

    def _ended_unseen(self, one: TrialRun) -> dict[str, Any] | None:
        """run.json of a run that ended just when its worker or the driver was killed."""
        if one.run is None or one.status not in ("running", "interrupted"):
            return None
        try:
            info = Run(self._sweep.root, one.run).info()
        except RunError:
            return None
        return info if info["status"] in ENDED else None

    def _new(self, trial: int, settings: Mapping[str, Any], seed: int, *, confirms: bool = False) -> TrialRun:
        one = TrialRun(trial, seed, settings, confirms=confirms)
        self._known[trial, seed] = one
        return one

    def _is_given_up(self, trial: int) -> bool:
        return any(
            one.status in ("pruned", "failed", "diverged") for key, one in self._known.items() if key[0] == trial
        )

    # what the workers say

    def _hear(self, worker: Worker, message: Mapping[str, Any] | None) -> Iterator[Event]:
        one = self._running.get(worker.place)
        if one is None:
            return
        if message is None:
            yield from self._killed(worker, one)
        elif message["do"] == "refused":
            yield from self._refused(worker, one, message)
        elif message["do"] == "built":
            yield from self._begin(worker, one, message)
        elif message["do"] == "evaluated":
            yield self._evaluated(worker, one, message)
        elif message["do"] == "ended":
            yield from self._ended(worker, one, message)

    def _begin(self, worker: Worker, one: TrialRun, message: Mapping[str, Any]) -> Iterator[Event]:
        """Make the run, or take the answer of an equal one."""
        if self._fingerprint not in (None, message["fingerprint"]):
            raise DataError(
                f"data {flatten(message['config']).get('data')} changed while the sweep ran: make a new sweep of it"
            )
        self._fingerprint = message["fingerprint"]
        key = _key(message["config"], message["fingerprint"])
        twin = self._equal.get(key)
        if twin is not None and twin.trial != one.trial:
            yield Event("equal", one, f"has the same settings as trial {twin.trial}")
        else:
            self._equal[key] = one
        answer = twin if twin is not None and twin.status == "finished" else self._answers.get(key)
        if answer is not None and not one.confirms:
            worker.send("run", run=None)
            del self._running[worker.place]
            one.run, one.metric, one.value = answer.run, answer.metric, answer.value
            one.higher_is_better, one.steps, one.needed = answer.higher_is_better, answer.steps, False
            yield from self._close(one, "finished", None)
            return
        one.run = Run.create(self._sweep.root).number
        one.status = "running"
        self._sweep.add(one)
        worker.send("run", run=one.run)
        yield Event("began", one)

    def _evaluated(self, worker: Worker, one: TrialRun, message: Mapping[str, Any]) -> Event:
        share = message["step"] / message["steps"]
        self._take(one, message["best"], message["step"])
        self._kills.pop((one.trial, one.seed), None)
        if self._plan.prune != "off":
            self._pruner.note((one.trial, one.seed), share, one.loss)
            if share < 1:
                why = None if one.confirms else self._pruner.stops((one.trial, one.seed))
                worker.send("goes", prune=why)
        return Event("evaluated", one, share=share)

    def _ended(self, worker: Worker, one: TrialRun, message: Mapping[str, Any]) -> Iterator[Event]:
        if message.get("busy"):
            time.sleep(_BUSY)
            yield from self._again(worker, one, "")
            return
        self._take(one, message.get("best") or {}, message.get("steps", one.steps))
        if message["status"] == "interrupted" and self._stopping is None:
            yield from self._again(worker, one, f"stopped by {message['reason']}")
            return
        del self._running[worker.place]
        if message["status"] == "interrupted":
            one.status, one.reason = "interrupted", message["reason"]
            self._sweep.add(one)
            yield Event("ended", one)
            return
        yield from self._close(one, message["status"], message["reason"])

    def _killed(self, worker: Worker, one: TrialRun) -> Iterator[Event]:
        key, reason = (one.trial, one.seed), how_it_ended(worker)
        if self._stopping is not None:
            del self._running[worker.place]
            one.status, one.reason = "interrupted", reason
            self._sweep.add(one)
            yield Event("ended", one)
            return
        self._kills[key] = self._kills.get(key, 0) + 1
        if self._kills[key] < _MOST_KILLS:
            yield from self._again(worker, one, reason)
            return
        del self._running[worker.place]
        yield from self._close(one, "failed", f"{reason}, {_MOST_KILLS} times")

    def _refused(self, worker: Worker, one: TrialRun, message: Mapping[str, Any]) -> Iterator[Event]:
        """There is no run, and the settings are the reason. If there is none at all, all trials are wrong."""
        del self._running[worker.place]
        if not any(other.run is not None for other in self._known.values()):
            raise with_code(message["exit_code"], f"trial {one.trial} ({told(one.settings)}): {message['reason']}")
        yield from self._close(one, "failed", message["reason"])

    def _again(self, worker: Worker, one: TrialRun, note: str) -> Iterator[Event]:
        """Go on with a run from its last checkpoint, in any worker."""
        del self._running[worker.place]
        self._queue.appendleft(one)
        if note:
            yield Event("retried", one, note)

    def _close(self, one: TrialRun, status: str, reason: str | None) -> Iterator[Event]:
        one.status, one.reason = status, reason and reason.removeprefix(f"{status}: ")
        if status == "finished":
            self._check_metric(one)
            status = one.status
        self._sweep.add(one)
        if status != "finished":  # the other seeds of a trial that has failed or was pruned tell nothing new
            self._queue = deque(other for other in self._queue if other.trial != one.trial or other.confirms)
            waiting = [key for key, other in self._known.items() if key[0] == one.trial and other.status == "waiting"]
            for key in waiting:
                del self._known[key]
        self._tell_if_done(one.trial)
        if status in ("failed", "diverged") and self._fail_fast:
            self._stop_all("the first failure of a sweep with --fail-fast")
        yield Event("ended", one)

    def _check_metric(self, one: TrialRun) -> None:
        """A run without a result, or with one in another metric, cannot be compared: it has failed."""
        others = [other.metric for other in self._known.values() if other is not one and other.status == "finished"]
        if one.value is None or one.metric is None:
            one.status, one.reason = "failed", "the metric that decides was never defined"
        elif others and one.metric != others[0]:  # an undefined metric is replaced by the loss
            one.status, one.reason = "failed", f"its result is in {one.metric}, that of the others in {others[0]}"

    def _take(self, one: TrialRun, best: Mapping[str, Any], steps: int) -> None:
        """The best evaluation of a run so far."""
        one.steps = steps
        if best.get("metric") is not None:
            one.metric, one.value, one.higher_is_better = best["metric"], best["value"], best["higher_is_better"]

    def _tell_if_done(self, trial: int) -> None:
        """Tell the method of a trial when all its runs have ended, once."""
        runs = [one for key, one in self._known.items() if key[0] == trial and not one.confirms]
        if trial in self._told or not runs or not all(one.status in ENDED for one in runs):
            return
        self._told.add(trial)
        pruned = any(one.status == "pruned" for one in runs)
        failed = any(one.status in ("failed", "diverged") for one in runs)
        self._method.tell(trial, self._settings[trial], loss=None if failed else loss_of(runs), pruned=pruned)

    # stopping

    def _look_for_a_stop(self) -> None:
        reason = self._stop() or ("dlcli sweep stop" if self._sweep.asked_to_stop() else None)
        if reason is not None and self._stopping is None:
            self._stop_all(reason)

    def _stop_all(self, reason: str) -> None:
        self._stopping = reason
        for place in self._running:
            self._workers.tell(place, "stop", reason=reason)

    # earlier processes

    def _recall(self, one: TrialRun) -> None:
        """Tell the pruner what a run had reached, from its metrics."""
        if one.run is None:
            return
        run = Run(self._sweep.root, one.run)
        try:
            info = run.info()
            best = info.get("best") or {}
            self._take(one, best, one.steps)
            for row in run.metrics() if best.get("metric") else ():
                value = row.get(best["metric"])
                loss = None if value is None else -value if best["higher_is_better"] else value
                self._pruner.note((one.trial, one.seed), (row["step"] or 0) / info["steps"], loss)
        except (DlcliError, KeyError, TypeError, ZeroDivisionError):
            return


def _finished_runs(sweep: Sweep) -> dict[str, TrialRun]:
    """The finished runs of the folder by their settings and data."""
    found = {}
    for run in reversed(all_runs(sweep.root)):
        try:
            info = run.info()
            best = info.get("best") or {}
            if info["status"] != "finished" or best.get("metric") is None:
                continue
            found[_key(run.settings(), info["fingerprint"])] = TrialRun(
                trial=0, seed=0, settings={}, status="finished", run=run.number, metric=best["metric"],
                value=best["value"], higher_is_better=best["higher_is_better"], steps=info["step"],
            )  # fmt: skip
        except (RunError, KeyError, TypeError):
            continue
    return found


def _key(config: Mapping[str, Any], fingerprint: str) -> str:
    """What two runs with the same answer share: all settings, and the data."""
    settings = flatten(config)
    return repr((sorted((name, repr(value)) for name, value in settings.items()), fingerprint))
