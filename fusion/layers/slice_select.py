"""Layers that copy, choose or cut: Tile, Crop, Filter, BatchReindex, Parameter, Im2col."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional as F

from fusion.layers.axes import behind_batch, canonical
from fusion.layers.registry import Context, layer
from prototxt.shapes.convolution import Window, windows

if TYPE_CHECKING:
    from prototxt.schema.messages import LayerParameter


class Tile(nn.Module):
    """The blob several times over along an axis."""

    def __init__(self, axis: int, tiles: int) -> None:
        super().__init__()
        self.axis, self.tiles = axis, tiles

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to one that is longer along the axis."""
        repeats = [1] * x.dim()
        repeats[self.axis] = self.tiles
        return x.repeat(repeats)


@layer("Tile", per_sample=behind_batch(lambda layer: layer.tile_param.axis))
def tile(layer: LayerParameter, context: Context) -> nn.Module:
    """The blob several times over along an axis."""
    return Tile(layer.tile_param.axis, layer.tile_param.tiles)


class Crop(nn.Module):
    """The first bottom cut to the size of the second from `axis` on, which gets no gradient.

    offsets  where the cut begins on each of these axes; one serves all, none means 0
    """

    def __init__(self, axis: int, offsets: tuple[int, ...]) -> None:
        super().__init__()
        self.axis, self.offsets = axis, offsets

    def forward(self, x: Tensor, size: Tensor) -> Tensor:
        """[*kept, *large] and [*any, *small] to [*kept, *small]."""
        start = canonical(self.axis, x.dim())
        offsets = self.offsets or (0,)
        offsets = offsets * (x.dim() - start) if len(offsets) == 1 else offsets
        for axis, offset in zip(range(start, x.dim()), offsets, strict=True):
            x = x.narrow(axis, offset, size.shape[axis])
        return x


@layer("Crop", per_sample=behind_batch(lambda layer: layer.crop_param.axis))
def crop(layer: LayerParameter, context: Context) -> nn.Module:
    """The first bottom cut to the size of the second."""
    return Crop(layer.crop_param.axis, tuple(layer.crop_param.offset))


class Filter(nn.Module):
    """The samples for which the last bottom is not 0, of every other bottom; their number depends on the data."""

    def forward(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        """[N, ...] each and a selector [N] to [chosen, ...] each."""
        chosen = bottoms[-1].flatten() != 0
        tops = tuple(x[chosen] for x in bottoms[:-1])
        return tops[0] if len(tops) == 1 else tops


@layer("Filter")
def filter_(layer: LayerParameter, context: Context) -> nn.Module:
    """Some of the samples."""
    return Filter()


class BatchReindex(nn.Module):
    """Samples of the first bottom, as the second numbers them."""

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        """[N, ...] and whole numbers, of any dtype, [M] to [M, ...]."""
        return x.index_select(0, index.flatten().long())


@layer("BatchReindex")
def batch_reindex(layer: LayerParameter, context: Context) -> nn.Module:
    """Samples in another order, or some of them several times."""
    return BatchReindex()


class Parameter(nn.Module):
    """A blob that is learned.

    weight  in the shape that the layer says
    """

    caffe_params = ("weight",)

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self) -> Tensor:
        """The blob, apart from the parameter, so that nothing done to the one changes the other."""
        return self.weight * 1


@layer("Parameter")
def parameter(layer: LayerParameter, context: Context) -> nn.Module:
    """A blob that is learned; it starts at 0."""
    return Parameter(context.parameter(0))


class Im2col(nn.Module):
    """Every window of the bottom as a column: what a convolution multiplies with its weights."""

    def __init__(self, geometry: list[Window], axis: int) -> None:
        super().__init__()
        self.geometry, self.axis = tuple(geometry), axis

    def forward(self, x: Tensor) -> Tensor:
        """[*batch, C, *space] to [*batch, C * product of kernel sizes, *windows]."""
        axis = canonical(self.axis, x.dim())
        batch, (channels, *space) = x.shape[:axis], x.shape[axis:]
        columns = x.reshape(-1, channels, *space)
        columns = F.pad(columns, [pad for window in reversed(self.geometry) for pad in (window.pad, window.pad)])
        for place, window in enumerate(self.geometry):
            columns = columns.unfold(2 + place, window.extent, window.stride)[..., :: window.dilation]
        count = len(self.geometry)
        order = (0, 1, *range(2 + count, 2 + 2 * count), *range(2, 2 + count))
        sizes = columns.shape[2 : 2 + count]
        return columns.permute(order).reshape(*batch, -1, *sizes)


@layer("Im2col", per_sample=behind_batch(lambda layer: layer.convolution_param.axis))
def im2col(layer: LayerParameter, context: Context) -> nn.Module:
    """Every window of the bottom as a column."""
    param = layer.convolution_param
    axes = len(context.bottoms[0])
    return Im2col(windows(param, axes - canonical(param.axis, axes) - 1), param.axis)
