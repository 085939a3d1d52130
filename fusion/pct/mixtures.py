"""Averages of the logits of several nets, which may know different classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.int64]


class MixtureMember(NamedTuple):
    """One net: logits [N, C], the common label ids of its columns [C], and its weight."""

    logits: Floats
    classes: Ints
    weight: float


def log_softmax(logits: Floats) -> npt.NDArray[np.float64]:
    """Return log-probabilities, float64 [N, C]; classes at -inf are excluded and stay there."""
    values = logits.astype(np.float64)
    values -= values.max(axis=1, keepdims=True)
    values -= np.log(np.exp(values).sum(axis=1, keepdims=True))
    return values


def class_columns(have: Ints, want: Ints) -> Ints:
    """Return the column in `have` of each class in `want`, int64 [len(want)]; -1 where it is absent."""
    order = np.argsort(have, kind="stable")
    nearest = np.minimum(np.searchsorted(have, want, sorter=order), len(have) - 1)
    column = order[nearest]
    return np.where(have[column] == want, column, -1)


def mix(members: Sequence[MixtureMember], classes: Ints) -> npt.NDArray[np.float32]:
    """Return the members' weighted mean in the label space `classes`, float32 [N, len(classes)].

    Members with the same classes average their logits. Otherwise each member first takes log_softmax over its own
    classes, since logits of different nets have different scales, and a class is averaged over the members that cover
    it; classes that no member covers are -inf.
    """
    # Sums over finite entries only: a mean that includes another member's -inf would be -inf, or NaN.
    same = all(np.array_equal(np.sort(m.classes), np.sort(classes)) and np.isfinite(m.logits).all() for m in members)
    shape = (len(members[0].logits), len(classes))
    total, weight = np.zeros(shape), np.zeros(shape)
    for member in members:
        values = member.logits.astype(np.float64) if same else log_softmax(member.logits)
        column = class_columns(member.classes, classes)
        values = np.where(column >= 0, values[:, column], -np.inf)
        covered = np.isfinite(values)
        total += np.where(covered, values, 0.0) * member.weight
        weight += covered * member.weight
    mean = np.full(shape, -np.inf)
    np.divide(total, weight, out=mean, where=weight > 0)
    return mean.astype(np.float32)
