"""Confidence intervals of measured rates: score intervals, the paired bootstrap for other metrics, McNemar's test."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from fusion.errors import ReportError
from fusion.pct.metrics import FORMULAS, Outcomes

MCNEMAR = "McNemar's exact test, two-sided, that both nets are equally often right"  # the test of `mcnemar`
# Metrics that are a share of samples: the indices of the counts in the denominator.
_AMONG = {
    **dict.fromkeys(("accuracy_old", "accuracy_new", "error_rate_old", "error_rate_new"), (0, 1, 2, 3)),
    **dict.fromkeys(("negative_flip_rate", "positive_flip_rate"), (0, 1, 2, 3)),
    "negative_flip_impact": (1, 3),
    "backward_trust_compatibility": (0, 1),
    "backward_error_compatibility": (1, 3),
}


class Interval(NamedTuple):
    """A value and the ends of its interval; all None where the metric is undefined."""

    value: float | None
    low: float | None
    high: float | None


def metric_interval(counted: Outcomes, metric: str = "negative_flip_rate", *, level: float = 0.95) -> Interval:
    """Return a metric of metrics.FORMULAS with an interval that holds for few samples and few flips too.

    Shares get Wilson's score interval, the difference of accuracies Tango's for paired shares, and relative_nfr, a
    ratio of three, the paired bootstrap. Raises: ReportError for an unknown metric.
    """
    value = counted.value(metric)
    if metric in _AMONG and value is not None:
        total = int(counted.counts[list(_AMONG[metric])].sum())
        return share_interval(round(value * total), total, level=level)
    if metric == "accuracy_difference":
        return difference_interval(counted, level=level)
    return bootstrap(counted, metric, level=level)


def difference_interval(counted: Outcomes, *, level: float = 0.95) -> Interval:
    """Return the difference of accuracies (new less old) with Tango's score interval for paired shares (Tango 1998).

    It contains all differences that the score test does not reject. Unlike Wald's and the bootstrap's it has a width
    without any flip: it is then Wilson's for a share of 0, to both sides.
    """
    total, up, down = len(counted), counted.positive, counted.negative
    if not total:
        return Interval(None, None, None)
    z = NormalDist().inv_cdf((1 + level) / 2)
    value = (up - down) / total

    def score(difference: float) -> float:
        # The most likely share of negative flips under this difference is the larger root of a quadratic.
        a, c = 2.0 * total, -down * difference * (1 - difference)
        b = -up - down + (2 * total - up + down) * difference
        share = max(0.0, (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a))
        spread = total * (2 * share + difference * (1 - difference))
        gap = up - down - total * difference
        return gap / math.sqrt(spread) if spread > 0 else math.copysign(math.inf, gap) if gap else 0.0

    return Interval(value, _crossing(score, z, -1.0, value), _crossing(score, -z, value, 1.0))


def _crossing(falling: Callable[[float], float], level: float, low: float, high: float) -> float:
    """Return where a falling function passes a level, by bisection to the last digit."""
    for _ in range(60):  # float64 has 53 bits
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > level else (low, middle)
    return (low + high) / 2


def bootstrap(
    counted: Outcomes, metric: str = "negative_flip_rate", *, level: float = 0.95, draws: int = 10_000, seed: int = 0
) -> Interval:
    """Return the percentile interval from resampling the samples with their pairs of answers.

    metric  a name of metrics.FORMULAS, e.g. accuracy_difference
    Raises: ReportError for an unknown metric.
    """
    # The four counts of a resample are multinomial: drawing them is drawing the samples, at no cost per sample. Values
    # that are the same in every resample (a share of 0 or 1, a difference or relative rate without any flip) are not
    # certain: they get the score intervals of `metric_interval`.
    value = counted.value(metric)
    if value is None:
        return Interval(None, None, None)
    if metric in _AMONG and value in (0, 1):
        total = int(counted.counts[list(_AMONG[metric])].sum())
        return share_interval(round(value * total), total, level=level)
    if metric == "accuracy_difference" and not counted.negative and not counted.positive:
        return difference_interval(counted, level=level)
    if metric == "relative_nfr" and not counted.negative:
        return Interval(value, 0.0, _most_relative(counted, level))
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(len(counted), counted.counts / len(counted), size=draws).astype(np.float64)
    spread = FORMULAS[metric](drawn)
    low, high = np.nanquantile(spread, [(1 - level) / 2, (1 + level) / 2]).tolist()
    return Interval(value, low, high)


def _most_relative(counted: Outcomes, level: float) -> float | None:
    """Return the relative rate at the upper end of Wilson's interval for 0 negative flips."""
    high = share_interval(0, len(counted), level=level).high or 0.0
    counts = counted.counts * (1 - high)
    counts[1] = high * len(counted)
    value = float(FORMULAS["relative_nfr"](counts))
    return None if math.isnan(value) else value


def share_interval(count: int, total: int, *, level: float = 0.95) -> Interval:
    """Return a share of samples with Wilson's score interval, valid for few samples and for shares of 0 and 1."""
    if not total:
        return Interval(None, None, None)
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, shrunk = count / total, 1 + z * z / total
    middle = (share + z * z / (2 * total)) / shrunk
    half = z / shrunk * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    low, high = (0.0 if count == 0 else middle - half), (1.0 if count == total else middle + half)
    return Interval(share, low, high)


def mean_interval(values: Sequence[float], *, level: float = 0.95) -> Interval:
    """Return the mean of a figure over runs (seeds) with its interval by Student's t; no ends for a single run."""
    runs = np.asarray(values, dtype=np.float64)
    if not len(runs):
        return Interval(None, None, None)
    mean = float(runs.mean())
    if len(runs) == 1:
        return Interval(mean, None, None)
    quantile = _crossing(lambda t: _beyond(t, len(runs) - 1), 1 - level, 0.0, 1e3)
    half = quantile * float(runs.std(ddof=1)) / math.sqrt(len(runs))
    return Interval(mean, mean - half, mean + half)


def t_test(values: Sequence[float]) -> float | None:
    """Return the two-sided p of Student's t-test that a figure, such as a difference of pairs, is 0 in the mean.

    None where the values do not vary or are fewer than two.
    """
    runs = np.asarray(values, dtype=np.float64)
    spread = float(runs.std(ddof=1)) if len(runs) > 1 else 0.0
    return _beyond(abs(float(runs.mean())) * math.sqrt(len(runs)) / spread, len(runs) - 1) if spread else None


def _beyond(t: float, free: int) -> float:
    """Return the probability that Student's t with `free` degrees of freedom is beyond -t or t.

    For whole degrees of freedom it is a finite sum (Abramowitz and Stegun, 26.7.3 and 26.7.4).
    """
    angle = math.atan(t / math.sqrt(free))
    term, total = (math.cos(angle), 0.0) if free % 2 else (1.0, 0.0)
    for k in range(free % 2, free - 1, 2):
        total += term
        term *= math.cos(angle) ** 2 * (k + 1) / (k + 2)
    within = math.sin(angle) * total
    return max(0.0, 1 - (2 / math.pi * (angle + within) if free % 2 else within))


def mcnemar(counted: Outcomes) -> float | None:
    """Return the two-sided p of McNemar's exact test that both nets are equally often right; None without any flip.

    It tests the balance of negative and positive flips, and so accuracy, not the number of flips.
    """
    flipped = counted.negative + counted.positive
    if flipped == 0:
        return None
    fewer = min(counted.negative, counted.positive)
    logs = [  # binomial probabilities as logarithms: factorials of large counts overflow
        math.lgamma(flipped + 1) - math.lgamma(k + 1) - math.lgamma(flipped - k + 1) - flipped * math.log(2)
        for k in range(fewer + 1)
    ]
    return min(1.0, 2 * math.fsum(map(math.exp, logs)))


def paired_difference(
    first: np.ndarray[tuple[int, ...], np.dtype[np.bool_]],
    second: np.ndarray[tuple[int, ...], np.dtype[np.bool_]],
    *,
    level: float = 0.95,
) -> Interval:
    """Return Tango's interval of the mean of `second` less that of `first`, for two new nets on the same samples.

    first, second  bool [N]
    Raises: ReportError for arrays of different shapes.
    """
    if first.shape != second.shape:
        raise ReportError(f"paired arrays of shapes {first.shape} and {second.shape}")
    both, one, other = (int(x.sum()) for x in (first & second, first & ~second, ~first & second))
    counted = Outcomes(both, one, other, len(first) - both - one - other)
    return difference_interval(counted, level=level)
