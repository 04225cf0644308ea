"""What a sweep has found: each trial by the mean of its seeds, and which is the best. Only validation decides."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dlcli.runs.statistics import Summary, summarise
from dlcli.runs.sweeps import TrialRun


@dataclass(frozen=True)
class Trial:
    """One setting. status: finished when all its runs have; else what the least of them is. runs: those of the sweep's
    own seeds. confirming: those of --confirm. value, confirmed: None without a finished run."""

    number: int
    settings: Mapping[str, Any]
    status: str
    runs: Sequence[TrialRun]
    confirming: Sequence[TrialRun]
    value: Summary | None
    confirmed: Summary | None

    @property
    def loss(self) -> float | None:
        """Lower is better; None unless all its runs have finished."""
        return loss_of(self.runs) if self.status == "finished" else None

    @property
    def reason(self) -> str | None:
        return next((one.reason for one in self.runs if one.status != "finished" and one.reason), None)


# The status of a trial is the first of these that one of its runs has.
_ORDER = ("failed", "diverged", "pruned", "running", "waiting", "interrupted", "finished")


def trials(runs: Iterable[TrialRun]) -> list[Trial]:
    """In the order of their numbers."""
    by_number: dict[int, list[TrialRun]] = {}
    for one in runs:
        by_number.setdefault(one.trial, []).append(one)
    return [_trial(number, by_number[number]) for number in sorted(by_number)]


def ranked(found: Iterable[Trial]) -> list[Trial]:
    """The best first; those without a result last."""
    return sorted(found, key=lambda one: (math.inf if one.loss is None else one.loss, one.number))


def best_trial(runs: Iterable[TrialRun]) -> int | None:
    """The number of the finished trial with the best mean; None if none has finished."""
    found = [one for one in ranked(trials(runs)) if one.loss is not None]
    return found[0].number if found else None


def loss_of(runs: Iterable[TrialRun]) -> float | None:
    """The mean over the runs, so that lower is better; None if one has no value."""
    losses = [one.loss for one in runs]
    known = [loss for loss in losses if loss is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(losses) else None


def _trial(number: int, of_it: Sequence[TrialRun]) -> Trial:
    runs = [one for one in of_it if not one.confirms]
    confirming = [one for one in of_it if one.confirms]
    status = next((s for s in _ORDER if any(one.status == s for one in runs)), "waiting")
    return Trial(
        number, (runs or confirming)[0].settings, status, runs, confirming, _summary(runs), _summary(confirming)
    )


def _summary(runs: Sequence[TrialRun]) -> Summary | None:
    values = [one.value for one in runs if one.status == "finished" and one.value is not None]
    return summarise(values) if values else None
