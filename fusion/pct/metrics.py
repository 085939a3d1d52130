"""Metrics of a new net against an old one; NumPy in, floats out.

All metrics of right and wrong answers are computed from four counts (`Outcomes`). A ratio with denominator 0 is None,
never 0 or NaN. `old` and `new` are Predictions, aligned here by sample key, or boolean arrays [N]: whether each
answer is right, for the same samples in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fusion.errors import ReportError
from fusion.pct.alignment import align
from fusion.pct.predictions import Predictions

Bools = npt.NDArray[np.bool_]
Answers = Predictions | Bools
Counts = npt.NDArray[np.float64]


def _ratio(top: Counts, bottom: Counts) -> Counts:
    out: Counts = np.full(np.broadcast(top, bottom).shape, np.nan)
    np.divide(top, bottom, out=out, where=bottom != 0)
    return out


# Each takes counts as float64 [..., 4] (both right, negative flips, positive flips, both wrong) and gives [...].
FORMULAS: dict[str, Callable[[Counts], Counts]] = {
    "accuracy_old": lambda n: _ratio(n[..., 0] + n[..., 1], n.sum(-1)),
    "accuracy_new": lambda n: _ratio(n[..., 0] + n[..., 2], n.sum(-1)),
    "accuracy_difference": lambda n: _ratio(n[..., 2] - n[..., 1], n.sum(-1)),
    "error_rate_old": lambda n: _ratio(n[..., 2] + n[..., 3], n.sum(-1)),
    "error_rate_new": lambda n: _ratio(n[..., 1] + n[..., 3], n.sum(-1)),
    "negative_flip_rate": lambda n: _ratio(n[..., 1], n.sum(-1)),
    "positive_flip_rate": lambda n: _ratio(n[..., 2], n.sum(-1)),
    "relative_nfr": lambda n: _ratio(n[..., 1] * n.sum(-1), (n[..., 0] + n[..., 1]) * (n[..., 1] + n[..., 3])),
    "negative_flip_impact": lambda n: _ratio(n[..., 1], n[..., 1] + n[..., 3]),
    "backward_trust_compatibility": lambda n: _ratio(n[..., 0], n[..., 0] + n[..., 1]),
    "backward_error_compatibility": lambda n: _ratio(n[..., 3], n[..., 1] + n[..., 3]),
}


@dataclass(frozen=True)
class Outcomes:
    """The numbers of samples that both nets, only the old (negative flips), only the new, or neither got right."""

    both_right: int
    negative: int
    positive: int
    both_wrong: int

    def __len__(self) -> int:
        return self.both_right + self.negative + self.positive + self.both_wrong

    @property
    def counts(self) -> Counts:
        """Return the four counts in the order of FORMULAS, float64 [4]."""
        return np.array([self.both_right, self.negative, self.positive, self.both_wrong], dtype=np.float64)

    def value(self, metric: str) -> float | None:
        """Return a metric of FORMULAS; None where it is undefined. Raises: ReportError for an unknown name."""
        if metric not in FORMULAS:
            raise ReportError(f"unknown metric {metric!r}", hint=f"one of {', '.join(FORMULAS)}")
        result = float(FORMULAS[metric](self.counts))
        return None if np.isnan(result) else result

    def values(self) -> dict[str, float | None]:
        """Return every metric by name."""
        return {name: self.value(name) for name in FORMULAS}


def outcomes(*, old: Answers, new: Answers) -> Outcomes:
    """Count the four outcomes over the samples that the old net covers.

    Raises: ReportError when the two cannot be aligned.
    """
    before, after = right(old=old, new=new)
    return Outcomes(
        int((before & after).sum()),
        int((before & ~after).sum()),
        int((~before & after).sum()),
        int((~before & ~after).sum()),
    )


def right(*, old: Answers, new: Answers) -> tuple[Bools, Bools]:
    """Return whether the old and the new answers are right, two bool [N] over the samples that the old net covers.

    Raises: ReportError when the two cannot be aligned.
    """
    if isinstance(old, Predictions) and isinstance(new, Predictions):
        pair = align(old=old, new=new)
        return pair.old.right, pair.new.right
    if isinstance(old, Predictions) or isinstance(new, Predictions):
        raise ReportError("predictions cannot be compared with an array", hint="give both as Predictions")
    before, after = np.asarray(old), np.asarray(new)
    if before.shape != after.shape or before.ndim != 1 or before.dtype != bool or after.dtype != bool:
        raise ReportError(
            f"bool [N] is needed twice, not {before.dtype} {before.shape} and {after.dtype} {after.shape}"
        )
    return before, after


def accuracy(predictions: Predictions) -> float | None:
    """Return the share of right answers."""
    return float(predictions.right.mean()) if len(predictions) else None


def error_rate(predictions: Predictions) -> float | None:
    """Return the share of wrong answers."""
    return float(1 - predictions.right.mean()) if len(predictions) else None


def negative_flip_rate(*, old: Answers, new: Answers) -> float | None:
    """Return the share of samples that the old net got right and the new one gets wrong (NFR)."""
    return outcomes(old=old, new=new).value("negative_flip_rate")


def positive_flip_rate(*, old: Answers, new: Answers) -> float | None:
    """Return the share of samples that the old net got wrong and the new one gets right."""
    return outcomes(old=old, new=new).value("positive_flip_rate")


def relative_nfr(*, old: Answers, new: Answers) -> float | None:
    """Return the NFR over that of two independent nets with these error rates: NFR / ((1 - ER_old) * ER_new)."""
    return outcomes(old=old, new=new).value("relative_nfr")


def negative_flip_impact(*, old: Answers, new: Answers) -> float | None:
    """Return the share of the new net's errors that are negative flips."""
    return outcomes(old=old, new=new).value("negative_flip_impact")


def backward_trust_compatibility(*, old: Answers, new: Answers) -> float | None:
    """Return the BTC: the share of the old net's right answers that stay right."""
    return outcomes(old=old, new=new).value("backward_trust_compatibility")


def backward_error_compatibility(*, old: Answers, new: Answers) -> float | None:
    """Return the BEC: the share of the new net's errors that were errors before."""
    return outcomes(old=old, new=new).value("backward_error_compatibility")


def churn(*, old: Predictions, new: Predictions) -> float | None:
    """Return the share of samples with different answers: flips, and changes from one error to another."""
    pair = align(old=old, new=new)
    return float((pair.old.answers != pair.new.answers).mean()) if len(pair.new) else None


def margin_weighted_flips(*, old: Predictions, new: Predictions) -> float | None:
    """Return the sum over negative flips of (highest new probability - that of the label), over N."""
    pair = align(old=old, new=new)
    if not len(pair.new):
        return None
    flipped = pair.old.right & ~pair.new.right
    return float((pair.new.confidence - pair.new.probability_of_label)[flipped].sum() / len(pair.new))


def severity_weighted_nfr(*, old: Predictions, new: Predictions, severity: Mapping[int, float]) -> float | None:
    """Return the NFR where a sample of class c has weight `severity[c]` (default 1), over the sum of all weights."""
    pair = align(old=old, new=new)
    weight = np.array([severity.get(label, 1.0) for label in pair.new.labels.tolist()])
    total = weight.sum()
    return float(weight[pair.old.right & ~pair.new.right].sum() / total) if total > 0 else None
