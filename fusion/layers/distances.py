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


class EuclideanLoss(nn.Module):
    """Half the squared distance, per sample."""

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """[N, ...] twice to a scalar."""
        return (full(x) - full(target).reshape(x.shape)).square().sum() / (2 * x.shape[0])


@layer("EuclideanLoss")
def euclidean_loss(layer: LayerParameter, context: Context) -> nn.Module:
    """Half the squared distance, per sample."""
    return EuclideanLoss()


class HingeLoss(nn.Module):
    """One against all: every score but the label's should be below -1, and the label's above 1."""

    def __init__(self, squared: bool) -> None:
        super().__init__()
        self.squared = squared

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """Scores [N, C, ...] and labels [N], of any dtype, to a scalar."""
        rows = full(x).flatten(1)
        signs = torch.ones_like(rows).scatter(1, label.reshape(-1, 1).long(), -1)
        excess = F.relu(1 + signs * rows)
        return (excess.square() if self.squared else excess).sum() / rows.shape[0]


@layer("HingeLoss")
def hinge_loss(layer: LayerParameter, context: Context) -> nn.Module:
    """The loss of a linear support vector machine."""
    param = layer.hinge_loss_param
    return HingeLoss(squared=param.norm == param.L2)


class ContrastiveLoss(nn.Module):
    """Draws similar pairs together and pushes others apart up to a margin (Hadsell et al. 2006).

    legacy  margin - d^2 instead of (margin - d)^2 for unlike pairs
    The gradient divides by d + 1e-4, as Caffe does, so that equal pairs get none.
    """

    def __init__(self, margin: float, legacy: bool) -> None:
        super().__init__()
        self.margin, self.legacy = margin, legacy

    def forward(self, a: Tensor, b: Tensor, similar: Tensor) -> Tensor:
        """[N, C, ...] twice and [N], not 0 for similar pairs, to a scalar."""
        square = (full(a) - full(b)).flatten(1).square().sum(1)
        if self.legacy:
            apart = F.relu(self.margin - square)
        else:
            distance = square.detach().sqrt()
            distance = distance + (square - square.detach()) / (2 * (distance + 1e-4))
            apart = F.relu(self.margin - distance).square()
        return torch.where(similar.flatten() != 0, square, apart).sum() / (2 * square.shape[0])


@layer("ContrastiveLoss")
def contrastive_loss(layer: LayerParameter, context: Context) -> nn.Module:
    """The loss of siamese nets."""
    param = layer.contrastive_loss_param
    return ContrastiveLoss(param.margin, param.legacy_version)
