"""A line of any length, kept in a few thousand points that still show its peaks."""

from dlcli.plots.picture import Point

_MOST = 2000  # intervals


class Thinned:
    """Takes points in order; all are kept up to 2000. Of more, the lowest and the highest of each of 1000 to 2000
    intervals with an equal number of points."""

    def __init__(self) -> None:
        self._kept: list[tuple[Point, Point]] = []
        self._width, self._open = 1, 0

    @property
    def is_whole(self) -> bool:
        return self._width == 1

    def add(self, x: float, y: float | None) -> None:
        point = (x, y)
        if self._open:
            self._kept[-1] = _merged(self._kept[-1], (point, point))
        else:
            if len(self._kept) == _MOST:
                pairs = zip(self._kept[::2], self._kept[1::2], strict=True)
                self._kept = [_merged(one, other) for one, other in pairs]
                self._width *= 2
            self._kept.append((point, point))
        self._open = (self._open + 1) % self._width

    def points(self) -> list[Point]:
        return [point for pair in self._kept for point in sorted(set(pair), key=lambda point: point[0])]


def _merged(one: tuple[Point, Point], other: tuple[Point, Point]) -> tuple[Point, Point]:
    """A gap counts only where there is nothing else."""
    if one[0][1] is None:
        return one if other[0][1] is None else other
    if other[0][1] is None:
        return one
    low = other[0] if other[0][1] < one[0][1] else one[0]
    high = other[1] if (other[1][1] or 0.0) > (one[1][1] or 0.0) else one[1]
    return low, high
