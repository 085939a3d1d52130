"""The common part of all losses: the samples that a reference covers, sample weights, and reduction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from fusion.errors import TrainingError

Reduction = Literal["none", "mean", "sum"]
Filter = Literal["all_pass", "old_correct", "new_incorrect", "neg_flip"]
Classes = Sequence[int] | Tensor | None


class AlignedLogits(NamedTuple):
    """New and reference logits at the same classes, in float32 or float64.

    new       float [N, K]  new logits at the reference's classes
    old       float [N, K]  reference logits, detached; where not covered, the new ones
    covered   bool [N]      the reference knows the sample's class
    position  int64 [N]     column of the label among the K classes; 0 where not covered
    old_right, new_wrong    bool [N]; the new answer is the best of all of its classes
    """

    new: Tensor
    old: Tensor
    covered: Tensor
    position: Tensor
    old_right: Tensor
    new_wrong: Tensor


@contextmanager
def full_precision(*tensors: Tensor) -> Iterator[None]:
    """Turn autocast off: differences of logits vanish in half precision."""
    with torch.autocast(tensors[0].device.type, enabled=False):
        yield


def widen(tensor: Tensor) -> Tensor:
    """Convert to float32, except for float64."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def compare(new: Tensor, old: Tensor, target: Tensor | None, classes: Classes) -> AlignedLogits:
    """Align the reference's logits with the new ones.

    new      float [N, C]
    old      float [N, K]   K = C, or one column per entry of `classes`
    target   int64 [N] or None: every sample counts, and no filter can be used
    classes  the new net's class of each reference column; None: the same classes
    Raises: TrainingError naming the shape that does not fit.
    """
    check_shapes(new, old, target, classes)
    wide, reference = widen(new), widen(old.detach())
    index = None if classes is None else torch.as_tensor(classes, dtype=torch.int64, device=new.device)
    at_classes = wide if index is None else wide[:, index]
    if target is None:
        everywhere = torch.ones(len(new), dtype=torch.bool, device=new.device)
        return AlignedLogits(at_classes, reference, everywhere, everywhere.long() * 0, ~everywhere, ~everywhere)
    position = _positions(target, index, new.shape[1])
    covered = position >= 0
    position = position.clamp_min(0)
    old_right = covered & (reference.argmax(1) == position)
    reference = torch.where(covered[:, None], reference, at_classes.detach())  # distance 0 where not covered
    return AlignedLogits(at_classes, reference, covered, position, old_right, wide.argmax(1) != target)


def sample_weights(pair: AlignedLogits, filter: Filter, alpha: float, beta: float) -> Tensor:
    """Return the weight of each sample, float [N]: 1, or alpha + beta * [the filter's condition]; 0 where not covered.

    Raises: TrainingError for an unknown filter.
    """
    # Shape [N], as the distances: in the code released with the paper an [N, 1] broadcasts to [N, N], which gives every
    # sample the mean weight.
    conditions = {
        "all_pass": None,
        "old_correct": pair.old_right,
        "new_incorrect": pair.new_wrong,
        "neg_flip": pair.old_right & pair.new_wrong,
    }
    if filter not in conditions:
        raise TrainingError(f"unknown filter {filter!r}", hint=f"one of {', '.join(conditions)}")
    condition = conditions[filter]
    counted = pair.covered.to(pair.new.dtype)
    return counted if condition is None else counted * (alpha + beta * condition.to(pair.new.dtype))


def reduce(values: Tensor, reduction: Reduction) -> Tensor:
    """Return the values [N], their sum, or their sum over the batch size; an empty batch gives 0.

    Raises: TrainingError for an unknown reduction.
    """
    if reduction == "none":
        return values
    if reduction == "sum":
        return values.sum()
    if reduction == "mean":
        return values.sum() / max(len(values), 1)
    raise TrainingError(f"unknown reduction {reduction!r}", hint="one of none, mean, sum")


def check_shapes(new: Tensor, old: Tensor, target: Tensor | None, classes: Classes) -> None:
    """Check that new is [N, C], old [N, K] and target int64 [N], with K classes below C. Raises: TrainingError."""
    for name, logits in (("new", new), ("old", old)):
        if logits.dim() != 2 or not logits.is_floating_point():
            raise TrainingError(
                f"{name}: floating point logits of shape [N, C] are needed, not {describe_tensor(logits)}"
            )
    if len(old) != len(new):
        raise TrainingError(f"new logits of {len(new)} samples and reference logits of {len(old)}")
    if target is not None:
        check_target(new, target)
    if classes is None:
        if old.shape[1] != new.shape[1]:
            raise TrainingError(
                f"the new net has {new.shape[1]} classes and the reference {old.shape[1]}",
                hint="name the reference's classes: classes=[1, 3, 5, 7, 9]",
            )
        return
    indices = [int(c) for c in classes] if not isinstance(classes, Tensor) else None
    if len(classes) != old.shape[1]:
        raise TrainingError(f"{len(classes)} classes for {old.shape[1]} reference logits")
    if indices is not None and (len(set(indices)) != len(indices) or not all(0 <= c < new.shape[1] for c in indices)):
        raise TrainingError(f"classes {indices}: each must occur once and be below the new net's {new.shape[1]}")


def check_target(new: Tensor, target: Tensor) -> None:
    """Check that the target is one integer per sample. Raises: TrainingError."""
    if target.shape != new.shape[:1] or target.is_floating_point():
        raise TrainingError(
            f"target: one class index per sample (int64 [{len(new)}]) is needed, not {describe_tensor(target)}"
        )


def describe_tensor(tensor: Tensor) -> str:
    """Return type and shape for a message: 'float32 [8, 10]'."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _positions(target: Tensor, index: Tensor | None, width: int) -> Tensor:
    """Return the column of each label among the reference's classes, int64 [N]; -1 where there is none."""
    inside = (target >= 0) & (target < width)
    if index is None:
        return torch.where(inside, target, -1)
    same = target[:, None] == index
    return torch.where(inside & same.any(1), same.to(torch.uint8).argmax(1), -1)
