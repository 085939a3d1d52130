"""Proposals of Faster R-CNN.

Source: Ren et al. 2015; sanghoon/caffe for PVANet, of which happynear/caffe-windows holds a copy (proposal_layer.cpp).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fusion.errors import BuildError
from fusion.layers.axes import full
from fusion.layers.forks.boxes import suppress
from fusion.layers.registry import Context, layer
from prototxt.shapes.fork_layers import fork_param

if TYPE_CHECKING:
    from prototxt.schema.messages import LayerParameter


class Proposal(nn.Module):
    """Anchors moved by the predicted offsets, clipped to the image, after suppression.

    anchors  float [A, 4] around the first cell, in pixels
    stride   pixels between cells
    least    least side of a box, in pixels of the unscaled image; smaller ones score 0
    before   number of best boxes before suppression
    after    maximum number of boxes after it
    """

    anchors: Tensor

    def __init__(
        self, anchors: Tensor, stride: int, least: int, before: int, after: int, threshold: float, scores: bool
    ) -> None:
        super().__init__()
        self.register_buffer("anchors", anchors, persistent=False)
        self.stride, self.least, self.before, self.after = stride, least, before, after
        self.threshold, self.scores = threshold, scores

    @torch.no_grad()
    def forward(self, score: Tensor, offset: Tensor, info: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Map scores [N, 2 * A, H, W], offsets [N, 4 * A, H, W] and the image information to boxes [R, 5].

        info     one row for all or each: height, width, scale(s)
        returns  rows (image, x1, y1, x2, y2), and optionally their scores [R, 1]
        """
        score, offset, info = full(score), full(offset), full(info).reshape(-1, info.shape[-1])
        rows = [
            self._one(index, score[index], offset[index], info[min(index, len(info) - 1)])
            for index in range(score.shape[0])
        ]
        proposals = torch.cat(rows)
        return (proposals[:, :5], proposals[:, 5:]) if self.scores else proposals[:, :5]

    def _one(self, image: int, score: Tensor, offset: Tensor, info: Tensor) -> Tensor:
        count, (height, width) = len(self.anchors), score.shape[1:]
        y, x = torch.meshgrid(
            torch.arange(height, device=score.device), torch.arange(width, device=score.device), indexing="ij"
        )
        shift = torch.stack([x, y, x, y], -1)[:, :, None] * self.stride
        boxes = (self.anchors + shift).reshape(-1, 4)
        move = offset.reshape(count, 4, height, width).permute(2, 3, 0, 1).reshape(-1, 4)
        size = boxes[:, 2:] - boxes[:, :2] + 1
        centre = move[:, :2] * size + boxes[:, :2] + size / 2
        half = move[:, 2:].exp() * size / 2
        limit = torch.stack([info[1], info[0]]) - 1
        low, high = (torch.minimum(edge, limit).clamp(min=0) for edge in (centre - half, centre + half))
        scale = torch.stack([info[3] if len(info) > 3 else info[2], info[2]])
        large = (high - low + 1 >= self.least * scale).all(1)
        front = score[count:].permute(1, 2, 0).reshape(-1) * large
        order = front.argsort(descending=True, stable=True)[: self.before]
        boxes = torch.cat([low, high], 1)[order]
        retained = suppress(boxes, self.threshold, self.after, pixels=1)
        head = boxes.new_full((len(retained), 1), image)
        return torch.cat([head, boxes[retained], front[order][retained, None]], 1)


def make_anchors(base: int, ratios: list[float], scales: list[float]) -> list[list[float]]:
    """Return anchors at the centre of a square of side `base`: height : width ratios times scales, in whole pixels."""
    centre, anchors = (base - 1) / 2, []
    for ratio in ratios:
        width = math.sqrt(base * base / ratio)
        width, height = _rounded(width), _rounded(_rounded(width) * ratio)
        for scale in scales:
            half = ((width * scale - 1) / 2, (height * scale - 1) / 2)
            anchors.append([centre - half[0], centre - half[1], centre + half[0], centre + half[1]])
    return anchors


def _rounded(x: float) -> float:
    return float(math.floor(x + 0.5))


@layer("Proposal")
def _proposal(layer: LayerParameter, context: Context) -> nn.Module:
    param = fork_param(layer, "proposal_param")
    if len(layer.bottom) != 3:
        raise BuildError(f"layer '{layer.name}': three bottoms are supported: scores, offsets, image size")
    anchors = make_anchors(
        param.base_size, list(param.ratio) or [0.5, 1.0, 2.0], list(param.scale) or [8.0, 16.0, 32.0]
    )
    return Proposal(
        torch.tensor(anchors),
        param.feat_stride,
        param.min_size,
        param.pre_nms_topn,
        param.post_nms_topn,
        param.nms_thresh,
        scores=len(layer.top) > 1,
    )
