"""Box arithmetic: overlap, suppression, and SSD's codes for offsets.

Boxes are xmin, ymin, xmax, ymax. Sources: weiliu89/caffe at branch ssd (bbox_util.cpp; Liu et al. 2016), and for pixel
boxes, which include their far edge, rbgirshick/py-faster-rcnn (Ren et al. 2015).
"""

from __future__ import annotations

import torch
from torch import Tensor

CODE_TYPES = {1: "CORNER", 2: "CENTER_SIZE", 3: "CORNER_SIZE"}  # of PriorBoxParameter.CodeType


def overlap(first: Tensor, second: Tensor, pixels: int = 0) -> Tensor:
    """Return the intersection over union.

    first, second  float [A, 4], [B, 4]
    pixels         1 where a box includes its far edge
    returns        float [A, B] in 0 to 1; 0 for boxes without area
    """
    low = torch.maximum(first[:, None, :2], second[None, :, :2])
    high = torch.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = (high - low + pixels).clamp(min=0).prod(-1)
    union = area(first, pixels)[:, None] + area(second, pixels) - shared
    return shared / torch.where(union > 0, union, 1)


def area(boxes: Tensor, pixels: int = 0) -> Tensor:
    """Return the areas [N] of boxes [N, 4]; 0 for inverted boxes."""
    size = boxes[:, 2:] - boxes[:, :2]
    return (size + pixels).prod(-1) * (size >= 0).all(-1)


def suppress(boxes: Tensor, threshold: float, limit: int, eta: float = 1.0, pixels: int = 0) -> list[int]:
    """Return the indices of the boxes that survive greedy suppression, best first.

    boxes      float [N, 4], best first
    threshold  a box is removed when its overlap with a retained one is greater
    limit      maximum number of retained boxes; negative: no limit
    eta        factor on the threshold after every retained box, while the threshold is above 0.5
    """
    overlaps = overlap(boxes, boxes, pixels)
    alive = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
    retained: list[int] = []
    for index in range(len(boxes)):
        if len(retained) == limit:
            break
        if eta < 1:  # the threshold has changed since the earlier boxes were retained (bbox_util.cpp, ApplyNMSFast)
            alive[index] = all(bool(overlaps[index, other] <= threshold) for other in retained)
        if alive[index]:
            retained.append(index)
            alive &= overlaps[index] <= threshold if eta == 1 else True
            threshold *= eta if eta < 1 and threshold > 0.5 else 1.0
    return retained


def corners(code: Tensor, prior: Tensor, variance: Tensor, kind: str) -> Tensor:
    """Decode offsets into boxes.

    code             float [..., P, 4]
    prior, variance  float [P, 4]; variance 1 where it is encoded in the offsets
    kind             CORNER, CENTER_SIZE or CORNER_SIZE
    returns          float [..., P, 4]
    """
    code = code * variance
    if kind == "CORNER":
        return prior + code
    size = prior[:, 2:] - prior[:, :2]
    if kind == "CORNER_SIZE":
        return prior + code * torch.cat([size, size], 1)
    centre = code[..., :2] * size + (prior[:, :2] + prior[:, 2:]) / 2
    half = code[..., 2:].exp() * size / 2
    return torch.cat([centre - half, centre + half], -1)


def offsets(boxes: Tensor, prior: Tensor, variance: Tensor, kind: str) -> Tensor:
    """Encode boxes as offsets, the inverse of `corners`: all float [P, 4]."""
    if kind == "CORNER":
        return (boxes - prior) / variance
    size = prior[:, 2:] - prior[:, :2]
    if kind == "CORNER_SIZE":
        return (boxes - prior) / torch.cat([size, size], 1) / variance
    centre = ((boxes[:, :2] + boxes[:, 2:]) - (prior[:, :2] + prior[:, 2:])) / 2 / size
    scale = ((boxes[:, 2:] - boxes[:, :2]) / size).log()
    return torch.cat([centre, scale], 1) / variance
