"""Alignment of old and new predictions by sample: only predictions over the same samples are compared."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fusion.errors import ReportError
from fusion.pct.predictions import Predictions, check_equal_labels, positions


class Pair(NamedTuple):
    """Predictions over the samples that the old net covers, in one order. `total`: number of the new net's samples."""

    old: Predictions
    new: Predictions
    total: int


def align(*, old: Predictions, new: Predictions) -> Pair:
    """Bring both into the new one's order, and keep the samples whose class the old net knows.

    Both must have the same samples; an old net with fewer classes may omit those of other classes.
    Raises: ReportError naming the samples, labels or classes differ.
    """
    foreign = sorted(set(old.classes.tolist()) - set(new.classes.tolist()))
    if foreign:
        raise ReportError(
            f"{old.name} knows the classes {foreign}, which {new.name} does not have",
            hint="bring both into one label space: Predictions.relabelled, or PATH@1,3,5 on the command line",
        )
    rows = positions(old, new)
    common = np.flatnonzero(rows >= 0)
    before, after = old.take(rows[common]), new.take(common)
    check_equal_labels(before, after)  # first: with labels of another label space samples seem to be missing too
    missing = np.flatnonzero(positions(new, old) < 0)
    unanswered = np.flatnonzero((rows < 0) & np.isin(new.labels, old.classes))
    if len(missing) or len(unanswered):
        raise ReportError(
            f"{old.name} and {new.name} are about different samples:"
            f"{_first_keys(old, missing, 'only in the old')}{_first_keys(new, unanswered, 'only in the new')}",
            hint="evaluate both on the same list; an old net may omit only samples of classes it does not know",
        )
    covered = before.covered
    return Pair(before.take(covered), after.take(covered), len(new))


def _first_keys(predictions: Predictions, rows: np.ndarray[tuple[int, ...], np.dtype[np.int64]], where: str) -> str:
    if not len(rows):
        return ""
    first = ", ".join(repr(str(key)) for key in predictions.keys[rows[:3]])
    return f" {len(rows)} {where} ({first}{', ...' if len(rows) > 3 else ''})"
