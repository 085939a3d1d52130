"""Layers that resize maps.

Sources: Chen et al. 2016 and hszhao/PSPNet (Interp), alexgkendall/caffe-segnet (Upsample with a mask),
eric612/MobileNet-YOLO (Upsample without), HyeonwooNoh/caffe (Unpooling, DeconvNet).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion.errors import BuildError
from fusion.layers.registry import Context, layer
from prototxt.shapes.fork_layers import fork_param

if TYPE_CHECKING:
    from prototxt.schema.messages import LayerParameter


class Interp(nn.Module):
    """Bilinear interpolation with aligned corners.

    crop     pixels removed at the start and the end first
    size     height and width of the result; None: by the factors, or the size of the second bottom
    factors  (shrink, zoom) or None
    """

    def __init__(self, crop: tuple[int, int], size: tuple[int, int] | None, factors: tuple[int, int] | None) -> None:
        super().__init__()
        self.crop, self.size, self.factors = crop, size, factors

    def forward(self, x: Tensor, like: Tensor | None = None) -> Tensor:
        """Map [N, C, H, W], and optionally a blob of the target size, to [N, C, height, width]."""
        begin, end = self.crop
        x = x[:, :, begin : x.shape[2] - end, begin : x.shape[3] - end]
        if like is not None:
            size = (like.shape[2], like.shape[3])
        elif self.size is not None:
            size = self.size
        else:
            size = (self._scaled(x.shape[2]), self._scaled(x.shape[3]))
        return F.interpolate(x, size, mode="bilinear", align_corners=True)

    def _scaled(self, size: int) -> int:
        shrink, zoom = cast("tuple[int, int]", self.factors)
        shrunk = (size - 1) // shrink + 1
        return shrunk + (shrunk - 1) * (zoom - 1)


@layer("Interp", per_sample=True)
def _interp(layer: LayerParameter, context: Context) -> nn.Module:
    # pad_beg and pad_end are 0 or negative in interp_layer.cpp: they crop.
    param = fork_param(layer, "interp_param")
    factors = (param.shrink_factor, param.zoom_factor)
    by_factors = param.HasField("shrink_factor") or param.HasField("zoom_factor")
    crop = (-param.pad_beg, -param.pad_end)
    return Interp(crop, None if by_factors else (param.height, param.width), factors if by_factors else None)


class Scatter(nn.Module):
    """Writes each element to the position in a pooling mask, zeros elsewhere; the mask gets no gradient.

    size     height and width of the result
    factors  where `size` is None, the size is the bottom's times `factors`, less `cut`
    """

    def __init__(
        self, size: tuple[int, int] | None, factors: tuple[int, int] = (1, 1), cut: tuple[int, int] = (0, 0)
    ) -> None:
        super().__init__()
        self.size, self.factors, self.cut = size, factors, cut

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map [N, C, h, w] and positions, row * width + column of any dtype, to [N, C, height, width]."""
        height, width = self.size or (
            x.shape[2] * self.factors[0] - self.cut[0],
            x.shape[3] * self.factors[1] - self.cut[1],
        )
        flat = x.new_zeros(*x.shape[:2], height * width)
        return flat.scatter(2, mask.flatten(2).long(), x.flatten(2)).reshape(*x.shape[:2], height, width)


class Nearest(nn.Module):
    """Nearest-neighbour upsampling by whole factors."""

    def __init__(self, factors: tuple[int, int]) -> None:
        super().__init__()
        self.factors = factors

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, H, W] to [N, C, H * down, W * across]."""
        return x.repeat_interleave(self.factors[0], 2).repeat_interleave(self.factors[1], 3)


@layer("Upsample", per_sample=True)
def _upsample(layer: LayerParameter, context: Context) -> nn.Module:
    # Forks use one name for two layers: with a pooling mask (SegNet), and by copies (MobileNet-YOLO).
    param = fork_param(layer, "upsample_param")
    factor = param.scale if param.HasField("scale") or not param.HasField("stride") else param.stride
    factors = (param.scale_h or param.stride_h or factor, param.scale_w or param.stride_w or factor)
    if len(layer.bottom) == 2:
        size = (param.upsample_h, param.upsample_w) if param.upsample_h and param.upsample_w else None
        return Scatter(size, factors, (int(param.pad_out_h), int(param.pad_out_w)))
    if param.upsample_h or param.pad_out_h or param.pad_out_w:
        raise _refused(layer, "upsample_h and pad_out need a pooling mask as the second bottom")
    if param.mode.upper() not in ("", "NEAREST"):
        raise _refused(layer, f"upsample_param.mode '{param.mode}' is not supported")
    return Nearest(factors)


class Unpooling(nn.Module):
    """Writes each element to the top left of its window (MAX), or to all of it, divided (AVE) or not (TILE).

    Overlapping windows are summed, except for MAX.
    """

    def __init__(self, method: str, size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int]) -> None:
        super().__init__()
        self.method, self.size, self.kernel, self.stride = method, size, kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, h, w] to [N, C, height, width]."""
        rows, columns = (
            _windows(count, size, kernel, stride, self.method, x)
            for count, size, kernel, stride in zip(x.shape[2:], self.size, self.kernel, self.stride, strict=True)
        )
        return rows.T @ x @ columns


def _windows(count: int, size: int, kernel: int, stride: int, method: str, like: Tensor) -> Tensor:
    """Return the share of each position in each window along one axis, [count, size]."""
    start = torch.arange(count, device=like.device)[:, None] * stride
    place = torch.arange(size, device=like.device)
    if method == "MAX":
        return (place == start.clamp(max=size - 1)).to(like.dtype)
    inside = ((place >= start) & (place < start + kernel)).to(like.dtype)
    return inside / inside.sum(1, keepdim=True).clamp(min=1) if method == "AVE" else inside


@layer("Unpooling", per_sample=True)
def _unpooling(layer: LayerParameter, context: Context) -> nn.Module:
    # TILE's gradient is the derivative, unlike the fork's.
    param = fork_param(layer, "unpooling_param")
    method = param.UnpoolMethod.Name(param.unpool)
    if param.pad or param.pad_h or param.pad_w or method not in ("MAX", "AVE", "TILE"):
        raise _refused(layer, "unpooling_param supports MAX, AVE and TILE, without padding")
    size = context.tops[0][2:]
    if None in size:
        raise _refused(layer, "the size of the result depends on data that is not known yet")
    known = cast("tuple[int, int]", size)
    if len(layer.bottom) == 2:
        return Scatter(known)
    kernel = (param.kernel_h or param.kernel_size, param.kernel_w or param.kernel_size)
    stride = (param.stride_h or param.stride, param.stride_w or param.stride)
    return Unpooling(method, known, kernel, stride)


def _refused(layer: LayerParameter, message: str) -> BuildError:
    return BuildError(f"layer '{layer.name}': {message}")
