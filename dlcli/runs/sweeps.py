"""Sweep: the folder runs/sweeps/3 and what its log says of its trials.

    runs/sweeps/3/
      sweep.json   what was asked for
      sweep.toml   the same, as `dlcli sweep --config` accepts it
      log.jsonl    one line for each run that was begun or has ended; only added to, by one process
      lock         held by that process, which drives the sweep
      stop         exists while the sweep is asked to stop

A trial is one setting. It is a run for each seed, and run.json says sweep and trial: if the log is lost, it is made
again of the runs.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlcli.core.documents import COUNT, FLAG, NUMBER, TABLE, TEXT, WHOLE, check, optional
from dlcli.core.errors import BusyError, RunError
from dlcli.core.files import append, sweep, truncate, write_bytes, write_json
from dlcli.core.reading import parse_json, read_bytes, read_json, told_as_damage
from dlcli.runs import lock
from dlcli.runs.numbers import numbers, take_number
from dlcli.runs.run import Run, all_runs

FOLDER = "sweeps"

# Bytes of the files that are read.
_MOST_LOG, _MOST_RECORD = 500_000_000, 16_000_000

_LINE = {
    "trial": COUNT, "seed": WHOLE, "status": TEXT, "settings": TABLE, "run": optional(COUNT), "metric": optional(TEXT),
    "value": optional(NUMBER), "higher_is_better": optional(FLAG), "reason": optional(TEXT), "steps": WHOLE,
    "confirms": FLAG, "needed": FLAG,
}  # fmt: skip

# Statuses of a run of a trial after which nothing is left to do.
ENDED = ("finished", "pruned", "failed", "diverged")


@dataclass
class TrialRun:
    """One seed of a trial. run: its number; None until it has one, and for settings that no run could be made of.

    status: waiting, running, interrupted, finished, pruned, failed or diverged. value: of `metric`, the best on the
    validation split. confirms: whether it is one of --confirm, which is made after the choice. needed: False if a run
    that there was already has the answer.
    """

    trial: int
    seed: int
    settings: Mapping[str, Any]
    status: str = "waiting"
    run: int | None = None
    metric: str | None = None
    value: float | None = None
    higher_is_better: bool | None = None
    reason: str | None = None
    steps: int = 0
    confirms: bool = False
    needed: bool = True

    @property
    def loss(self) -> float | None:
        """The value, so that lower is better."""
        return None if self.value is None else -self.value if self.higher_is_better else self.value

    def line(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _LINE}


@dataclass(frozen=True)
class Sweep:
    """A sweep. root: the folder of all runs. number: of this sweep, which is also the name of its folder."""

    root: Path
    number: int

    @property
    def path(self) -> Path:
        return self.root / FOLDER / str(self.number)

    def __str__(self) -> str:
        return f"sweep {self.number} in {self.root}"

    @classmethod
    def create(cls, root: str | Path) -> "Sweep":
        """A new folder with a number that no sweep has. ResourceError if it cannot be made."""
        return cls(Path(root), take_number(Path(root) / FOLDER))

    def write_plan(self, plan: Mapping[str, Any], toml: str) -> None:
        write_bytes(self.path / "sweep.toml", toml.encode())
        write_json(self.path / "sweep.json", plan)

    def plan(self) -> dict[str, Any]:
        """The content of sweep.json. RunError if it is damaged."""
        document = read_json(self.path / "sweep.json", most=_MOST_RECORD)
        if not isinstance(document, dict):
            raise RunError(f"{self.path / 'sweep.json'} is damaged: it holds no sweep")
        return document

    # the log

    def add(self, trial: TrialRun) -> None:
        """Add what is now known of a run to the log."""
        line = json.dumps(trial.line(), allow_nan=False, ensure_ascii=False)
        append(self.path / "log.jsonl", line.encode(errors="replace") + b"\n")

    def trials(self) -> list[TrialRun]:
        """The last state of each run, in the order in which they began: of the log, or if there is none of the runs.

        RunError if the log is damaged. A last line that a power failure cut off is left out.
        """
        try:
            content = read_bytes(self.path / "log.jsonl", most=_MOST_LOG)
        except FileNotFoundError:
            return self._of_runs()
        except OSError as error:
            raise RunError(f"{self.path / 'log.jsonl'} cannot be read: {error.strerror}") from None
        found: dict[tuple[int, int], TrialRun] = {}
        with told_as_damage(self.path / "log.jsonl"):
            for line in content.split(b"\n")[:-1]:
                values = parse_json(line)
                check(values, _LINE, needed=True)
                one = TrialRun(**{name: values[name] for name in _LINE})
                found[one.trial, one.seed] = one
        return list(found.values())

    def _of_runs(self) -> list[TrialRun]:
        """The log, made again of run.json of all runs that say that they belong to this sweep."""
        found = []
        for run in reversed(all_runs(self.root)):
            try:
                info = run.info()
                if info.get("sweep") == self.number:
                    found.append(_of_run(run, info))
            except (RunError, ValueError):  # a damaged run, or one that says nonsense of its sweep
                continue
        return found

    # who drives it

    @contextlib.contextmanager
    def driven(self) -> Iterator[None]:
        """Hold the lock of the sweep, and repair its log. BusyError (exit 9) if another process drives it."""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(lock.hold(self.path))
            except BusyError:
                mend = f"stop it with dlcli sweep stop {self.number}"
                raise BusyError(f"{self} is driven by another process: {mend}") from None
            sweep(self.path)
            self.end_stop()
            self._repair()
            try:
                yield
            finally:
                self.end_stop()

    def _repair(self) -> None:
        """Cut off a last line that is not whole; write a lost log again."""
        file = self.path / "log.jsonl"
        if file.exists():
            content = read_bytes(file, most=_MOST_LOG)
            truncate(file, content.rfind(b"\n") + 1)
            return
        for one in self._of_runs():
            self.add(one)

    def is_driven(self) -> bool:
        return lock.is_held(self.path)

    def ask_to_stop(self) -> None:
        write_bytes(self.path / "stop", b"")

    def asked_to_stop(self) -> bool:
        return os.path.exists(self.path / "stop")

    def end_stop(self) -> None:
        (self.path / "stop").unlink(missing_ok=True)


def all_sweeps(root: str | Path) -> list[Sweep]:
    """Newest first."""
    root = Path(root)
    return [Sweep(root, number) for number in sorted(numbers(root / FOLDER), reverse=True)]


def find_sweep(text: str, root: str | Path) -> Sweep:
    """The sweep of a number, or `latest`. RunError (exit 4) if there is none."""
    there = all_sweeps(root)
    for one in there:
        if text in ("latest", str(one.number)):
            return one
    known = ", ".join(str(one.number) for one in reversed(there))
    raise RunError(f"there is no sweep {text} in {root}" + (f": there are {known}" if known else ": there is none"))


def _of_run(run: Run, info: Mapping[str, Any]) -> TrialRun:
    best, status = info.get("best") or {}, info["status"]
    check(info, {"trial": COUNT, "seed": WHOLE, "over": TABLE}, needed=True)
    return TrialRun(
        trial=info["trial"],
        seed=info["seed"],
        settings=info["over"],
        status=status if status in ENDED else "interrupted",
        run=run.number,
        metric=best.get("metric"),
        value=best.get("value"),
        higher_is_better=best.get("higher_is_better"),
        reason=info.get("reason") or info.get("stop"),
        steps=info.get("step") or 0,
        confirms=bool(info.get("confirms")),
    )
