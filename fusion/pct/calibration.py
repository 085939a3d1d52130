"""Calibration: a net's confidence against its accuracy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fusion.pct.predictions import Predictions


@dataclass(frozen=True)
class Bin:
    """The samples whose confidence lies in (low, high]: count, mean confidence and accuracy."""

    low: float
    high: float
    count: int
    confidence: float | None
    accuracy: float | None


def reliability(predictions: Predictions, bins: int = 10) -> list[Bin]:
    """Return accuracy and confidence in bins of equal width."""
    place = np.clip(np.ceil(predictions.confidence.astype(np.float64) * bins).astype(int) - 1, 0, bins - 1)
    result = []
    for i in range(bins):
        rows = place == i
        count = int(rows.sum())
        confidence = float(predictions.confidence[rows].mean()) if count else None
        result.append(
            Bin(i / bins, (i + 1) / bins, count, confidence, float(predictions.right[rows].mean()) if count else None)
        )
    return result


def expected_calibration_error(predictions: Predictions, bins: int = 10) -> float | None:
    """Return the ECE: the mean over samples of |confidence - accuracy| of the sample's bin."""
    if not len(predictions):
        return None
    parts = (
        b.count * abs(b.confidence - b.accuracy)
        for b in reliability(predictions, bins)
        if b.confidence is not None and b.accuracy is not None
    )
    return sum(parts) / len(predictions)
