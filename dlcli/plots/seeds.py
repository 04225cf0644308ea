"""The mean of several runs, and how far they are apart."""

import bisect
import statistics
from collections.abc import Sequence

from dlcli.plots.picture import Point

_MOST = 1000


def mean_and_band(lines: Sequence[Sequence[Point]]) -> tuple[list[Point], list[tuple[float, float, float]]]:
    """The mean of the lines where all of them are, and (x, low, high): the mean less and plus one standard deviation
    (of a sample: n - 1). One line has no band. Between its points a line is interpolated linearly."""
    known = [[(x, y) for x, y in line if y is not None] for line in lines]
    known = [line for line in known if line]
    if not known:
        return [], []
    first, last = max(line[0][0] for line in known), min(line[-1][0] for line in known)
    places = sorted({x for line in known for x, _ in line if first <= x <= last})
    places = places[:: len(places) // _MOST + 1]
    mean: list[Point] = []
    band = []
    columns = [[x for x, _ in line] for line in known]
    for x in places:
        values = [_at(x, line, column) for line, column in zip(known, columns, strict=True)]
        middle = statistics.fmean(values)
        mean.append((x, middle))
        if len(values) > 1:
            spread = statistics.stdev(values)
            band.append((x, middle - spread, middle + spread))
    return mean, band


def _at(x: float, line: Sequence[tuple[float, float]], column: Sequence[float]) -> float:
    place = bisect.bisect_left(column, x)
    (right, high) = line[place]
    if right == x:
        return high
    (left, low) = line[place - 1]
    return low + (high - low) * (x - left) / (right - left)
