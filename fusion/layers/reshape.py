"""Layers that only move elements: Flatten, Reshape, Concat, Slice, Split, Silence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fusion.layers.axes import behind_batch, canonical
from fusion.layers.registry import Context, layer

if TYPE_CHECKING:
    from prototxt.schema.messages import ConcatParameter, LayerParameter, SliceParameter


@layer("Flatten", per_sample=behind_batch(lambda layer: layer.flatten_param.axis))
def flatten(layer: LayerParameter, context: Context) -> nn.Module:
    """The axes from `axis` to `end_axis` as one."""
    return nn.Flatten(layer.flatten_param.axis, layer.flatten_param.end_axis)


class Reshape(nn.Module):
    """The axes from `axis` on, `num_axes` of them or all (-1), replaced by `dims`: 0 keeps a size, -1 is worked out."""

    def __init__(self, dims: tuple[int, ...], axis: int, num_axes: int) -> None:
        super().__init__()
        self.dims, self.axis, self.num_axes = dims, axis, num_axes

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to another one with as many elements."""
        start = canonical(self.axis, x.dim() + 1)
        end = x.dim() if self.num_axes == -1 else start + self.num_axes
        dims = [x.shape[start + place] if size == 0 else size for place, size in enumerate(self.dims)]
        return x.reshape(*x.shape[:start], *dims, *x.shape[end:])


def _keeps_batch(layer: LayerParameter, context: Context) -> bool:
    param = layer.reshape_param
    dims = param.shape.dim
    start = canonical(param.axis, len(context.bottoms[0]) + 1)
    return start > 0 or (len(dims) > 0 and dims[0] == 0 and param.num_axes != 0)


@layer("Reshape", per_sample=_keeps_batch)
def reshape(layer: LayerParameter, context: Context) -> nn.Module:
    """Other sizes for the same elements."""
    param = layer.reshape_param
    return Reshape(tuple(param.shape.dim), param.axis, param.num_axes)


class Concat(nn.Module):
    """The bottoms one after the other along an axis."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, *bottoms: Tensor) -> Tensor:
        """Shapes that differ along the axis alone to one with the sum of sizes."""
        return torch.cat(bottoms, self.axis) if len(bottoms) > 1 else bottoms[0]

    def extra_repr(self) -> str:
        """The axis."""
        return f"axis={self.axis}"


def _concat_axis(layer: LayerParameter) -> int:
    param: ConcatParameter = layer.concat_param
    return param.concat_dim if param.HasField("concat_dim") else param.axis


@layer("Concat", per_sample=behind_batch(_concat_axis))
def concat(layer: LayerParameter, context: Context) -> nn.Module:
    """The bottoms one after the other along an axis."""
    return Concat(_concat_axis(layer))


class Slice(nn.Module):
    """The bottom cut along an axis at `points`, or into `parts` equal ones."""

    def __init__(self, axis: int, points: tuple[int, ...], parts: int) -> None:
        super().__init__()
        self.axis, self.points, self.parts = axis, points, parts

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """One shape to several whose sizes along the axis add up to its."""
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


@layer("Slice", per_sample=behind_batch(_slice_axis))
def slice_(layer: LayerParameter, context: Context) -> nn.Module:
    """The bottom cut into several tops."""
    return Slice(_slice_axis(layer), tuple(layer.slice_param.slice_point), len(layer.top))


class Split(nn.Module):
    """The bottom as every one of the tops; their gradients add up."""

    def __init__(self, tops: int) -> None:
        super().__init__()
        self.tops = tops

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """One blob to several equal ones."""
        return (x,) * self.tops if self.tops > 1 else x


@layer("Split", per_sample=True)
def split(layer: LayerParameter, context: Context) -> nn.Module:
    """The same blob under several names."""
    return Split(len(layer.top))


class Silence(nn.Module):
    """Takes blobs that nobody else wants, so that they are no outputs of the net."""

    def forward(self, *bottoms: Tensor) -> tuple[()]:
        """Any blobs to none."""
        return ()


@layer("Silence", per_sample=True)
def silence(layer: LayerParameter, context: Context) -> nn.Module:
    """Takes blobs that nobody else wants."""
    return Silence()
