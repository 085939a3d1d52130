"""Old and new predictions sample by sample: only what is about the same samples may be compared."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fusion.errors import ReportError
from fusion.pct.predictions import Predictions, check_labels, positions


class Pair(NamedTuple):
    """Predictions over the same samples in the same order: those that the old net covers. `total`: the new net's."""

    old: Predictions
    new: Predictions
    total: int


def align(*, old: Predictions, new: Predictions) -> Pair:
    """Bring both into the new one's order, and keep the samples whose class the old net knows.

    Both must hold the same samples; an old net of fewer classes may leave out those of other classes.
    Raises: ReportError saying which samples, labels or classes differ.
    """
    foreign = sorted(set(old.classes.tolist()) - set(new.classes.tolist()))
    if foreign:
        raise ReportError(
            f"{old.name} knows the classes {foreign}, which {new.name} does not have",
            hint="bring both into one label space: Predictions.relabelled, or PATH@1,3,5 on the command line",
        )
    rows = positions(old, new)
    kept = np.flatnonzero(rows >= 0)
    before, after = old.take(rows[kept]), new.take(kept)
    check_labels(before, after)  # first: labels of another space also make samples look absent
    gone = np.flatnonzero(positions(new, old) < 0)
    unanswered = np.flatnonzero((rows < 0) & np.isin(new.labels, old.classes))
    if len(gone) or len(unanswered):
        raise ReportError(
            f"{old.name} and {new.name} are about different samples:"
            f"{_listed(old, gone, 'only in the old')}{_listed(new, unanswered, 'only in the new')}",
            hint="evaluate both on the same list; an old net may leave out only samples of classes it does not know",
        )
    known = before.covered
    return Pair(before.take(known), after.take(known), len(new))


def _listed(predictions: Predictions, rows: np.ndarray[tuple[int, ...], np.dtype[np.int64]], where: str) -> str:
    if not len(rows):
        return ""
    first = ", ".join(repr(str(key)) for key in predictions.keys[rows[:3]])
    return f" {len(rows)} {where} ({first}{', ...' if len(rows) > 3 else ''})"
