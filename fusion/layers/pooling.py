"""Pooling: windows that may hang over the edge, or lie beyond it."""

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
    """Where the windows lie, as (height, width).

    floor      leaves out a last window that hangs over
    fit_torch  torch's own pooling makes the same of them
    """

    kernel: Pair
    stride: Pair
    pad: Pair
    floor: bool = False
    fit_torch: bool = field(init=False)

    def __post_init__(self) -> None:
        """Whether torch's pooling places the same windows: none may be empty, and it pads by half a kernel at most.

        Torch drops a window that starts beyond the edge always, Caffe only if there is padding.
        """
        fit = all(2 * p <= k for p, k in zip(self.pad, self.kernel, strict=True)) and (
            self.floor or any(self.pad) or all(s <= k for s, k in zip(self.stride, self.kernel, strict=True))
        )
        object.__setattr__(self, "fit_torch", fit)

    def sizes(self, x: Tensor) -> Pair:
        """The number of windows down and across."""
        height, width = (
            pooled_size(size, *geometry, clip=any(self.pad), floor=self.floor)
            for size, *geometry in zip(x.shape[2:], self.kernel, self.stride, self.pad, strict=True)
        )
        return cast("Pair", (height, width))


def max_pool(x: Tensor, windows: Windows) -> Tensor:
    """The greatest element of every window; the first of equals gets the gradient. An empty window gives -FLT_MAX."""
    if windows.fit_torch:
        return F.max_pool2d(x, windows.kernel, windows.stride, windows.pad, 1, not windows.floor)
    return F.max_pool2d(_pad(x, windows, -FLT_MAX), windows.kernel, windows.stride)


def max_pool_mask(x: Tensor, windows: Windows) -> tuple[Tensor, Tensor]:
    """`max_pool`, and where each element was found: height index * width + width index, -1 in an empty window."""
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


def average_pool(x: Tensor, windows: Windows) -> Tensor:
    """The mean over every window; padding counts, but only up to one pad beyond the far edge. No element gives NaN."""
    if windows.fit_torch:
        return F.avg_pool2d(x, windows.kernel, windows.stride, windows.pad, not windows.floor)
    sums = F.avg_pool2d(_pad(x, windows, 0.0), windows.kernel, windows.stride, divisor_override=1)
    spans = []
    for count, size, kernel, stride, pad in zip(
        windows.sizes(x), x.shape[2:], windows.kernel, windows.stride, windows.pad, strict=True
    ):
        start = torch.arange(count, device=x.device) * stride - pad
        spans.append((start + kernel).clamp(max=size + pad) - start)
    return sums / (spans[0][:, None] * spans[1]).to(x.dtype)


class MaxPooling(nn.Module):
    """The greatest element of every window, and perhaps a mask that tells where it was; no windows: the whole image."""

    def __init__(self, windows: Windows | None, mask: bool) -> None:
        super().__init__()
        self.windows, self.mask = windows, mask

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """[N, C, H, W] to [N, C, windows down, windows across]."""
        windows = self.windows or _whole(x)
        return max_pool_mask(x, windows) if self.mask else max_pool(x, windows)


class AveragePooling(nn.Module):
    """The mean over every window; no windows: over the whole image."""

    def __init__(self, windows: Windows | None) -> None:
        super().__init__()
        self.windows = windows

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C, windows down, windows across]."""
        return F.adaptive_avg_pool2d(x, 1) if self.windows is None else average_pool(x, self.windows)


def _whole(x: Tensor) -> Windows:
    size = (x.shape[2], x.shape[3])
    return Windows(size, size, (0, 0), floor=True)


def _pad(x: Tensor, windows: Windows, value: float) -> Tensor:
    """Padding in front, and behind as far as the last window reaches."""
    behind = [
        (count - 1) * stride + kernel - pad - size
        for count, size, kernel, stride, pad in zip(
            windows.sizes(x), x.shape[2:], windows.kernel, windows.stride, windows.pad, strict=True
        )
    ]
    return F.pad(x, (windows.pad[1], behind[1], windows.pad[0], behind[0]), value=value)


def _pair(param: PoolingParameter, short: Literal["kernel", "stride", "pad"], long: str) -> Pair:
    if param.HasField(f"{short}_h"):
        return getattr(param, f"{short}_h"), getattr(param, f"{short}_w")
    return getattr(param, long), getattr(param, long)


def pooling_windows(param: PoolingParameter) -> Windows | None:
    """The windows of a layer, None for one over the whole image."""
    if param.global_pooling:
        return None
    return Windows(
        _pair(param, "kernel", "kernel_size"),
        _pair(param, "stride", "stride"),
        _pair(param, "pad", "pad"),
        rounds_down(param),
    )


class StochasticPooling(nn.Module):
    """In TRAIN an element drawn with a chance in proportion to it, in TEST the mean weighted so (Zeiler, Fergus 2013).

    The elements must not be negative. Windows that hang over the edge are cut; one of zeros alone gives 0.
    """

    def __init__(self, windows: Windows | None, draw: bool) -> None:
        super().__init__()
        self.windows, self.draw = windows, draw

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C, windows down, windows across]."""
        windows = self.windows or _whole(x)
        down, across = windows.sizes(x)
        columns = F.unfold(_pad(x, windows, 0.0), windows.kernel, stride=windows.stride)
        columns = columns.reshape(x.shape[0], x.shape[1], -1, down, across)
        if not self.draw:
            return columns.square().sum(2) / columns.sum(2).clamp(min=torch.finfo(torch.float32).tiny)
        sums = columns.detach().cumsum(2)
        height = torch.rand_like(sums[:, :, :1]) * sums[:, :, -1:]
        return columns.gather(2, (sums <= height).sum(2, keepdim=True).clamp(max=columns.shape[2] - 1)).squeeze(2)


def _pools_by_rule(layer: LayerParameter, context: Context) -> bool:
    return layer.pooling_param.pool != layer.pooling_param.STOCHASTIC or context.phase == "TEST"


@layer("Pooling", per_sample=_pools_by_rule)
def pooling(layer: LayerParameter, context: Context) -> nn.Module:
    """The greatest, the mean or some element of windows over height and width."""
    param = layer.pooling_param
    windows = pooling_windows(param)
    if param.pool == param.AVE:
        return AveragePooling(windows)
    if param.pool == param.STOCHASTIC:
        return StochasticPooling(windows, draw=context.phase == "TRAIN")
    return MaxPooling(windows, mask=len(layer.top) > 1)


class SPP(nn.Module):
    """A pyramid of poolings into 1, 2 x 2, 4 x 4, ... windows, side by side as one row (He et al. 2014)."""

    def __init__(self, height: int, average: bool) -> None:
        super().__init__()
        self.height, self.average = height, average

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C * (4^height - 1) / 3]; a pyramid of one level keeps [N, C, 1, 1]."""
        pool = average_pool if self.average else max_pool
        levels = [pool(x, self._windows(x, 2**level)) for level in range(self.height)]
        return levels[0] if len(levels) == 1 else torch.cat([y.flatten(1) for y in levels], 1)

    @staticmethod
    def _windows(x: Tensor, bins: int) -> Windows:
        """As many windows down and across as there are bins, of equal sizes; the padding makes up for the rest."""
        kernel = (-(-x.shape[2] // bins), -(-x.shape[3] // bins))
        pad = ((kernel[0] * bins - x.shape[2] + 1) // 2, (kernel[1] * bins - x.shape[3] + 1) // 2)
        return Windows(kernel, kernel, pad)


@layer("SPP", per_sample=True)
def spp(layer: LayerParameter, context: Context) -> nn.Module:
    """Spatial pyramid pooling: as many outputs whatever the image's size."""
    return SPP(layer.spp_param.pyramid_height, average=layer.spp_param.pool == layer.spp_param.AVE)
