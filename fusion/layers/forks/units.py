"""Activations that forks add, and dropout of whole channels.

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
    """The element between 0 and a threshold; no gradient outside, nor at the threshold and at 0."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same."""
        return F.hardtanh(x, 0.0, self.threshold)


@layer("ReLU6", per_sample=True)
def relu6(layer: LayerParameter, context: Context) -> nn.Module:
    """ReLU with a ceiling, 6 unless `relu6_param.threshold` says otherwise."""
    return CappedReLU(fork_param(layer, "relu6_param").threshold)


@layer("Mish", per_sample=True)
def mish(layer: LayerParameter, context: Context) -> nn.Module:
    """x * tanh(log(1 + e^x))."""
    return nn.Mish()


@layer("HardSigmoid", per_sample=True)
def hard_sigmoid(layer: LayerParameter, context: Context) -> nn.Module:
    """(x + 3) / 6 between 0 and 1."""
    return nn.Hardsigmoid()


@layer("HardSwish", per_sample=True)
def hard_swish(layer: LayerParameter, context: Context) -> nn.Module:
    """x times its hard sigmoid."""
    return nn.Hardswish()


class SpatialDropout(nn.Module):
    """Zeroes whole channels at random and scales the others by 1 / (1 - ratio)."""

    def __init__(self, ratio: float) -> None:
        super().__init__()
        self.ratio = ratio

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, ...] to the same."""
        keep = torch.full(x.shape[:2], 1 - self.ratio, dtype=x.dtype, device=x.device).bernoulli()
        return x * (keep / (1 - self.ratio)).reshape(*x.shape[:2], *[1] * (x.dim() - 2))


@layer("SpatialDropout", per_sample=lambda layer, context: context.phase == "TEST")
def spatial_dropout(layer: LayerParameter, context: Context) -> nn.Module:
    """The identity in TEST."""
    ratio = fork_param(layer, "spatial_dropout_param").dropout_ratio
    return nn.Identity() if context.phase == "TEST" or not ratio else SpatialDropout(ratio)
