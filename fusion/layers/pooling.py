"""Pooling with windows that may extend past the edge, or start beyond it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion.layers.registry import Context, layer
from prototxt.shapes.pooling import pooled_size, rounds_down

if TYPE_CHECKING:
    from prototxt.schema.messages import LayerParameter, PoolingParameter

Pair = tuple[int, int]
FLT_MAX = torch.finfo(torch.float32).max


@dataclass(frozen=True)
class Windows:
    """The geometry of pooling windows, as (height, width).

    floor      omit a last window that extends past the edge
    fit_torch  torch's own pooling gives the same result
    """

    kernel: Pair
    stride: Pair
    pad: Pair
    floor: bool = False
    fit_torch: bool = field(init=False)

    def __post_init__(self) -> None:
        """Set `fit_torch`."""
        # Torch pads by half a kernel at most and always drops a window that starts beyond the edge; pooling_layer.cpp
        # drops it only if there is padding.
        fit = all(2 * p <= k for p, k in zip(self.pad, self.kernel, strict=True)) and (
            self.floor or any(self.pad) or all(s <= k for s, k in zip(self.stride, self.kernel, strict=True))
        )
        object.__setattr__(self, "fit_torch", fit)

    def sizes(self, x: Tensor) -> Pair:
        """Return the number of windows down and across."""
        height, width = (
            pooled_size(size, *geometry, clip=any(self.pad), floor=self.floor)
            for size, *geometry in zip(x.shape[2:], self.kernel, self.stride, self.pad, strict=True)
        )
        return cast("Pair", (height, width))


def pool_maximum(x: Tensor, windows: Windows) -> Tensor:
    """Return the maximum of every window, -FLT_MAX for an empty one; the first of equals gets the gradient."""
    if windows.fit_torch:
        return F.max_pool2d(x, windows.kernel, windows.stride, windows.pad, 1, not windows.floor)
    return F.max_pool2d(_pad(x, windows, -FLT_MAX), windows.kernel, windows.stride)


def pool_maximum_with_mask(x: Tensor, windows: Windows) -> tuple[Tensor, Tensor]:
    """Return `pool_maximum` and the position of each maximum: row * width + column, -1 in an empty window."""
    if windows.fit_torch:
        y, index = F.max_pool2d(
            x, windows.kernel, windows.stride, windows.pad, 1, not windows.floor, return_indices=True
        )
        return y, index.to(x.dtype)
    padded = _pad(x, windows, -FLT_MAX)
    y, index = F.max_pool2d(padded, windows.kernel, windows.stride, return_indices=True)
    down, across = index // padded.shape[3] - windows.pad[0], index % padded.shape[3] - windows.pad[1]
    inside = (down >= 0) & (down < x.shape[2]) & (across >= 0) & (across < x.shape[3])
    return y, torch.where(inside, down * x.shape[3] + across, -1).to(x.dtype)


def pool_average(x: Tensor, windows: Windows) -> Tensor:
    """Return the mean over every window, NaN for an empty one; padding counts up to one pad past the far edge."""
    if windows.fit_torch:
        return F.avg_pool2d(x, windows.kernel, windows.stride, windows.pad, not windows.floor)
    sums = F.avg_pool2d(_pad(x, windows, 0.0), windows.kernel, windows.stride, divisor_override=1)
    # The divisors of pooling_layer.cpp: a window is clipped at size + pad before its area is taken.
    spans = []
    for count, size, kernel, stride, pad in zip(
        windows.sizes(x), x.shape[2:], windows.kernel, windows.stride, windows.pad, strict=True
    ):
        start = torch.arange(count, device=x.device) * stride - pad
        spans.append((start + kernel).clamp(max=size + pad) - start)
    return sums / (spans[0][:, None] * spans[1]).to(x.dtype)


class MaxPooling(nn.Module):
    """The maximum of every window, and optionally its position; `windows` None pools the whole image."""

    def __init__(self, windows: Windows | None, mask: bool) -> None:
        super().__init__()
        self.windows, self.mask = windows, mask

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Map [N, C, H, W] to [N, C, windows down, windows across]."""
        windows = self.windows or _whole(x)
        return pool_maximum_with_mask(x, windows) if self.mask else pool_maximum(x, windows)


class AveragePooling(nn.Module):
    """The mean over every window; `windows` None pools the whole image."""

    def __init__(self, windows: Windows | None) -> None:
        super().__init__()
        self.windows = windows

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, H, W] to [N, C, windows down, windows across]."""
        return F.adaptive_avg_pool2d(x, 1) if self.windows is None else pool_average(x, self.windows)


def _whole(x: Tensor) -> Windows:
    size = (x.shape[2], x.shape[3])
    return Windows(size, size, (0, 0), floor=True)


def _pad(x: Tensor, windows: Windows, value: float) -> Tensor:
    """Pad at the start, and at the end as far as the last window extends."""
    after = [
        (count - 1) * stride + kernel - pad - size
        for count, size, kernel, stride, pad in zip(
            windows.sizes(x), x.shape[2:], windows.kernel, windows.stride, windows.pad, strict=True
        )
    ]
    return F.pad(x, (windows.pad[1], after[1], windows.pad[0], after[0]), value=value)


def _pair(param: PoolingParameter, short: Literal["kernel", "stride", "pad"], long: str) -> Pair:
    if param.HasField(f"{short}_h"):
        return getattr(param, f"{short}_h"), getattr(param, f"{short}_w")
    return getattr(param, long), getattr(param, long)


def pooling_windows(param: PoolingParameter) -> Windows | None:
    """Return the windows of a layer, None for global pooling."""
    if param.global_pooling:
        return None
    return Windows(
        _pair(param, "kernel", "kernel_size"),
        _pair(param, "stride", "stride"),
        _pair(param, "pad", "pad"),
        rounds_down(param),
    )


class StochasticPooling(nn.Module):
    """Stochastic pooling (Zeiler, Fergus 2013).

    TRAIN draws an element with probability proportional to it; TEST takes the mean with these probabilities as weights.
    Elements must not be negative. Windows are clipped at the edge; one with zeros only gives 0.
    """

    def __init__(self, windows: Windows | None, draw: bool) -> None:
        super().__init__()
        self.windows, self.draw = windows, draw

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, H, W] to [N, C, windows down, windows across]."""
        windows = self.windows or _whole(x)
        down, across = windows.sizes(x)
        columns = F.unfold(_pad(x, windows, 0.0), windows.kernel, stride=windows.stride)
        columns = columns.reshape(x.shape[0], x.shape[1], -1, down, across)
        if not self.draw:
            return columns.square().sum(2) / columns.sum(2).clamp(min=torch.finfo(torch.float32).tiny)
        # pooling_layer.cu: the first element at which the running sum exceeds a uniform number times the total.
        sums = columns.detach().cumsum(2)
        height = torch.rand_like(sums[:, :, :1]) * sums[:, :, -1:]
        return columns.gather(2, (sums <= height).sum(2, keepdim=True).clamp(max=columns.shape[2] - 1)).squeeze(2)


def _pools_by_rule(layer: LayerParameter, context: Context) -> bool:
    return layer.pooling_param.pool != layer.pooling_param.STOCHASTIC or context.phase == "TEST"


@layer("Pooling", per_sample=_pools_by_rule)
def _pooling(layer: LayerParameter, context: Context) -> nn.Module:
    param = layer.pooling_param
    windows = pooling_windows(param)
    if param.pool == param.AVE:
        return AveragePooling(windows)
    if param.pool == param.STOCHASTIC:
        return StochasticPooling(windows, draw=context.phase == "TRAIN")
    return MaxPooling(windows, mask=len(layer.top) > 1)


class SPP(nn.Module):
    """Spatial pyramid pooling: 1, 2 x 2, 4 x 4, ... windows, concatenated into one row (He et al. 2014)."""

    def __init__(self, height: int, average: bool) -> None:
        super().__init__()
        self.height, self.average = height, average

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, H, W] to [N, C * (4^height - 1) / 3]; a pyramid of one level keeps [N, C, 1, 1]."""
        pool = pool_average if self.average else pool_maximum
        levels = [pool(x, self._windows(x, 2**level)) for level in range(self.height)]
        return levels[0] if len(levels) == 1 else torch.cat([y.flatten(1) for y in levels], 1)

    @staticmethod
    def _windows(x: Tensor, bins: int) -> Windows:
        """Return `bins` windows of equal size along each axis; padding makes up for the remainder (spp_layer.cpp)."""
        kernel = (-(-x.shape[2] // bins), -(-x.shape[3] // bins))
        pad = ((kernel[0] * bins - x.shape[2] + 1) // 2, (kernel[1] * bins - x.shape[3] + 1) // 2)
        return Windows(kernel, kernel, pad)


@layer("SPP", per_sample=True)
def _spp(layer: LayerParameter, context: Context) -> nn.Module:
    return SPP(layer.spp_param.pyramid_height, average=layer.spp_param.pool == layer.spp_param.AVE)
