"""Gradients of losses with respect to the scores that they read, in closed form.

A loss whose other bottoms are known beforehand (labels, scores of references) has a gradient that a line can say. Times
the N records of a batch it is, for scores z [N, C],

    sum over T and columns of  weight * softmax(z[columns] / T)  +  slope * z  +  constant  +  the rest

Weight, slope and constant depend on the record alone, so that they are computed once and kept beside the trunk's rows;
those of all losses are added up beforehand. The rest are losses that are no such sum: hinges, and filters that depend
on the answers of the net in training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fusion.distributed import process_group
from fusion.layers.distances import EuclideanLoss, HingeLoss
from fusion.layers.losses import InfogainLoss, Normalization, SigmoidCrossEntropyLoss, SoftmaxWithLoss
from fusion.layers.pct import EnsembleLoss, ReferenceLoss, indices
from fusion.pct import distances, losses
from fusion.pct.aligned_logits import AlignedLogits, compare, sample_weights

Columns = tuple[int, ...] | None  # the scores that a reference knows; None: all
Part = Callable[..., Tensor]  # (scores [..., C], *rows) -> [..., C]
Operations = list[Callable[[], object]]  # torch's functions with all arguments bound, in the order of execution


class NoClosedFormError(Exception):
    """A head or a loss that autograd must differentiate; the message is the reason."""


@dataclass
class Terms:
    """N times the gradient of some losses.

    softmax   (temperature, columns) -> weight, a number or float [N, 1]
    slope     a number, float [N, 1] or [N, C]
    constant  float [N, C], or 0
    rest      functions of the scores, and the rows [N, ...] that each takes beside them
    """

    softmax: dict[tuple[float, Columns], Tensor | float] = field(default_factory=dict)
    slope: Tensor | float = 0.0
    constant: Tensor | float = 0.0
    rest: list[tuple[Part, tuple[Tensor, ...]]] = field(default_factory=list)

    def add_softmax(self, weight: Tensor | float, temperature: float = 1.0, columns: Columns = None) -> None:
        """Add weight * softmax(z[columns] / temperature)."""
        key = (temperature, columns)
        self.softmax[key] = self.softmax.get(key, 0.0) + weight

    def add(self, other: Terms) -> None:
        """Add the terms of other losses on the same scores."""
        for (temperature, columns), weight in other.softmax.items():
            self.add_softmax(weight, temperature, columns)
        self.slope = self.slope + other.slope
        self.constant = self.constant + other.constant
        self.rest += other.rest

    def rows(self) -> list[Tensor]:
        """Return the values that are kept for each record, in a fixed order."""
        kept = [*self.softmax.values(), self.slope, self.constant]
        return [item for item in kept if isinstance(item, Tensor)] + [row for _, rows in self.rest for row in rows]


def terms_of(loss: nn.Module, weight: float, classes: int, batch: int, others: Sequence[Tensor]) -> Terms:
    """Return the terms of a loss layer.

    weight   its loss_weight
    classes  C
    batch    N, the records of a batch
    others   its bottoms after the scores, for any number of records
    Raises: NoClosedFormError with the reason.
    """
    build = _BUILDERS.get(type(loss))
    if build is None:
        raise NoClosedFormError(f"{type(loss).__name__} has no closed form")
    terms = Terms()
    build(terms, loss, weight, classes, batch, others)
    return terms


def _softmax_with_loss(
    terms: Terms, loss: SoftmaxWithLoss, weight: float, classes: int, batch: int, others: Sequence[Tensor]
) -> None:
    target = _labels(loss, classes, others)
    if len(others) > 1:
        raise NoClosedFormError("SoftmaxWithLoss with weights of classes has no closed form")
    weight *= _times(loss.mode, batch)
    wanted = one_hot(target, classes) * (1 - loss.smoothing) + loss.smoothing / classes
    terms.add_softmax(weight)
    terms.constant = terms.constant - weight * wanted


def _infogain(
    terms: Terms, loss: InfogainLoss, weight: float, classes: int, batch: int, others: Sequence[Tensor]
) -> None:
    target = _labels(loss, classes, others)
    if loss.matrix is None:
        raise NoClosedFormError("InfogainLoss with a matrix from a blob has no closed form")
    gains = loss.matrix.reshape(classes, classes)[target] * (weight * _times(loss.mode, batch))
    terms.add_softmax(gains.sum(1, keepdim=True))
    terms.constant = terms.constant - gains


def _euclidean(
    terms: Terms, loss: EuclideanLoss, weight: float, classes: int, batch: int, others: Sequence[Tensor]
) -> None:
    terms.slope = terms.slope + weight
    terms.constant = terms.constant - weight * others[0].detach().reshape(-1, classes).float()


def _hinge(terms: Terms, loss: HingeLoss, weight: float, classes: int, batch: int, others: Sequence[Tensor]) -> None:
    signs = 1 - 2 * one_hot(_checked(indices(others[0]), classes), classes)
    terms.rest.append((partial(hinge_gradient, squared=loss.squared, weight=weight), (signs,)))


def hinge_gradient(z: Tensor, signs: Tensor, *, squared: bool, weight: float) -> Tensor:
    """Return N times the gradient of HingeLoss; signs float [N, C] are -1 at the label and 1 elsewhere."""
    excess = torch.relu(1 + signs * z)
    return weight * signs * (2 * excess if squared else (excess > 0).to(z.dtype))


def _sigmoid(
    terms: Terms, loss: SigmoidCrossEntropyLoss, weight: float, classes: int, batch: int, others: Sequence[Tensor]
) -> None:
    if loss.ignore_label is not None:
        raise NoClosedFormError("SigmoidCrossEntropyLoss with ignore_label has no closed form")
    weight *= _times(loss.mode, batch) / (classes if loss.mode in ("VALID", "FULL") else 1)
    terms.rest.append((partial(_scaled_sigmoid, weight=weight), ()))
    terms.constant = terms.constant - weight * others[0].detach().reshape(-1, classes).float()


def _scaled_sigmoid(z: Tensor, *, weight: float) -> Tensor:
    return torch.sigmoid(z) * weight


def _references(
    terms: Terms, loss: ReferenceLoss | EnsembleLoss, weight: float, classes: int, batch: int, others: Sequence[Tensor]
) -> None:
    for share, old in _scores_of_references(loss, others):
        _reference(terms, loss.loss, weight * share, classes, old, others[-1])


def _scores_of_references(loss: ReferenceLoss | EnsembleLoss, others: Sequence[Tensor]) -> list[tuple[float, Tensor]]:
    """Return the scores [N, K] of each reference of a loss layer, with its share. Raises: NoClosedFormError."""
    rows = [item.flatten(1) for item in others[:-1]]
    if isinstance(loss, EnsembleLoss):
        return [(1.0, losses.mean_logits(rows, loss.shares))]
    if getattr(loss.loss, "func", None) not in _SCORED:
        raise NoClosedFormError("losses of features have no closed form")
    return list(zip(loss.shares or (1 / len(rows),) * len(rows), rows, strict=True))


_SCORED = (losses.kd, losses.logit_matching, losses.ldi, losses.naive)


def _reference(terms: Terms, loss: Any, weight: float, classes: int, old: Tensor, label: Tensor) -> None:
    """Add the terms of one loss function of `fusion.pct.losses` towards one reference; the function is a partial."""
    settings = dict(loss.keywords)
    target, columns, pair = _compared(loss, classes, old, label)
    if loss.func is losses.naive:
        share = weight * pair.old_right[:, None].to(pair.old.dtype)
        terms.add_softmax(share)
        terms.constant = terms.constant - share * one_hot(target, classes)
        return
    rule = settings.get("filter", "all_pass")
    if rule in ("all_pass", "old_correct") and loss.func in (losses.kd, losses.logit_matching):
        share = weight * sample_weights(pair, rule, settings.get("alpha", 1.0), settings.get("beta", 5.0))[:, None]
        if loss.func is losses.kd:
            temperature = settings.get("temperature", 5.0)
            share = share * temperature
            terms.add_softmax(share, temperature, columns)
            wanted = share * torch.softmax(pair.old / temperature, 1)
        else:
            share = share / pair.old.shape[1]
            terms.slope = terms.slope + (share if columns is None else spread(share.expand_as(old), columns, classes))
            wanted = share * pair.old
        terms.constant = terms.constant - spread(wanted, columns, classes)
        return
    known = weight * pair.covered.to(old.dtype)[:, None]
    right = pair.old_right.to(old.dtype)[:, None]
    rows = (pair.old, pair.position[:, None], target[:, None], known, right)
    terms.rest.append((partial(reference_gradient, loss=loss, columns=columns), rows))


def _compared(loss: Any, classes: int, old: Tensor, label: Tensor) -> tuple[Tensor, Columns, AlignedLogits]:
    """Return the labels int64 [N], the columns that the reference knows, and its scores of each record."""
    target = _checked(indices(label), classes)
    given = loss.keywords.get("classes")
    columns = None if given is None else tuple(int(item) for item in given)
    return target, columns, compare(old.new_zeros(len(old), classes), old, target, columns)


def reference_gradient(
    z: Tensor,
    old: Tensor,
    position: Tensor,
    target: Tensor,
    known: Tensor,
    right: Tensor,
    *,
    loss: Any,
    columns: Columns,
) -> Tensor:
    """Return N times the gradient of one loss towards one reference, float [..., C].

    z         float [..., C], the scores
    old       float [..., K], the reference's scores; all rows broadcast to z's leading dimensions
    position, target  int64 [..., 1], the label's column of the reference, and the label
    known     float [..., 1], the loss's weight where the reference has a say, else 0
    right     float [..., 1], 1 where the reference is right
    loss      a partial of kd, logit_matching, ldi or elodi
    """
    settings = {"alpha": 1.0, "beta": 5.0, "filter": "all_pass", **loss.keywords}
    new = z if columns is None else z[..., list(columns)]
    if loss.func is losses.kd:
        slope = distances.kl_gradient(new, old, settings.get("temperature", 5.0))
    elif loss.func is losses.logit_matching:
        slope = distances.squared_gradient(new, old)
    else:
        options: dict[str, Any] = {"margin": losses.ELODI_MARGIN} if loss.func is losses.elodi else {}
        options |= {name: settings[name] for name in losses.DIFFERENCE_OPTIONS if name in settings}
        slope = distances.LogitDifference(**options).gradient(new, old, position)
    rule = settings["filter"]
    if rule != "all_pass":
        condition = 1.0 if rule == "new_incorrect" else right
        if rule in ("new_incorrect", "neg_flip"):
            condition = condition * (z.argmax(-1, keepdim=True) != target)
        known = known * (settings["alpha"] + settings["beta"] * condition)
    return spread(slope * known, columns, z.shape[-1])


_BUILDERS: Mapping[type[nn.Module], Callable[..., None]] = {
    SoftmaxWithLoss: _softmax_with_loss,
    InfogainLoss: _infogain,
    EuclideanLoss: _euclidean,
    HingeLoss: _hinge,
    SigmoidCrossEntropyLoss: _sigmoid,
    ReferenceLoss: _references,
    EnsembleLoss: _references,
}


def _times(mode: Normalization, batch: int) -> int:
    """Return N divided by the divisor of the loss, which is N itself for all modes but NONE."""
    if mode == "NONE" and process_group.current_group() is not None:
        raise NoClosedFormError("normalization NONE in several processes has no closed form")
    return batch if mode == "NONE" else 1


def one_hot(target: Tensor, classes: int) -> Tensor:
    """Return float32 [N, C] with 1 at each target."""
    return torch.nn.functional.one_hot(target, classes).to(torch.float32)


def spread(values: Tensor, columns: Columns, classes: int) -> Tensor:
    """Return values [..., K] at their columns of [..., C], 0 elsewhere."""
    if columns is None:
        return values
    whole = values.new_zeros(*values.shape[:-1], classes)
    whole[..., list(columns)] = values
    return whole


def _labels(loss: SoftmaxWithLoss | InfogainLoss, classes: int, others: Sequence[Tensor]) -> Tensor:
    """Return the labels int64 [N]. Raises: NoClosedFormError where some do not count, for the divisor then changes."""
    if loss.axis not in (1, -1):
        raise NoClosedFormError(f"{type(loss).__name__} over axis {loss.axis} has no closed form")
    target = indices(others[0])
    if loss.ignore_label is not None and bool((target == loss.ignore_label).any()):
        raise NoClosedFormError("some labels are ignored, so that the divisor changes from batch to batch")
    return _checked(target, classes)


def _checked(target: Tensor, classes: int) -> Tensor:
    """Return the labels where all are classes; else autograd says which record is wrong, when its turn comes."""
    if bool(((target < 0) | (target >= classes)).any()):
        raise NoClosedFormError(f"some labels are not in 0..{classes - 1}")
    return target


class ScoreGradient:
    """N times the gradient of all losses on one blob of scores, of which the terms are known.

    The structure is that of `terms`; rows may be those of any records.

    factor  of the whole, a tensor that changes between steps, or None
    count   how many rows there are
    """

    def __init__(self, terms: Terms, factor: Tensor | None = None) -> None:
        self.count = len(terms.rows())
        at = iter(range(self.count))

        def place(item: Tensor | float) -> int | float:
            return next(at) if isinstance(item, Tensor) else float(item)

        device = next((row.device for row in terms.rows()), None)
        softmax = [
            (temperature, None if columns is None else torch.tensor(columns, device=device), place(weight))
            for (temperature, columns), weight in terms.softmax.items()
        ]
        self._softmax = sorted(softmax, key=lambda term: term[1] is not None)  # one over all scores starts the sum
        self._slope, self._constant = place(terms.slope), place(terms.constant)
        self._rest = [(part, [next(at) for _ in rows]) for part, rows in terms.rest]
        self.factor = factor

    def bind(self, operations: Operations, z: Tensor, rows: Sequence[Tensor]) -> Tensor:
        """Append the operations that compute the gradient, and return the tensor float [..., C] that they write.

        z     float [..., C], the scores
        rows  of the same records; they broadcast to z
        """

        def add(function: Callable[..., object], *arguments: Any, **options: Any) -> None:
            operations.append(partial(function, *arguments, **options))

        total = z.new_empty(z.shape)
        constant = rows[self._constant] if isinstance(self._constant, int) else None
        started = False
        for temperature, columns, place in self._softmax:
            weight = rows[place] if isinstance(place, int) else place
            chosen = z if columns is None else z.new_empty(*z.shape[:-1], len(columns))
            if columns is not None:
                add(torch.index_select, z, -1, columns, out=chosen)
            share = chosen.new_empty(chosen.shape)
            if temperature != 1:
                add(torch.div, chosen, temperature, out=share)
                chosen = share
            add(torch.softmax, chosen, -1, out=share)
            if not started and columns is None and constant is not None:  # one operation instead of three
                weighted = torch.addcmul if isinstance(weight, Tensor) else torch.add
                scaled = (share, weight) if isinstance(weight, Tensor) else (share,)
                add(weighted, constant, *scaled, **({} if isinstance(weight, Tensor) else {"alpha": weight}), out=total)
                constant, started = None, True
                continue
            if not started:
                add(total.zero_)
                started = True
            add(share.mul_, weight)
            add(*((total.add_, share) if columns is None else (total.index_add_, -1, columns, share)))
        if not started:
            add(total.zero_)
        if constant is not None:
            add(total.add_, constant)
        if isinstance(self._slope, int):
            add(total.addcmul_, rows[self._slope], z)
        elif self._slope:
            add(total.add_, z, alpha=self._slope)
        for part, places in self._rest:
            add(_add_part, total, part, z, [rows[place] for place in places])
        if self.factor is not None:
            add(total.mul_, self.factor)
        return total

    def __call__(self, z: Tensor, rows: Sequence[Tensor]) -> Tensor:
        """Return float [..., C] for scores z [..., C] and the rows of the same records, which broadcast to z."""
        operations: Operations = []
        total = self.bind(operations, z, rows)
        for operation in operations:
            operation()
        return total


def _add_part(total: Tensor, part: Part, z: Tensor, rows: Sequence[Tensor]) -> None:
    total.add_(part(z, *rows))
