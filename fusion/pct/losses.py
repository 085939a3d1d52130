"""Losses towards references, as functions of tensors: one value per sample or reduced.

In all of them references get no gradient; arithmetic is float32 or float64 whatever autocast says; with `classes` a
reference covers only samples whose label is among them; "mean" divides by the batch size, so samples that are not
covered count 0 and an empty batch gives 0.

Under `torch.func.vmap`, alpha, beta, temperature and margin may be tensors; numbers alone are checked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict

import torch
from torch import Tensor
from torch.nn import functional

from fusion.errors import TrainingError
from fusion.pct import distances
from fusion.pct.aligned_logits import (
    AlignedLogits,
    Classes,
    Filter,
    Reduction,
    check_target,
    compare,
    describe_tensor,
    full_precision,
    reduce,
    sample_weights,
    widen,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

Distance = Literal["kl", "l2", "li"]
ELODI_MARGIN = 0.0
DIFFERENCE_OPTIONS = tuple(option.name for option in fields(distances.LogitDifference))


class WeightingOptions(TypedDict, total=False):
    """The options of all losses on logits: the weight of each sample, the reference's classes, the reduction."""

    classes: Classes
    filter: Filter
    alpha: float
    beta: float
    reduction: Reduction


class Weighting(NamedTuple):
    """The values of these options."""

    classes: Classes = None
    filter: Filter = "all_pass"
    alpha: float = 1.0
    beta: float = 5.0
    reduction: Reduction = "mean"


class LDIOptions(WeightingOptions, total=False):
    """The options of `ldi` and `elodi`, documented in `distances.LogitDifference`."""

    margin: float
    p: float
    topk: int | None
    topk_by_reference: bool
    exclude_gt: bool
    one_sided: bool
    relative: bool
    p_norm: bool


def kd(
    *,
    new: Tensor,
    old: Tensor,
    target: Tensor | None = None,
    temperature: float = 5.0,
    **weighting: Unpack[WeightingOptions],
) -> Tensor:
    """Compute knowledge distillation: T^2 * KL(old || new) (Hinton et al. 2015).

    new        float [N, C]  logits of the net in training
    old        float [N, K]  logits of the reference, K = C or one per entry of `classes`
    target     int64 [N]     class indices; required by filters and with `classes`
    filter     which samples get the weight alpha + beta instead of alpha: "old_correct", "new_incorrect", "neg_flip";
               "all_pass": all samples count 1
    alpha, beta, classes, reduction   1, 5, all classes, "mean" unless given
    returns    float []      in nats (float [N] under reduction "none")
    Raises: TrainingError for shapes or settings that do not fit.
    """
    if isinstance(temperature, (int, float)) and not temperature > 0:
        raise TrainingError(f"a temperature of {temperature}; it must be above 0")
    distance = partial(distances.kl, temperature=temperature)
    return _weighted(distance, new, old, target, Weighting(**weighting))


def focal_distillation(
    *,
    new: Tensor,
    old: Tensor,
    target: Tensor,
    temperature: float = 100.0,
    distance: Distance = "kl",
    **weighting: Unpack[WeightingOptions],
) -> Tensor:
    """Pull the new net towards the old one, most where the old one was right (Yan et al. 2021, eq. 5-8).

    new, old, target, weighting   as in `kd`, but the filter is "old_correct" unless given
    returns float []   mean over N of (alpha + beta * [old right]) * d; d is T^2 * KL(old || new) in nats ("kl",
                       FD-KL), half the mean squared difference of logits ("l2", FD-LM), or as in `ldi` ("li")
    Raises: TrainingError for shapes or settings that do not fit.
    """
    weighting.setdefault("filter", "old_correct")
    if distance == "kl":
        return kd(new=new, old=old, target=target, temperature=temperature, **weighting)
    if distance == "l2":
        return logit_matching(new=new, old=old, target=target, **weighting)
    if distance == "li":
        return ldi(new=new, old=old, target=target, **weighting)
    raise TrainingError(f"unknown distance {distance!r}", hint="kl, l2 or li")


def logit_matching(
    *, new: Tensor, old: Tensor, target: Tensor | None = None, **weighting: Unpack[WeightingOptions]
) -> Tensor:
    """Return half the mean squared difference of logits; arguments as in `kd`."""
    return _weighted(distances.squared, new, old, target, Weighting(**weighting))


def ldi(*, new: Tensor, old: Tensor, target: Tensor | None = None, **options: Unpack[LDIOptions]) -> Tensor:
    """Compute logit difference inhibition, the mean over classes of max(|new - old| - margin, 0)^p (Zhao et al. 2022).

    new, old, target   as in `kd`
    options            those of `kd`, and margin (0.5), p (2), topk, topk_by_reference, exclude_gt, one_sided, relative,
                       p_norm as in `distances.LogitDifference`
    Raises: TrainingError for shapes or settings that do not fit.
    """
    difference: dict[str, Any] = dict(options)
    weighting = {name: difference.pop(name) for name in Weighting._fields if name in difference}
    distance = distances.LogitDifference(**difference)
    if distance.exclude_gt and target is None:
        raise TrainingError("exclude_gt needs the target")
    return _weighted(distance, new, old, target, Weighting(**weighting))


def elodi(
    *,
    new: Tensor,
    old: Sequence[Tensor] | Tensor,
    target: Tensor | None = None,
    reference_weights: Sequence[float] | None = None,
    **options: Unpack[LDIOptions],
) -> Tensor:
    """Compute LDI towards the (weighted) mean of several references' logits (Zhao et al. 2022).

    old                M tensors float [N, K], or one float [M, N, K]
    reference_weights  M shares, each at least 0; left out: equal
    options            as in `ldi`, with margin 0 unless given; 0 to 0.2 are usual here
    """
    options.setdefault("margin", ELODI_MARGIN)
    return ldi(new=new, old=mean_logits(old, reference_weights), target=target, **options)


def mean_logits(references: Sequence[Tensor] | Tensor, shares: Sequence[float] | None = None) -> Tensor:
    """Return the references' weighted mean, float [N, K], detached; at least float32.

    Raises: TrainingError when there is none, their shapes differ, or the shares do not fit.
    """
    members = [widen(member.detach()) for member in references]
    if not members or any(member.shape != members[0].shape for member in members):
        raise TrainingError(f"references of shapes {[list(m.shape) for m in members]}; equal shapes are needed")
    if shares is None:
        return torch.stack(members).mean(0)
    if len(shares) != len(members) or min(shares) < 0 or sum(shares) <= 0:
        raise TrainingError(f"reference weights {list(shares)} for {len(members)} references")
    # Members with share 0 are skipped: 0 times an infinite logit would be NaN.
    total = sum(share * member for share, member in zip(shares, members, strict=True) if share)
    return torch.as_tensor(total) / sum(shares)


def bct(
    *,
    new: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None = None,
    classes: Classes = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Compute the cross-entropy of the new features through the frozen old classifier (Shen et al. 2020).

    new     float [N, F]  features of the net in training
    weight  float [K, F]  the old classifier's weights, bias float [K]; both get no gradient
    target  int64 [N]     class indices
    Raises: TrainingError when features and classifier have different widths.
    """
    if new.dim() != 2 or weight.dim() != 2 or new.shape[1] != weight.shape[1]:
        raise TrainingError(
            f"new features {describe_tensor(new)} do not fit the old classifier's weights {describe_tensor(weight)}",
            hint="give the new net's features the old width, with a projection if need be",
        )
    with full_precision(new):
        old_bias = None if bias is None else widen(bias.detach())
        logits = functional.linear(widen(new), widen(weight.detach()), old_bias)
        return cross_entropy(logits, target, classes, reduction)


def cross_entropy(logits: Tensor, target: Tensor, classes: Classes, reduction: Reduction) -> Tensor:
    """Compute the cross-entropy of logits [N, K] over a reference's classes; samples that it does not cover count 0."""
    width = logits.shape[1] if classes is None else int(max(classes)) + 1
    check_target(logits, target)
    with full_precision(logits):
        space = logits.new_zeros(len(logits), width)
        pair = compare(space, logits, target, classes)
        return _entropy(logits, pair.position, pair.covered, reduction)


def naive(
    *, new: Tensor, old: Tensor, target: Tensor, classes: Classes = None, reduction: Reduction = "mean"
) -> Tensor:
    """Compute the cross-entropy on the samples that the reference got right; tensors as in `kd`."""
    with full_precision(new):
        pair = compare(new, old, target, classes)
        return _entropy(new, torch.where(pair.covered, target, 0), pair.old_right, reduction)


def combine(*, task: Tensor, pct: Tensor, weight: float = 1.0, kd_alpha: float | None = None) -> Tensor:
    """Return task + weight * pct, or (1 - a) * task + a * weight * pct for kd_alpha = a (the released form)."""
    return task + weight * pct if kd_alpha is None else (1 - kd_alpha) * task + kd_alpha * weight * pct


def _weighted(
    distance: Callable[[AlignedLogits], Tensor], new: Tensor, old: Tensor, target: Tensor | None, by: Weighting
) -> Tensor:
    """Return the distances [N] where the reference covers the sample, each times its weight, reduced."""
    if target is None and by.filter != "all_pass":
        raise TrainingError(f"the filter {by.filter!r} needs the target")
    with full_precision(new):
        pair = compare(new, old, target, by.classes)
        return reduce(sample_weights(pair, by.filter, by.alpha, by.beta) * distance(pair), by.reduction)


def _entropy(logits: Tensor, position: Tensor, counted: Tensor, reduction: Reduction) -> Tensor:
    """Return the cross-entropy at each sample's position, 0 where it is not counted, reduced."""
    values = functional.cross_entropy(widen(logits), position, reduction="none")
    return reduce(torch.where(counted, values, 0.0), reduction)
