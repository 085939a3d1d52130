"""Arithmetic of two values: Caffe's Eltwise takes equal shapes only, so constants and smaller values become layers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from fusion.onnx.to_caffe.net_writer import NetWriter, RefusedError
from prototxt.schema.messages import EltwiseParameter

_WITH_BIAS = {"InnerProduct": "inner_product_param", "Convolution": "convolution_param",
              "Deconvolution": "convolution_param"}  # fmt: skip


def arithmetic(writer: NetWriter, node: onnx.NodeProto) -> None:
    """Write Add, Sub, Mul, Div, Max of two values; Sum of several."""
    constants = [writer.constant(value) for value in node.input]
    if len(node.input) == 2 and any(array is not None for array in constants):
        _with_constant(writer, node, constants)
        return
    if any(array is not None for array in constants):
        raise RefusedError("constants among several values")
    shapes = [writer.dims(value) for value in node.input]
    if len(set(shapes)) == 1:
        _equal(writer, node)
    elif len(shapes) == 2 and node.op_type in ("Add", "Sub", "Mul", "Div"):
        _broadcast(writer, node, shapes)
    else:
        raise RefusedError("values of different shapes")


def _equal(writer: NetWriter, node: onnx.NodeProto) -> None:
    name, bottoms = writer.name(node), [writer.blob(value) for value in node.input]
    if node.op_type == "Div":
        bottoms[1] = _power(writer, f"{name}/inverse", bottoms[1], power=-1)
    param = writer.layer("Eltwise", name, bottoms).eltwise_param
    kinds = {"Mul": EltwiseParameter.PROD, "Div": EltwiseParameter.PROD, "Max": EltwiseParameter.MAX}
    if node.op_type in kinds:
        param.operation = kinds[node.op_type]
    if node.op_type == "Sub":
        param.coeff[:] = [1, -1]
    writer.blobs[node.output[0]] = name


def _power(writer: NetWriter, name: str, bottom: str, **values: float) -> str:
    """Write (shift + scale * x) ^ power; return its blob."""
    name = writer.unique(name)
    param = writer.layer("Power", name, [bottom]).power_param
    for field, value in values.items():
        setattr(param, field, value)
    return name


def _broadcast(writer: NetWriter, node: onnx.NodeProto, shapes: list[tuple[int, ...]]) -> None:
    """Write the value with fewer entries as the scale or bias of the other: (N, C, 1, 1) for (N, C, H, W)."""
    name, blobs = writer.name(node), [writer.blob(value) for value in node.input]
    small = 0 if math.prod(shapes[0][1:]) < math.prod(shapes[1][1:]) else 1
    large = shapes[1 - small]
    if node.op_type in ("Sub", "Div"):  # x - y is x + (-y), x / y is x * y^-1
        values = {"scale": -1.0} if node.op_type == "Sub" else {"power": -1.0}
        blobs[1] = _power(writer, f"{name}/{'negative' if node.op_type == 'Sub' else 'inverse'}", blobs[1], **values)
    sizes = shapes[small]
    kept = next((axis for axis in range(len(sizes)) if set(sizes[axis:]) == {1}), len(sizes))
    if len(sizes) != len(large) or sizes[:kept] != large[:kept]:
        raise RefusedError(f"values of shapes {_shown(shapes[0])} and {_shown(shapes[1])}")
    flat = writer.unique(f"{name}/flat")  # (N, C), as Caffe takes the factors of a prefix of the axes
    writer.layer("Reshape", flat, [blobs[small]]).reshape_param.shape.dim[:] = [0, *sizes[1:kept]]
    blobs[small] = flat
    kind = "Scale" if node.op_type in ("Mul", "Div") else "Bias"
    layer = writer.layer(kind, name, [blobs[1 - small], blobs[small]])
    (layer.scale_param if kind == "Scale" else layer.bias_param).axis = 0
    writer.blobs[node.output[0]] = name


def _shown(dims: tuple[int, ...]) -> str:
    return "x".join("N" if size == 0 else str(size) for size in dims)


def _with_constant(writer: NetWriter, node: onnx.NodeProto, arrays: list[NDArray[Any] | None]) -> None:
    """Write the constant as a number of Power, as a layer's bias, or as the weights of Scale or Bias."""
    first = arrays[0] is not None
    value, other = (node.input[0], node.input[1]) if first else (node.input[1], node.input[0])
    array = np.asarray(writer.constant(value), np.float64)
    dims, name, blob = writer.dims(other), writer.name(node), writer.blob(other)
    if node.op_type == "Max":
        if array.size != 1 or array.item() != 0:
            raise RefusedError("the maximum with a constant other than 0")
        writer.step("ReLU", node, name, bottom=blob)
        return
    if first and node.op_type == "Div":
        blob = _power(writer, f"{name}/inverse", blob, power=-1)
    elif first and node.op_type == "Sub":
        blob = _power(writer, f"{name}/negative", blob, scale=-1)
    elif node.op_type == "Sub":
        array = -array
    elif node.op_type == "Div":
        array = 1 / array
    product = node.op_type in ("Mul", "Div")
    if array.size == 1 and array.ndim <= len(dims):
        power = writer.step("Power", node, name, bottom=blob).power_param
        setattr(power, "scale" if product else "shift", float(array.item()))
        return
    axis, array = _aligned(array, dims)
    learns = writer.learns(value)
    if not product and not first and writer.single(other) and _as_bias(writer, blob, axis, array, dims):
        writer.blobs[node.output[0]] = blob
        return
    layer = writer.step("Scale" if product else "Bias", node, name, [array], bottom=blob, learns=learns)
    param = layer.scale_param if product else layer.bias_param
    if axis != 1:
        param.axis = axis
    if array.ndim != 1:
        param.num_axes = array.ndim


def _aligned(array: NDArray[Any], dims: tuple[int, ...]) -> tuple[int, NDArray[Any]]:
    """Return the first axis that a constant differs along, and the constant of the shape that Caffe gives it.

    Raises: RefusedError where it enlarges the other value, or differs within a batch.
    """
    sizes = (*[1] * (len(dims) - array.ndim), *array.shape)
    wide = [axis for axis, size in enumerate(sizes) if size != 1]
    if len(sizes) > len(dims) or 0 in wide or any(sizes[axis] != dims[axis] for axis in wide):
        raise RefusedError(f"a constant of shape {'x'.join(map(str, array.shape))} for {_shown(dims)}")
    begin, end = wide[0], wide[-1] + 1
    return begin, np.broadcast_to(array.reshape(sizes[begin:]), (*dims[begin:end], *sizes[end:])).reshape(
        dims[begin:end]
    )


def _as_bias(writer: NetWriter, blob: str, axis: int, array: NDArray[Any], dims: tuple[int, ...]) -> bool:
    """Make the constant the bias of the layer below, if that has none; return whether it was possible."""
    layer = writer.maker(blob)
    if layer is None or layer.type not in _WITH_BIAS:
        return False
    param = getattr(layer, _WITH_BIAS[layer.type])
    place = len(dims) - 1 if layer.type == "InnerProduct" else 1
    if param.bias_term or array.ndim != 1 or axis != place or layer.param:
        return False
    param.ClearField("bias_term")
    writer.weights[layer.name].append(np.asarray(array, np.float32))
    return True
