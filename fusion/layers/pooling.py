"""Pooling: windows that may hang over the edge, or lie beyond it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion.registry import Context, layer
from prototxt.shapes.pooling import pooled_size

if TYPE_CHECKING:
    from prototxt.messages import LayerParameter, PoolingParameter

Pair = tuple[int, int]
FLT_MAX = torch.finfo(torch.float32).max


@dataclass(frozen=True)
class Windows:
    """Where the windows lie, as (height, width); `floor` leaves out a last window that hangs over."""

    kernel: Pair
    stride: Pair
    pad: Pair
    floor: bool = False

    def sizes(self, x: Tensor) -> Pair:
        """The number of windows down and across."""
        height, width = (
            pooled_size(size, *geometry, clip=any(self.pad), floor=self.floor)
            for size, *geometry in zip(x.shape[2:], self.kernel, self.stride, self.pad, strict=True)
        )
        assert height is not None and width is not None
        return height, width

    def fit_torch(self) -> bool:
        """Whether torch's pooling places the same windows: none may be empty, and it pads by half a kernel at most.

        Torch drops a window that starts beyond the edge always, Caffe only if there is padding.
        """
        return all(2 * p <= k for p, k in zip(self.pad, self.kernel, strict=True)) and (
            self.floor or any(self.pad) or all(s <= k for s, k in zip(self.stride, self.kernel, strict=True))
        )


class MaxPooling(nn.Module):
    """The greatest element of every window; the first of equals gets the gradient. An empty window gives -FLT_MAX.

    mask  whether a second top tells where it was found: height index * width + width index, -1 in an empty window
    """

    def __init__(self, windows: Windows | None, mask: bool) -> None:
        super().__init__()
        self.windows, self.mask = windows, mask

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """[N, C, H, W] to [N, C, windows down, windows across]."""
        windows = self.windows or _whole(x)
        if windows.fit_torch():
            pooled = F.max_pool2d(
                x, windows.kernel, windows.stride, windows.pad, 1, not windows.floor, return_indices=self.mask
            )
            return (pooled[0], pooled[1].to(x.dtype)) if self.mask else pooled
        return self._exactly(x, windows)

    def _exactly(self, x: Tensor, windows: Windows) -> Tensor | tuple[Tensor, Tensor]:
        padded = _pad(x, windows, -FLT_MAX)
        pooled, index = F.max_pool2d(padded, windows.kernel, windows.stride, return_indices=True)
        if not self.mask:
            return pooled
        width = padded.shape[3]
        down, across = index // width - windows.pad[0], index % width - windows.pad[1]
        inside = (down >= 0) & (down < x.shape[2]) & (across >= 0) & (across < x.shape[3])
        return pooled, torch.where(inside, down * x.shape[3] + across, -1).to(x.dtype)


class AveragePooling(nn.Module):
    """The mean over every window; padding counts, but only up to one pad beyond the far edge. No element gives NaN."""

    def __init__(self, windows: Windows | None) -> None:
        super().__init__()
        self.windows = windows

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C, windows down, windows across]."""
        if self.windows is None:
            return F.adaptive_avg_pool2d(x, 1)
        windows = self.windows
        if windows.fit_torch():
            return F.avg_pool2d(x, windows.kernel, windows.stride, windows.pad, not windows.floor)
        sums = F.avg_pool2d(_pad(x, windows, 0.0), windows.kernel, windows.stride, divisor_override=1)
        return sums / self._sizes(x, windows)

    def _sizes(self, x: Tensor, windows: Windows) -> Tensor:
        """The divisors [windows down, windows across]."""
        spans = []
        for count, size, kernel, stride, pad in zip(
            windows.sizes(x), x.shape[2:], windows.kernel, windows.stride, windows.pad, strict=True
        ):
            start = torch.arange(count, device=x.device) * stride - pad
            spans.append((start + kernel).clamp(max=size + pad) - start)
        return (spans[0][:, None] * spans[1]).to(x.dtype)


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
        param.round_mode == param.FLOOR,
    )


@layer("Pooling", per_sample=True)
def pooling(layer: LayerParameter, context: Context) -> nn.Module:
    """The greatest or the mean element of windows over height and width."""
    param = layer.pooling_param
    windows = pooling_windows(param)
    if param.pool == param.AVE:
        return AveragePooling(windows)
    return MaxPooling(windows, mask=len(layer.top) > 1)
