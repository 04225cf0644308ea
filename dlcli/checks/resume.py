"""Checks that a training that is killed again and again ends with the same bits as one that is never killed."""

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

_KILLS = 5  # in one training: with more it would make too little progress, since each loses the unsaved steps
_SPARE = 3  # additional trainings, if processes ended before their kills
_LOOK_SECONDS = 0.001

Tell = Callable[[str], None]
Phase = Literal["in the start-up", "between saves", "in a save"]


@dataclass(frozen=True)
class Moment:
    """When to kill. kind: in the start-up, at a random moment of the training, or in the next save after that.

    after: seconds since the start of the process (start-up) or of its training. into: seconds since the start of the
    save.
    """

    kind: Literal["start-up", "any", "save"]
    after: float
    into: float = 0.0


@dataclass(frozen=True)
class Kill:
    """A SIGKILL. training: number of the killed training. after: seconds since the start of the process.

    phase: what the process was doing. step: of the newest intact checkpoint after the kill; None if there is none.
    """

    training: int
    after: float
    phase: Phase
    step: int | None


@dataclass(frozen=True)
class ResumeReport:
    """steps: of the whole training. resumed_from: the first step of each resume that began to train.

    failure: why the check failed, as a sentence; None if it passed.
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
    """A process that should have continued the training did not; the text is a sentence about it."""


@dataclass(frozen=True)
class _Straight:
    """The training that is not killed. start_up, training: seconds that each phase took."""

    run: Run
    start_up: float
    training: float

    @property
    def limit(self) -> float:
        """Seconds after which a process that does the same is considered to hang."""
        return 60 + 20 * (self.start_up + self.training)


def check_resume(config: TrainConfig, *, kills: int, folder: Path, tell: Tell = lambda line: None) -> ResumeReport:
    """Train `config` once straight through, and again with `kills` SIGKILLs, each followed by `dlcli resume`.

    All trainings run in child processes, in `folder`. The moments are drawn, with the config's seed, from the duration
    of the straight training. If a process ends before its kill, the remaining kills are made in another training.
    Raises the DlcliError of the straight training, if it fails.
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
            hurry /= 2  # the straight training took longer than this one, perhaps because the machine was busy
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
        tell("a difference was found: checking whether two trainings without kills are equal")
        again = _train_straight(settings, folder / "straight-again")
        if _difference(compare(expected, snapshot(again.run))) is not None:
            failure = (
                "two trainings without kills already differ, so nothing is proved about resuming: "
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
    """Whether some resume started between the first and the last step, so that it had to restore a state."""
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
    """Train to the end, with a kill at each moment and a resume after each kill. Returns the run, and the kills that
    came before its end."""
    kills: list[Kill] = []
    step: int | None = None
    for attempt, moment in enumerate([*moments, None]):
        run = _newest(root)
        begun = run is not None and _info(run)  # otherwise it was killed before run.json was written
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
            raise _Broken(f"the checkpoint of step {before} existed before a kill {phase} and is missing after it")
        if run is not None and _info(run).get("status") == "finished":
            break  # the training was complete; only the process had not ended yet
        kills.append(Kill(number, round(after, 4), phase, step))
        saved = "no checkpoint yet" if step is None else f"the newest checkpoint is of step {step}"
        tell(f"killed {after:.2f}s after its start, {phase}; {saved}")
    assert run is not None
    return run, kills


def _wait_and_kill(child: Child, root: Path, moment: Moment | None, limit: float) -> Phase | None:
    """Kill the child at that moment and return the phase that it was in; None if it had ended before. If `moment` is
    None, wait for its end."""
    if moment is None:
        if not child.ends_within(limit):
            raise _Broken(f"a resumed training has not ended after {limit:.0f}s")
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
    """Wait until `for_what()` is true; False if the child ends before that."""
    while child.runs():
        if for_what():
            return True
        if time.monotonic() - child.started > limit:
            raise _Broken(f"a training hangs: nothing has happened for {limit:.0f}s")
        time.sleep(_LOOK_SECONDS)
    return False


def _wait_for_training(child: Child, root: Path, limit: float = float("inf")) -> Run | None:
    """The run of the child, as soon as it trains it; None if the child ends before that."""

    def trains() -> bool:
        run = _newest(root)
        return run is not None and _info(run).get("pid") == child.pid

    return _newest(root) if _wait(child, trains, limit) else None


def _saved_step(run: Run | None, kills: list[Kill]) -> int | None:
    """The step of the newest checkpoint; None if none has been saved. Raises _Broken if one is damaged."""
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
    """The content of run.json. `run.info()` is not used, since it would touch the run's lock."""
    try:
        return dict(read_json(run.path / "run.json"))
    except RunError:
        return {}


def _temporary(run: Run | None) -> set[Path]:
    """Temporary files in the run: those of a write in progress, or of one that was interrupted."""
    return set() if run is None else {*run.path.glob(".tmp-*"), *run.checkpoints.glob(".tmp-*")}


def _moments(count: int, straight: _Straight, generator: random.Random, *, hurry: float) -> list[Moment]:
    """Moments spread over the whole training, in order: each process runs until its moment.

    One in five is in the second half of a start-up, when a checkpoint is read, and two in five are in saves. The first
    is never in a start-up, since there is no checkpoint yet.
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
