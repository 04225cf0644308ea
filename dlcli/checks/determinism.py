"""Checks that the same config gives the same bits: trains it in several fresh processes and compares each step."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from dlcli.checks.children import Child
from dlcli.checks.snapshot import Comparison, compare, short, snapshot
from dlcli.config.settings import TrainConfig
from dlcli.config.toml import to_toml
from dlcli.experiment.build import resolve_options
from dlcli.runs.run import Run, all_runs

Tell = Callable[[str], None]

# What differs first -> the likely cause.
_CAUSES = {
    "data": "the data themselves differ from process to process",
    "targets": "the order of the batches differs, or the targets were changed",
    "output": "the same weights gave a different output: forward draws unseeded numbers, or sums in varying order",
    "loss": "the same output gave a different loss",
    "gradient": "the same loss gave a different gradient: a backward is not deterministic",
}
_INITIAL = "the weights differ before the first step: the constructor draws unseeded numbers"
_UPDATE = "all gradients were the same: the optimizer, or the model itself, changed it differently"


@dataclass(frozen=True)
class Difference:
    """The first step and tensor that differ. training: the number, from 1, of the training that differs from the first.

    others: number of other hashes that differ at that step.
    """

    training: int
    step: int
    name: str
    hashes: tuple[str, str]
    others: int

    @property
    def cause(self) -> str:
        kind = self.name.partition(" of ")[0]
        return _CAUSES.get(kind) or (_UPDATE if self.step else _INITIAL)

    def __str__(self) -> str:
        one, other = map(short, self.hashes)
        more = f", and {self.others} more at that step" if self.others else ""
        return (
            f"step {self.step}: {self.name} is {one} in training 1, but {other} in training {self.training}{more}: "
            f"{self.cause}"
        )


@dataclass(frozen=True)
class DeterminismReport:
    """hashes: number compared between two trainings. comparisons: of the final states, as in `check resume`.

    failure: why the check failed, as a sentence; None if it passed.
    """

    model: str
    data: str
    trainings: int
    steps: int
    hashes: int
    difference: Difference | None
    comparisons: tuple[Comparison, ...]
    failure: str | None

    def as_dict(self) -> dict[str, Any]:
        first = self.difference
        return {
            "model": self.model,
            "data": self.data,
            "passed": self.failure is None,
            "failure": self.failure,
            "trainings": self.trainings,
            "steps": self.steps,
            "hashes": self.hashes,
            "first_difference": None
            if first is None
            else {
                "training": first.training,
                "step": first.step,
                "name": first.name,
                "hashes": list(first.hashes),
                "others": first.others,
                "cause": first.cause,
            },
            "comparisons": [comparison.as_dict() for comparison in self.comparisons],
        }


def check_determinism(
    config: TrainConfig, *, times: int, folder: Path, tell: Tell = lambda line: None
) -> DeterminismReport:
    """Train `config` in `times` fresh processes, in `folder`, and compare each with the first.

    Raises the DlcliError of a training that fails.
    """
    settings = folder / "config.toml"
    settings.write_text(to_toml(resolve_options(config)), encoding="utf-8")
    first = _train(settings, folder / "1")
    trace = _read(folder / "1.trace")
    steps, hashes = len(trace) - 1, sum(len(line) for line in trace)
    tell(f"training 1 of {times}: {steps} steps, {hashes} hashes")
    difference = None
    comparisons: list[Comparison] = []
    for number in range(2, times + 1):
        run = _train(settings, folder / str(number))
        difference = _first_difference(trace, _read(folder / f"{number}.trace"), number)
        comparisons = compare(snapshot(first), snapshot(run))
        tell(f"training {number} of {times}: {'the same' if difference is None else 'different'}")
        if difference is not None or not all(comparison.equal for comparison in comparisons):
            break
    return DeterminismReport(
        model=config.model,
        data=config.data,
        trainings=times,
        steps=steps,
        hashes=hashes,
        difference=difference,
        comparisons=tuple(comparisons),
        failure=_failure(trace, difference, comparisons),
    )


def _failure(trace: list[dict[str, str]], difference: Difference | None, comparisons: list[Comparison]) -> str | None:
    if difference is not None:
        return str(difference)
    for comparison in comparisons:
        if not comparison.equal:
            return f"all steps are equal, but the final states differ: {comparison.part}: {comparison.first}"
    if all(value == trace[0].get(name, value) for name, value in trace[-1].items()):
        return f"nothing is proved: no weight changed in {len(trace) - 1} steps"
    return None


def _train(settings: Path, root: Path) -> Run:
    words, program = [settings, root, root.with_suffix(".trace")], ("-m", "dlcli.checks.trace")
    with Child(words, program=program, log=root.with_suffix(".log")) as child:
        if child.process.wait() != 0:
            raise child.error()
    return all_runs(root)[0]


def _read(file: Path) -> list[dict[str, str]]:
    """Name -> hash for each step; the first entry is the state before the first step."""
    with open(file, encoding="utf-8") as lines:
        return [json.loads(line)["hashes"] for line in lines]


def _first_difference(one: list[dict[str, str]], other: list[dict[str, str]], training: int) -> Difference | None:
    nothing: dict[str, str] = {}
    for step, (here, there) in enumerate(zip_longest(one, other, fillvalue=nothing)):
        names = [*here, *(name for name in there if name not in here)]
        wrong = [name for name in names if here.get(name) != there.get(name)]
        if wrong:
            hashes = here.get(wrong[0], "missing"), there.get(wrong[0], "missing")
            return Difference(training, step, wrong[0], hashes, len(wrong) - 1)
    return None
