"""How sure a measured rate is: paired bootstrap intervals, and McNemar's exact test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from fusion.errors import ReportError
from fusion.pct.metrics import FORMULAS, Outcomes

# Student's t at 97.5 % for 1 to 20 degrees of freedom.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
      2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086)  # fmt: skip


# Metrics that are a share of samples: which of the four counts these are (both right, negative, positive, both wrong).
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


def bootstrap(
    counted: Outcomes, metric: str = "negative_flip_rate", *, level: float = 0.95, draws: int = 10_000, seed: int = 0
) -> Interval:
    """Percentile interval from resampling the samples with their pair of answers.

    metric  a name of metrics.FORMULAS, e.g. accuracy_difference
    The four counts of a resample are multinomial, so drawing them is drawing the samples, at no cost per sample. A
    share of 0 or 1 is the same in every resample, which is no certainty: such a share gets Wilson's interval.
    Raises: ReportError for an unknown metric.
    """
    value = counted.value(metric)
    if value is None:
        return Interval(None, None, None)
    if metric in _AMONG and value in (0, 1):
        total = int(counted.counts[list(_AMONG[metric])].sum())
        return share_interval(round(value * total), total, level=level)
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(len(counted), counted.counts / len(counted), size=draws).astype(np.float64)
    spread = FORMULAS[metric](drawn)
    low, high = np.nanquantile(spread, [(1 - level) / 2, (1 + level) / 2]).tolist()
    return Interval(value, low, high)


def share_interval(count: int, total: int, *, level: float = 0.95) -> Interval:
    """A share of samples with Wilson's score interval, which is sound for few samples and for shares of 0 and 1."""
    if not total:
        return Interval(None, None, None)
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, shrunk = count / total, 1 + z * z / total
    middle = (share + z * z / (2 * total)) / shrunk
    half = z / shrunk * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    low, high = (0.0 if count == 0 else middle - half), (1.0 if count == total else middle + half)
    return Interval(share, low, high)


def mean_interval(values: Sequence[float]) -> Interval:
    """The mean of a figure over runs (seeds) with its 95 % interval by Student's t; no ends for a single run."""
    runs = np.asarray(values, dtype=np.float64)
    if not len(runs):
        return Interval(None, None, None)
    mean = float(runs.mean())
    if len(runs) == 1:
        return Interval(mean, None, None)
    free = len(runs) - 1
    quantile = _T[free - 1] if free <= len(_T) else 1.96 + 2.4 / free
    half = quantile * float(runs.std(ddof=1)) / math.sqrt(len(runs))
    return Interval(mean, mean - half, mean + half)


def mcnemar(counted: Outcomes) -> float | None:
    """Two-sided p of McNemar's exact test that both nets are equally often right; None without any flip."""
    flipped = counted.negative + counted.positive
    if flipped == 0:
        return None
    fewer = min(counted.negative, counted.positive)
    logs = [
        math.lgamma(flipped + 1) - math.lgamma(k + 1) - math.lgamma(flipped - k + 1) - flipped * math.log(2)
        for k in range(fewer + 1)
    ]
    return min(1.0, 2 * math.fsum(map(math.exp, logs)))


def paired_difference(
    first: np.ndarray[tuple[int, ...], np.dtype[np.bool_]],
    second: np.ndarray[tuple[int, ...], np.dtype[np.bool_]],
    *,
    level: float = 0.95,
    draws: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Interval of the mean of `second` less that of `first`: what one new net spares against another, bool [N] each.

    Raises: ReportError for arrays of different shapes.
    """
    if first.shape != second.shape:
        raise ReportError(f"paired arrays of shapes {first.shape} and {second.shape}")
    both, one, other = (int(x.sum()) for x in (first & second, first & ~second, ~first & second))
    counted = Outcomes(both, one, other, len(first) - both - one - other)
    return bootstrap(counted, "accuracy_difference", level=level, draws=draws, seed=seed)
