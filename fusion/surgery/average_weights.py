"""The weights of several nets of one architecture combined: their mean, a greedy soup, a point between two.

Sources: Wortsman et al. 2022 (model soups), Matena and Raffel 2022 (merging by averaging). For a share within a budget
of negative flips see `fusion.pct.within_budget`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusion.errors import FusionError, WeightsMismatch, raise_all
from fusion.surgery.result import SurgeryResult, Weights

Array = NDArray[Any]


def average(nets: Sequence[Weights], shares: Sequence[float] | None = None) -> SurgeryResult:
    """Return the weighted mean of the nets' weights, summed in float64.

    shares  one per net; they are divided by their sum; None: all equal
    BatchNorm's sums are divided by their factors first, since they count batches of several runs.
    Raises: WeightsMismatch naming every layer whose blobs differ in number or shape; FusionError for shares that
            do not fit, or nets without a common layer.
    """
    if not nets:
        raise FusionError("there is nothing to average", hint="give at least one net's weights")
    weights = [1.0] * len(nets) if shares is None else [float(share) for share in shares]
    if len(weights) != len(nets) or not np.isfinite(weights).all() or sum(weights) <= 0 or min(weights) < 0:
        raise FusionError(f"shares {weights} for {len(nets)} nets", hint="give one per net, none negative, not all 0")
    layers = [name for name in nets[0] if all(name in net for net in nets)]
    if not layers:
        raise FusionError("the nets have no layer in common", hint="average nets of one architecture")
    # Layers that only some nets have are dropped, not averaged over those that have them.
    raise_all([error for name in layers for error in _differing(name, nets)])
    normalized = [share / sum(weights) for share in weights]
    averaged: dict[str, Sequence[Array]] = {name: _mean([net[name] for net in nets], normalized) for name in layers}
    others = dict.fromkeys(name for net in nets for name in net if name not in averaged)
    changed = {name: f"mean of {len(nets)}" for name in averaged}
    return SurgeryResult(None, averaged, (), changed, tuple(others))


def interpolate(old: Weights, new: Weights, share: float) -> SurgeryResult:
    """Return the point `share` of the way from the old net to the new one; 0 gives the old one.

    Raises: as average; FusionError for a share outside 0 ... 1.
    """
    if not 0 <= share <= 1:
        raise FusionError(f"the share {share:g} is not between 0 and 1", hint="0 is the old net, 1 the new one")
    return average([old, new], [1 - share, share])


def greedy_soup(nets: Sequence[Weights], score: Callable[[Weights], float]) -> tuple[SurgeryResult, tuple[int, ...]]:
    """Average the nets that do not make the average worse, tried from the best to the worst; return their indices too.

    score  higher is better; measure it on other samples than those of the reported result
    Raises: as average.
    """
    order = sorted(range(len(nets)), key=lambda index: -score(nets[index]))  # stable: of equals the first given
    chosen = order[:1]
    best = average([nets[index] for index in chosen])
    best_score = score(best.weights) if chosen else 0.0
    for index in order[1:]:
        tried = average([nets[one] for one in (*chosen, index)])
        score_tried = score(tried.weights)
        if score_tried >= best_score:
            best, best_score, chosen = tried, score_tried, [*chosen, index]
    return best, tuple(chosen)


def _differing(name: str, nets: Sequence[Weights]) -> list[FusionError]:
    first = [blob.shape for blob in nets[0][name]]
    for number, net in enumerate(nets[1:], 2):
        shapes = [blob.shape for blob in net[name]]
        if shapes != first:
            hint = "average nets of one architecture only"
            return [WeightsMismatch(f"layer '{name}': net 1 has blobs {first}, net {number} {shapes}", hint=hint)]
    return []


def _mean(layers: Sequence[Sequence[Array]], shares: Sequence[float]) -> list[Array]:
    if len(layers) == 1:
        return list(layers[0])
    if _is_statistics(layers[0]):
        layers = [_normalized(blobs) for blobs in layers]
    return [
        np.asarray(sum(share * np.asarray(blob, np.float64) for share, blob in zip(shares, blobs, strict=True)))
        .astype(np.float32)
        for blobs in zip(*layers, strict=True)
    ]  # fmt: skip


def _is_statistics(blobs: Sequence[Array]) -> bool:
    """Return whether these look like BatchNorm's: mean and variance of one shape, and the factor that divides them."""
    return len(blobs) in (3, 5) and blobs[0].shape == blobs[1].shape and blobs[0].ndim == 1 and blobs[2].size == 1


def _normalized(blobs: Sequence[Array]) -> list[Array]:
    factor = float(np.asarray(blobs[2]).ravel()[0])
    scale = 0.0 if factor == 0 else 1 / factor
    # The factor becomes 1: sums over different numbers of batches could not be averaged.
    statistics = [np.asarray(blob, np.float64) * scale for blob in blobs[:2]]
    return [*statistics, np.ones_like(blobs[2], np.float64), *blobs[3:]]
