"""runs/statistics.py against scipy.stats on random cases, and by simulation."""

import numpy as np
import pytest
from scipy import stats

from dlcli.runs.statistics import holm, paired, summarise, unpaired

RANDOM = np.random.default_rng(1)


def test_a_thousand_summaries_against_scipy() -> None:
    for _ in range(1000):
        x = RANDOM.normal(RANDOM.normal(), RANDOM.exponential(), size=RANDOM.integers(2, 30))
        found = summarise(x.tolist())
        expected = stats.ttest_1samp(x, 0.0).confidence_interval()
        assert (found.count, found.mean, found.median) == (len(x), pytest.approx(x.mean()), pytest.approx(np.median(x)))
        assert found.std == pytest.approx(x.std(ddof=1))
        assert found.interval == pytest.approx((expected.low, expected.high), rel=1e-9, abs=1e-12)


def test_a_thousand_pairs_of_groups_against_scipy() -> None:
    for _ in range(1000):
        a, b = (RANDOM.normal(0.0, RANDOM.exponential() + 0.1, size=RANDOM.integers(3, 20)) for _ in range(2))
        found, expected = unpaired(a.tolist(), b.tolist()), stats.ttest_ind(b, a, equal_var=False)
        interval = expected.confidence_interval()
        assert (found.test, found.p) == ("welch", pytest.approx(expected.pvalue, rel=1e-9))
        assert found.mean == pytest.approx(b.mean() - a.mean(), abs=1e-12)
        assert found.interval == pytest.approx((interval.low, interval.high), rel=1e-9, abs=1e-12)


def test_two_hundred_sign_flips_against_scipy() -> None:
    for _ in range(200):
        count = int(RANDOM.integers(3, 11))
        a, b = RANDOM.normal(size=(2, count)).round(1)  # with ties
        found = paired(a.tolist(), b.tolist())
        # The differences with the rounding taken away, so that ties are exact for both.
        d = (10 * b).round() - (10 * a).round()
        expected = stats.permutation_test((d,), np.sum, permutation_type="samples", n_resamples=np.inf)
        assert (found.test, found.p) == ("sign-flip", pytest.approx(expected.pvalue, rel=1e-9))
        assert found.least_p == 2.0 ** (1 - count)


def test_many_pairs_are_drawn_and_come_near_the_exact_value() -> None:
    d = RANDOM.normal(0.3, 1.0, size=20)
    found = paired([0.0] * 20, d.tolist())
    signs = 1.0 - 2.0 * ((np.arange(2**20)[:, None] >> np.arange(20)) & 1)
    exact = (np.abs(signs @ d) >= abs(d.sum()) - 1e-9).mean()
    assert found.p == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 2**16))
    assert found.p == paired([0.0] * 20, d.tolist()).p and found.least_p == 2.0**-16


def test_holm_against_its_definition() -> None:
    assert holm([0.01, None, 0.04, 0.03]) == [0.03, None, 0.06, 0.06]
    for _ in range(1000):
        ps = RANDOM.uniform(size=RANDOM.integers(1, 9))
        by_hand = [max(min(1.0, (len(ps) - (ps < q).sum()) * q) for q in ps if q <= p) for p in ps]
        assert holm(ps.tolist()) == pytest.approx(by_hand)


def test_few_values_give_no_p() -> None:
    assert (summarise([0.5]).std, summarise([0.5]).interval) == (None, None)
    assert (paired([1.0, 2.0], [2.0, 4.0]).p, unpaired([1.0, 2.0], [2.0, 4.0, 5.0]).p) == (None, None)
    assert unpaired([1.0, 2.0], [2.0, 4.0, 5.0]).interval is not None
    same = unpaired([0.5] * 5, [0.6] * 5)
    assert (same.mean, same.interval, same.p) == (pytest.approx(0.1), None, None)
    with pytest.raises(ValueError, match="no values"):
        summarise([])


@pytest.mark.parametrize("count", [3, 5, 10])
def test_without_a_difference_the_tests_reject_at_most_at_their_level(count: int) -> None:
    rejected = {"welch": 0, "sign-flip": 0}
    tries = 2000
    for _ in range(tries):
        a, b = RANDOM.normal(size=(2, count)).tolist()
        for found in (unpaired(a, b), paired(a, b)):
            rejected[found.test] += found.p is not None and found.p <= 0.05
    assert max(rejected.values()) / tries <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / tries), rejected


@pytest.mark.parametrize("count", [3, 5, 10])
def test_intervals_contain_the_truth_in_94_of_100_cases_and_those_of_the_bootstrap_do_not(count: int) -> None:
    tries, inside, percentile = 2000, np.zeros(3), 0
    for _ in range(tries):
        a, b = RANDOM.normal(size=(2, count)) + [[0.0], [0.7]]
        found = (summarise(b.tolist()), unpaired(a.tolist(), b.tolist()), paired(a.tolist(), b.tolist()))
        inside += [one.interval is not None and one.interval.low <= 0.7 <= one.interval.high for one in found]
        resampled = [x[RANDOM.integers(0, count, size=(200, count))].mean(1) for x in (a, b)]
        low, high = np.quantile(resampled[1] - resampled[0], [0.025, 0.975])
        percentile += low <= 0.7 <= high
    assert inside.min() / tries >= 0.94, inside
    assert count == 10 or percentile / tries < 0.92, percentile
