"""Breakdowns of flips: per class, per slice, per sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion.pct.alignment import align
from fusion.pct.metrics import Outcomes, outcomes
from fusion.pct.predictions import Predictions


def per_class(*, old: Predictions, new: Predictions) -> dict[int, Outcomes]:
    """Return the outcomes among the samples of each of the old net's classes, by class."""
    pair = align(old=old, new=new)
    members = {int(c): pair.new.labels == c for c in np.sort(old.classes)}
    return {c: outcomes(old=pair.old.right[rows], new=pair.new.right[rows]) for c, rows in members.items()}


def per_slice(
    *, old: Predictions, new: Predictions, by: Callable[[str, str], Any] | Mapping[str, Any] | None = None
) -> dict[Any, Outcomes]:
    """Return the outcomes among the samples of each slice.

    by  a function of (key, variant), or slices by key (samples without an entry are omitted); default: the variant
    """
    pair = align(old=old, new=new)
    variants = [""] * len(pair.new) if pair.new.variants is None else pair.new.variants.tolist()
    names = [_slice(by, key, variant) for key, variant in zip(pair.new.keys.tolist(), variants, strict=True)]
    rows: dict[Any, list[int]] = {}
    for row, name in enumerate(names):
        if name is not None:
            rows.setdefault(name, []).append(row)
    return {name: outcomes(old=pair.old.right[r], new=pair.new.right[r]) for name, r in rows.items()}


@dataclass(frozen=True)
class Flip:
    """A sample whose answer changed from right to wrong, or back; `row` is its index in the result of `align`."""

    row: int
    key: str
    variant: str
    label: int
    old_answer: int
    new_answer: int
    old_confidence: float
    new_confidence: float


def flips(*, old: Predictions, new: Predictions, positive: bool = False) -> list[Flip]:
    """Return the negative (or positive) flips, sorted by descending confidence of the new answer, then by key."""
    pair = align(old=old, new=new)
    before, after = pair.old, pair.new
    flipped = (~before.right & after.right) if positive else (before.right & ~after.right)
    result = [
        Flip(
            row,
            str(after.keys[row]),
            "" if after.variants is None else str(after.variants[row]),
            int(after.labels[row]),
            int(before.answers[row]),
            int(after.answers[row]),
            float(before.confidence[row]),
            float(after.confidence[row]),
        )
        for row in np.flatnonzero(flipped).tolist()
    ]
    return sorted(result, key=lambda flip: (-flip.new_confidence, flip.key, flip.variant))


def flip_matrix(*, old: Predictions, new: Predictions) -> tuple[list[int], npt.NDArray[np.int64]]:
    """Return the new net's classes, and the negative flips by label (rows) and new answer (columns), int64 [C, C]."""
    pair = align(old=old, new=new)
    classes = np.sort(new.classes)
    flipped = pair.old.right & ~pair.new.right
    counts = np.zeros((len(classes), len(classes)), dtype=np.int64)
    places = [np.searchsorted(classes, x[flipped]) for x in (pair.new.labels, pair.new.answers)]
    np.add.at(counts, (places[0], places[1]), 1)
    return classes.tolist(), counts


def _slice(by: Callable[[str, str], Any] | Mapping[str, Any] | None, key: str, variant: str) -> Any:
    if by is None:
        return variant
    return by.get(key) if isinstance(by, Mapping) else by(key, variant)
