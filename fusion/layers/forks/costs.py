"""Regression losses added by forks.

Sources: Girshick 2015 and rbgirshick/caffe-fast-rcnn (SmoothL1Loss), Wen et al. 2016 and ydwen/caffe-face (CenterLoss).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion.layers.axes import full
from fusion.layers.registry import Context, layer
from prototxt.schema.messages import FillerParameter
from prototxt.shapes.fork_layers import fork_param

if TYPE_CHECKING:
    from prototxt.schema.messages import LayerParameter


class SmoothL1Loss(nn.Module):
    """The sum of outer * f(inner * (x - target)) over the batch size: square below 1 / sigma^2, absolute above.

    f(d) is sigma^2 d^2 / 2 where |d| < 1 / sigma^2, else |d| - 1 / (2 sigma^2). The weights get no gradient.
    """

    def __init__(self, sigma: float) -> None:
        super().__init__()
        self.beta = 1 / sigma**2

    def forward(self, x: Tensor, target: Tensor, *weights: Tensor) -> Tensor:
        """Map [N, ...] twice, and optional inner and outer weights of the same size, to a scalar."""
        x = full(x)
        difference = x - full(target).reshape(x.shape)
        if weights:
            difference = difference * weights[0].detach().reshape(x.shape)
        each = F.smooth_l1_loss(difference, torch.zeros_like(difference), reduction="none", beta=self.beta)
        if len(weights) > 1:
            each = each * weights[1].detach().reshape(x.shape)
        return each.sum() / x.shape[0]


@layer("SmoothL1Loss")
def _smooth_l1_loss(layer: LayerParameter, context: Context) -> nn.Module:
    return SmoothL1Loss(fork_param(layer, "smooth_l1_loss_param").sigma)


class Centres(torch.autograd.Function):
    """Half the squared distances to the class centres, with the fork's update rule for the centres."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, centres: Tensor, label: Tensor) -> Tensor:
        """Map features [N, D], centres [C, D] and labels [N] to a scalar."""
        distance = x - centres[label]
        ctx.save_for_backward(distance, centres, label)
        return distance.square().sum() / (2 * x.shape[0])

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        """Return the gradient of the features, and the fork's update for the centres."""
        # center_loss_layer.cpp: no derivative, but a mean over each class with count + 1, not scaled by loss_weight.
        distance, centres, label = ctx.saved_tensors  # type: ignore[attr-defined]
        sums = torch.zeros_like(centres).index_add_(0, label, distance)
        counts = torch.bincount(label, minlength=len(centres)).to(sums)[:, None]
        return gradient * distance / distance.shape[0], -sums / (counts + 1), None


class CenterLoss(nn.Module):
    """Pulls the features of a class towards its centre.

    weight  [C, D] one centre per class
    """

    caffe_params = ("weight",)

    def __init__(self, weight: nn.Parameter, axis: int) -> None:
        super().__init__()
        self.weight, self.axis = weight, axis

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """Map features [*batch, *D] and labels of any dtype to a scalar."""
        rows = full(x).flatten(self.axis).reshape(-1, self.weight.shape[1])
        loss: Tensor = Centres.apply(rows, self.weight, label.flatten().long())
        return loss


@layer("CenterLoss")
def _center_loss(layer: LayerParameter, context: Context) -> nn.Module:
    param = fork_param(layer, "center_loss_param")
    filler = param.center_filler if param.HasField("center_filler") else FillerParameter(type="constant")
    return CenterLoss(context.parameter(0, filler), param.axis)
