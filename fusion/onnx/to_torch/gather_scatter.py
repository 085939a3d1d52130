"""Operators of ONNX that gather and scatter elements by index, and trees, as functions of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

from fusion.onnx.to_torch.functions import Ints, Setting, integers, operator, scalar

_REDUCED: Final = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _non_negative(index: Tensor, size: int) -> Tensor:
    """Return indices from the start; negative ones count from the end."""
    index = index.long()
    return torch.where(index < 0, index + size, index)


@operator("GatherElements")
def _gather_elements(x: Tensor, index: Tensor, *, axis: int = 0) -> Tensor:
    return torch.gather(x, axis, _non_negative(index, x.shape[axis]))


@operator("GatherND")
def _gather_nd(x: Tensor, index: Tensor, *, batch_dims: int = 0) -> Tensor:
    """Return the elements at the positions in the last axis of `index`; the first `batch_dims` axes are shared."""
    rows = [
        torch.arange(x.shape[axis], device=x.device).reshape([-1] + [1] * (index.dim() - 2 - axis))
        for axis in range(batch_dims)
    ]
    places = (*rows, *index.long().unbind(-1))
    return x[places]


@operator("ScatterElements")
def _scatter_elements(x: Tensor, index: Tensor, updates: Tensor, *, axis: int = 0, reduction: str = "none") -> Tensor:
    where = _non_negative(index, x.shape[axis])
    if reduction == "none":
        return x.scatter(axis, where, updates)
    return x.scatter_reduce(axis, where, updates, _REDUCED[reduction])


@operator("ScatterND")
def _scatter_nd(x: Tensor, index: Tensor, updates: Tensor, *, reduction: str = "none") -> Tensor:
    """Return x with the updates at the positions in the last axis of `index`."""
    # Positions become row numbers of x with its first axes flattened, so that scatter over one axis serves.
    depth = index.shape[-1]
    place = torch.zeros(index.shape[:-1], dtype=torch.int64, device=x.device)
    for axis, part in enumerate(index.unbind(-1)):
        place = place * x.shape[axis] + _non_negative(part, x.shape[axis])
    rows = x.reshape(x.shape[:depth].numel(), -1)
    values = updates.reshape(place.numel(), -1)
    return _scatter_elements(rows, place.reshape(-1, 1).expand_as(values), values, reduction=reduction).reshape(x.shape)


@operator("TopK", settings=(1,))
def _top_k(x: Tensor, k: Ints, *, axis: int = -1, largest: int = 1) -> tuple[Tensor, Tensor]:
    """Return the k largest or smallest: a stable sort keeps the first of equal elements first, as ONNX requires."""
    (count,) = integers(k)
    values, index = torch.sort(x, dim=axis, descending=bool(largest), stable=True)
    return values.narrow(axis, 0, count), index.narrow(axis, 0, count)


@operator("OneHot", settings=(1,))
def _one_hot(index: Tensor, depth: Ints, values: Tensor, *, axis: int = -1) -> Tensor:
    """Return `values` (off, on); all off for an index outside 0..depth-1."""
    (count,) = integers(depth)
    spread = _non_negative(index, count).unsqueeze(axis)
    shape = [1] * spread.dim()
    shape[axis] = count
    return torch.where(spread == torch.arange(count, device=index.device).reshape(shape), values[1], values[0])


@operator("TreeEnsemble")
def _tree_ensemble(
    x: Tensor,
    features: Tensor,
    thresholds: Tensor,
    following: Tensor,
    roots: Tensor,
    leaves: Tensor,
    *,
    depth: int,
    aggregate: str,
) -> Tensor:
    """Return the sum, least or greatest over trees of the weights of the leaves that each sample reaches.

    x        float [N, F]
    others   arrays of `fusion.onnx.graphs.trees.Forest`
    returns  float32 [N, K]; 0 for targets without a weight in these leaves
    """
    node = roots.expand(len(x), -1)  # [N, T]: a step down all trees at once; a leaf leads to itself
    for _ in range(depth):
        value, threshold = x.gather(1, features[node]), thresholds[node]
        outcome = (value > threshold).long() + (value >= threshold)  # 0 less, 1 equal, 2 greater
        node = following[node, outcome.masked_fill(value.isnan(), 3)]
    reached = node - (len(following) - len(leaves))
    if aggregate == "SUM":
        return F.embedding_bag(reached, leaves, mode="sum")
    weights = leaves[reached]
    best = weights.amin(1) if aggregate == "MIN" else weights.amax(1)
    return best.masked_fill(best.isinf(), 0)


@operator("Hardmax")
def _hardmax(x: Tensor, *, axis: int = -1) -> Tensor:
    return torch.zeros_like(x).scatter(axis, x.argmax(axis, keepdim=True), 1)


@operator("NonZero")
def _non_zero(x: Tensor) -> Tensor:
    return torch.nonzero(x).T.contiguous()


@operator("NonMaxSuppression", settings=(2, 3, 4))
def _non_max_suppression(
    boxes: Tensor,
    scores: Tensor,
    most: Ints = 0,
    overlap: Setting = None,
    least: Setting = None,
    *,
    center_point_box: int = 0,
) -> Tensor:
    """Return rows of (sample, class, box), int64 [N, 3]; boxes are any two opposite corners, or center and size."""
    (count,) = integers(most)
    if center_point_box:
        boxes = torchvision.ops.box_convert(boxes, "cxcywh", "xyxy")
    corners = torch.cat([torch.minimum(boxes[..., :2], boxes[..., 2:]), torch.maximum(boxes[..., :2], boxes[..., 2:])],
                        -1)  # fmt: skip
    limit = 0.0 if overlap is None else scalar(overlap)
    found: list[Sequence[Any]] = []
    for sample, (places, classes) in enumerate(zip(corners, scores, strict=True)):
        for label, values in enumerate(classes):
            index = torch.arange(len(values), device=values.device)
            index = index if least is None else index[values > scalar(least)]
            selected = index[torchvision.ops.nms(places[index], values[index], limit)][:count]
            found += [(sample, label, box) for box in selected.tolist()]
    return torch.tensor(found, dtype=torch.int64, device=boxes.device).reshape(-1, 3)
