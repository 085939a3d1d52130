"""Elementwise layers. Torch's own modules are used where they agree with Caffe, gradients at kinks included."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion.layers.axes import full
from fusion.layers.registry import Context, layer

if TYPE_CHECKING:
    from prototxt.schema.messages import LayerParameter


@layer("ReLU", per_sample=True)
def _relu(layer: LayerParameter, context: Context) -> nn.Module:
    # At 0 the gradient is the slope, as in relu_layer.cpp.
    slope = layer.relu_param.negative_slope
    return nn.LeakyReLU(slope) if slope else nn.ReLU()


@layer("ELU", per_sample=True)
def _elu(layer: LayerParameter, context: Context) -> nn.Module:
    # At 0 the gradient is alpha, as in elu_layer.cpp.
    return nn.ELU(layer.elu_param.alpha)


@layer("Sigmoid", per_sample=True)
def _sigmoid(layer: LayerParameter, context: Context) -> nn.Module:
    return nn.Sigmoid()


@layer("TanH", per_sample=True)
def _tanh(layer: LayerParameter, context: Context) -> nn.Module:
    return nn.Tanh()


@layer("BNLL", per_sample=True)
def _bnll(layer: LayerParameter, context: Context) -> nn.Module:
    # kBNLL_THRESHOLD of bnll_layer.cpp; above it float32 cannot distinguish log(1 + exp(x)) from x.
    return nn.Softplus(threshold=50)


@layer("AbsVal", per_sample=True)
class AbsVal(nn.Module):
    """|x|, with gradient 0 at 0."""

    def forward(self, x: Tensor) -> Tensor:
        """Map any shape to the same shape."""
        return x.abs()


class BetaSwish(nn.Module):
    """x * sigmoid(beta * x)."""

    def __init__(self, beta: float) -> None:
        super().__init__()
        self.beta = beta

    def forward(self, x: Tensor) -> Tensor:
        """Map any shape to the same shape."""
        return x * torch.sigmoid(x * self.beta)


@layer("Swish", per_sample=True)
def _swish(layer: LayerParameter, context: Context) -> nn.Module:
    beta = layer.swish_param.beta
    return nn.SiLU() if beta == 1 else BetaSwish(beta)


class Clip(nn.Module):
    """x limited to [low, high]."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = low, high

    def forward(self, x: Tensor) -> Tensor:
        """Map any shape to the same shape."""
        # clip_layer.cpp passes the gradient at both bounds; so does this, unlike torch.clamp.
        return torch.where(x < self.low, self.low, torch.where(x > self.high, self.high, x))


@layer("Clip", per_sample=True)
def _clip(layer: LayerParameter, context: Context) -> nn.Module:
    return Clip(layer.clip_param.min, layer.clip_param.max)


class Threshold(nn.Module):
    """1 where x > threshold, else 0; without gradient."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, x: Tensor) -> Tensor:
        """Map any shape to the same shape."""
        return (x > self.threshold).to(x.dtype)


@layer("Threshold", per_sample=True)
def _threshold(layer: LayerParameter, context: Context) -> nn.Module:
    return Threshold(layer.threshold_param.threshold)


class Power(nn.Module):
    """(shift + scale * x) ^ power."""

    def __init__(self, power: float, scale: float, shift: float) -> None:
        super().__init__()
        self.power, self.scale, self.shift = power, scale, shift

    def forward(self, x: Tensor) -> Tensor:
        """Map any shape to the same shape."""
        if self.scale != 1:
            x = x * self.scale
        if self.shift != 0:
            x = x + self.shift
        return x if self.power == 1 else full(x).pow(self.power)


@layer("Power", per_sample=True)
def _power(layer: LayerParameter, context: Context) -> nn.Module:
    param = layer.power_param
    return Power(param.power, param.scale, param.shift)


class Exp(nn.Module):
    """factor * exp(rate * x)."""

    def __init__(self, rate: float, factor: float) -> None:
        super().__init__()
        self.rate, self.factor = rate, factor

    def forward(self, x: Tensor) -> Tensor:
        """Map any shape to the same shape."""
        y = (full(x) * self.rate).exp()
        return y if self.factor == 1 else y * self.factor


@layer("Exp", per_sample=True)
def _exp(layer: LayerParameter, context: Context) -> nn.Module:
    # base ^ (shift + scale * x); exp_layer.cpp takes base -1 as e.
    param = layer.exp_param
    logarithm = 1.0 if param.base == -1 else math.log(param.base)
    return Exp(logarithm * param.scale, math.exp(logarithm * param.shift))


class Log(nn.Module):
    """factor * log(shift + scale * x)."""

    def __init__(self, factor: float, scale: float, shift: float) -> None:
        super().__init__()
        self.factor, self.scale, self.shift = factor, scale, shift

    def forward(self, x: Tensor) -> Tensor:
        """Map any shape to the same shape."""
        y = (full(x) * self.scale + self.shift).log()
        return y if self.factor == 1 else y * self.factor


@layer("Log", per_sample=True)
def _log(layer: LayerParameter, context: Context) -> nn.Module:
    # log_base(shift + scale * x); log_layer.cpp takes base -1 as e.
    param = layer.log_param
    return Log(1.0 if param.base == -1 else 1 / math.log(param.base), param.scale, param.shift)


class PReLU(nn.Module):
    """max(x, 0) + weight[channel] * min(x, 0); channels are axis 1, and a scalar weight is shared by all of them."""

    caffe_params = ("weight",)

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, ...] to the same shape."""
        return F.prelu(x, self.weight)


@layer("PReLU", per_sample=True)
def _prelu(layer: LayerParameter, context: Context) -> nn.Module:
    # prelu_layer.cpp fills with 0.25 where no filler is given, unlike other blobs (0).
    param = layer.prelu_param
    return PReLU(context.parameter(0, param.filler if param.HasField("filler") else 0.25))
