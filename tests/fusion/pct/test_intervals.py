"""The interval against resampling samples one by one, the test against the binomial written out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fusion import pct
from fusion.errors import ReportError
from fusion.pct.intervals import paired_difference

COUNTED = pct.Outcomes(both_right=850, negative=40, positive=60, both_wrong=50)


@pytest.mark.parametrize("metric", ["negative_flip_rate", "accuracy_difference", "relative_nfr"])
def test_drawing_counts_is_drawing_samples(metric: str) -> None:
    kinds = np.repeat(np.arange(4), COUNTED.counts.astype(int))
    generator = np.random.default_rng(1)
    drawn = [np.bincount(generator.choice(kinds, len(kinds)), minlength=4) for _ in range(3000)]
    values = [pct.Outcomes(*counts.tolist()).value(metric) for counts in drawn]
    interval = pct.bootstrap(COUNTED, metric)
    spread = interval.high - interval.low
    np.testing.assert_allclose([interval.low, interval.high], np.quantile(values, [0.025, 0.975]), atol=0.06 * spread)
    assert interval.low < COUNTED.value(metric) == interval.value < interval.high


def test_the_seed_settles_it() -> None:
    assert pct.bootstrap(COUNTED, seed=3) == pct.bootstrap(COUNTED, seed=3)
    assert pct.bootstrap(COUNTED, seed=3) != pct.bootstrap(COUNTED, seed=4)
    wide, narrow = pct.bootstrap(COUNTED, level=0.99), pct.bootstrap(COUNTED, level=0.5)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_undefined_is_none() -> None:
    assert pct.bootstrap(pct.Outcomes(0, 0, 0, 0)) == (None, None, None)
    assert pct.bootstrap(pct.Outcomes(5, 0, 0, 0), "relative_nfr") == (None, None, None)
    assert pct.mcnemar(pct.Outcomes(5, 0, 0, 5)) is None
    with pytest.raises(ReportError, match="unknown metric"):
        pct.bootstrap(COUNTED, "nfr")


@pytest.mark.parametrize(("negative", "positive"), [(1, 0), (0, 8), (3, 9), (40, 60), (7, 7)])
def test_mcnemar(negative: int, positive: int) -> None:
    n, fewer = negative + positive, min(negative, positive)
    expected = min(1.0, 2 * sum(math.comb(n, k) for k in range(fewer + 1)) / 2**n)
    assert pct.mcnemar(pct.Outcomes(100, negative, positive, 10)) == pytest.approx(expected)
    assert pct.mcnemar(pct.Outcomes(1, positive, negative, 0)) == pytest.approx(expected)


def test_no_flip_among_few_samples_is_no_certainty() -> None:
    none, all_right = pct.Outcomes(200, 0, 0, 0), pct.Outcomes(0, 0, 0, 7)
    value, low, high = pct.bootstrap(none, "negative_flip_rate")
    assert (value, low, high) == (0, 0, pytest.approx(0.018845, abs=1e-6))
    assert pct.bootstrap(none, "accuracy_new") == (1, pytest.approx(1 - high), 1)
    assert pct.bootstrap(pct.Outcomes(3, 0, 1, 2), "backward_trust_compatibility").low == pytest.approx(
        0.438503, abs=1e-6
    )
    widest = pytest.approx(3.841459 / (7 + 3.841459), abs=1e-6)
    assert pct.bootstrap(all_right, "accuracy_difference")[1:] == (pytest.approx(-widest.expected, abs=1e-6), widest)
    assert pct.bootstrap(none, "relative_nfr") == (None, None, None)


def test_wilsons_interval() -> None:
    """Wilson's own formula, worked out by hand for 3 of 20 and z = 1.96."""
    found = pct.share_interval(3, 20)
    assert found == pytest.approx((0.15, 0.052369, 0.360419), abs=1e-5)
    assert pct.share_interval(0, 0) == (None, None, None)
    wider = pct.share_interval(3, 20, level=0.99)
    assert wider.low < found.low < found.high < wider.high


def test_difference_of_two_new_nets() -> None:
    first, second = np.arange(100) % 4 == 0, np.arange(100) % 5 == 0
    interval = paired_difference(first, second)
    assert interval.value == pytest.approx(second.mean() - first.mean())
    assert interval.low < interval.value < interval.high
    with pytest.raises(ReportError, match="shapes"):
        paired_difference(first, second[:-1])


def test_the_mean_of_runs_has_students_interval() -> None:
    found = pct.mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert found == pytest.approx((3.0, 3 - 2.776445 * math.sqrt(0.5), 3 + 2.776445 * math.sqrt(0.5)))
    assert pct.mean_interval([2.0]) == (2.0, None, None)
    assert pct.mean_interval([]) == (None, None, None)
    wide = pct.mean_interval([float(n) for n in range(100)])
    assert wide.high is not None
    assert wide.high - 49.5 == pytest.approx(1.98422 * 29.01149 / 10, rel=1e-5)


@pytest.mark.parametrize(  # published tables: degrees of freedom, the 97.5 % and the 99.5 % quantile
    ("free", "usual", "wide"), [(1, 12.7062, 63.6567), (2, 4.30265, 9.92484), (3, 3.18245, 5.84091),
                                (9, 2.26216, 3.24984), (20, 2.08596, 2.84534), (99, 1.98422, 2.62641)]
)  # fmt: skip
def test_students_quantiles_and_p_are_those_of_the_tables(free: int, usual: float, wide: float) -> None:
    runs = np.append(np.zeros(free), 1.0)  # the mean is 1 / n, and so is its standard error
    for quantile, level in ((usual, 0.95), (wide, 0.99)):
        low, high = pct.mean_interval(runs, level=level)[1:]
        assert (low, high) == pytest.approx(((1 - quantile) / (free + 1), (1 + quantile) / (free + 1)), rel=1e-5)
        shifted = runs + (quantile - 1) / (free + 1)  # the mean is as many standard errors from 0
        assert pct.t_test(shifted) == pytest.approx(1 - level, rel=1e-4)
        assert pct.t_test(-shifted) == pytest.approx(1 - level, rel=1e-4)


def test_t_test_of_values_without_spread_has_no_p() -> None:
    assert pct.t_test([]) is None
    assert pct.t_test([0.3]) is None
    assert pct.t_test([0.25, 0.25]) is None
    assert pct.t_test([-1.0, 1.0]) == 1


def test_tangos_interval_at_its_ends() -> None:
    assert pct.difference_interval(pct.Outcomes(0, 0, 0, 0)) == (None, None, None)
    assert pct.difference_interval(pct.Outcomes(0, 4, 0, 0)) == pytest.approx((-1, -1, 0.0206), abs=0.05)


def test_tangos_interval_is_what_the_score_test_allows() -> None:
    """The ends against the test's own definition, with the constrained likelihood maximised on a grid."""
    counted, z = pct.Outcomes(70, 3, 11, 16), 1.959964
    found = pct.difference_interval(counted)
    for end, sign in ((found.low, 1), (found.high, -1)):
        grid = np.linspace(max(0, -end) + 1e-9, (1 - abs(end)) / 2 + max(0, -end) - 1e-9, 200_001)
        rest = 1 - 2 * grid - end
        usable = (rest > 0) & (grid + end > 0)
        likely = 3 * np.log(grid[usable]) + 11 * np.log((grid + end)[usable]) + 86 * np.log(rest[usable])
        share = grid[usable][likely.argmax()]
        score = (11 - 3 - 100 * end) / math.sqrt(100 * (2 * share + end - end * end))
        assert score == pytest.approx(sign * z, abs=1e-3)
    assert found.value == pytest.approx(0.08)
    assert found.low < found.value < found.high
    mirrored = pct.difference_interval(pct.Outcomes(70, 11, 3, 16))
    assert (mirrored.low, mirrored.high) == (pytest.approx(-found.high), pytest.approx(-found.low))


@pytest.mark.parametrize(("total", "negative", "positive"), [(20, 0.01, 0.01), (50, 0.04, 0.0), (200, 0.004, 0.02),
                                                             (100, 0.1, 0.15), (400, 0.002, 0.002)])  # fmt: skip
def test_intervals_hold_what_they_promise(total: int, negative: float, positive: float) -> None:
    """Of many samples the 95 % intervals of differences, and the upper ends of NFR, miss the truth rarely."""
    generator = np.random.default_rng(5)
    drawn = generator.multinomial(total, [0.8 - negative, negative, positive, 0.2 - positive], size=2000)
    kinds, times = np.unique(drawn, axis=0, return_counts=True)
    held = above = 0
    for counts, often in zip(kinds.tolist(), times.tolist(), strict=True):
        counted = pct.Outcomes(*counts)
        difference = pct.metric_interval(counted, "accuracy_difference")
        held += often * (difference.low <= positive - negative <= difference.high)
        above += often * (pct.metric_interval(counted, "negative_flip_rate").high >= negative)
    assert held / 2000 > 0.935
    assert above / 2000 > 0.955


def test_no_interval_is_a_point_where_nothing_was_seen() -> None:
    still = pct.Outcomes(12, 0, 0, 8)
    for metric in ("negative_flip_rate", "positive_flip_rate", "accuracy_difference", "relative_nfr"):
        for found in (pct.metric_interval(still, metric), pct.bootstrap(still, metric)):
            assert found.value == 0
            assert found.high > 0.1
    assert pct.metric_interval(still, "negative_flip_rate").high == pytest.approx(0.161125, abs=1e-6)
    assert pct.metric_interval(still, "accuracy_difference")[1:] == (pytest.approx(-0.161125), pytest.approx(0.161125))
    # 0.161125 of negative flips: 0.161125 / (0.6 * 0.838875 + 0.161125) / (0.161125 + 0.4 * 0.838875)
    assert pct.metric_interval(still, "relative_nfr").high == pytest.approx(0.488, abs=1e-3)


def test_shares_get_wilsons_interval() -> None:
    assert pct.metric_interval(COUNTED, "negative_flip_rate") == pct.share_interval(40, 1000)
    assert pct.metric_interval(COUNTED, "accuracy_new") == pct.share_interval(910, 1000)
    assert pct.metric_interval(COUNTED, "negative_flip_impact") == pct.share_interval(40, 90)
    assert pct.metric_interval(COUNTED, "backward_trust_compatibility") == pct.share_interval(850, 890)
    assert pct.metric_interval(COUNTED, "backward_error_compatibility", level=0.9) == pct.share_interval(
        50, 90, level=0.9
    )
    assert pct.metric_interval(COUNTED, "relative_nfr") == pct.bootstrap(COUNTED, "relative_nfr")
    assert pct.metric_interval(pct.Outcomes(0, 0, 0, 0)) == (None, None, None)
    with pytest.raises(ReportError, match="unknown metric"):
        pct.metric_interval(COUNTED, "nfr")
