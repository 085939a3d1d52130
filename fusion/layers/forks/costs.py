"""Losses of regression that forks add.

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
    """The sum over samples' mean of outer * f(inner * (x - target)): square below 1 / sigma^2, absolute above.

    f(d) is sigma^2 d^2 / 2 where |d| < 1 / sigma^2, else |d| - 1 / (2 sigma^2). No gradient to the weights.
    """

    def __init__(self, sigma: float) -> None:
        super().__init__()
        self.beta = 1 / sigma**2

    def forward(self, x: Tensor, target: Tensor, *weights: Tensor) -> Tensor:
        """[N, ...] twice, and perhaps weights inside and outside of as many elements, to a scalar."""
        x = full(x)
        difference = x - full(target).reshape(x.shape)
        if weights:
            difference = difference * weights[0].detach().reshape(x.shape)
        each = F.smooth_l1_loss(difference, torch.zeros_like(difference), reduction="none", beta=self.beta)
        if len(weights) > 1:
            each = each * weights[1].detach().reshape(x.shape)
        return each.sum() / x.shape[0]


@layer("SmoothL1Loss")
def smooth_l1_loss(layer: LayerParameter, context: Context) -> nn.Module:
    """The loss of box regression."""
    return SmoothL1Loss(fork_param(layer, "smooth_l1_loss_param").sigma)


class Centres(torch.autograd.Function):
    """Half the squared distances to the samples' centres, with the fork's rule for how centres move."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, centres: Tensor, label: Tensor) -> Tensor:
        """Features [N, D], centres [C, D] and labels [N] to a scalar."""
        distance = x - centres[label]
        ctx.save_for_backward(distance, centres, label)
        return distance.square().sum() / (2 * x.shape[0])

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        """The fork's rule for the centres, which the loss's weight does not scale."""
        distance, centres, label = ctx.saved_tensors  # type: ignore[attr-defined]
        sums = torch.zeros_like(centres).index_add_(0, label, distance)
        counts = torch.bincount(label, minlength=len(centres)).to(sums)[:, None]
        return gradient * distance / distance.shape[0], -sums / (counts + 1), None


class CenterLoss(nn.Module):
    """Draws the features of a class together.

    weight  [C, D] one centre per class
    """

    caffe_params = ("weight",)

    def __init__(self, weight: nn.Parameter, axis: int) -> None:
        super().__init__()
        self.weight, self.axis = weight, axis

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """Features [*batch, *D] and labels of any dtype to a scalar."""
        rows = full(x).flatten(self.axis).reshape(-1, self.weight.shape[1])
        loss: Tensor = Centres.apply(rows, self.weight, label.flatten().long())
        return loss


@layer("CenterLoss")
def center_loss(layer: LayerParameter, context: Context) -> nn.Module:
    """The loss beside a softmax that makes classes compact."""
    param = fork_param(layer, "center_loss_param")
    filler = param.center_filler if param.HasField("center_filler") else FillerParameter(type="constant")
    return CenterLoss(context.parameter(0, filler), param.axis)
