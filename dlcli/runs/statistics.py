"""Statistics of a few results, such as those of one setting over several seeds.

All intervals are at 95 %. Those of a few results are Student's, not those of the percentile bootstrap, which
contain the true difference of two groups of five in only 88 % of cases (tests/test_statistics.py measures both).
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np

LEVEL = 0.95

# Signs of up to this many differences are all tried; of more, as many random ones as this allows.
_MOST_EXACT = 16
_DRAWS = 2**_MOST_EXACT
_SEED = 20240229

# Resamples of a bootstrap, and how many rows they may draw in all: of many rows there are fewer, but at least so many.
_RESAMPLES, _MOST_ROWS, _FEWEST_RESAMPLES = 10_000, 400_000_000, 1_000
_ROWS_AT_ONCE = 4_000_000

# Differences of sums that differ by less than this share count as equal: the same values may add up in another order.
_TIE = 1e-9


class Interval(NamedTuple):
    low: float
    high: float


@dataclass(frozen=True)
class Summary:
    """count: number of values. std: divided by count - 1; it and the interval of the mean are None for one value."""

    count: int
    mean: float
    median: float
    std: float | None
    interval: Interval | None


@dataclass(frozen=True)
class Difference:
    """mean: of the second group less that of the first. test: `sign-flip` or `welch`, or empty without a p.
    p: two-sided; None with fewer than 3 values in a group. least_p: the smallest p that this number of values allows.
    """

    mean: float
    interval: Interval | None
    test: str
    p: float | None
    least_p: float | None


def summarise(values: Sequence[float]) -> Summary:
    """ValueError without a value."""
    if not values:
        raise ValueError("no values")
    count, mean, median = len(values), statistics.fmean(values), statistics.median(values)
    if count < 2:
        return Summary(1, mean, median, None, None)
    std = statistics.stdev(values)
    half = _quantile(count - 1) * std / math.sqrt(count)
    return Summary(count, mean, median, std, Interval(mean - half, mean + half))


def paired(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Of values that belong together one by one, such as those of two settings with the same seed.

    p of the sign-flip test (Fisher 1935): the share of all signs of the differences whose sum is at least as far from
    0. Exact for up to 16 pairs, else from 65,536 seeded draws (Phipson and Smyth 2010).
    """
    differences = [b - a for a, b in zip(first, second, strict=True)]
    found = summarise(differences)
    if len(differences) < 3:
        return Difference(found.mean, found.interval, "", None, None)
    import numpy as np

    d = np.asarray(differences)
    exact = len(d) <= _MOST_EXACT
    if exact:
        signs = 1.0 - 2.0 * ((np.arange(2 ** len(d))[:, None] >> np.arange(len(d))) & 1)
    else:
        signs = np.random.default_rng(_SEED).choice((-1.0, 1.0), size=(_DRAWS - 1, len(d)))
    extreme = int((np.abs(signs @ d) >= abs(d.sum()) - _TIE * np.abs(d).sum()).sum())
    p = extreme / len(signs) if exact else (extreme + 1) / (len(signs) + 1)
    return Difference(found.mean, found.interval, "sign-flip", p, 2.0 ** (1 - len(d)) if exact else 1 / _DRAWS)


def unpaired(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Of two groups that need not have the same variance: Welch's t-test and its interval (Welch 1947)."""
    a, b = summarise(first), summarise(second)
    mean = b.mean - a.mean
    if a.std is None or b.std is None:
        return Difference(mean, None, "", None, None)
    parts = (a.std**2 / a.count, b.std**2 / b.count)
    error = math.sqrt(sum(parts))
    if error == 0.0:  # all values of each group are the same: nothing is known of their spread
        return Difference(mean, None, "", None, None)
    freedom = sum(parts) ** 2 / sum(v**2 / (s.count - 1) for v, s in zip(parts, (a, b), strict=True))
    half = _quantile(freedom) * error
    interval = Interval(mean - half, mean + half)
    if min(a.count, b.count) < 3:
        return Difference(mean, interval, "", None, None)
    from scipy.special import stdtr

    return Difference(mean, interval, "welch", float(2.0 * stdtr(freedom, -abs(mean) / error)), None)


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """Each p as it counts among several comparisons (Holm 1979); None stays None."""
    known = sorted((p, place) for place, p in enumerate(ps) if p is not None)
    found: list[float | None] = [None] * len(ps)
    least = 0.0
    for rank, (p, place) in enumerate(known):
        least = min(1.0, max(least, p * (len(known) - rank)))
        found[place] = least
    return found


def mcnemar(only_first: int, only_second: int) -> float:
    """The two-sided p of the exact test of McNemar (1947): whether a sample that only one of two models gets right is
    as likely to be the first's as the second's.

    only_first, only_second: number of samples that only this model gets right. 1 without any.
    """
    from scipy.special import bdtr

    return min(1.0, 2.0 * float(bdtr(min(only_first, only_second), only_first + only_second, 0.5)))


def bootstrap_of_counts(only_first: int, only_second: int, count: int) -> Interval:
    """Of the difference of two accuracies on the same `count` samples: the percentile interval of 10,000 seeded
    resamples of the samples (Efron 1979). A resample is a multinomial draw of the three kinds of sample."""
    import numpy as np

    shares = [only_first / count, only_second / count, (count - only_first - only_second) / count]
    drawn = np.random.default_rng(_SEED).multinomial(count, shares, size=_RESAMPLES)
    return _percentiles((drawn[:, 1] - drawn[:, 0]) / count)


def bootstrap_of_means(
    first: "np.ndarray[Any, Any]", second: "np.ndarray[Any, Any]", measure: "Callable[[Any], Any]"
) -> Interval:
    """Of measure(mean of second) - measure(mean of first) on the same samples, (N,) each: the percentile interval of
    seeded resamples of the samples (Efron 1979). There are 10,000 up to 40,000 samples, of more fewer, at least 1,000.
    """
    import numpy as np

    generator, count = np.random.default_rng(_SEED), len(first)
    resamples = min(_RESAMPLES, max(_FEWEST_RESAMPLES, _MOST_ROWS // count))
    at_once = max(1, _ROWS_AT_ONCE // count)
    found = []
    for start in range(0, resamples, at_once):
        rows = generator.integers(0, count, size=(min(at_once, resamples - start), count))
        found.append(measure(second[rows].mean(1)) - measure(first[rows].mean(1)))
    return _percentiles(np.concatenate(found))


def _percentiles(values: "np.ndarray[Any, Any]") -> Interval:
    import numpy as np

    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))


def _quantile(freedom: float) -> float:
    """Of Student's t, for a two-sided interval at LEVEL."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.5 + LEVEL / 2))
