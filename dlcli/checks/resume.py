"""A training that is killed again and again ends with the same bits as one that never was."""

import math
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from dlcli.checkpoints import checkpoint
from dlcli.checks.children import Child
from dlcli.checks.snapshot import Comparison, compare, short, snapshot
from dlcli.config.settings import TrainConfig
from dlcli.config.toml import to_toml
from dlcli.core.errors import RunError
from dlcli.core.reading import read_json
from dlcli.core.seeds import derive
from dlcli.experiment.build import resolve_options
from dlcli.runs.run import Run, all_runs

_KILLS = 5  # in one training: more would keep it at its beginning, since each costs what was not saved
_SPARE = 3  # trainings more than are needed, until all kills have landed
_LOOK_SECONDS = 0.001

Tell = Callable[[str], None]
Phase = Literal["in the start-up", "between saves", "in a save"]


@dataclass(frozen=True)
class Moment:
    """When to kill. kind: in the start-up, at a random moment of the training, or in the next save after that.

    after: seconds since the process started (start-up), or since its training did. into: seconds into the save.
    """

    kind: Literal["start-up", "any", "save"]
    after: float
    into: float = 0.0


@dataclass(frozen=True)
class Kill:
    """A SIGKILL, and what it met and left.

    training: number of the killed training. after: seconds since the process was started. step: of the newest intact
    checkpoint; None when there is none.
    """

    training: int
    after: float
    phase: Phase
    step: int | None


@dataclass(frozen=True)
class ResumeReport:
    """steps: of the whole training. resumed_from: the step of each resume that came to train.

    failure: why the promise is not proved, as a sentence; None when it is.
    """

    model: str
    data: str
    steps: int
    kills: tuple[Kill, ...]
    resumed_from: tuple[int, ...]
    comparisons: tuple[Comparison, ...]
    failure: str | None

    def as_dict(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "data": self.data,
            "passed": self.failure is None,
            "failure": self.failure,
            "steps": self.steps,
            "kills": [asdict(kill) for kill in self.kills],
            "resumed_from": list(self.resumed_from),
            "comparisons": [comparison.as_dict() for comparison in self.comparisons],
        }


class _Broken(Exception):
    """A process that should have gone on with the training did not; the text is a sentence about it."""


@dataclass(frozen=True)
class _Straight:
    """The training that is left alone. start_up, training: how long each took, in seconds."""

    run: Run
    start_up: float
    training: float

    @property
    def limit(self) -> float:
        """Seconds after which a process that does the same is taken for one that hangs."""
        return 60 + 20 * (self.start_up + self.training)


def check_resume(config: TrainConfig, *, kills: int, folder: Path, tell: Tell = lambda line: None) -> ResumeReport:
    """Train `config` once straight through, and again under `kills` SIGKILLs, each followed by `dlcli resume`.

    All in child processes, in `folder`. The moments are drawn from the config's seed over the time that the straight
    training took. When a process ends before its kill, another training takes the kills that are left.
    Raises the DlcliError with which the straight training ended, if it did.
    """
    settings = folder / "config.toml"
    settings.write_text(to_toml(resolve_options(config)), encoding="utf-8")
    straight = _train_straight(settings, folder / "straight")
    steps = int(straight.run.info()["step"])
    expected = snapshot(straight.run)
    tell(
        f"trained {steps} steps straight through: start-up {straight.start_up:.1f}s, training {straight.training:.1f}s"
    )

    generator = random.Random(derive(config.seed, "kills"))
    landed: list[Kill] = []
    resumed: list[int] = []
    comparisons: list[Comparison] = []
    failure, hurry = None, 1.0
    trainings = math.ceil(kills / _KILLS) + _SPARE
    for number in range(1, trainings + 1):
        count = max(1, min(_KILLS, kills - len(landed)))
        moments = _moments(count, straight, generator, hurry=hurry)
        try:
            run, met = _train_killed(settings, folder / f"killed-{number}", number, moments, straight.limit, tell)
        except _Broken as error:
            failure = str(error)
            break
        landed += met
        if len(met) < len(moments):
            hurry /= 2  # the straight training took longer than this one: another process was in its way
        resumed += [int(r["step"]) for r in run.info().get("resumes", [])]
        comparisons = compare(expected, snapshot(run))
        failure = _difference(comparisons)
        if failure is not None or (len(landed) >= kills and _within(resumed, steps)):
            break
    if failure is None and len(landed) < kills:
        tell(f"only {len(landed)} of {kills} kills came before the end of a training: give more --epochs")
    if failure is None and not _within(resumed, steps):
        failure = (
            f"nothing is proved: no resume began between the first and the last step in {trainings} trainings of "
            f"{straight.training:.2f}s; give more --epochs or a shorter --checkpoint-every"
        )
    elif failure is not None and failure == _difference(comparisons):
        tell("a difference: is a training that is not killed the same twice?")
        again = _train_straight(settings, folder / "straight-again")
        if _difference(compare(expected, snapshot(again.run))) is not None:
            failure = (
                "two trainings that were not killed differ already, so nothing is proved about resuming: "
                "`dlcli check determinism` shows where"
            )
    return ResumeReport(
        model=config.model,
        data=config.data,
        steps=steps,
        kills=tuple(landed),
        resumed_from=tuple(resumed),
        comparisons=tuple(comparisons),
        failure=failure,
    )


def _within(resumed: list[int], steps: int) -> bool:
    """Whether some resume had a state to bring back, and steps to do with it."""
    return any(0 < step < steps for step in resumed)


def _difference(comparisons: list[Comparison]) -> str | None:
    for comparison in comparisons:
        if comparison.hashes is not None:
            straight, killed = map(short, comparison.hashes)
            return f"{comparison.part}: {comparison.first} is {killed} after kills and resumes, but {straight} without"
    return None


def _train_straight(settings: Path, root: Path) -> _Straight:
    with Child(_train(settings, root), log=root.with_suffix(".log")) as child:
        run = _wait_for_training(child, root)
        start_up = time.monotonic() - child.started
        _wait(child, lambda: run is None or _info(run).get("status") != "running")
        training = time.monotonic() - child.started - start_up
        if child.process.wait() != 0:
            raise child.error()
    return _Straight(run or all_runs(root)[0], start_up, training)


def _train_killed(
    settings: Path, root: Path, number: int, moments: list[Moment], limit: float, tell: Tell
) -> tuple[Run, list[Kill]]:
    """A training that goes on after each kill, to its end; and the kills that landed before that."""
    kills: list[Kill] = []
    step: int | None = None
    for attempt, moment in enumerate([*moments, None]):
        run = _newest(root)
        begun = run is not None and _info(run)  # else it was killed before it had described itself
        words: list[str | Path] = ["resume", run.path, "--quiet"] if run and begun else _train(settings, root)
        with Child(words, log=root.with_name(f"{root.name}-{attempt}.log")) as child:
            phase = _wait_and_kill(child, root, moment, limit)
            after = time.monotonic() - child.started
        run = _newest(root)
        if phase is None:
            if child.process.returncode != 0:
                raise _Broken(_ended(child, words, kills))
            break
        before, step = step, _saved_step(run, kills)
        if before is not None and (step is None or step < before):
            raise _Broken(f"the checkpoint of step {before} was there before a kill {phase} and is lost after it")
        if run is not None and _info(run).get("status") == "finished":
            break  # all was done and said: only the process had not ended yet
        kills.append(Kill(number, round(after, 4), phase, step))
        saved = "no checkpoint yet" if step is None else f"the newest checkpoint is of step {step}"
        tell(f"killed {after:.2f}s after its start, {phase}; {saved}")
    assert run is not None
    return run, kills


def _wait_and_kill(child: Child, root: Path, moment: Moment | None, limit: float) -> Phase | None:
    """Kill the child at that moment and tell the phase that it was in; None when it had ended before, and when there
    is no such moment and it may go on to its end."""
    if moment is None:
        if not child.ends_within(limit):
            raise _Broken(f"a training that was to go on has not ended after {limit:.0f}s")
        return None
    litter = _temporary(_newest(root))
    if moment.kind == "start-up":
        child.ends_within(moment.after)
    else:
        run = _wait_for_training(child, root, limit)
        child.ends_within(moment.after)
        if moment.kind == "save" and _wait(child, lambda: bool(_temporary(run) - litter), limit):
            time.sleep(moment.into)
    if not child.runs():
        return None
    child.kill()
    run = _newest(root)
    if run is None or _info(run).get("pid") != child.pid:
        return "in the start-up"
    return "in a save" if _temporary(run) - litter else "between saves"


def _wait(child: Child, for_what: Callable[[], bool], limit: float = float("inf")) -> bool:
    """Wait for it; False when the child has ended before."""
    while child.runs():
        if for_what():
            return True
        if time.monotonic() - child.started > limit:
            raise _Broken(f"a training that was to go on hangs: nothing has happened for {limit:.0f}s")
        time.sleep(_LOOK_SECONDS)
    return False


def _wait_for_training(child: Child, root: Path, limit: float = float("inf")) -> Run | None:
    """The run that the child trains, as soon as it does; None when it has ended before."""

    def trains() -> bool:
        run = _newest(root)
        return run is not None and _info(run).get("pid") == child.pid

    return _newest(root) if _wait(child, trains, limit) else None


def _saved_step(run: Run | None, kills: list[Kill]) -> int | None:
    """The step of the newest checkpoint; None when none has been saved. One that is damaged is a broken promise."""
    if run is None or not checkpoint.exists(run.checkpoints, "last"):
        return None
    try:
        saved = checkpoint.load(run.checkpoints, "last")
    except RunError as error:
        raise _Broken(f"after kill {len(kills) + 1}: {error}") from None
    if saved.damage:
        raise _Broken(f"kill {len(kills) + 1} has left a damaged checkpoint: {saved.damage[0]}")
    return int(saved.state["step"])


def _ended(child: Child, words: list[str | Path], kills: list[Kill]) -> str:
    command = " ".join(map(str, words[:2]))
    where = f"after kill {len(kills)}, " if kills else ""
    return f"{where}`dlcli {command}` ended with exit code {child.process.returncode}: {child.sentence()}"


def _train(settings: Path, root: Path) -> list[str | Path]:
    return ["train", "--config", settings, "--runs-dir", root, "--quiet"]


def _newest(root: Path) -> Run | None:
    return next(iter(all_runs(root)), None)


def _info(run: Run) -> dict[str, Any]:
    """run.json as it stands; asking for the status of a run would touch its lock."""
    try:
        return dict(read_json(run.path / "run.json"))
    except RunError:
        return {}


def _temporary(run: Run | None) -> set[Path]:
    """What a write that is under way, or was cut off, has in the run."""
    return set() if run is None else {*run.path.glob(".tmp-*"), *run.checkpoints.glob(".tmp-*")}


def _moments(count: int, straight: _Straight, generator: random.Random, *, hurry: float) -> list[Moment]:
    """Moments over the whole time of the training, in order: each process lives from one to the next.

    Of five one is in a start-up, in its second half, where a checkpoint is read, and two are in saves. The first is
    never in a start-up, where nothing has begun.
    """
    kinds: list[Any] = [("any", "save", "start-up", "save", "any")[i % 5] for i in range(count)]
    later = kinds[1:]
    generator.shuffle(later)
    kinds[1:] = later
    times = sorted(generator.uniform(0, straight.training * hurry) for kind in kinds if kind != "start-up")
    lives = iter([end - start for start, end in zip([0.0, *times], times, strict=False)])
    return [
        Moment(kind, straight.start_up * generator.uniform(0.5, 1))
        if kind == "start-up"
        else Moment(kind, next(lives), generator.uniform(0, 0.005))
        for kind in kinds
    ]
