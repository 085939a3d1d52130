"""WeightedSum and Gate: sums of branches with learned shares, global or per sample. Types of this project."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion.layers.registry import Context, layer

if TYPE_CHECKING:
    from prototxt.schema.messages import LayerParameter

EPSILON = 1e-4


class WeightedSum(nn.Module):
    """The sum of the bottoms with one share each.

    weight   [bottoms]; shares are relu(v) / (sum of relu(v) + 1e-4), as in EfficientDet (Tan et al. 2020), or softmax
    softmax  which of the two; with relu a branch gets share 0, and no gradient, once its v is below 0
    """

    caffe_params = ("weight",)

    def __init__(self, weight: nn.Parameter, softmax: bool) -> None:
        super().__init__()
        self.weight, self.softmax = weight, softmax

    def shares(self) -> Tensor:
        """Return the share of each bottom, [bottoms]."""
        if self.softmax:
            return self.weight.softmax(0)
        positive = F.relu(self.weight)
        return positive / (positive.sum() + EPSILON)

    def forward(self, *bottoms: Tensor) -> Tensor:
        """Map equal shapes to the same shape."""
        total, *others = (x * share for x, share in zip(bottoms, self.shares().unbind(), strict=True))
        for term in others:
            total = total + term
        return total


@layer("WeightedSum", per_sample=True)
def _weighted_sum(layer: LayerParameter, context: Context) -> nn.Module:
    param = layer.weighted_sum_param
    weight = context.parameter(0, param.filler if param.HasField("filler") else 1.0)
    return WeightedSum(weight, softmax=param.normalization == param.SOFTMAX)


class Gate(nn.Module):
    """The sum of the bottoms with shares per sample: the softmax of a linear map of all their features.

    weight  [bottoms, features of all bottoms]
    bias    [bottoms] or None
    """

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias
        self.caffe_params = ("weight",) if bias is None else ("weight", "bias")

    def forward(self, *bottoms: Tensor) -> Tensor:
        """Map [N, ...] each to the same shape."""
        features = torch.cat([x.flatten(1) for x in bottoms], 1)
        shares = F.linear(features, self.weight, self.bias).softmax(1)
        return (torch.stack(bottoms, 1) * shares.reshape(shares.shape + (1,) * (bottoms[0].dim() - 1))).sum(1)


@layer("Gate", per_sample=True)
def _gate(layer: LayerParameter, context: Context) -> nn.Module:
    param = layer.gate_param
    bias = context.parameter(1, param.bias_filler) if param.bias_term else None
    return Gate(context.parameter(0, param.filler), bias)
