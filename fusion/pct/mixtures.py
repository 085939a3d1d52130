"""Averaging the logits of several nets, whatever classes each of them knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.int64]


class Member(NamedTuple):
    """One net's say: logits [N, C], the common label ids of its columns [C], and its weight."""

    logits: Floats
    classes: Ints
    weight: float


def log_softmax(logits: Floats) -> npt.NDArray[np.float64]:
    """Logarithms of probabilities, float64 [N, C]; a class at -inf stays there and takes no part."""
    values = logits.astype(np.float64)
    values -= values.max(axis=1, keepdims=True)
    values -= np.log(np.exp(values).sum(axis=1, keepdims=True))
    return values


def columns(have: Ints, want: Ints) -> Ints:
    """For each class in `want` its column among `have`, int64 [len(want)]; -1 where it is absent."""
    order = np.argsort(have, kind="stable")
    found = np.minimum(np.searchsorted(have, want, sorter=order), len(have) - 1)
    column = order[found]
    return np.where(have[column] == want, column, -1)


def mix(members: Sequence[Member], classes: Ints) -> npt.NDArray[np.float32]:
    """The members' weighted mean in the label space `classes`, float32 [N, len(classes)].

    Members with the same classes average their logits. Otherwise logits of different nets are not on one scale, so
    each member first takes log_softmax within its own classes, and a class is averaged over the members that cover
    it; a class that nobody covers is -inf (a mean over disjoint members' -inf would turn everything into NaN).
    """
    same = all(np.array_equal(np.sort(m.classes), np.sort(classes)) and np.isfinite(m.logits).all() for m in members)
    shape = (len(members[0].logits), len(classes))
    total, weight = np.zeros(shape), np.zeros(shape)
    for member in members:
        values = member.logits.astype(np.float64) if same else log_softmax(member.logits)
        column = columns(member.classes, classes)
        values = np.where(column >= 0, values[:, column], -np.inf)
        covered = np.isfinite(values)
        total += np.where(covered, values, 0.0) * member.weight
        weight += covered * member.weight
    mean = np.full(shape, -np.inf)
    np.divide(total, weight, out=mean, where=weight > 0)
    return mean.astype(np.float32)
