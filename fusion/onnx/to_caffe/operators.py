"""ONNX's operators as Caffe's layers: a rule for each operator that Caffe can compute exactly."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np
import onnx

from fusion.onnx.graphs.graph import OWN, attributes
from fusion.onnx.to_caffe import windows
from fusion.onnx.to_caffe.arithmetic import arithmetic
from fusion.onnx.to_caffe.net_writer import SCALE, NetWriter, RefusedError
from prototxt.schema.forks import fields
from prototxt.schema.messages import EltwiseParameter, PoolingParameter, ReductionParameter

Rule = Callable[[NetWriter, onnx.NodeProto], None]
_LARGEST = float(np.finfo(np.float32).max)


def write_node(writer: NetWriter, node: onnx.NodeProto) -> None:
    """Append the layers of a node. Raises: RefusedError with the reason where Caffe has none."""
    rule = _RULES.get(node.op_type) if node.domain in ("", OWN) else None
    if rule is None:
        raise RefusedError("Caffe has no such layer")
    rule(writer, node)


def _simple(kind: str) -> Rule:
    def rule(writer: NetWriter, node: onnx.NodeProto) -> None:
        writer.step(kind, node, writer.name(node))

    return rule


def _power(**values: float) -> Rule:
    def rule(writer: NetWriter, node: onnx.NodeProto) -> None:
        param = writer.step("Power", node, writer.name(node)).power_param
        for field, value in values.items():
            setattr(param, field, value)

    return rule


def _pow(writer: NetWriter, node: onnx.NodeProto) -> None:
    power = writer.constant(node.input[1])
    if power is None or power.size != 1:
        raise RefusedError("a power that is no single constant")
    _power(power=float(power.item()))(writer, node)


def _dense(writer: NetWriter, node: onnx.NodeProto) -> None:
    """Write Gemm, or MatMul by a constant, as InnerProduct along the last axis."""
    values, weight = attributes(node), writer.constant(node.input[1])
    if weight is None or weight.ndim != 2:
        raise RefusedError("a product of two values" if weight is None else "weights of more than two axes")
    if values.get("transA"):
        raise RefusedError("a Gemm with a transposed input")
    arrays = [weight if values.get("transB") else weight.T]
    if len(node.input) > 2 and node.input[2]:
        bias = writer.constant(node.input[2])
        # In the plain form alpha and beta are multiplied in, but where the bias is one of these.
        if bias is None or bias.size not in (1, len(arrays[0])) or math.prod(bias.shape[:-1]) != 1:
            raise RefusedError("its bias is computed" if bias is None else "a bias that is not one per output")
        arrays.append(np.broadcast_to(bias.ravel(), len(arrays[0])))
    rank = len(writer.dims(node.input[0]))
    param = writer.step("InnerProduct", node, writer.name(node), arrays).inner_product_param
    param.num_output = arrays[0].shape[0]
    if len(arrays) == 1:
        param.bias_term = False
    if rank > 2:
        param.axis = rank - 1


def _normalization(writer: NetWriter, node: onnx.NodeProto) -> None:
    """Write BatchNormalization as BatchNorm with the statistics, and Scale with the learned factors."""
    arrays = [writer.constant(value) for value in node.input[1:5]]
    constants = [array for array in arrays if array is not None]
    if len(constants) < len(arrays):
        raise RefusedError("its statistics or factors are computed")
    scale, bias, mean, variance = constants
    values, name = attributes(node), writer.name(node)
    output, inner = node.output[0], onnx.NodeProto()
    inner.CopyFrom(node)
    inner.output[0] = f"{output}:normalized"
    param = writer.step("BatchNorm", inner, name, [mean, variance, np.ones(1)]).batch_norm_param
    param.eps = values.get("epsilon", 1e-5)
    param.moving_average_fraction = values.get("momentum", 0.9)
    below = writer.blob(inner.output[0])
    layer = writer.step("Scale", node, writer.unique(f"{name}{SCALE}"), [scale, bias], bottom=below)
    layer.scale_param.bias_term = True


def _lrn(writer: NetWriter, node: onnx.NodeProto) -> None:
    values = attributes(node)
    param = writer.step("LRN", node, writer.name(node)).lrn_param
    param.local_size, param.alpha = values["size"], values.get("alpha", 1e-4)
    param.beta, param.k = values.get("beta", 0.75), values.get("bias", 1.0)


def _softmax(writer: NetWriter, node: onnx.NodeProto) -> None:
    axis = attributes(node).get("axis", -1) % len(writer.dims(node.input[0]))
    name = writer.name(node)
    if node.op_type == "Softmax":
        layer = writer.step("Softmax", node, name)
    else:
        inner = writer.unique(f"{name}/softmax")
        layer = writer.layer("Softmax", inner, [writer.blob(node.input[0])])
        writer.step("Log", node, name, bottom=inner)
    if axis != 1:
        layer.softmax_param.axis = axis


def _leaky(writer: NetWriter, node: onnx.NodeProto) -> None:
    layer = writer.step("ReLU", node, writer.name(node))
    layer.relu_param.negative_slope = attributes(node).get("alpha", 0.01)


def _elu(writer: NetWriter, node: onnx.NodeProto) -> None:
    writer.step("ELU", node, writer.name(node)).elu_param.alpha = attributes(node).get("alpha", 1.0)


def _prelu(writer: NetWriter, node: onnx.NodeProto) -> None:
    slope, dims = writer.constant(node.input[1]), writer.dims(node.input[0])
    if slope is None:
        raise RefusedError("slopes that are computed")
    axis = slope.ndim - len(dims) + 1  # of channels: shapes are aligned at the last axis, as (C, 1, 1) or (1, C, 1, 1)
    if slope.size != 1 and (axis < 0 or not slope.size == slope.shape[axis] == dims[1]):
        raise RefusedError("slopes that are not one per channel")
    layer = writer.step("PReLU", node, writer.name(node), [slope.ravel()])
    if slope.size == 1 and dims[1] != 1:
        layer.prelu_param.channel_shared = True
        writer.weights[layer.name] = [slope.reshape(()).astype(np.float32)]


def _clip(writer: NetWriter, node: onnx.NodeProto) -> None:
    """Write Clip; from 0 on it is ReLU."""
    limits = []
    for index, unbounded in ((1, -_LARGEST), (2, _LARGEST)):
        value = node.input[index] if len(node.input) > index else ""
        array = writer.constant(value) if value else np.asarray(unbounded)
        if array is None or array.size != 1:
            raise RefusedError("a bound that is computed")
        limits.append(min(max(float(array.item()), -_LARGEST), _LARGEST))
    _clip_to(writer, node, writer.name(node), limits[0], limits[1])


def _clip_to(
    writer: NetWriter, node: onnx.NodeProto, name: str, low: float, high: float, bottom: str | None = None
) -> None:
    if low == 0 and high == _LARGEST:
        writer.step("ReLU", node, name, bottom=bottom)
        return
    param = writer.step("Clip", node, name, bottom=bottom).clip_param
    param.min, param.max = low, high


def _hard(writer: NetWriter, node: onnx.NodeProto) -> None:
    """Write HardSigmoid, and HardSwish as its product with the input, by Power and Clip, which BVLC Caffe has."""
    values, name, swish = attributes(node), writer.name(node), node.op_type == "HardSwish"
    alpha, beta = (1 / 6, 0.5) if swish else (values.get("alpha", 0.2), values.get("beta", 0.5))
    inner = writer.unique(f"{name}/line")
    param = writer.layer("Power", inner, [writer.blob(node.input[0])]).power_param
    param.scale, param.shift = alpha, beta
    if not swish:
        _clip_to(writer, node, name, 0, 1, bottom=inner)
        return
    gate = writer.unique(f"{name}/gate")
    clip = writer.layer("Clip", gate, [inner]).clip_param
    clip.min, clip.max = 0, 1
    _product(writer, node, name, gate)


def _swish(writer: NetWriter, node: onnx.NodeProto) -> None:
    writer.step("Swish", node, writer.name(node)).swish_param.beta = attributes(node).get("alpha", 1.0)


def _product(writer: NetWriter, node: onnx.NodeProto, name: str, gate: str) -> None:
    layer = writer.layer("Eltwise", name, [writer.blob(node.input[0]), gate])
    layer.eltwise_param.operation = EltwiseParameter.PROD
    writer.blobs[node.output[0]] = name


def _dropout(writer: NetWriter, node: onnx.NodeProto) -> None:
    writer.step("Dropout", node, writer.name(node)).dropout_param.dropout_ratio = attributes(node).get("ratio", 0.5)


def _global_average(writer: NetWriter, node: onnx.NodeProto) -> None:
    _global(writer, node, PoolingParameter.AVE)


def _global(writer: NetWriter, node: onnx.NodeProto, kind: PoolingParameter.PoolMethod) -> None:
    before, after = writer.dims(node.input[0]), writer.dims(node.output[0])
    if len(before) != 4:
        raise RefusedError(f"an input of {len(before)} axes instead of 4")
    name = writer.name(node)
    inner = name if len(after) == 4 else writer.unique(f"{name}/pool")
    param = writer.layer("Pooling", inner, [writer.blob(node.input[0])]).pooling_param
    param.pool, param.global_pooling = kind, True
    writer.blobs[node.output[0]] = inner
    if len(after) != 4:
        writer.step("Flatten", node, name, bottom=inner)


_REDUCTIONS: Final = {"ReduceMean": ReductionParameter.MEAN, "ReduceSum": ReductionParameter.SUM,
                      "ReduceL1": ReductionParameter.ASUM, "ReduceSumSquare": ReductionParameter.SUMSQ}  # fmt: skip


def _reduce(writer: NetWriter, node: onnx.NodeProto) -> None:
    """Write a reduction of height and width as global pooling, of all last axes as Reduction."""
    values, dims = attributes(node), writer.dims(node.input[0])
    given = values.get("axes")
    if given is None and len(node.input) > 1 and node.input[1]:
        array = writer.constant(node.input[1])
        if array is None:
            raise RefusedError("a reduction over axes that are computed")
        given = array.tolist()
    axes = sorted(axis % len(dims) for axis in given or range(len(dims)))
    if axes == [2, 3] and len(dims) == 4 and node.op_type in ("ReduceMean", "ReduceMax"):
        _global(writer, node, PoolingParameter.AVE if node.op_type == "ReduceMean" else PoolingParameter.MAX)
        return
    if axes != list(range(axes[0], len(dims))) or not axes[0] or node.op_type not in _REDUCTIONS:
        raise RefusedError(f"a reduction over axes {axes} of {len(dims)}")
    name, keep = writer.name(node), values.get("keepdims", True)
    inner = writer.unique(f"{name}/reduced") if keep else name
    param = writer.layer("Reduction", inner, [writer.blob(node.input[0])]).reduction_param
    param.operation, param.axis = _REDUCTIONS[node.op_type], axes[0]
    writer.blobs[node.output[0]] = inner
    if keep:
        _reshape_to(writer, node, name, inner)


def _concat(writer: NetWriter, node: onnx.NodeProto) -> None:
    if any(writer.constant(value) is not None for value in node.input):
        raise RefusedError("constants are joined with values")
    axis = attributes(node)["axis"] % len(writer.dims(node.output[0]))
    if not axis:
        raise RefusedError("samples are joined into a longer batch")
    name = writer.name(node)
    layer = writer.layer("Concat", name, [writer.blob(value) for value in node.input])
    if axis != 1:
        layer.concat_param.axis = axis
    writer.blobs[node.output[0]] = name


def _split(writer: NetWriter, node: onnx.NodeProto) -> None:
    dims, axis = writer.dims(node.input[0]), attributes(node).get("axis", 0)
    axis %= len(dims)
    sizes = [writer.dims(value)[axis] for value in node.output]
    if not axis:
        raise RefusedError("parts of a batch")
    name = writer.name(node)
    tops = [writer.unique(f"{name}/{index}") for index in range(len(sizes))]
    param = writer.layer("Slice", name, [writer.blob(node.input[0])], tops).slice_param
    param.axis = axis
    param.slice_point[:] = [int(point) for point in np.cumsum(sizes)[:-1]]
    writer.blobs.update(zip(node.output, tops, strict=True))


def _slice(writer: NetWriter, node: onnx.NodeProto) -> None:
    """Write Slice with constant bounds as one Slice per axis that it shortens."""
    arrays = [writer.constant(value) if value else np.zeros(0) for value in node.input[1:]]
    dims = writer.dims(node.input[0])
    numbers = [array.ravel().tolist() for array in arrays if array is not None]
    if len(numbers) < len(arrays):
        raise RefusedError("bounds that are computed")
    starts, ends, axes, steps = (*numbers, [], [])[:4]
    if any(step != 1 for step in steps):
        raise RefusedError("steps other than 1")
    cuts = []
    for number, start, end in zip(axes or range(len(starts)), starts, ends, strict=True):
        axis = number % len(dims)
        low, high, _ = slice(start, end).indices(dims[axis])
        if not axis and (start != 0 or end < 2**31 - 1):
            raise RefusedError("parts of a batch")
        if (low, high) != (0, dims[axis]):
            cuts.append((axis, low, high - low))
    _cut(writer, node, writer.name(node), cuts)


def _gather(writer: NetWriter, node: onnx.NodeProto) -> None:
    """Write Gather of one entry, or of successive ones, as Slice."""
    index, dims = writer.constant(node.input[1]), writer.dims(node.input[0])
    axis = attributes(node).get("axis", 0) % len(dims)
    if index is None or not axis:
        raise RefusedError("entries that are computed" if index is None else "samples of a batch")
    numbers = (index.ravel() % dims[axis]).tolist()
    if index.ndim > 1 or numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        raise RefusedError("entries in another order")
    name = writer.name(node)
    cuts = [(axis, numbers[0], len(numbers))] if len(numbers) != dims[axis] else []
    if index.ndim == 1:
        _cut(writer, node, name, cuts)
        return
    blob = writer.blob(node.input[0])
    for cut_axis, first, count in cuts:
        part = writer.unique(f"{name}/part")
        windows.cut_out(writer, part, blob, cut_axis, first, count, dims[cut_axis])
        blob = part
    _reshape_to(writer, node, name, blob)


def _cut(writer: NetWriter, node: onnx.NodeProto, name: str, cuts: list[tuple[int, int, int]]) -> None:
    dims, blob = writer.dims(node.input[0]), writer.blob(node.input[0])
    for number, (axis, first, count) in enumerate(cuts, 1):
        inner = name if number == len(cuts) else writer.unique(f"{name}/{number}")
        windows.cut_out(writer, inner, blob, axis, first, count, dims[axis])
        blob = inner
    writer.blobs[node.output[0]] = blob


def _reshape(writer: NetWriter, node: onnx.NodeProto) -> None:
    _reshape_to(writer, node, writer.name(node), writer.blob(node.input[0]))


def _reshape_to(writer: NetWriter, node: onnx.NodeProto, name: str, bottom: str) -> None:
    """Write the layer that gives a blob the shape of the node's output."""
    before, after = writer.dims(node.input[0]), writer.dims(node.output[0])
    if before[0] or after[0]:
        raise RefusedError("its batch becomes another axis, or its size is fixed")
    if len(after) == 2 and len(before) > 2 and math.prod(before[1:]) == after[1]:
        writer.step("Flatten", node, name, bottom=bottom)
        return
    writer.step("Reshape", node, name, bottom=bottom).reshape_param.shape.dim[:] = after


def _transpose(writer: NetWriter, node: onnx.NodeProto) -> None:
    order = attributes(node).get("perm")
    if order is None or order[0]:
        raise RefusedError("its batch becomes another axis")
    layer = writer.step("Permute", node, writer.name(node))
    fields(layer).permute_param.order[:] = order
    writer.fork(layer, "SSD")


_RULES: Final[dict[str, Rule]] = {
    "Abs": _simple("AbsVal"), "Add": arithmetic, "AveragePool": windows.pooling, "BatchNormalization": _normalization,
    "Clip": _clip, "Concat": _concat, "Conv": windows.convolution, "ConvTranspose": windows.deconvolution,
    "Div": arithmetic, "Dropout": _dropout, "Elu": _elu, "Exp": _simple("Exp"), "Flatten": _reshape,
    "Gather": _gather, "Gemm": _dense, "GlobalAveragePool": _global_average, "HardSigmoid": _hard, "HardSwish": _hard,
    "LRN": _lrn, "LeakyRelu": _leaky, "Log": _simple("Log"), "LogSoftmax": _softmax, "MatMul": _dense,
    "Max": arithmetic, "MaxPool": windows.pooling, "Mul": arithmetic, "Neg": _power(scale=-1), "PRelu": _prelu,
    "Pad": windows.padding, "Pow": _pow, "Reciprocal": _power(power=-1), "ReduceL1": _reduce, "ReduceMax": _reduce,
    "ReduceMean": _reduce, "ReduceSum": _reduce, "ReduceSumSquare": _reduce, "Relu": _simple("ReLU"),
    "Reshape": _reshape, "Resize": windows.resize, "Sigmoid": _simple("Sigmoid"), "Slice": _slice,
    "Softmax": _softmax, "Softplus": _simple("BNLL"), "Split": _split, "Sqrt": _power(power=0.5),
    "Squeeze": _reshape, "Sub": arithmetic, "Sum": arithmetic, "Swish": _swish, "Tanh": _simple("TanH"),
    "Transpose": _transpose, "Unsqueeze": _reshape,
}  # fmt: skip
