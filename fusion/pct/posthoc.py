"""Fewer negative flips without training: gate between old and new answers, combine them by Bayes, blend weights.

Fit margins, confusions and shares on other samples than those of the report.
Logit ensembles are sums of Predictions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from fusion.errors import FusionError, ReportError, raise_all
from fusion.pct import mixtures
from fusion.pct.metrics import accuracy, negative_flip_rate
from fusion.pct.predictions import Predictions, matching_rows

Floats = npt.NDArray[np.floating]
Weights = Mapping[str, Sequence[Floats]]
Key = TypeVar("Key")


def gated(*, old: Predictions, new: Predictions, margin: float) -> Predictions:
    """Return the old net's answer where its confidence exceeds the new one's by more than `margin`, else the latter's.

    margin  a difference of confidences; 1: always new, below -1: always old
    returns log-probabilities over the new net's classes
    Raises: ReportError for different samples, or an old net that answered only samples of its own classes (the choice
    of net would then reveal the label).
    """
    before = _unconditional(old, new)
    logits = mixtures.log_softmax(new.logits).astype(np.float32)
    column = mixtures.class_columns(before.classes, new.classes)
    theirs = np.where(column >= 0, mixtures.log_softmax(before.logits)[:, column], -np.inf).astype(np.float32)
    trusted = before.confidence - new.confidence > margin
    logits[trusted] = theirs[trusted]
    return Predictions(new.keys, new.labels, logits, new.classes, new.variants,
                       meta={"name": f"{new.name} or {old.name}", "margin": margin})  # fmt: skip


def fit_margin(*, old: Predictions, new: Predictions, max_nfr: float = 1.0) -> float:
    """Return the margin for `gated` with the best accuracy at a negative flip rate of at most `max_nfr`.

    Raises: as `gated`.
    """
    before = _unconditional(old, new)
    lead = (before.confidence - new.confidence).astype(np.float64)
    order = np.argsort(-lead, kind="stable")
    lead, old_right, new_right = lead[order], before.right[order], new.right[order]
    # Counts after the old net answers the k samples with the greatest lead, k = 0 ... N. A margin can only separate
    # samples whose leads differ.
    right = np.concatenate([[0], np.cumsum(old_right)]) + new_right.sum() - np.concatenate([[0], np.cumsum(new_right)])
    flipped = old_right & ~new_right
    left = flipped.sum() - np.concatenate([[0], np.cumsum(flipped)])
    cuts = np.concatenate([[1.0], (lead[:-1] + lead[1:]) / 2, [-2.0]])
    possible = np.concatenate([[True], lead[:-1] > lead[1:], [True]]) & (left <= max_nfr * len(new))
    return float(cuts[np.where(possible, right, -1).argmax()])


def confusion(predictions: Predictions, *, smoothing: float = 1.0) -> npt.NDArray[np.float64]:
    """Return P(answer | label) with additive smoothing, float64 [C, C]: rows are labels, in the order of `classes`.

    Samples of classes that the net does not know are omitted.
    """
    size = len(predictions.classes)
    row = mixtures.class_columns(predictions.classes, predictions.labels)
    known = row >= 0
    counts = np.full((size, size), float(smoothing))
    np.add.at(counts, (row[known], predictions.logits.argmax(axis=1)[known]), 1.0)
    total = counts.sum(axis=1, keepdims=True)
    shares: npt.NDArray[np.float64] = np.full((size, size), 1 / size)
    np.divide(counts, total, out=shares, where=total > 0)
    return shares


def bayesian(
    members: Sequence[Predictions], confusions: Sequence[Floats], *, prior: Sequence[float] | None = None
) -> Predictions:
    """Return the posterior over labels given all answers, independent given the label (Träuble et al. 2021).

    members     nets with the same classes, over the same samples
    confusions  the result of `confusion` for each, on other samples
    prior       probability of each class, in the first member's order; default: equal
    Raises: ReportError for members with different classes or samples, or confusions of another shape.
    """
    if not members or len(members) != len(confusions):
        raise ReportError(f"{len(members)} nets and {len(confusions)} confusions")
    first = members[0]
    size = len(first.classes)
    shares = np.full(size, 1 / size) if prior is None else np.asarray(prior, dtype=np.float64)
    posterior = np.tile(np.log(shares), (len(first), 1))
    for member, table in zip(members, confusions, strict=True):
        if set(member.classes.tolist()) != set(first.classes.tolist()) or table.shape != (size, size):
            raise ReportError(
                f"{member.name}: classes {member.classes.tolist()} with a confusion of shape {table.shape}"
            )
        other = member.take(matching_rows(first, member))
        labels = mixtures.class_columns(member.classes, first.classes)
        posterior += np.log(table)[labels][:, other.logits.argmax(axis=1)].T
    name = " · ".join(member.name for member in members)
    return Predictions(first.keys, first.labels, posterior, first.classes, first.variants, meta={"name": name})


def blend_weights(*, old: Weights, new: Weights, share: float) -> dict[str, list[Floats]]:
    """Return (1 - share) * old + share * new for each blob of two nets of one architecture.

    Raises: ReportError naming every layer that one net lacks or that differs in shape.
    """
    errors: list[FusionError] = [
        ReportError(f"layer '{name}' is only in the {'old' if name in old else 'new'} net")
        for name in sorted(set(old) ^ set(new))
    ]
    errors += [
        ReportError(f"layer '{name}': shapes {[a.shape for a in old[name]]} and {[a.shape for a in new[name]]}")
        for name in new
        if name in old and [a.shape for a in old[name]] != [a.shape for a in new[name]]
    ]
    raise_all(errors)
    return {
        name: [((1 - share) * a + share * b).astype(b.dtype) for a, b in zip(old[name], new[name], strict=True)]
        for name in new
    }


def within_budget(candidates: Mapping[Key, Predictions], *, old: Predictions, max_nfr: float) -> Key:
    """Return the key of the most accurate candidate within the NFR budget; of equals that with the fewest flips.

    Raises: ReportError with the lowest NFR when no candidate is within the budget.
    """
    rates = {key: negative_flip_rate(old=old, new=new) for key, new in candidates.items()}
    within = {key: rate for key, rate in rates.items() if rate is not None and rate <= max_nfr}
    if not within:
        least = min((rate for rate in rates.values() if rate is not None), default=None)
        raise ReportError(f"no candidate has an NFR of {max_nfr:g} or less; the least is {least}")
    return max(within, key=lambda key: (accuracy(candidates[key]) or 0.0, -within[key]))


def _unconditional(old: Predictions, new: Predictions) -> Predictions:
    """Return the old predictions in the new one's order. Raises: ReportError where they depend on the label."""
    before = old.take(matching_rows(new, old))
    if not np.isfinite(before.logits).all() or not set(before.classes.tolist()) <= set(new.classes.tolist()):
        raise ReportError(
            f"{old.name} cannot decide sample by sample: it does not cover some classes of some samples",
            hint="use an ensemble of the originals' answers to all samples, not their union, which reveals the label",
        )
    return before
