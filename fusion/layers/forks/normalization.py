"""Normalizations added by forks.

Sources: alexgkendall/caffe-segnet, HyeonwooNoh/caffe (BN of two blobs), yjxiong/caffe, hszhao/PSPNet (BN of four),
weiliu89/caffe at branch ssd (Normalize, Liu et al. 2015), rfsantacruz/caffe (L2Normalization), kovibalu/caffe-cnntools
(L2Normalize), Ultinous/caffe (L2Norm).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fusion.errors import BuildError
from fusion.layers.axes import full
from fusion.layers.registry import Context, layer
from prototxt.schema.messages import FillerParameter
from prototxt.shapes.fork_layers import fork_param

if TYPE_CHECKING:
    from prototxt.schema.messages import LayerParameter

SEGNET_EPS = 1e-9


class BN(nn.Module):
    """slope * (x - mean) / sqrt(variance + eps) + bias, per channel.

    slope, bias     [1, C, 1, 1]
    mean, variance  [1, C, 1, 1] moving averages, or None where a net keeps none (SegNet)
    source          "batch", "stored", or "none": slope and bias include the statistics
    momentum        the share of the old moving average; None: not updated
    statistics      number of further tops: the batch's mean and variance
    """

    mean: Tensor | None
    variance: Tensor | None

    def __init__(
        self, slope: nn.Parameter, bias: nn.Parameter, stored: bool, source: str, eps: float, momentum: float | None
    ) -> None:
        super().__init__()
        self.slope, self.bias = slope, bias
        self.register_buffer("mean", torch.zeros_like(slope.detach()) if stored else None)
        self.register_buffer("variance", torch.zeros_like(slope.detach()) if stored else None)
        self.caffe_params = ("slope", "bias", *(("mean", "variance") if stored else ()))
        self.source, self.eps, self.momentum = source, eps, momentum
        self.statistics = 0

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Map [N, C, H, W] to the same shape, and optionally the batch's mean and variance."""
        if self.source == "none":
            return x * self.slope + self.bias
        x = full(x)
        if self.source == "stored":
            assert self.mean is not None
            assert self.variance is not None
            return (x - self.mean) / (self.variance + self.eps).sqrt() * self.slope + self.bias
        variance, mean = torch.var_mean(x, (0, 2, 3), correction=0, keepdim=True)
        self._average(mean.detach(), variance.detach())
        y = (x - mean) / (variance + self.eps).sqrt() * self.slope + self.bias
        return (y, mean.detach(), variance.detach())[: 1 + self.statistics] if self.statistics else y

    @torch.no_grad()
    def _average(self, mean: Tensor, variance: Tensor) -> None:
        if self.momentum is not None and self.mean is not None and self.variance is not None:
            self.mean.mul_(self.momentum).add_(mean, alpha=1 - self.momentum)
            self.variance.mul_(self.momentum).add_(variance, alpha=1 - self.momentum)


def _bn_source(layer: LayerParameter, context: Context) -> str:
    param = fork_param(layer, "bn_param")
    if len(context.params) == 2:
        return "none" if param.bn_mode == param.INFERENCE else "batch"
    older = param.HasField("moving_average") or param.HasField("decay")
    if older:
        return "stored" if context.phase == "TEST" and param.moving_average else "batch"
    return "stored" if context.phase == "TEST" or param.frozen else "batch"


@layer("BN", per_sample=lambda layer, context: _bn_source(layer, context) != "batch")
def _bn(layer: LayerParameter, context: Context) -> nn.Module:
    # Three layers share this name. SegNet and DeconvNet store no statistics: LEARN uses the batch's in both phases,
    # INFERENCE none. PSPNet and TSN use the batch's in TRAIN unless frozen, the stored ones otherwise. The older form
    # with `decay` and `moving_average` weights the new batch by `decay`, and uses the batch's in TEST too unless
    # `moving_average` is set.
    param = fork_param(layer, "bn_param")
    if param.icnet:
        raise BuildError(
            f"layer '{layer.name}': bn_param.icnet is not supported",
            hint="remove it if the layer has the blobs slope, bias, mean, variance",
        )
    slope = context.parameter(0, _filler(param, "slope_filler", "scale_filler", 1.0))
    bias = context.parameter(1, _filler(param, "bias_filler", "shift_filler", 0.0))
    source, stored = _bn_source(layer, context), len(context.params) == 4
    older = param.HasField("moving_average") or param.HasField("decay")
    eps = param.eps if stored and not older else param.var_eps if param.HasField("var_eps") or stored else SEGNET_EPS
    momentum = (1 - param.decay if older else param.momentum) if stored and context.phase == "TRAIN" else None
    module = BN(slope, bias, stored, source, eps, momentum)
    module.statistics = len(layer.top) - 1
    if module.statistics and source != "batch":
        raise BuildError(f"layer '{layer.name}': only a batch's own statistics can be tops")
    return module


def _filler(param: Any, first: str, second: str, value: float) -> FillerParameter | float:
    for name in (first, second):
        if param.HasField(name):
            filler: FillerParameter = getattr(param, name)
            return filler
    return value


class Normalize(nn.Module):
    """x over its length, times a learned scale.

    scale           [] one for all channels, or [C]
    across_spatial  the length of a whole sample; otherwise of the channels at each position
    eps             added to the squared length
    """

    caffe_params = ("scale",)

    def __init__(self, scale: nn.Parameter, across_spatial: bool, eps: float) -> None:
        super().__init__()
        self.scale, self.across_spatial, self.eps = scale, across_spatial, eps

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, ...] to the same shape."""
        x = full(x)
        axes = tuple(range(1, x.dim())) if self.across_spatial else (1,)
        scale = self.scale if self.scale.dim() == 0 else self.scale.reshape(1, -1, *[1] * (x.dim() - 2))
        return x * (x.square().sum(axes, keepdim=True) + self.eps).rsqrt() * scale


@layer("Normalize", per_sample=True)
def _normalize(layer: LayerParameter, context: Context) -> nn.Module:
    param = fork_param(layer, "norm_param")
    filler = param.scale_filler if param.HasField("scale_filler") else 1.0
    return Normalize(context.parameter(0, filler), param.across_spatial, param.eps)


class UnitLength(nn.Module):
    """x over its length, a sample's or that of the channels at each position; zeros stay zero.

    eps  added to the squared length
    """

    def __init__(self, across_spatial: bool, eps: float) -> None:
        super().__init__()
        self.across_spatial, self.eps = across_spatial, eps

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, ...] to the same shape."""
        x = full(x)
        axes = tuple(range(1, x.dim())) if self.across_spatial else (1,)
        square = x.square().sum(axes, keepdim=True) + self.eps
        return x * torch.where(square > 0, square, 1).rsqrt()


@layer("L2Normalization", per_sample=True)
def _l2_normalization(layer: LayerParameter, context: Context) -> nn.Module:
    return UnitLength(True, 0.0)


@layer("L2Normalize", per_sample=True)
def _l2_normalize(layer: LayerParameter, context: Context) -> nn.Module:
    return UnitLength(True, 1e-7)


@layer("L2Norm", per_sample=True)
def _l2_norm(layer: LayerParameter, context: Context) -> nn.Module:
    return UnitLength(False, 0.0)
