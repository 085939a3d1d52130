"""The positions of one blob in another, through the layers of a NetSpec between them, and the Crop that aligns them.

A map is (axis, scale, shift): with `axis` the one before the first axis of the map (None: any), position `i` of the one
blob is `scale * i + shift` of the other; scale and shift are numbers, or arrays with one per axis.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fusion.pycaffe.net_spec import Function, Top, layers

CoordMap = tuple[int | None, Any, Any]

PASS_THROUGH_LAYERS = [
    *("AbsVal", "BatchNorm", "Bias", "BNLL", "Dropout", "Eltwise", "ELU", "Log", "LRN", "Exp", "MVN", "Power"),
    *("ReLU", "PReLU", "Scale", "Sigmoid", "Split", "TanH", "Threshold"),
]
_SIDED = {"pad_h", "pad_w", "kernel_h", "kernel_w", "stride_h", "stride_w"}
_DEFAULTS = (("stride", 1), ("dilation", 1), ("pad", 0))
_SAME: CoordMap = (None, 1, 0)


class UndefinedMapException(Exception):  # noqa: N818 - the public name
    """A layer keeps no positions."""


class AxisMismatchException(Exception):  # noqa: N818 - the public name
    """Two maps begin at different axes."""


def conv_params(fn: Function) -> tuple[int, Any, Any, Any]:
    """Return axis, stride, extent of the dilated kernel and padding of a convolution or pooling, as arrays."""
    params = fn.params.get("convolution_param", fn.params)
    assert not _SIDED & set(fn.params), "cropping does not support legacy _h/_w params"
    stride, dilation, pad = (np.array(params.get(*one), ndmin=1) for one in _DEFAULTS)
    extent = (np.array(params["kernel_size"], ndmin=1) - 1) * dilation + 1
    return params.get("axis", 1), stride, extent, pad


def crop_params(fn: Function) -> tuple[int, Any]:
    """Return axis and offsets of a Crop."""
    params = fn.params.get("crop_param", fn.params)
    return params.get("axis", 2), np.array(params.get("offset", 0), ndmin=1)


def coord_map(fn: Function) -> CoordMap:
    """Return the map from a layer's bottoms to its tops. Raises: UndefinedMapException."""
    if fn.type_name in ("Convolution", "Pooling", "Im2col"):
        axis, stride, extent, pad = conv_params(fn)
        return axis, 1 / stride, (pad - (extent - 1) / 2) / stride
    if fn.type_name == "Deconvolution":
        axis, stride, extent, pad = conv_params(fn)
        return axis, stride, (extent - 1) / 2 - pad
    if fn.type_name in PASS_THROUGH_LAYERS:
        return _SAME
    if fn.type_name == "Crop":
        axis, offset = crop_params(fn)
        return axis - 1, 1, -offset
    raise UndefinedMapException(f"type '{fn.type_name}' keeps no positions")


def compose(base_map: CoordMap, next_map: CoordMap) -> CoordMap:
    """Return the map that is `next_map` followed by `base_map`. Raises: AxisMismatchException."""
    axis, scale, shift = base_map
    next_axis, next_scale, next_shift = next_map
    if axis is not None and next_axis is not None and axis != next_axis:
        raise AxisMismatchException(f"a map along axis {axis} and one along axis {next_axis}")
    return next_axis if axis is None else axis, scale * next_scale, scale * next_shift + shift


def inverse(coord_map: CoordMap) -> CoordMap:
    """Return the map in the other direction."""
    axis, scale, shift = coord_map
    return axis, 1 / scale, -shift / scale


def coord_map_from_to(top_from: Top, top_to: Top) -> CoordMap:
    """Return the map from one blob to another, by way of a blob that both are computed from.

    Raises: RuntimeError if layers that keep positions lead to no such blob.
    """
    start, end = _maps(top_from), _maps(top_to)
    common = next((top for top in end if top in start), None)
    if common is None:
        raise RuntimeError("Could not compute map between tops; are they connected by spatial layers?")
    return compose(end[common], inverse(start[common]))


def _maps(top: Top) -> dict[Top, CoordMap]:
    """Return the maps of a blob and of those that it is computed from, the nearest first."""
    maps = {top: _SAME}
    for blob in (frontier := [top]):
        try:
            step = coord_map(blob.fn)
        except UndefinedMapException:
            continue
        # of a Crop, only the first bottom is at these positions
        for bottom in blob.fn.inputs[: 1 if blob.fn.type_name == "Crop" else None]:
            if bottom not in maps:
                maps[bottom] = compose(maps[blob], step)
                frontier.append(bottom)
    return maps


def crop(top_from: Top, top_to: Top) -> Top:
    """Return a Crop of the one blob to the size and positions of the other.

    Raises: AssertionError where the scales differ, or the offsets are negative or fractions; RuntimeError.
    """
    axis, scale, shift = coord_map_from_to(top_from, top_to)
    assert (scale == 1).all(), f"scale mismatch on crop (a = {scale})"
    assert (shift <= 0).all(), f"cannot crop negative offset (b = {shift})"
    assert (np.round(shift) == shift).all(), f"cannot crop noninteger offset (b = {shift})"
    assert axis is not None
    offsets = [-int(offset) for offset in shift]
    cropped: Top = layers.Crop(top_from, top_to, crop_param={"axis": axis + 1, "offset": offsets})
    return cropped
