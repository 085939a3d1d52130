"""Pooling over regions.

Sources: Girshick 2015, rbgirshick/caffe-fast-rcnn (ROIPooling); Dai et al. 2016, daijifeng001/R-FCN (PSROIPooling).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fusion.errors import BuildError
from fusion.layers.axes import full
from fusion.layers.registry import Context, layer
from prototxt.shapes.fork_layers import fork_param

if TYPE_CHECKING:
    from prototxt.schema.messages import LayerParameter

Pair = tuple[int, int]


def half_away(x: Tensor) -> Tensor:
    """Round to whole numbers, halves away from zero like C's round()."""
    return x.sign() * (x.abs() + 0.5).floor()


def inside(start: Tensor, size: Tensor, bins: int, extent: int) -> Tensor:
    """Return which cells belong to which bin.

    start, size  float [R], of each box along one axis, in cells of the map
    returns      bool [R, bins, extent]; bins overlap where sizes do not divide
    """
    bin_ = torch.arange(bins, device=start.device)[:, None]
    # The whole part of `start` is added last: float32 would lose digits of bin_ * width beside it.
    width = (size / bins)[:, None, None]
    place = torch.arange(extent, device=start.device)
    first = (bin_ * width + _fraction(start)).floor() + _whole(start)
    last = ((bin_ + 1) * width + _fraction(start)).ceil() + _whole(start)
    return (place >= first) & (place < last)


def _whole(x: Tensor) -> Tensor:
    return x.floor()[:, None, None]


def _fraction(x: Tensor) -> Tensor:
    return (x - x.floor())[:, None, None]


class ROIPooling(nn.Module):
    """The maximum in every bin of a grid over each box; the first of equals gets the gradient.

    size   bins down and across
    scale  cells of the map per pixel
    An empty bin gives 0. Corners are rounded to cells, halves away from zero; a box includes its far edge.
    """

    def __init__(self, size: Pair, scale: float) -> None:
        super().__init__()
        self.size, self.scale = size, scale

    def forward(self, x: Tensor, boxes: Tensor) -> Tensor:
        """Map [N, C, H, W] and boxes [R, 5] (image, x1, y1, x2, y2) to [R, C, down, across]."""
        boxes = full(boxes.detach()).reshape(-1, 5)
        image, edge = boxes[:, 0].long(), half_away(boxes[:, 1:] * self.scale)
        extent = (edge[:, 2:] - edge[:, :2] + 1).clamp(min=1)
        across = inside(edge[:, 0], extent[:, 0], self.size[1], x.shape[3])
        down = inside(edge[:, 1], extent[:, 1], self.size[0], x.shape[2])
        pooled = [self._one(x.index_select(0, image[r : r + 1])[0], down[r], across[r]) for r in range(boxes.shape[0])]
        return torch.stack(pooled) if pooled else x.new_zeros(0, x.shape[1], *self.size)

    @staticmethod
    def _one(x: Tensor, down: Tensor, across: Tensor) -> Tensor:
        # Rows first, then columns, so that of equals the first in reading order is taken.
        rows = x[:, :, None].masked_fill(~across, -torch.inf).max(3).values
        cells = rows.transpose(1, 2)[:, None].masked_fill(~down[:, None], -torch.inf).max(3).values
        empty = ~(down.any(1)[:, None] & across.any(1))
        return cells.masked_fill(empty, 0.0)


@layer("ROIPooling")
def _roi_pooling(layer: LayerParameter, context: Context) -> nn.Module:
    param = fork_param(layer, "roi_pooling_param")
    if param.pad_ratio or param.bi_type or len(layer.top) > 1:
        raise BuildError(
            f"layer '{layer.name}': roi_pooling_param supports pooled_h, pooled_w and spatial_scale, with one top"
        )
    return ROIPooling((param.pooled_h, param.pooled_w), param.spatial_scale)


class PSROIPooling(nn.Module):
    """The mean in every bin of a grid over each box, each bin from its own channels.

    size       channels of the result
    group      bins down and across
    scale      cells of the map per pixel
    Corners are rounded to pixels, a box includes its far edge, and no box is narrower than 0.1 cells.
    """

    def __init__(self, size: int, group: int, scale: float) -> None:
        super().__init__()
        self.size, self.group, self.scale = size, group, scale

    def forward(self, x: Tensor, boxes: Tensor) -> Tensor:
        """Map [N, size * group^2, H, W] and boxes [R, 5] to [R, size, group, group]."""
        boxes = full(boxes.detach()).reshape(-1, 5)
        image, edge = boxes[:, 0].long(), half_away(boxes[:, 1:])
        start, stop = edge[:, :2] * self.scale, (edge[:, 2:] + 1) * self.scale
        extent = (stop - start).clamp(min=0.1)
        across = inside(start[:, 0], extent[:, 0], self.group, x.shape[3]).to(x.dtype)
        down = inside(start[:, 1], extent[:, 1], self.group, x.shape[2]).to(x.dtype)
        maps = x.reshape(x.shape[0], self.size, self.group, self.group, *x.shape[2:])
        sums = [
            torch.einsum("ih,dijhw,jw->dij", down[r], maps.index_select(0, image[r : r + 1])[0], across[r])
            for r in range(boxes.shape[0])
        ]
        counts = down.sum(2)[:, :, None] * across.sum(2)[:, None]
        total = torch.stack(sums) if sums else x.new_zeros(0, self.size, self.group, self.group)
        return total / counts.clamp(min=1)[:, None]


@layer("PSROIPooling")
def _psroi_pooling(layer: LayerParameter, context: Context) -> nn.Module:
    param = fork_param(layer, "psroi_pooling_param")
    if len(layer.top) > 1:
        raise BuildError(f"layer '{layer.name}': PSROIPooling has one top")
    return PSROIPooling(param.output_dim, param.group_size, param.spatial_scale)
