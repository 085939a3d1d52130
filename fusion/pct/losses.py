"""Losses that hold a new net to its references; functions of tensors, one value per sample or reduced.

Everywhere: references get no gradient; arithmetic is float32 or float64 whatever autocast says; with `classes` a
reference speaks only for samples whose label is among them; "mean" divides by the batch size, so samples without a
say count 0 and an empty batch gives 0.

Under `torch.func.vmap`, alpha, beta, temperature and margin may be tensors; numbers alone are checked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, NamedTuple

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
    described,
    full_precision,
    reduce,
    weights,
    widen,
)

Distance = Literal["kl", "l2", "li"]


def kd(
    *,
    new: Tensor,
    old: Tensor,
    target: Tensor | None = None,
    temperature: float = 5.0,
    filter: Filter = "all_pass",
    alpha: float = 1.0,
    beta: float = 5.0,
    classes: Classes = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Knowledge distillation: T^2 * KL(old || new), every sample alike (Hinton et al. 2015).

    new     float [N, C]  logits of the net in training
    old     float [N, K]  logits of the reference, K = C or one per entry of `classes`
    target  int64 [N]     class indices; needed by filters and to know which samples `classes` covers
    returns float []      in nats (float [N] under reduction "none")
    Raises: TrainingError for shapes or settings that do not fit.
    """
    if isinstance(temperature, (int, float)) and not temperature > 0:
        raise TrainingError(f"a temperature of {temperature}; it must be above 0")
    distance = partial(distances.kl, temperature=temperature)
    return _weighed(distance, new, old, target, _Weighing(classes, filter, alpha, beta, reduction))


def focal_distillation(
    *,
    new: Tensor,
    old: Tensor,
    target: Tensor,
    alpha: float = 1.0,
    beta: float = 5.0,
    temperature: float = 100.0,
    distance: Distance = "kl",
    filter: Filter = "old_correct",
    classes: Classes = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Pull the new net towards the old one, hardest where the old one was right (Yan et al. 2021, eq. 5-8).

    new, old, target   as in `kd`
    returns float []   mean over N of (alpha + beta * [old right]) * d; d is T^2 * KL(old || new) in nats ("kl",
                       FD-KL), half the mean squared difference of logits ("l2", FD-LM), or as in `ldi` ("li")
    Raises: TrainingError for shapes or settings that do not fit.
    """
    options = {"target": target, "filter": filter, "alpha": alpha, "beta": beta, "classes": classes}
    if distance == "kl":
        return kd(new=new, old=old, temperature=temperature, reduction=reduction, **options)  # type: ignore[arg-type]
    if distance == "l2":
        return logit_matching(new=new, old=old, reduction=reduction, **options)  # type: ignore[arg-type]
    if distance == "li":
        return ldi(new=new, old=old, reduction=reduction, **options)  # type: ignore[arg-type]
    raise TrainingError(f"unknown distance {distance!r}", hint="kl, l2 or li")


def logit_matching(
    *,
    new: Tensor,
    old: Tensor,
    target: Tensor | None = None,
    filter: Filter = "all_pass",
    alpha: float = 1.0,
    beta: float = 5.0,
    classes: Classes = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Half the mean squared difference of logits; tensors as in `kd`."""
    return _weighed(distances.squared, new, old, target, _Weighing(classes, filter, alpha, beta, reduction))


def ldi(
    *,
    new: Tensor,
    old: Tensor,
    target: Tensor | None = None,
    margin: float = 0.5,
    p: float = 2.0,
    topk: int | None = None,
    topk_by_reference: bool = False,
    exclude_gt: bool = False,
    one_sided: bool = False,
    relative: bool = False,
    p_norm: bool = False,
    filter: Filter = "all_pass",
    alpha: float = 1.0,
    beta: float = 5.0,
    classes: Classes = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Logit difference inhibition: mean over classes of max(|D| - margin, 0)^p, D = new - old (Zhao et al. 2022).

    new, old, target   as in `kd`
    topk               only the k classes with the highest new (or, topk_by_reference, reference) logits, per sample
    exclude_gt         the true class counts 0
    one_sided          max(D - margin, 0)^p: only what the new net raises
    relative           |D| over the reference's highest logit (a sample whose highest is not above 0 counts 0)
    p_norm             (sum over classes)^(1/p) instead of the mean
    Raises: TrainingError for shapes or settings that do not fit.
    """
    below = isinstance(margin, (int, float)) and margin < 0
    if p < 1 or below or (topk is not None and topk < 1):
        raise TrainingError(f"ldi with p {p}, margin {margin}, topk {topk}", hint="p >= 1, margin >= 0, topk >= 1")
    if exclude_gt and target is None:
        raise TrainingError("exclude_gt needs the target")
    distance = partial(
        distances.logit_difference,
        margin=margin,
        p=p,
        topk=topk,
        topk_by_reference=topk_by_reference,
        exclude_gt=exclude_gt,
        one_sided=one_sided,
        relative=relative,
        p_norm=p_norm,
    )
    return _weighed(distance, new, old, target, _Weighing(classes, filter, alpha, beta, reduction))


def elodi(
    *,
    new: Tensor,
    old: Sequence[Tensor] | Tensor,
    target: Tensor | None = None,
    reference_weights: Sequence[float] | None = None,
    margin: float = 0.0,
    p: float = 2.0,
    topk: int | None = None,
    topk_by_reference: bool = False,
    exclude_gt: bool = False,
    one_sided: bool = False,
    relative: bool = False,
    p_norm: bool = False,
    filter: Filter = "all_pass",
    alpha: float = 1.0,
    beta: float = 5.0,
    classes: Classes = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """LDI towards the (weighted) mean of several references' logits (Zhao et al. 2022).

    old                M tensors float [N, K], or one float [M, N, K]
    reference_weights  M shares, each at least 0; left out: equal
    The rest as in `ldi`; margins of 0 to 0.2 are usual here.
    """
    return ldi(
        new=new,
        old=mean_logits(old, reference_weights),
        target=target,
        margin=margin,
        p=p,
        topk=topk,
        topk_by_reference=topk_by_reference,
        exclude_gt=exclude_gt,
        one_sided=one_sided,
        relative=relative,
        p_norm=p_norm,
        filter=filter,
        alpha=alpha,
        beta=beta,
        classes=classes,
        reduction=reduction,
    )


def mean_logits(references: Sequence[Tensor] | Tensor, shares: Sequence[float] | None = None) -> Tensor:
    """The references' weighted mean, float [N, K], detached; at least float32.

    Raises: TrainingError when there is none, their shapes differ, or the shares do not fit.
    """
    members = [widen(member.detach()) for member in references]
    if not members or any(member.shape != members[0].shape for member in members):
        raise TrainingError(f"references of shapes {[list(m.shape) for m in members]}; equal shapes are needed")
    if shares is None:
        return torch.stack(members).mean(0)
    if len(shares) != len(members) or min(shares) < 0 or sum(shares) <= 0:
        raise TrainingError(f"reference weights {list(shares)} for {len(members)} references")
    # A share of 0 says nothing, so not even that its member is infinite somewhere: 0 times that would be NaN.
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
    """Cross-entropy of the new features through the frozen old classifier (Shen et al. 2020).

    new     float [N, F]  features of the net in training
    weight  float [K, F]  the old classifier's weights, bias float [K]; both really the old net's, without gradient
    target  int64 [N]     class indices
    Raises: TrainingError when features and classifier have different widths.
    """
    if new.dim() != 2 or weight.dim() != 2 or new.shape[1] != weight.shape[1]:
        raise TrainingError(
            f"new features {described(new)} do not fit the old classifier's weights {described(weight)}",
            hint="give the new net's features the old width, with a projection if need be",
        )
    with full_precision(new):
        kept = None if bias is None else widen(bias.detach())
        logits = functional.linear(widen(new), widen(weight.detach()), kept)
        return cross_entropy(logits, target, classes, reduction)


def cross_entropy(logits: Tensor, target: Tensor, classes: Classes, reduction: Reduction) -> Tensor:
    """Cross-entropy over a reference's own K columns on the samples it covers; others count 0. Logits float [N, K]."""
    width = logits.shape[1] if classes is None else int(max(classes)) + 1
    check_target(logits, target)
    with full_precision(logits):
        space = logits.new_zeros(len(logits), width)
        pair = compare(space, logits, target, classes)
        return _entropy(logits, pair.position, pair.covered, reduction)


def naive(
    *, new: Tensor, old: Tensor, target: Tensor, classes: Classes = None, reduction: Reduction = "mean"
) -> Tensor:
    """Cross-entropy again, on the samples that the reference got right; tensors as in `kd`."""
    with full_precision(new):
        pair = compare(new, old, target, classes)
        return _entropy(new, torch.where(pair.covered, target, 0), pair.old_right, reduction)


def combine(*, task: Tensor, pct: Tensor, weight: float = 1.0, kd_alpha: float | None = None) -> Tensor:
    """The whole loss: task + weight * pct; with kd_alpha = a, (1 - a) * task + a * weight * pct (the released form)."""
    return task + weight * pct if kd_alpha is None else (1 - kd_alpha) * task + kd_alpha * weight * pct


class _Weighing(NamedTuple):
    """What becomes of the distances; the settings that `kd` has."""

    classes: Classes
    filter: Filter
    alpha: float
    beta: float
    reduction: Reduction


def _weighed(
    distance: Callable[[AlignedLogits], Tensor], new: Tensor, old: Tensor, target: Tensor | None, how: _Weighing
) -> Tensor:
    """The distances [N] where the reference has a say, each times its weight, reduced."""
    if target is None and how.filter != "all_pass":
        raise TrainingError(f"the filter {how.filter!r} needs the target")
    with full_precision(new):
        pair = compare(new, old, target, how.classes)
        return reduce(weights(pair, how.filter, how.alpha, how.beta) * distance(pair), how.reduction)


def _entropy(logits: Tensor, position: Tensor, counted: Tensor, reduction: Reduction) -> Tensor:
    """The cross-entropy at each sample's position, 0 where it is not counted, reduced."""
    values = functional.cross_entropy(widen(logits), position, reduction="none")
    return reduce(torch.where(counted, values, 0.0), reduction)
