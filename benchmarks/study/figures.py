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
    """Figures of finished nets; several old or new ones are united or averaged."""
    rows = []
    for one in pairs:
        old, new = _together(one.old, folder), _together(one.new, folder)
        counted = pct.outcomes(old=old, new=new)
        rows.append(
            [
                pct.error_rate(old),
                pct.error_rate(new),
                *(counted.value(n) for n in ("negative_flip_rate", "relative_nfr")),
            ]
        )
    return Figures(*(100 * np.array(rows, dtype=float)).T.tolist())


def _together(jobs: Sequence, folder: Path) -> Predictions:  # type: ignore[type-arg]
    nets = [Predictions.load(folder / f"{job.name}.npz") for job in jobs]
    return pct.union(nets) if len({job.classes for job in jobs}) > 1 else sum(nets)  # type: ignore[return-value]


def choose(tried: Mapping[Method, Mapping[float, Figures]]) -> dict[Method, float]:
    """Per method the weight with the fewest flips that costs at most SLACK points of error."""
    limit = np.mean(tried[NONE][0.0].error) + SLACK
    chosen = {}
    for method, weights in tried.items():
        able = {w: f for w, f in weights.items() if np.mean(f.error) <= limit} or weights
        chosen[method] = min(able, key=lambda w: float(np.mean(able[w].nfr)))
    return chosen


def cuts(figures: Figures, untreated: Figures) -> list[float]:
    """How much less is unlearnt than without treatment, per cent, pair by pair."""
    return [100 * (1 - one / none) for one, none in zip(figures.nfr, untreated.nfr, strict=True)]


def shown(values: Sequence[float], digits: int = 2) -> str:
    """Mean and half the width of its 95 % interval."""
    mean: Interval = pct.mean_interval(values)
    if mean.low is None or mean.value is None:
        return f"{values[0]:.{digits}f}"
    return f"{mean.value:.{digits}f} ± {mean.value - mean.low:.{digits}f}"
