"""Layers that act on each element, and those that add, scale or normalise: as ONNX nodes."""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch
from numpy.typing import ArrayLike

from fusion.errors import DeadShares
from fusion.export.graph_builder import Dims, GraphBuilder, Step, exporter
from fusion.layers.weighted import WeightedSum
from prototxt.shapes.fork_layers import fork_param

_UNARY = {"AbsVal": "Abs", "BNLL": "Softplus", "Sigmoid": "Sigmoid", "TanH": "Tanh", "HardSwish": "HardSwish"}
Steps = list[tuple[str, ArrayLike | None]]


@exporter(*_UNARY)
def _unary(graph: GraphBuilder, step: Step) -> None:
    graph.node(_UNARY[step.layer.type], step.bottoms, step.tops)


@exporter("ReLU")
def _relu(graph: GraphBuilder, step: Step) -> None:
    slope = step.layer.relu_param.negative_slope
    if slope:
        graph.node("LeakyRelu", step.bottoms, step.tops, alpha=slope)
    else:
        graph.node("Relu", step.bottoms, step.tops)


@exporter("ELU")
def _elu(graph: GraphBuilder, step: Step) -> None:
    graph.node("Elu", step.bottoms, step.tops, alpha=step.layer.elu_param.alpha)


@exporter("PReLU")
def _prelu(graph: GraphBuilder, step: Step) -> None:
    slopes = step.weights[0]
    # ONNX broadcasts slopes from the last axis backwards; Caffe's lie on axis 1.
    shape = (slopes.size, *[1] * (len(step.bottom_dims[0]) - 2)) if slopes.size > 1 else (1,)
    graph.node("PRelu", [step.bottoms[0], step.weight(graph, 0, shape)], step.tops)


@exporter("Clip", "ReLU6")
def _clip(graph: GraphBuilder, step: Step) -> None:
    if step.layer.type == "Clip":
        low, high = step.layer.clip_param.min, step.layer.clip_param.max
    else:
        low, high = 0.0, fork_param(step.layer, "relu6_param").threshold
    bounds = [graph.constant(f"{step.name}:{end}", value) for end, value in (("min", low), ("max", high))]
    graph.node("Clip", [step.bottoms[0], *bounds], step.tops)


@exporter("Threshold")
def _threshold(graph: GraphBuilder, step: Step) -> None:
    limit = graph.constant(f"{step.name}:threshold", step.layer.threshold_param.threshold)
    graph.node("Cast", [graph.op("Greater", [step.bottoms[0], limit])], step.tops, to=1)


@exporter("Swish")
def _swish(graph: GraphBuilder, step: Step) -> None:
    """Write x * sigmoid(beta * x)."""
    beta = step.layer.swish_param.beta
    scaled = step.bottoms[0]
    if beta != 1:
        scaled = graph.op("Mul", [scaled, graph.constant(f"{step.name}:beta", beta)])
    graph.node("Mul", [step.bottoms[0], graph.op("Sigmoid", [scaled])], step.tops)


@exporter("Power")
def _power(graph: GraphBuilder, step: Step) -> None:
    """Write (shift + scale * x) ^ power."""
    param = step.layer.power_param
    steps = _affine(param.scale, param.shift)
    steps += [("Pow", param.power)] if param.power != 1 else []
    graph.chain(step.bottoms[0], steps, step.tops[0])


@exporter("Exp")
def _exp(graph: GraphBuilder, step: Step) -> None:
    """Write base ^ (shift + scale * x); base -1 stands for e."""
    param = step.layer.exp_param
    logarithm = 1.0 if param.base == -1 else math.log(param.base)
    steps = [*_affine(logarithm * param.scale, 0), ("Exp", None), *_affine(math.exp(logarithm * param.shift), 0)]
    graph.chain(step.bottoms[0], steps, step.tops[0])


@exporter("Log")
def _log(graph: GraphBuilder, step: Step) -> None:
    """Write the logarithm of shift + scale * x to the base; base -1 stands for e."""
    param = step.layer.log_param
    factor = 1.0 if param.base == -1 else 1 / math.log(param.base)
    steps = [*_affine(param.scale, param.shift), ("Log", None), *_affine(factor, 0)]
    graph.chain(step.bottoms[0], steps, step.tops[0])


def _affine(scale: float, shift: float) -> Steps:
    return [*([("Mul", scale)] if scale != 1 else []), *([("Add", shift)] if shift else [])]


@exporter("Eltwise")
def _eltwise(graph: GraphBuilder, step: Step) -> None:
    param = step.layer.eltwise_param
    if param.operation == param.PROD:
        value = step.bottoms[0]
        for other in step.bottoms[1:-1]:
            value = graph.op("Mul", [value, other])
        graph.node("Mul", [value, step.bottoms[-1]], step.tops)
    elif param.operation == param.MAX:
        graph.node("Max", step.bottoms, step.tops)
    else:
        _weighted(graph, step, list(param.coeff) or [1.0] * len(step.bottoms))


@exporter("WeightedSum")
def _weighted_sum(graph: GraphBuilder, step: Step) -> None:
    """Write the trained shares as constants. Warns: DeadShares when all are 0."""
    softmax = step.layer.weighted_sum_param.normalization == step.layer.weighted_sum_param.SOFTMAX
    weight = torch.nn.Parameter(torch.from_numpy(np.asarray(step.weights[0], np.float64).ravel()))
    shares = WeightedSum(weight, softmax).shares().tolist()
    if not any(shares):
        text = f"layer '{step.layer.name}': all shares are 0, so its top is 0"
        warnings.warn(f"{text}; train it again at a lower rate, or take head softmax", DeadShares, stacklevel=2)
    _weighted(graph, step, shares)


def _weighted(graph: GraphBuilder, step: Step, coefficients: list[float]) -> None:
    terms = [
        name if share == 1 else graph.op("Mul", [name, graph.constant(f"{step.name}:coeff", share)])
        for name, share in zip(step.bottoms, coefficients, strict=True)
    ]
    if len(terms) == 2:
        graph.node("Add", terms, step.tops)
    else:
        graph.node("Sum", terms, step.tops)


@exporter("Gate")
def _gate(graph: GraphBuilder, step: Step) -> None:
    """Write the softmax of a linear map of all features, which weights each bottom."""
    flat = [graph.op("Flatten", [name], axis=1) for name in step.bottoms]
    features = graph.op("Concat", flat, axis=1)
    inputs = [features, step.weight(graph), *([step.weight(graph, 1)] if len(step.weights) > 1 else [])]
    shares = graph.op("Softmax", [graph.op("Gemm", inputs, transB=1)], axis=1)
    parts = [f"{step.name}:share{number}" for number in range(len(step.bottoms))]
    sizes = graph.constant(f"{step.name}:split", [1] * len(parts), np.int64)
    graph.node("Split", [shares, sizes], parts, axis=1)
    ones = [1] * (len(step.bottom_dims[0]) - 1)
    terms = [
        graph.op("Mul", [name, graph.reshape(part, [-1, *ones])])
        for name, part in zip(step.bottoms, parts, strict=True)
    ]
    graph.node("Sum", terms, step.tops)


@exporter("Scale", "Bias")
def _scale(graph: GraphBuilder, step: Step) -> None:
    """Write Mul and Add with blobs that broadcast over the first bottom from an axis on."""
    is_scale, given = step.layer.type == "Scale", len(step.bottoms) > 1
    param = step.layer.scale_param if is_scale else step.layer.bias_param
    start = step.axis(param.axis)
    own = [step.weight(graph, index, _spread(step, start, blob.shape)) for index, blob in enumerate(step.weights)]
    if given:
        dims = _trailing_ones(step, start)
        own.insert(0, graph.reshape(step.bottoms[1], dims) if dims else step.bottoms[1])
    value = step.bottoms[0]
    ops = ["Mul", "Add"] if is_scale else ["Add"]
    for place, (op, other) in enumerate(zip(ops, own, strict=False)):
        if place == len(own) - 1:
            graph.node(op, [value, other], step.tops)
        else:
            value = graph.op(op, [value, other])


def _spread(step: Step, start: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape, *[1] * (len(step.bottom_dims[0]) - start - len(shape)))


def _trailing_ones(step: Step, start: int) -> list[int]:
    """Return the second bottom's shape followed by axes of size 1, [] where none are needed."""
    dims: Dims = step.bottom_dims[1]
    missing = len(step.bottom_dims[0]) - start - len(dims)
    if not missing or not dims:
        return []
    if sum(dim is None for dim in dims) > 1:
        raise step.refusal("more than one size of its second bottom follows the batch")
    return [*(-1 if dim is None else dim for dim in dims), *[1] * missing]


@exporter("Axpy")
def _axpy(graph: GraphBuilder, step: Step) -> None:
    """Write a * x + y, with one a per sample and channel."""
    factor, x, y = step.bottoms
    channels = step.bottom_dims[1][1]
    spread = graph.reshape(factor, [0, channels or -1, *[1] * (len(step.bottom_dims[1]) - 2)])
    graph.node("Add", [graph.op("Mul", [spread, x]), y], step.tops)


@exporter("BatchNorm")
def _batch_norm(graph: GraphBuilder, step: Step) -> None:
    """Write BatchNormalization with the stored statistics, which Caffe keeps as sums and a factor."""
    param = step.layer.batch_norm_param
    if param.HasField("use_global_stats") and not param.use_global_stats:
        raise step.refusal("it uses each batch's own statistics", "set use_global_stats: true, or remove the field")
    mean, variance, factor, *own = (blob.astype(np.float64) for blob in step.weights)
    scale, shift = own or (np.ones_like(mean), np.zeros_like(mean))
    # Statistics that were never accumulated have the factor 0, which Caffe reads as mean 0 and variance 0.
    share = 0.0 if factor.ravel()[0] == 0 else 1 / factor.ravel()[0]
    arrays = {"scale": scale, "shift": shift, "mean": mean * share, "var": variance * share}
    inputs = [graph.constant(f"{step.name}:{name}", array.ravel()) for name, array in arrays.items()]
    graph.node("BatchNormalization", [step.bottoms[0], *inputs], step.tops, epsilon=param.eps)


@exporter("MVN")
def _mvn(graph: GraphBuilder, step: Step) -> None:
    """Write x minus its mean, divided by its standard deviation plus eps: Caffe adds eps after the root."""
    param = step.layer.mvn_param
    axes = list(range(1 if param.across_channels else 2, len(step.bottom_dims[0])))
    mean = graph.reduce("ReduceMean", step.bottoms[0], axes, keep=True)
    if not param.normalize_variance:
        graph.node("Sub", [step.bottoms[0], mean], step.tops)
        return
    rest = graph.op("Sub", [step.bottoms[0], mean])
    variance = graph.reduce("ReduceMean", graph.op("Mul", [rest, rest]), axes, keep=True)
    eps = graph.constant(f"{step.name}:eps", param.eps)
    graph.node("Div", [rest, graph.op("Add", [graph.op("Sqrt", [variance]), eps])], step.tops)


@exporter("LRN")
def _lrn(graph: GraphBuilder, step: Step) -> None:
    """Write LRN; within a channel as a mean over zero-padded windows."""
    param = step.layer.lrn_param
    size = param.local_size
    if param.norm_region == param.ACROSS_CHANNELS:
        graph.node("LRN", step.bottoms, step.tops, size=size, alpha=param.alpha, beta=param.beta, bias=param.k)
        return
    squares = graph.op("Mul", [step.bottoms[0], step.bottoms[0]])
    means = graph.op("AveragePool", [squares], kernel_shape=[size, size], pads=[size // 2] * 4, count_include_pad=1)
    value = f"{step.name}:divisor"
    graph.chain(means, [("Mul", param.alpha), ("Add", 1.0), ("Pow", param.beta)], value)
    graph.node("Div", [step.bottoms[0], value], step.tops)
