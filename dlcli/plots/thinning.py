"""A line of any length, kept in a few thousand points that still show its peaks."""

from collections.abc import Sequence
from typing import TypeVar

from dlcli.plots.picture import Point

T = TypeVar("T")

_MOST = 2000  # intervals


class Thinned:
    """Takes points in order; all are kept up to 2000. Of more, the lowest and the highest of each of 1000 to 2000
    intervals with an equal number of points."""

    def __init__(self) -> None:
        self._kept: list[list[Point]] = []
        self._width = 1  # points in an interval
        self._open: list[Point] = []

    @property
    def is_whole(self) -> bool:
        return self._width == 1

    def add(self, points: Sequence[Point]) -> None:
        self._open += points
        start = 0
        while len(self._open) - start >= self._width:
            if len(self._kept) == _MOST:
                self._kept = [_ends(one + other) for one, other in zip(self._kept[::2], self._kept[1::2], strict=True)]
                self._width *= 2
                continue
            self._kept.append(_ends(self._open[start : start + self._width]))
            start += self._width
        del self._open[:start]

    def points(self) -> list[Point]:
        return [point for ends in self._kept for point in ends] + (_ends(self._open) if self._open else [])


def _ends(points: Sequence[Point]) -> list[Point]:
    """The lowest and the highest point, in order. Gaps count only where there is nothing else."""
    heights = [y for _, y in points if y is not None]
    if not heights:
        return [points[0]]
    every = [y for _, y in points]
    return [points[place] for place in sorted({every.index(min(heights)), every.index(max(heights))})]


def evenly(points: Sequence[T], *, most: int) -> list[T]:
    """At most about `most` points, an equal number apart, with the first and the last."""
    kept = list(points[:: max(1, -(-len(points) // most))])
    return kept if not points or kept[-1] == points[-1] else [*kept, points[-1]]
