"""Convolutions and pooling: Caffe pads both sides alike, so uneven pads become wider ones whose results are cut off.

Sources: BVLC Caffe's base_conv_layer.cpp and pooling_layer.cpp; ONNX's Conv, MaxPool and AveragePool.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from fusion.onnx.graphs.graph import attributes
from fusion.onnx.to_caffe.net_writer import NetWriter, RefusedError
from prototxt.schema.messages import LayerParameter, PoolingParameter


@dataclass(frozen=True)
class _Axis:
    """A window along one axis: Caffe's pad, and which of its results are ONNX's.

    begin, end  ONNX's pads
    out         ONNX's number of results
    pad         Caffe's pad on both sides
    first       the result of Caffe that is ONNX's first
    """

    size: int
    kernel: int
    stride: int
    begin: int
    end: int
    out: int
    pad: int
    first: int


def _axes(writer: NetWriter, node: onnx.NodeProto, kernel: list[int], dilations: list[int]) -> list[_Axis]:
    """Return the windows along height and width. Raises: RefusedError for other numbers of axes."""
    values = attributes(node)
    before, after = writer.dims(node.input[0]), writer.dims(node.output[0])
    if len(before) != 4 or len(kernel) != 2:
        raise RefusedError(f"an input of {len(before)} axes instead of 4")
    strides, pads = values.get("strides", [1, 1]), values.get("pads", [0] * 4)
    found = []
    for size, out, length, spread, stride, begin, end in zip(
        before[2:], after[2:], kernel, dilations, strides, pads[:2], pads[2:], strict=True
    ):
        pad = begin + max(0, -(-(end - begin) // stride) * stride)
        found.append(_Axis(size, (length - 1) * spread + 1, stride, begin, end, out, pad, (pad - begin) // stride))
    return found


def convolution(writer: NetWriter, node: onnx.NodeProto) -> None:
    """Write Conv as Convolution."""
    weight = _weight(writer, node)
    dilations = attributes(node).get("dilations", [1, 1])
    axes = _axes(writer, node, list(weight.shape[2:]), dilations)
    name = writer.name(node)
    layer = _weighted(writer, "Convolution", node, name, weight, weight.shape[0])
    param = layer.convolution_param
    for field, numbers in (("pad", [axis.pad for axis in axes]), ("stride", [axis.stride for axis in axes])):
        _pair(param, field, numbers, 0 if field == "pad" else 1)
    if list(dilations) != [1, 1]:
        param.dilation[:] = dilations if dilations[0] != dilations[1] else dilations[:1]
    full = [(axis.size + 2 * axis.pad - axis.kernel) // axis.stride + 1 for axis in axes]
    _keep(writer, node, name, axes, full)


def deconvolution(writer: NetWriter, node: onnx.NodeProto) -> None:
    """Write ConvTranspose as Deconvolution. Raises: RefusedError where it has more results than Caffe's."""
    values, weight = attributes(node), _weight(writer, node)
    if "output_shape" in values or values.get("auto_pad", "").startswith("SAME"):
        raise RefusedError("output_shape or auto_pad instead of pads")
    if list(values.get("dilations", [1, 1])) != [1, 1]:
        raise RefusedError("a dilated ConvTranspose")
    before, after = writer.dims(node.input[0]), writer.dims(node.output[0])
    if len(before) != 4:
        raise RefusedError(f"an input of {len(before)} axes instead of 4")
    strides, pads = values.get("strides", [1, 1]), values.get("pads", [0] * 4)
    more = values.get("output_padding", [0, 0])
    axes, full = [], []
    for size, out, kernel, stride, begin, end, longer in zip(
        before[2:], after[2:], weight.shape[2:], strides, pads[:2], pads[2:], more, strict=True
    ):
        pad = begin if begin == end and not longer else 0
        axes.append(_Axis(size, kernel, stride, begin, end, out, pad, begin - pad))
        full.append(stride * (size - 1) + kernel - 2 * pad)
        if begin - pad + out > full[-1]:
            raise RefusedError("an output_padding that is larger than its pads")
    name, group = writer.name(node), values.get("group", 1)
    layer = _weighted(writer, "Deconvolution", node, name, weight, weight.shape[1] * group)
    _pair(layer.convolution_param, "pad", [axis.pad for axis in axes], 0)
    _pair(layer.convolution_param, "stride", strides, 1)
    _keep(writer, node, name, axes, full)


def _weight(writer: NetWriter, node: onnx.NodeProto) -> NDArray[Any]:
    weight = writer.constant(node.input[1])
    if weight is None:
        raise RefusedError("its weights are computed")
    if weight.ndim != 4:
        raise RefusedError(f"{weight.ndim - 2} spatial axes instead of 2")
    return weight


def _weighted(
    writer: NetWriter, kind: str, node: onnx.NodeProto, name: str, weight: NDArray[Any], outputs: int
) -> LayerParameter:
    bias = writer.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if bias is None and len(node.input) > 2 and node.input[2]:
        raise RefusedError("its bias is computed")
    layer = writer.step(kind, node, name, [weight] if bias is None else [weight, bias])
    param, group = layer.convolution_param, attributes(node).get("group", 1)
    param.num_output = outputs
    if bias is None:
        param.bias_term = False
    if group != 1:
        param.group = group
    _pair(param, "kernel", list(weight.shape[2:]), None)
    return layer


def _pair(param: Any, field: str, numbers: list[int], default: int | None) -> None:
    """Set a field of height and width: one number where both are equal, none where that is Caffe's default."""
    height, width = numbers
    if height != width:
        setattr(param, f"{field}_h", height)
        setattr(param, f"{field}_w", width)
    elif height != default:
        name = "kernel_size" if field == "kernel" else field
        if isinstance(getattr(param, name), int):
            setattr(param, name, height)
        else:
            getattr(param, name).append(height)


def _keep(writer: NetWriter, node: onnx.NodeProto, name: str, axes: list[_Axis], full: list[int]) -> None:
    """Cut off the results that ONNX does not have."""
    for number, (axis, count) in enumerate(zip(axes, full, strict=True)):
        if axis.first or axis.out != count:
            inner = writer.unique(f"{name}/{'rows' if number == 0 else 'columns'}")
            cut_out(writer, inner, writer.blob(node.output[0]), number + 2, axis.first, axis.out, count)
            writer.blobs[node.output[0]] = inner


def cut_out(writer: NetWriter, name: str, blob: str, axis: int, first: int, count: int, size: int) -> None:
    """Write the Slice that keeps `count` entries from `first` on, of `size`; the others are silenced later."""
    before = [writer.unique(f"{name}/before")] if first else []
    tops = [*before, name, *([writer.unique(f"{name}/after")] if first + count < size else [])]
    param = writer.layer("Slice", name, [blob], tops).slice_param
    param.axis = axis
    param.slice_point[:] = [point for point in (first, first + count) if 0 < point < size]


def pooling(writer: NetWriter, node: onnx.NodeProto) -> None:
    """Write MaxPool or AveragePool as Pooling; average pools that count other pads are scaled per position."""
    values = attributes(node)
    kernel = list(values["kernel_shape"])
    if any(size != 1 for size in values.get("dilations", [])):
        raise RefusedError("a dilated pooling")
    axes = _axes(writer, node, kernel, [1, 1])
    if any(axis.pad >= axis.kernel for axis in axes):
        raise RefusedError("uneven pads as wide as its kernel")
    name = writer.name(node)
    layer = writer.step("Pooling", node, name)
    param = layer.pooling_param
    average = node.op_type == "AveragePool"
    param.pool = PoolingParameter.AVE if average else PoolingParameter.MAX
    _pair(param, "kernel", kernel, None)
    _pair(param, "stride", [axis.stride for axis in axes], 1)
    _pair(param, "pad", [axis.pad for axis in axes], 0)
    padded = any(axis.pad for axis in axes)
    sizes = {floor: [_pooled(axis, padded=padded, floor=floor) for axis in axes] for floor in (False, True)}
    wanted = [axis.out for axis in axes]
    floor = sizes[False] != wanted and sizes[True] == wanted  # else rounded up, which is never too few
    if floor:
        param.round_mode = PoolingParameter.FLOOR
    _keep(writer, node, name, axes, sizes[floor])
    if average:
        _correct(writer, node, name, axes, include=bool(values.get("count_include_pad", 0)))


def _pooled(axis: _Axis, *, padded: bool, floor: bool) -> int:
    """Return Caffe's number of results; if one of the axes is padded, no window begins in the pad after an axis."""
    span = axis.size + 2 * axis.pad - axis.kernel
    count = (span // axis.stride if floor else -(-span // axis.stride)) + 1
    return count - (padded and (count - 1) * axis.stride >= axis.size + axis.pad)


def _correct(writer: NetWriter, node: onnx.NodeProto, name: str, axes: list[_Axis], *, include: bool) -> None:
    """Scale the averages where Caffe divides by another number of values, those of its pads included."""
    divisors = []
    for axis in axes:
        start = np.arange(axis.out) * axis.stride - axis.begin
        theirs = np.minimum(start + axis.kernel, axis.size + axis.pad) - start
        low, high = (start, axis.size + axis.end) if include else (np.maximum(start, 0), axis.size)
        divisors.append((theirs, np.minimum(start + axis.kernel, high) - low))
    (rows, our_rows), (columns, our_columns) = divisors
    ratio = np.outer(rows, columns) / np.outer(our_rows, our_columns)
    if (ratio == 1).all():
        return
    inner = writer.unique(f"{name}/count")
    scale = writer.layer("Scale", inner, [writer.blob(node.output[0])], arrays=[ratio], learns=False)
    scale.scale_param.axis, scale.scale_param.num_axes = 2, 2
    writer.blobs[node.output[0]] = inner


def padding(writer: NetWriter, node: onnx.NodeProto) -> None:
    """Write Pad as a convolution of every channel with 1, which pads with zeros."""
    values = attributes(node)
    dims = writer.dims(node.input[0])
    pads = writer.constant(node.input[1])
    fill = writer.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(1)
    if values.get("mode", "constant") != "constant" or pads is None or fill is None or fill.any():
        raise RefusedError("pads other than constant zeros")
    begin, end = np.split(pads, 2)
    if len(dims) != 4 or begin[:2].any() or end[:2].any() or (pads < 0).any():
        raise RefusedError("pads of other axes than height and width, or negative ones")
    name, channels = writer.name(node), dims[1]
    layer = writer.step("Convolution", node, name, [np.ones((channels, 1, 1, 1))], learns=False)
    param = layer.convolution_param
    param.num_output, param.group, param.bias_term = channels, channels, False
    param.kernel_size.append(1)
    axes = [
        _Axis(dims[axis], 1, 1, int(low), int(high), dims[axis] + int(low + high), max(int(low), int(high)),
              max(int(low), int(high)) - int(low))
        for axis, low, high in ((2, begin[2], end[2]), (3, begin[3], end[3]))
    ]  # fmt: skip
    _pair(param, "pad", [axis.pad for axis in axes], 0)
    _keep(writer, node, name, axes, [axis.size + 2 * axis.pad for axis in axes])


def resize(writer: NetWriter, node: onnx.NodeProto) -> None:
    """Write a repetition of pixels as Deconvolution with ones, linear interpolation between corners as Interp."""
    from prototxt.schema.forks import fields

    values = attributes(node)
    before, after = writer.dims(node.input[0]), writer.dims(node.output[0])
    place, mode = values.get("coordinate_transformation_mode", "half_pixel"), values.get("mode", "nearest")
    if len(before) != 4:
        raise RefusedError(f"an input of {len(before)} axes instead of 4")
    name = writer.name(node)
    factors = [large // small for small, large in zip(before[2:], after[2:], strict=True)]
    whole = [small * factor for small, factor in zip(before[2:], factors, strict=True)] == list(after[2:])
    near = values.get("nearest_mode", "round_prefer_floor")
    repeats = (place == "asymmetric" and near == "floor") or ("half_pixel" in place and near.startswith("round"))
    if mode == "nearest" and whole and repeats:
        ones = np.ones((before[1], 1, *factors))
        layer = writer.step("Deconvolution", node, name, [ones], learns=False)
        param = layer.convolution_param
        param.num_output, param.group, param.bias_term = before[1], before[1], False
        _pair(param, "kernel", factors, None)
        _pair(param, "stride", factors, 1)
    elif mode == "linear" and place == "align_corners":
        layer = writer.step("Interp", node, name)
        param = fields(layer).interp_param
        param.height, param.width = after[2:]
        writer.fork(layer, "PSPNet, DeepLab v2")
    else:
        raise RefusedError(f"Resize {mode}, {place}: Caffe repeats pixels, or interpolates linearly between corners")
