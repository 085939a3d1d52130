"""Layers that copy or select elements: Tile, Crop, Filter, BatchReindex, Parameter, Im2col."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional as F

from fusion.layers.axes import positive_axis, spares_batch
from fusion.layers.registry import Context, layer
from prototxt.shapes.convolution import KernelWindow, kernel_windows

if TYPE_CHECKING:
    from prototxt.schema.messages import LayerParameter


class Tile(nn.Module):
    """Repeats the blob along an axis."""

    def __init__(self, axis: int, tiles: int) -> None:
        super().__init__()
        self.axis, self.tiles = axis, tiles

    def forward(self, x: Tensor) -> Tensor:
        """Map any shape to one that is longer along the axis."""
        repeats = [1] * x.dim()
        repeats[self.axis] = self.tiles
        return x.repeat(repeats)


@layer("Tile", per_sample=spares_batch(lambda layer: layer.tile_param.axis))
def _tile(layer: LayerParameter, context: Context) -> nn.Module:
    return Tile(layer.tile_param.axis, layer.tile_param.tiles)


class Crop(nn.Module):
    """Crops the first bottom to the size of the second from `axis` on; the second gets no gradient.

    offsets  start of the crop on each of these axes; one is used for all, none means 0
    """

    def __init__(self, axis: int, offsets: tuple[int, ...]) -> None:
        super().__init__()
        self.axis, self.offsets = axis, offsets

    def forward(self, x: Tensor, size: Tensor) -> Tensor:
        """Map [*kept, *large] and [*any, *small] to [*kept, *small]."""
        start = positive_axis(self.axis, x.dim())
        offsets = self.offsets or (0,)
        offsets = offsets * (x.dim() - start) if len(offsets) == 1 else offsets
        for axis, offset in zip(range(start, x.dim()), offsets, strict=True):
            x = x.narrow(axis, offset, size.shape[axis])
        return x


@layer("Crop", per_sample=spares_batch(lambda layer: layer.crop_param.axis))
def _crop(layer: LayerParameter, context: Context) -> nn.Module:
    return Crop(layer.crop_param.axis, tuple(layer.crop_param.offset))


@layer("Filter")
class Filter(nn.Module):
    """Selects the samples for which the last bottom is not 0; their number depends on the data."""

    def forward(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Map [N, ...] each and a selector [N] to [chosen, ...] each."""
        chosen = bottoms[-1].flatten() != 0
        tops = tuple(x[chosen] for x in bottoms[:-1])
        return tops[0] if len(tops) == 1 else tops


@layer("BatchReindex")
class BatchReindex(nn.Module):
    """Selects samples of the first bottom by the indices in the second."""

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        """Map [N, ...] and indices [M] of any dtype to [M, ...]."""
        return x.index_select(0, index.flatten().long())


class Parameter(nn.Module):
    """A learned blob.

    weight  of the shape that the layer gives
    """

    caffe_params = ("weight",)

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self) -> Tensor:
        """Return the blob."""
        return self.weight * 1  # a copy: in-place layers must not change the parameter


@layer("Parameter")
def _parameter(layer: LayerParameter, context: Context) -> nn.Module:
    # parameter_layer.hpp has no filler: the blob starts at 0.
    return Parameter(context.parameter(0))


class Im2col(nn.Module):
    """Writes every window of the bottom as a column, the operand of a convolution's matrix product."""

    def __init__(self, geometry: list[KernelWindow], axis: int) -> None:
        super().__init__()
        self.geometry, self.axis = tuple(geometry), axis

    def forward(self, x: Tensor) -> Tensor:
        """Map [*batch, C, *space] to [*batch, C * product of kernel sizes, *windows]."""
        axis = positive_axis(self.axis, x.dim())
        batch, (channels, *space) = x.shape[:axis], x.shape[axis:]
        columns = x.reshape(-1, channels, *space)
        columns = F.pad(columns, [pad for window in reversed(self.geometry) for pad in (window.pad, window.pad)])
        for place, window in enumerate(self.geometry):
            columns = columns.unfold(2 + place, window.extent, window.stride)[..., :: window.dilation]
        count = len(self.geometry)
        # Caffe's column order: channel, kernel position, then windows (im2col.cpp).
        order = (0, 1, *range(2 + count, 2 + 2 * count), *range(2, 2 + count))
        sizes = columns.shape[2 : 2 + count]
        return columns.permute(order).reshape(*batch, -1, *sizes)


@layer("Im2col", per_sample=spares_batch(lambda layer: layer.convolution_param.axis))
def _im2col(layer: LayerParameter, context: Context) -> nn.Module:
    param = layer.convolution_param
    axes = len(context.bottoms[0])
    return Im2col(kernel_windows(param, axes - positive_axis(param.axis, axes) - 1), param.axis)
