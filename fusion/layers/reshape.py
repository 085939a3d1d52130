"""Layers that only move elements: Flatten, Reshape, Concat, Slice, Split, Silence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fusion.layers.axes import positive_axis, spares_batch
from fusion.layers.registry import Context, layer

if TYPE_CHECKING:
    from prototxt.schema.messages import ConcatParameter, LayerParameter, SliceParameter


@layer("Flatten", per_sample=spares_batch(lambda layer: layer.flatten_param.axis))
def _flatten(layer: LayerParameter, context: Context) -> nn.Module:
    return nn.Flatten(layer.flatten_param.axis, layer.flatten_param.end_axis)


class ReshapeAxes(nn.Module):
    """Replaces `num_axes` axes (-1: all) from `axis` on by `dims`; 0 keeps a size, -1 is inferred."""

    def __init__(self, dims: tuple[int, ...], axis: int, num_axes: int) -> None:
        super().__init__()
        self.dims, self.axis, self.num_axes = dims, axis, num_axes

    def forward(self, x: Tensor) -> Tensor:
        """Map any shape to another one with as many elements."""
        start = positive_axis(self.axis, x.dim() + 1)
        end = x.dim() if self.num_axes == -1 else start + self.num_axes
        dims = [x.shape[start + place] if size == 0 else size for place, size in enumerate(self.dims)]
        return x.reshape(*x.shape[:start], *dims, *x.shape[end:])


def _keeps_batch(layer: LayerParameter, context: Context) -> bool:
    param = layer.reshape_param
    dims = param.shape.dim
    start = positive_axis(param.axis, len(context.bottoms[0]) + 1)
    return start > 0 or (len(dims) > 0 and dims[0] == 0 and param.num_axes != 0)


@layer("Reshape", per_sample=_keeps_batch)
def _reshape(layer: LayerParameter, context: Context) -> nn.Module:
    param = layer.reshape_param
    return ReshapeAxes(tuple(param.shape.dim), param.axis, param.num_axes)


class Concat(nn.Module):
    """Concatenates the bottoms along an axis."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, *bottoms: Tensor) -> Tensor:
        """Map shapes that differ only along the axis to one with the sum of their sizes."""
        return torch.cat(bottoms, self.axis) if len(bottoms) > 1 else bottoms[0]

    def extra_repr(self) -> str:
        """Return the axis."""
        return f"axis={self.axis}"


def _concat_axis(layer: LayerParameter) -> int:
    param: ConcatParameter = layer.concat_param  # concat_dim is the deprecated name of axis
    return param.concat_dim if param.HasField("concat_dim") else param.axis


@layer("Concat", per_sample=spares_batch(_concat_axis))
def _concat(layer: LayerParameter, context: Context) -> nn.Module:
    return Concat(_concat_axis(layer))


class Slice(nn.Module):
    """Splits the bottom along an axis at `points`, or into `parts` equal parts."""

    def __init__(self, axis: int, points: tuple[int, ...], parts: int) -> None:
        super().__init__()
        self.axis, self.points, self.parts = axis, points, parts

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Map one shape to several whose sizes along the axis sum to the bottom's."""
        if self.parts == 1:
            return x
        size = x.shape[self.axis]
        if not self.points:
            return torch.split(x, size // self.parts, self.axis)
        ends = (*self.points, size)
        return torch.split(x, [end - start for start, end in zip((0, *self.points), ends, strict=True)], self.axis)


def _slice_axis(layer: LayerParameter) -> int:
    param: SliceParameter = layer.slice_param
    return param.slice_dim if param.HasField("slice_dim") else param.axis


@layer("Slice", per_sample=spares_batch(_slice_axis))
def _slice(layer: LayerParameter, context: Context) -> nn.Module:
    return Slice(_slice_axis(layer), tuple(layer.slice_param.slice_point), len(layer.top))


class SplitTops(nn.Module):
    """Returns the bottom once per top; autograd sums the gradients."""

    def __init__(self, tops: int) -> None:
        super().__init__()
        self.tops = tops

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Map one blob to several equal ones."""
        return (x,) * self.tops if self.tops > 1 else x


@layer("Split", per_sample=True)
def _split(layer: LayerParameter, context: Context) -> nn.Module:
    return SplitTops(len(layer.top))


@layer("Silence", per_sample=True)
class Silence(nn.Module):
    """Consumes blobs, so that they are not outputs of the net."""

    def forward(self, *bottoms: Tensor) -> tuple[()]:
        """Map any blobs to none."""
        return ()
