"""Accuracy."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fusion.layers.axes import positive_axis
from fusion.layers.registry import Context, layer

if TYPE_CHECKING:
    from prototxt.schema.messages import LayerParameter


class TopKAccuracy(nn.Module):
    """The share of labels whose score is among the `top_k` best.

    per_class  whether a second top gives the share of each class; classes that do not occur give 0
    """

    def __init__(self, top_k: int, axis: int, ignore_label: int | None, per_class: bool) -> None:
        super().__init__()
        self.top_k, self.axis, self.ignore_label, self.per_class = top_k, axis, ignore_label, per_class

    @torch.no_grad()
    def forward(self, x: Tensor, label: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Map scores [*outer, C, *inner] and labels [outer * inner], of any dtype, to a scalar and perhaps [C]."""
        axis = positive_axis(self.axis, x.dim())
        rows = x.reshape(math.prod(x.shape[:axis]), x.shape[axis], -1)
        target = label.reshape(rows.shape[0], 1, rows.shape[2]).long()
        counts = torch.ones_like(target, dtype=torch.bool) if self.ignore_label is None else target != self.ignore_label
        target = torch.where(counts, target, 0)
        # accuracy_layer.cpp counts scores >= the label's: a tie counts against the label.
        not_worse = (rows >= rows.gather(1, target)).sum(1, keepdim=True) - 1
        right = (not_worse < self.top_k) & counts
        dtype = torch.promote_types(x.dtype, torch.float32)
        accuracy = right.sum().to(dtype) / counts.sum().clamp(min=1)
        if not self.per_class:
            return accuracy
        hits, seen = (
            torch.zeros(rows.shape[1], dtype=dtype, device=x.device).index_add_(
                0, target.flatten(), flags.flatten().to(dtype)
            )
            for flags in (right, counts)
        )
        return accuracy, hits / seen.clamp(min=1)


@layer("Accuracy")
def _accuracy(layer: LayerParameter, context: Context) -> nn.Module:
    param = layer.accuracy_param
    ignore = param.ignore_label if param.HasField("ignore_label") else None
    return TopKAccuracy(param.top_k, param.axis, ignore, per_class=len(layer.top) > 1)
