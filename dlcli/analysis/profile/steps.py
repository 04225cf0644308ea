"""The steps of a real training, watched: plain ones, whose ends alone are timed, and watched ones take turns."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from dlcli.analysis.profile.counting import Counting, Work
from dlcli.analysis.profile.ledger import Ledger, Owner
from dlcli.analysis.profile.modules import Modules
from dlcli.compute.devices import waiting
from dlcli.data.batches import Batch
from dlcli.experiment.build import Experiment
from dlcli.training.practice import practice
from dlcli.training.step_clock import StepClock
from dlcli.training.train import fit


@dataclass
class Watched:
    """What was seen of the steps of a training. Only steps of a whole batch count.

    samples: of a step. plain, watched: seconds of each step, in pairs. recorded: of those under torch.profiler.
    owners: seconds of each owner, for each watched step; the search for values that are not finite is left out of
    both, since only the first steps of a training have it. checks: its seconds. work: of each owner in one step.
    """

    samples: int
    plain: list[float] = field(default_factory=list)
    watched: list[float] = field(default_factory=list)
    recorded: list[float] = field(default_factory=list)
    owners: list[dict[Owner, float]] = field(default_factory=list)
    checks: list[float] = field(default_factory=list)
    work: dict[Owner, Work] = field(default_factory=dict)

    @property
    def overhead(self) -> float:
        """What watching adds to a step, as a part of it: the median over the pairs."""
        return statistics.median(b / a - 1 for a, b in zip(self.plain, self.watched, strict=True))

    @property
    def seconds(self) -> dict[Owner, float]:
        """Of each owner in a step: the mean of the watched steps between the quartiles."""
        sums: dict[Owner, float] = {}
        chosen = middle_half(self.watched)
        for number in chosen:
            for owner, taken in self.owners[number].items():
                sums[owner] = sums.get(owner, 0.0) + taken / len(chosen)
        return sums


def middle_half(times: Sequence[float]) -> list[int]:
    """The numbers of the times between the quartiles, which one slow step does not change."""
    order = sorted(range(len(times)), key=times.__getitem__)
    cut = len(times) // 4
    return order[cut : len(times) - cut]


def typical(times: Sequence[float]) -> float:
    """The mean of the times between the quartiles."""
    return statistics.fmean(times[number] for number in middle_half(times))


def watch(built: Experiment, *, steps: int, warmup: int, by_module: bool, profiler: Any | None = None) -> Watched:
    """Train `built` for `warmup` steps, `steps` plain and as many watched ones in turn, and one that is counted; with a
    torch.profiler.profile as many more under it. Makes no run, and changes the weights of `built.model`.

    by_module: whether the watched steps look into the model; not into one that torch.compile compiles.
    """
    plan = [*["warm-up"] * warmup, *["plain", "watched"] * steps, "counted", *["recorded"] * (steps if profiler else 0)]
    watcher = _Watcher(built, plan, by_module=by_module, profiler=profiler)
    with practice(built, watcher, steps=3 * len(plan)) as session, closing(fit(session, stop=watcher.stop)) as records:
        for _ in records:
            pass
    return watcher.found


class _Watcher:
    """An observer, see training/practice.py; `stop` is for `fit`."""

    def __init__(self, built: Experiment, plan: list[str], *, by_module: bool, profiler: Any | None) -> None:
        config = built.config
        self.found = Watched(built.samples_of(0, min(config.accumulate, built.batches_per_epoch)))
        self._plan, self._place = plan, 0
        self._profiler = profiler
        self._ledger = Ledger(waiting(built.device))
        self._clock = StepClock(built.device)
        self._part = built.working_part(built.model)
        self._modules = Modules(self._part, self._ledger, name=built.trained_part or config.model)
        self._looks_inside = {"counted"} | ({"watched"} if by_module else set())
        self._looks_inside |= set() if config.compile else {"recorded"}
        self._opened: ExitStack | None = None  # while there is a step
        self._counting: Counting | None = None
        self._samples = 0

    @property
    def _kind(self) -> str:
        return self._plan[self._place]

    def turn(self, phase: str) -> None:
        if self._opened is None:
            self._opened = self._begun()
        if self._kind not in ("warm-up", "plain"):
            self._ledger.turn(Owner(phase))
            if phase == "forward":
                self._modules.begin()
        self._clock.turn(phase)

    def model(self, model: nn.Module) -> Callable[[Tensor], Any]:
        return self._part if self._kind == "counted" else model  # torch.compile would hide the operators

    def loss(self, loss: Tensor, batch: Batch) -> None:
        self._samples += len(batch)
        if self._kind in self._looks_inside and self._kind != "recorded":  # spans of a trace must not overlap
            with self._paused():
                self._modules.follow(loss)

    def stop(self) -> str | None:
        """After each step: why the training ends, if it does."""
        self._ledger.turn(None)
        seconds = self._clock.end()
        assert self._opened is not None
        self._opened.close()
        self._opened = None
        if self._samples == self.found.samples or self._kind in ("warm-up", "recorded"):
            self._write_down(seconds)
            self._place += 1
        return "all steps are measured" if self._place == len(self._plan) else None

    def _begun(self) -> ExitStack:
        """What is open during the step; then its clock starts."""
        opened = ExitStack()
        self._samples = 0
        self._ledger.seconds.clear()
        self._ledger.annotating = self._kind == "recorded"
        if self._kind in self._looks_inside:
            self._modules.attach()
            opened.callback(self._modules.detach)
        if self._kind == "recorded" and self._plan[self._place - 1] != "recorded":
            assert self._profiler is not None
            self._profiler.start()
        if self._kind == "counted":
            self._counting = opened.enter_context(Counting(self._ledger))
        self._clock.start()
        return opened

    def _write_down(self, seconds: float) -> None:
        if self._kind == "plain":
            self.found.plain.append(seconds)
        elif self._kind == "watched":
            self.found.watched.append(seconds)
            owners = dict(self._ledger.seconds)
            self.found.checks.append(owners.pop(Owner("checks"), 0.0))
            self.found.owners.append(owners)
        elif self._kind == "counted":
            assert self._counting is not None
            self.found.work = dict(self._counting.work)
        elif self._kind == "recorded":
            self.found.recorded.append(seconds)
            if self._place + 1 == len(self._plan):
                assert self._profiler is not None
                self._profiler.stop()

    @contextmanager
    def _paused(self) -> Iterator[None]:
        """Nobody's time."""
        owner = self._ledger.owner
        self._ledger.turn(None)
        start = time.perf_counter()
        yield
        self._clock.left_out += time.perf_counter() - start
        self._ledger.turn(owner)
