"""Figures of pairs of nets, and their means with intervals over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from study.plan import NONE, Method, Pair

from fusion import pct
from fusion.pct import Interval, Predictions

SLACK = 0.3  # points of error that a method may cost


@dataclass(frozen=True)
class Figures:
    """Per cent, one value per pair of nets."""

    error_old: list[float]
    error: list[float]
    nfr: list[float]
    relative: list[float]


def measure(pairs: Sequence[Pair], folder: Path) -> Figures:
    """Return the figures of trained nets; several old or new ones are united or averaged."""
    rows = []
    for pair in pairs:
        old, new = _combined(pair.old, folder), _combined(pair.new, folder)
        outcomes = pct.outcomes(old=old, new=new)
        rows.append(
            [
                pct.error_rate(old),
                pct.error_rate(new),
                *(outcomes.value(n) for n in ("negative_flip_rate", "relative_nfr")),
            ]
        )
    return Figures(*(100 * np.array(rows, dtype=float)).T.tolist())


def _combined(jobs: Sequence, folder: Path) -> Predictions:  # type: ignore[type-arg]
    nets = [Predictions.load(folder / f"{job.name}.npz") for job in jobs]
    return pct.union(nets) if len({job.classes for job in jobs}) > 1 else sum(nets)  # type: ignore[return-value]


def choose(tried: Mapping[Method, Mapping[float, Figures]]) -> dict[Method, float]:
    """Return for each method the weight with the fewest flips that costs at most SLACK points of error."""
    limit = np.mean(tried[NONE][0.0].error) + SLACK
    chosen = {}
    for method, weights in tried.items():
        affordable = {w: f for w, f in weights.items() if np.mean(f.error) <= limit} or weights
        chosen[method] = min(affordable, key=lambda w: float(np.mean(affordable[w].nfr)))
    return chosen


def cuts(figures: Figures, untreated: Figures) -> list[float]:
    """Return the reduction of negative flips by a method, per cent, for each pair."""
    return [100 * (1 - one / none) for one, none in zip(figures.nfr, untreated.nfr, strict=True)]


def shown(values: Sequence[float], digits: int = 2) -> str:
    """Return mean and half the width of its 95 % interval as text."""
    mean: Interval = pct.mean_interval(values)
    if mean.low is None or mean.value is None:
        return f"{values[0]:.{digits}f}"
    return f"{mean.value:.{digits}f} ± {mean.value - mean.low:.{digits}f}"
