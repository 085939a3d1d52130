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
    assert pct.bootstrap(all_right, "accuracy_difference") == (0, 0, 0)
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
    assert found == pytest.approx((3.0, 3 - 2.776 * math.sqrt(0.5), 3 + 2.776 * math.sqrt(0.5)))
    assert pct.mean_interval([2.0]) == (2.0, None, None)
    assert pct.mean_interval([]) == (None, None, None)
    wide = pct.mean_interval([float(n) for n in range(100)])
    assert wide.high is not None
    assert wide.high - 49.5 == pytest.approx(1.984 * 29.011 / 10, rel=1e-3)
