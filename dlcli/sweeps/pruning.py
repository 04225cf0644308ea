"""Whether a trial is worth going on with, judged by what the others had reached when they were as far.

How far a training is counts as a share of its steps, and what it has reached as the best loss until then, so that lower
is better for every metric.
"""

import math
import statistics
from collections.abc import Sequence

PRUNERS = ("off", "median", "asha")

# Trials that must have come as far before a median means something.
_FIRST = 5

# One of so many goes on from each rung of asha.
_FACTOR = 3

# The first rung of asha is at this share of the training.
_LOWEST = _FACTOR**-3


class Pruner:
    """Decides at each evaluation; what it knows is rebuilt from the metrics of the runs when a sweep is resumed."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._seen: dict[tuple[int, int], list[tuple[float, float]]] = {}

    def note(self, key: tuple[int, int], share: float, loss: float | None) -> None:
        """That a run (trial, seed) had this loss at this share of its training; None: it was undefined."""
        before = self._seen.setdefault(key, [])
        best = before[-1][1] if before else math.inf
        before.append((share, min(best, math.inf if loss is None else loss)))

    def stops(self, key: tuple[int, int]) -> str | None:
        """Why the run should stop after the evaluation that was noted last, or None."""
        history = self._seen[key]
        share, loss = history[-1]
        if self._kind == "off" or share >= 1:
            return None
        if self._kind == "median":
            others = [
                reached for other in self._seen if other != key and (reached := self._at(other, share)) is not None
            ]
            middle = statistics.median(others) if len(others) >= _FIRST else math.inf
            return f"worse than the median of {len(others)} others" if loss > middle else None
        return self._stops_at_a_rung(key, share, before=history[-2][0] if len(history) > 1 else 0.0)

    def _stops_at_a_rung(self, key: tuple[int, int], share: float, *, before: float) -> str | None:
        """Asynchronous successive halving (Li et al. 2020, its form that stops): at each rung one of three goes on."""
        for rung in rungs():
            if before < rung <= share:
                known = {other: loss for other in self._seen if (loss := self._at_rung(other, rung)) is not None}
                if len(known) < _FACTOR:
                    continue
                place = sum(other < known[key] for other in known.values())
                if place >= math.ceil(len(known) / _FACTOR):
                    return f"number {place + 1} of {len(known)} at {rung:.0%} of the training"
        return None

    def _at(self, key: tuple[int, int], share: float) -> float | None:
        """The best loss of a run until this share; None if it has not come so far."""
        history = self._seen[key]
        if history[-1][0] < share:
            return None
        return min((loss for place, loss in history if place <= share), default=math.inf)

    def _at_rung(self, key: tuple[int, int], rung: float) -> float | None:
        """The loss at the first evaluation at or after a rung."""
        return next((loss for place, loss in self._seen[key] if place >= rung), None)


def rungs() -> Sequence[float]:
    """The shares of a training at which asha decides, lowest first."""
    found = [1 / _FACTOR]
    while found[-1] / _FACTOR >= _LOWEST * (1 - 1e-9):
        found.append(found[-1] / _FACTOR)
    return found[::-1]
