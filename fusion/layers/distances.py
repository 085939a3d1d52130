"""Losses that compare two blobs, or scores with a margin."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion.layers.axes import full
from fusion.layers.registry import Context, layer

if TYPE_CHECKING:
    from prototxt.schema.messages import LayerParameter


@layer("EuclideanLoss")
class EuclideanLoss(nn.Module):
    """Half the squared distance, per sample."""

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """Map [N, ...] twice to a scalar."""
        return (full(x) - full(target).reshape(x.shape)).square().sum() / (2 * x.shape[0])


class HingeLoss(nn.Module):
    """One against all: every score but the label's should be below -1, and the label's above 1."""

    def __init__(self, squared: bool) -> None:
        super().__init__()
        self.squared = squared

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """Map scores [N, C, ...] and labels [N], of any dtype, to a scalar."""
        rows = full(x).flatten(1)  # -1 where the label is: hinge_loss_layer.cpp flips that score's sign
        signs = torch.ones_like(rows).scatter(1, label.reshape(-1, 1).long(), -1)
        excess = F.relu(1 + signs * rows)
        return (excess.square() if self.squared else excess).sum() / rows.shape[0]


@layer("HingeLoss")
def _hinge_loss(layer: LayerParameter, context: Context) -> nn.Module:
    param = layer.hinge_loss_param
    return HingeLoss(squared=param.norm == param.L2)


class ContrastiveLoss(nn.Module):
    """Pulls similar pairs together and pushes others apart up to a margin (Hadsell et al. 2006).

    legacy  margin - d^2 instead of (margin - d)^2 for dissimilar pairs
    """

    def __init__(self, margin: float, legacy: bool) -> None:
        super().__init__()
        self.margin, self.legacy = margin, legacy

    def forward(self, a: Tensor, b: Tensor, similar: Tensor) -> Tensor:
        """Map [N, C, ...] twice and [N], not 0 for similar pairs, to a scalar."""
        square = (full(a) - full(b)).flatten(1).square().sum(1)
        if self.legacy:
            apart = F.relu(self.margin - square)
        else:
            # contrastive_loss_layer.cpp divides the gradient by d + 1e-4, so that equal pairs get none instead of NaN.
            distance = square.detach().sqrt()
            distance = distance + (square - square.detach()) / (2 * (distance + 1e-4))
            apart = F.relu(self.margin - distance).square()
        return torch.where(similar.flatten() != 0, square, apart).sum() / (2 * square.shape[0])


@layer("ContrastiveLoss")
def _contrastive_loss(layer: LayerParameter, context: Context) -> nn.Module:
    param = layer.contrastive_loss_param
    return ContrastiveLoss(param.margin, param.legacy_version)
