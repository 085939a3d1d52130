"""Operators of ONNX that pick and put elements by number, as functions of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
import torchvision
from torch import Tensor

from fusion.onnx.to_torch.functions import Ints, Setting, integers, number

_REDUCED: Final = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _counted(index: Tensor, size: int) -> Tensor:
    """Numbers from the start; negative ones count from the end."""
    index = index.long()
    return torch.where(index < 0, index + size, index)


def gather_elements(x: Tensor, index: Tensor, *, axis: int = 0) -> Tensor:
    """Each element from its own place on the axis."""
    return torch.gather(x, axis, _counted(index, x.shape[axis]))


def gather_nd(x: Tensor, index: Tensor, *, batch_dims: int = 0) -> Tensor:
    """What lies at the places that the last axis of `index` holds, in step over the first axes."""
    rows = [
        torch.arange(x.shape[axis], device=x.device).reshape([-1] + [1] * (index.dim() - 2 - axis))
        for axis in range(batch_dims)
    ]
    places = (*rows, *index.long().unbind(-1))
    return x[places]


def scatter_elements(x: Tensor, index: Tensor, updates: Tensor, *, axis: int = 0, reduction: str = "none") -> Tensor:
    """x with each update at its own place on the axis."""
    where = _counted(index, x.shape[axis])
    if reduction == "none":
        return x.scatter(axis, where, updates)
    return x.scatter_reduce(axis, where, updates, _REDUCED[reduction])


def scatter_nd(x: Tensor, index: Tensor, updates: Tensor, *, reduction: str = "none") -> Tensor:
    """x with the updates at the places that the last axis of `index` holds."""
    depth = index.shape[-1]
    place = torch.zeros(index.shape[:-1], dtype=torch.int64, device=x.device)
    for axis, part in enumerate(index.unbind(-1)):
        place = place * x.shape[axis] + _counted(part, x.shape[axis])
    rows = x.reshape(x.shape[:depth].numel(), -1)
    values = updates.reshape(place.numel(), -1)
    return scatter_elements(rows, place.reshape(-1, 1).expand_as(values), values, reduction=reduction).reshape(x.shape)


def top_k(x: Tensor, k: Ints, *, axis: int = -1, largest: int = 1) -> tuple[Tensor, Tensor]:
    """The first of equal elements first, as ONNX wants it."""
    (count,) = integers(k)
    values, index = torch.sort(x, dim=axis, descending=bool(largest), stable=True)
    return values.narrow(axis, 0, count), index.narrow(axis, 0, count)


def one_hot(index: Tensor, depth: Ints, values: Tensor, *, axis: int = -1) -> Tensor:
    """(off, on) values; all off where the number is none of 0..depth-1."""
    (count,) = integers(depth)
    spread = _counted(index, count).unsqueeze(axis)
    shape = [1] * spread.dim()
    shape[axis] = count
    return torch.where(spread == torch.arange(count, device=index.device).reshape(shape), values[1], values[0])


def hardmax(x: Tensor, *, axis: int = -1) -> Tensor:
    """1 at the first of the largest elements."""
    return torch.zeros_like(x).scatter(axis, x.argmax(axis, keepdim=True), 1)


def non_zero(x: Tensor) -> Tensor:
    """Places of what is not zero, one row per axis."""
    return torch.nonzero(x).T.contiguous()


def non_max_suppression(
    boxes: Tensor,
    scores: Tensor,
    most: Ints = 0,
    overlap: Setting = None,
    least: Setting = None,
    *,
    center_point_box: int = 0,
) -> Tensor:
    """Rows of (sample, class, box); boxes are two opposite corners, whichever, or center and size."""
    (count,) = integers(most)
    if center_point_box:
        boxes = torchvision.ops.box_convert(boxes, "cxcywh", "xyxy")
    corners = torch.cat([torch.minimum(boxes[..., :2], boxes[..., 2:]), torch.maximum(boxes[..., :2], boxes[..., 2:])],
                        -1)  # fmt: skip
    limit = 0.0 if overlap is None else number(overlap)
    found: list[Sequence[Any]] = []
    for sample, (places, classes) in enumerate(zip(corners, scores, strict=True)):
        for label, values in enumerate(classes):
            taken = torch.arange(len(values), device=values.device)
            taken = taken if least is None else taken[values > number(least)]
            kept = taken[torchvision.ops.nms(places[taken], values[taken], limit)][:count]
            found += [(sample, label, box) for box in kept.tolist()]
    return torch.tensor(found, dtype=torch.int64, device=boxes.device).reshape(-1, 3)
