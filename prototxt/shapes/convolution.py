"""Shapes of Convolution, Deconvolution and Im2col: one window geometry for any number of spatial axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prototxt.errors import ShapeError
from prototxt.schema import forks
from prototxt.schema.messages import ConvolutionParameter, LayerParameter
from prototxt.shapes.dimensions import (
    MOST_AXES,
    UNKNOWN,
    Dim,
    Shape,
    canonical_axis,
    count_text,
    product,
    shapes_agree,
    text,
)
from prototxt.shapes.registry import shape_function


@dataclass(frozen=True, slots=True)
class KernelWindow:
    """The window along one spatial axis."""

    kernel: int
    stride: int
    pad: int
    dilation: int

    @property
    def extent(self) -> int:
        """Return the number of input positions that the dilated kernel spans."""
        return self.dilation * (self.kernel - 1) + 1

    def convolved(self, size: Dim) -> Dim:
        """Return the output size; the division truncates towards zero, as in C."""
        return None if size is None else int((size + 2 * self.pad - self.extent) / self.stride) + 1

    def deconvolved(self, size: Dim) -> Dim:
        """Return the output size of the transposed convolution."""
        return None if size is None else self.stride * (size - 1) + self.extent - 2 * self.pad


def kernel_windows(param: ConvolutionParameter, axes: int) -> list[KernelWindow]:
    """Return the windows of all spatial axes.

    Raises: ShapeError for values of kernel, stride, pad and dilation that Caffe refuses.
    """
    kernels = _per_axis(param, "kernel_size", "kernel", axes, None)
    strides = _per_axis(param, "stride", "stride", axes, 1)
    pads = _per_axis(param, "pad", "pad", axes, 0)
    dilations = _dilations(param, axes)
    for name, values in (("kernel", kernels), ("stride", strides), ("dilation", dilations)):
        if any(value <= 0 for value in values):
            raise ShapeError(f"{name} sizes must be at least 1, not {_join(values)}", hint=f"set {name} for every axis")
    return [KernelWindow(*values) for values in zip(kernels, strides, pads, dilations, strict=True)]


def _dilations(param: ConvolutionParameter, axes: int) -> list[int]:
    """Return Caffe's `dilation`, or `hole`, its name in DeepLab."""
    fork: Any = forks.fields(param)
    if fork.HasField("hole_h") or fork.HasField("hole_w"):
        return _spread([fork.hole_h or 1, fork.hole_w or 1], "hole_h and hole_w", axes, 1)
    return _spread(list(param.dilation) or list(fork.hole), "dilation", axes, 1)


def _per_axis(param: ConvolutionParameter, field: str, short: str, axes: int, default: int | None) -> list[int]:
    values = [int(value) for value in getattr(param, field)]
    names = (f"{short}_h", f"{short}_w")
    if not any(param.HasField(name) for name in names):
        return _spread(values, field, axes, default)
    if values:
        raise ShapeError(f"{field} and {names[0]}/{names[1]} are both given", hint="give either one or the other")
    if axes != 2:
        raise ShapeError(
            f"{names[0]} and {names[1]} need 2 spatial axes, but the bottom has {axes}", hint=f"use {field}"
        )
    return [getattr(param, name) for name in names]


def _spread(values: list[int], field: str, axes: int, default: int | None) -> list[int]:
    if not values and default is not None:
        return [default] * axes
    if len(values) not in (1, axes):
        raise ShapeError(
            f"{field} is given {count_text(len(values), 'time')} for {axes} spatial axes",
            hint=f"give {field} once, or once per axis",
        )
    return values * axes if len(values) == 1 else values


def _join(values: Sequence[int]) -> str:
    return "x".join(map(str, values))


@dataclass(frozen=True, slots=True)
class _Geometry:
    axis: int
    channels: Dim
    windows: list[KernelWindow]
    spatial: Shape


def _geometry(layer: LayerParameter, bottoms: list[Shape]) -> _Geometry:
    param = layer.convolution_param
    if bottoms[0] is UNKNOWN:
        # A blob of unknown rank is assumed to hold images, unless the kernel has more axes.
        bottoms = [(None,) * (_sane_axis(param.axis) + 1 + max(2, len(param.kernel_size)))] * len(bottoms)
    for bottom in bottoms[1:]:
        if not shapes_agree(bottoms[0], bottom):
            raise ShapeError(f"all bottoms must have one shape, not {text(bottoms[0])} and {text(bottom)}")
    axis = canonical_axis(bottoms[0], param.axis)
    spatial = bottoms[0][axis + 1 :]
    return _Geometry(axis, bottoms[0][axis], kernel_windows(param, len(spatial)), spatial)


def _sane_axis(axis: int) -> int:
    if axis >= MOST_AXES:
        raise ShapeError(f"axis {axis} is out of range: Caffe's blobs have {MOST_AXES} axes at most")
    return max(axis, 0)


def _check_channels(num_output: int, channels: Dim, group: int) -> None:
    if num_output <= 0:
        raise ShapeError("num_output must be at least 1", hint="set num_output to the number of output channels")
    if group <= 0:
        raise ShapeError("group must be at least 1")
    if channels is not None and channels % group:
        raise ShapeError(f"the {channels} input channels do not divide into {group} groups")
    if num_output % group:
        raise ShapeError(f"num_output {num_output} does not divide into {group} groups")


def _check_spatial(sizes: Sequence[Dim], geometry: _Geometry) -> None:
    if any(size is not None and size <= 0 for size in sizes):
        kernel = _join([window.extent for window in geometry.windows])
        raise ShapeError(
            f"the kernel, {kernel} with its dilation, does not fit the input, {text(geometry.spatial)} without pad",
            hint="use a smaller kernel, more pad, or larger input",
        )


@shape_function("Convolution", bottoms=(1, None), tops=(1, None), paired=True, unknown_rank="own")
def convolution_shapes(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Round sizes down; all bottoms share the weights [num_output, channels / group, kernel...] and [num_output]."""
    param, geometry = layer.convolution_param, _geometry(layer, bottoms)
    _check_channels(param.num_output, geometry.channels, param.group)
    sizes = [window.convolved(size) for window, size in zip(geometry.windows, geometry.spatial, strict=True)]
    _check_spatial(sizes, geometry)
    inputs = None if geometry.channels is None else geometry.channels // param.group
    kernel = [window.kernel for window in geometry.windows]
    params: list[Shape] = [(param.num_output, inputs, *kernel)]
    return _tops(bottoms, geometry, param.num_output, sizes), _with_bias(params, param)


@shape_function("Deconvolution", bottoms=(1, None), tops=(1, None), paired=True, unknown_rank="own")
def _deconvolution(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Take the weights of the convolution that it transposes: [channels, num_output / group, kernel...]."""
    param, geometry = layer.convolution_param, _geometry(layer, bottoms)
    _check_channels(param.num_output, geometry.channels, param.group)
    sizes = [window.deconvolved(size) for window, size in zip(geometry.windows, geometry.spatial, strict=True)]
    _check_spatial(sizes, geometry)
    kernel = [window.kernel for window in geometry.windows]
    params: list[Shape] = [(geometry.channels, param.num_output // param.group, *kernel)]
    return _tops(bottoms, geometry, param.num_output, sizes), _with_bias(params, param)


def _tops(bottoms: list[Shape], geometry: _Geometry, channels: int, sizes: Sequence[Dim]) -> list[Shape]:
    return [(*_leading(bottom, geometry), channels, *sizes) for bottom in bottoms]


def _leading(bottom: Shape, geometry: _Geometry) -> Shape:
    return (None,) * geometry.axis if bottom is UNKNOWN else bottom[: geometry.axis]


def _with_bias(params: list[Shape], param: ConvolutionParameter) -> list[Shape]:
    return [*params, (param.num_output,)] if param.bias_term else params


@shape_function("Im2col", bottoms=1, tops=1, unknown_rank="own")
def _im2col(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Multiply the channels by the kernel positions."""
    geometry = _geometry(layer, bottoms)
    sizes = [window.convolved(size) for window, size in zip(geometry.windows, geometry.spatial, strict=True)]
    _check_spatial(sizes, geometry)
    positions = product(window.kernel for window in geometry.windows)
    return [(*_leading(bottoms[0], geometry), product((geometry.channels, positions)), *sizes)], []
