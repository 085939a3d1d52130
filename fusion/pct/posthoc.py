"""Fewer negative flips without training: gate between old and new answers, combine them by Bayes, blend weights.

Whatever is fitted here (a margin, confusions, a share) must be fitted on samples apart from those it is reported on.
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
from fusion.pct.predictions import Predictions, match

Floats = npt.NDArray[np.floating]
Weights = Mapping[str, Sequence[Floats]]
Key = TypeVar("Key")


def gated(*, old: Predictions, new: Predictions, margin: float) -> Predictions:
    """The old net's answer where it is surer than the new one by more than `margin`, else the new one's.

    margin  a difference of confidences; 1: always new, below -1: always old
    returns log-probabilities over the new net's classes
    Raises: ReportError for different samples, or an old net that answered only samples of its own classes (then the
    choice of net would give the label away).
    """
    before = _everywhere(old, new)
    logits = mixtures.log_softmax(new.logits).astype(np.float32)
    column = mixtures.columns(before.classes, new.classes)
    theirs = np.where(column >= 0, mixtures.log_softmax(before.logits)[:, column], -np.inf).astype(np.float32)
    trusted = before.confidence - new.confidence > margin
    logits[trusted] = theirs[trusted]
    return Predictions(new.keys, new.labels, logits, new.classes, new.variants,
                       meta={"name": f"{new.name} or {old.name}", "margin": margin})  # fmt: skip


def fit_margin(*, old: Predictions, new: Predictions, max_nfr: float = 1.0) -> float:
    """The margin for `gated` that is most often right while its negative flip rate stays within `max_nfr`.

    Raises: as `gated`.
    """
    before = _everywhere(old, new)
    lead = (before.confidence - new.confidence).astype(np.float64)
    order = np.argsort(-lead, kind="stable")
    lead, old_right, new_right = lead[order], before.right[order], new.right[order]
    # after the k most trusted samples have been given to the old net, k = 0 ... N
    right = np.concatenate([[0], np.cumsum(old_right)]) + new_right.sum() - np.concatenate([[0], np.cumsum(new_right)])
    flipped = old_right & ~new_right
    left = flipped.sum() - np.concatenate([[0], np.cumsum(flipped)])
    cuts = np.concatenate([[1.0], (lead[:-1] + lead[1:]) / 2, [-2.0]])
    possible = np.concatenate([[True], lead[:-1] > lead[1:], [True]]) & (left <= max_nfr * len(new))
    return float(cuts[np.where(possible, right, -1).argmax()])


def confusion(predictions: Predictions, *, smoothing: float = 1.0) -> npt.NDArray[np.float64]:
    """P(answer | label) with additive smoothing, float64 [C, C]: rows are labels, both in the order of `classes`.

    Samples of classes that the net does not know are left out.
    """
    size = len(predictions.classes)
    row = mixtures.columns(predictions.classes, predictions.labels)
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
    """The posterior over labels given every net's answer (Träuble et al. 2021), the nets independent given the label.

    members     nets with the same classes, over the same samples
    confusions  what `confusion` measured for each, on other samples
    prior       probability of each class, in the first member's order; left out: equal
    Raises: ReportError for members that do not fit each other or their confusions.
    """
    if not members or len(members) != len(confusions):
        raise ReportError(f"{len(members)} nets and {len(confusions)} confusions")
    first = members[0]
    size = len(first.classes)
    shares = np.full(size, 1 / size) if prior is None else np.asarray(prior, dtype=np.float64)
    posterior = np.tile(np.log(shares), (len(first), 1))
    for member, seen in zip(members, confusions, strict=True):
        if set(member.classes.tolist()) != set(first.classes.tolist()) or seen.shape != (size, size):
            raise ReportError(
                f"{member.name}: classes {member.classes.tolist()} with a confusion of shape {seen.shape}"
            )
        other = member.take(match(first, member))
        labels = mixtures.columns(member.classes, first.classes)
        posterior += np.log(seen)[labels][:, other.logits.argmax(axis=1)].T
    name = " · ".join(member.name for member in members)
    return Predictions(first.keys, first.labels, posterior, first.classes, first.variants, meta={"name": name})


def blend_weights(*, old: Weights, new: Weights, share: float) -> dict[str, list[Floats]]:
    """(1 - share) * old + share * new, blob by blob, for two nets of one architecture.

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
    """The key of the most accurate candidate whose NFR keeps the budget; the fewest flips decide between equals.

    Raises: ReportError when none keeps it, with the least NFR that there is.
    """
    rates = {key: negative_flip_rate(old=old, new=new) for key, new in candidates.items()}
    kept = {key: rate for key, rate in rates.items() if rate is not None and rate <= max_nfr}
    if not kept:
        least = min((rate for rate in rates.values() if rate is not None), default=None)
        raise ReportError(f"no candidate has an NFR of {max_nfr:g} or less; the least is {least}")
    return max(kept, key=lambda key: (accuracy(candidates[key]) or 0.0, -kept[key]))


def _everywhere(old: Predictions, new: Predictions) -> Predictions:
    """The old predictions in the new one's order; refused where they depend on the label."""
    before = old.take(match(new, old))
    if not np.isfinite(before.logits).all() or not set(before.classes.tolist()) <= set(new.classes.tolist()):
        raise ReportError(
            f"{old.name} cannot decide sample by sample: it has no say on some classes of some samples",
            hint="use an ensemble of the originals' answers to all samples, not their union, which knows the label",
        )
    return before
