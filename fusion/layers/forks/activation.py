"""Activations added by forks, and dropout of whole channels.

Sources: Sandler et al. 2018 (ReLU6), Misra 2019 (Mish), Howard et al. 2019 (HardSigmoid and HardSwish), Tompson et al.
2015 (SpatialDropout), in the forks' own spelling.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion.layers.registry import Context, layer
from prototxt.shapes.fork_layers import fork_param

if TYPE_CHECKING:
    from prototxt.schema.messages import LayerParameter


class CappedReLU(nn.Module):
    """x limited to [0, threshold]; no gradient outside, nor at the bounds."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, x: Tensor) -> Tensor:
        """Map any shape to the same shape."""
        return F.hardtanh(x, 0.0, self.threshold)


@layer("ReLU6", per_sample=True)
def _relu6(layer: LayerParameter, context: Context) -> nn.Module:
    return CappedReLU(fork_param(layer, "relu6_param").threshold)


@layer("Mish", per_sample=True)
def _mish(layer: LayerParameter, context: Context) -> nn.Module:
    return nn.Mish()


@layer("HardSigmoid", per_sample=True)
def _hard_sigmoid(layer: LayerParameter, context: Context) -> nn.Module:
    return nn.Hardsigmoid()


@layer("HardSwish", per_sample=True)
def _hard_swish(layer: LayerParameter, context: Context) -> nn.Module:
    return nn.Hardswish()


class SpatialDropout(nn.Module):
    """Zeroes whole channels at random and scales the others by 1 / (1 - ratio)."""

    def __init__(self, ratio: float) -> None:
        super().__init__()
        self.ratio = ratio

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, ...] to the same shape."""
        keep = torch.full(x.shape[:2], 1 - self.ratio, dtype=x.dtype, device=x.device).bernoulli()
        return x * (keep / (1 - self.ratio)).reshape(*x.shape[:2], *[1] * (x.dim() - 2))


@layer("SpatialDropout", per_sample=lambda layer, context: context.phase == "TEST")
def _spatial_dropout(layer: LayerParameter, context: Context) -> nn.Module:
    ratio = fork_param(layer, "spatial_dropout_param").dropout_ratio
    return nn.Identity() if context.phase == "TEST" or not ratio else SpatialDropout(ratio)
