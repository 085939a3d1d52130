"""LRN, BatchNorm and MVN."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion.layers.axes import full
from fusion.layers.registry import Context, layer

if TYPE_CHECKING:
    from prototxt.schema.messages import LayerParameter


class LRN(nn.Module):
    """x / (k + alpha / size * sum of squares over the neighbouring channels) ^ beta."""

    def __init__(self, size: int, alpha: float, beta: float, k: float) -> None:
        super().__init__()
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, H, W] to the same shape."""
        x = full(x)
        half = self.size // 2
        squares = F.pad(x.square(), (0, 0, 0, 0, half, half))
        return x * _root(_sliding_sum(squares, self.size) * (self.alpha / self.size) + self.k, self.beta)


def _sliding_sum(x: Tensor, size: int) -> Tensor:
    """Sum `size` neighbours along axis 1, in about log2(size) additions: many times faster than pooling."""
    # x holds sums of `width` neighbours, doubled in each round; the binary digits of `size` select the summands.
    count = x.shape[1] - size + 1
    total, start, width = None, 0, 1
    while size:
        if size % 2:
            part = x.narrow(1, start, count)
            total = part if total is None else total + part
            start += width
        size //= 2
        if size:
            x = x[:, :-width] + x[:, width:]
            width *= 2
    assert total is not None
    return total


def _root(x: Tensor, beta: float) -> Tensor:
    """Return x ^ -beta; for the default beta by square roots, which are much faster than powers."""
    if beta != 0.75:
        return x.pow(-beta)
    root = x.rsqrt()
    return root * root.sqrt()


class LRNWithin(nn.Module):
    """x / (1 + alpha * mean of squares over a zero-padded window of the channel) ^ beta."""

    def __init__(self, size: int, alpha: float, beta: float) -> None:
        super().__init__()
        self.size, self.alpha, self.beta = size, alpha, beta

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, H, W] to the same shape."""
        x = full(x)  # lrn_layer.cpp builds this from Power layers with shift 1: `k` is ignored
        means = F.avg_pool2d(x.square(), self.size, stride=1, padding=self.size // 2)
        return x * _root(means * self.alpha + 1, self.beta)


@layer("LRN", per_sample=True)
def _lrn(layer: LayerParameter, context: Context) -> nn.Module:
    param = layer.lrn_param
    if param.norm_region == param.WITHIN_CHANNEL:
        return LRNWithin(param.local_size, param.alpha, param.beta)
    return LRN(param.local_size, param.alpha, param.beta, param.k)


class BatchNorm(nn.Module):
    """(x - mean) / sqrt(variance + eps) per channel, axis 1; without scale and shift.

    mean, variance  [C] sums over past batches, each weighted by a power of `fraction`
    factor          [1] the sum of these weights, by which the two are divided; 0 makes both of them 0
    use_global      use the stored statistics; otherwise the batch's own, which are then added to the stored ones
    """

    caffe_params = ("mean", "variance", "factor")
    mean: Tensor
    variance: Tensor
    factor: Tensor

    def __init__(self, channels: int, use_global: bool, fraction: float, eps: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.zeros(channels))
        self.register_buffer("factor", torch.zeros(1))
        self.use_global, self.fraction, self.eps = use_global, fraction, eps

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, ...] to the same shape."""
        if x.dim() == 1:
            return self.forward(x[:, None]).squeeze(1)
        if self.use_global:
            scale = torch.where(self.factor == 0, 0.0, 1 / self.factor)
            return F.batch_norm(x, self.mean * scale, self.variance * scale, eps=self.eps)
        if x.numel() == x.shape[1]:  # one value per channel, which torch refuses: Caffe gives 0
            self._add(x.detach().flatten(), torch.zeros_like(self.variance))
            return x - x
        mean, variance = torch.zeros_like(self.mean), torch.zeros_like(self.variance)
        y = torch.batch_norm(x, None, None, mean, variance, True, 1.0, self.eps, torch.backends.cudnn.enabled)
        self._add(mean, variance)
        return y

    @torch.no_grad()
    def _add(self, mean: Tensor, variance: Tensor) -> None:
        """Add a batch's mean and its variance, corrected by m / (m - 1) (batch_norm_layer.cpp)."""
        self.mean.mul_(self.fraction).add_(mean)
        self.variance.mul_(self.fraction).add_(variance)
        self.factor.mul_(self.fraction).add_(1)

    def extra_repr(self) -> str:
        """Return the settings that the statistics do not show."""
        return f"use_global={self.use_global}, fraction={self.fraction:g}, eps={self.eps:g}"


def _uses_global(layer: LayerParameter, context: Context) -> bool:
    param = layer.batch_norm_param
    return param.use_global_stats if param.HasField("use_global_stats") else context.phase == "TEST"


@layer("BatchNorm", per_sample=_uses_global)
def _batch_norm(layer: LayerParameter, context: Context) -> nn.Module:
    param = layer.batch_norm_param
    channels = context.known_shape(0)[0]
    return BatchNorm(channels, _uses_global(layer, context), param.moving_average_fraction, param.eps)


class MVN(nn.Module):
    """x minus its mean, over its standard deviation plus eps, for each sample and channel, or each sample."""

    def __init__(self, normalize_variance: bool, across_channels: bool, eps: float) -> None:
        super().__init__()
        self.normalize_variance, self.across_channels, self.eps = normalize_variance, across_channels, eps

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, ...] to the same shape."""
        rows = full(x).flatten(1 if self.across_channels else 2)
        rows = rows - rows.mean(-1, keepdim=True)
        if self.normalize_variance:
            # mvn_layer.cpp evaluates the derivative of the root at deviation + eps: constant inputs get no NaN.
            variance = rows.square().mean(-1, keepdim=True)
            divisor = (variance.sqrt() + self.eps).detach()
            rows = rows / (divisor + (variance - variance.detach()) / (2 * divisor))
        return rows.reshape(x.shape)


@layer("MVN", per_sample=True)
def _mvn(layer: LayerParameter, context: Context) -> nn.Module:
    param = layer.mvn_param
    return MVN(param.normalize_variance, param.across_channels, param.eps)
