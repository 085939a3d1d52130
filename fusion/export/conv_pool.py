"""Convolutions, dense layers and pooling as ONNX nodes."""

from __future__ import annotations

import numpy as np

from fusion.export.graph_builder import GraphBuilder, Step, exporter
from prototxt.schema.messages import PoolingParameter
from prototxt.shapes.convolution import kernel_windows
from prototxt.shapes.pooling import pooled_size, rounds_down

_LEAST = float(np.finfo(np.float32).min)


@exporter("Convolution", "Deconvolution", "ConvolutionDepthwise", "DepthwiseConvolution", "ConvolutionDepthWise")
def _convolution(graph: GraphBuilder, step: Step) -> None:
    """Write Conv or ConvTranspose, one node per bottom."""
    param, kind = step.layer.convolution_param, step.layer.type
    dims = step.bottom_dims[0]
    if step.axis(param.axis) != 1 or len(dims) < 3:
        raise step.refusal("its channels are not on axis 1, before the spatial axes", "reshape its bottom first")
    geometry = kernel_windows(param, len(dims) - 2)
    # Forks' depthwise types imply the group; Caffe's own type reads it from the prototxt.
    group = dims[1] or 1 if kind.lower().endswith("depthwise") or kind == "DepthwiseConvolution" else param.group
    inputs = [step.weight(graph), *([step.weight(graph, 1)] if len(step.weights) > 1 else [])]
    for bottom, top in zip(step.bottoms, step.tops, strict=True):
        graph.node(
            "ConvTranspose" if kind == "Deconvolution" else "Conv",
            [bottom, *inputs],
            top,
            kernel_shape=[window.kernel for window in geometry],
            strides=[window.stride for window in geometry],
            pads=[window.pad for window in geometry] * 2,
            dilations=[window.dilation for window in geometry],
            group=group,
        )


@exporter("InnerProduct")
def _inner_product(graph: GraphBuilder, step: Step) -> None:
    """Write Gemm over all axes after the batch; along another axis MatMul."""
    param = step.layer.inner_product_param
    axis, bias = step.axis(param.axis), len(step.weights) > 1
    if axis == 1:
        flat = step.bottoms[0] if len(step.bottom_dims[0]) == 2 else graph.op("Flatten", step.bottoms, axis=1)
        inputs = [flat, step.weight(graph), *([step.weight(graph, 1)] if bias else [])]
        graph.node("Gemm", inputs, step.tops, transB=0 if param.transpose else 1)
        return
    rows = graph.reshape(step.bottoms[0], [*[0] * axis, -1])
    matrix = step.weights[0] if param.transpose else step.weights[0].T
    factor = graph.constant(f"{step.name}:0", matrix)
    if not bias:
        graph.node("MatMul", [rows, factor], step.tops)
    else:
        graph.node("Add", [graph.op("MatMul", [rows, factor]), step.weight(graph, 1)], step.tops)


@exporter("Embed")
def _embed(graph: GraphBuilder, step: Step) -> None:
    index = graph.op("Cast", step.bottoms, to=7)
    if len(step.weights) == 1:
        graph.node("Gather", [step.weight(graph), index], step.tops, axis=0)
    else:
        rows = graph.op("Gather", [step.weight(graph), index], axis=0)
        graph.node("Add", [rows, step.weight(graph, 1)], step.tops)


@exporter("Pooling")
def _pooling(graph: GraphBuilder, step: Step) -> None:
    """Write MaxPool or AveragePool over explicitly padded windows.

    Caffe rounds sizes up; ONNX's ceil_mode divides averages by another count, so it is not used.
    """
    param = step.layer.pooling_param
    if param.pool == param.STOCHASTIC:
        raise step.refusal("ONNX has no stochastic pooling", "use MAX or AVE")
    if len(step.tops) > 1:
        raise step.refusal("its mask numbers positions in another way than ONNX", "drop the second top")
    average = param.pool == param.AVE
    if param.global_pooling:
        graph.node("GlobalAveragePool" if average else "GlobalMaxPool", step.bottoms, step.tops)
        return
    if None in step.bottom_dims[0][2:]:
        raise step.refusal("the size of its bottom follows the batch")
    kernel, stride, pad = (_pair(param, *names) for names in _FIELDS)
    overhang = _overhang(param, [dim or 0 for dim in step.bottom_dims[0][2:]], kernel, stride, pad)
    (_average if average else _maximum)(graph, step, kernel, stride, pad, overhang)


_FIELDS = (("kernel", "kernel_size"), ("stride", "stride"), ("pad", "pad"))
_Pair = tuple[int, int]


def _pair(param: PoolingParameter, short: str, long: str) -> _Pair:
    if param.HasField(f"{short}_h"):
        return getattr(param, f"{short}_h"), getattr(param, f"{short}_w")
    return getattr(param, long), getattr(param, long)


def _overhang(param: PoolingParameter, sizes: list[int], kernel: _Pair, stride: _Pair, pad: _Pair) -> _Pair:
    """Return how far the last windows reach beyond the far edges; 0 where they do not."""
    reach = []
    for size, *window in zip(sizes, kernel, stride, pad, strict=True):
        count = pooled_size(size, *window, clip=any(pad), floor=rounds_down(param)) or 0
        reach.append(max(0, (count - 1) * window[1] + window[0] - window[2] - size))
    return reach[0], reach[1]


def _maximum(graph: GraphBuilder, step: Step, kernel: _Pair, stride: _Pair, pad: _Pair, overhang: _Pair) -> None:
    if all(end < size for end, size in zip(overhang, kernel, strict=True)):
        graph.node("MaxPool", step.bottoms, step.tops, kernel_shape=kernel, strides=stride, pads=[*pad, *overhang])
        return
    # A window that lies wholly in the padding: no runtime accepts such pads, so the values are padded explicitly.
    padded = _padded(graph, step, pad, overhang, _LEAST)
    graph.node("MaxPool", [padded], step.tops, kernel_shape=kernel, strides=stride)


def _average(graph: GraphBuilder, step: Step, kernel: _Pair, stride: _Pair, pad: _Pair, overhang: _Pair) -> None:
    """Write AveragePool with Caffe's divisors.

    Caffe counts padding up to one pad beyond the far edge; windows that reach further divide by less
    (pooling_layer.cpp).
    """
    if all(end <= edge for end, edge in zip(overhang, pad, strict=True)):
        pads = [*pad, *overhang]
        graph.node(
            "AveragePool", step.bottoms, step.tops, kernel_shape=kernel, strides=stride, pads=pads, count_include_pad=1
        )
        return
    padded = _padded(graph, step, pad, overhang, 0.0)
    means = graph.op("AveragePool", [padded], kernel_shape=kernel, strides=stride)
    spans = []
    for size, count, length, step_size, edge in zip(
        step.bottom_dims[0][2:], step.top_dims[0][2:], kernel, stride, pad, strict=True
    ):
        start = np.arange(count or 0) * step_size - edge
        spans.append(np.minimum(start + length, (size or 0) + edge) - start)
    with np.errstate(divide="ignore", invalid="ignore"):  # a window without any element gives NaN, as in Caffe
        share = kernel[0] * kernel[1] / np.outer(*spans)
    graph.node("Mul", [means, graph.constant(f"{step.name}:share", share)], step.tops)


def _padded(graph: GraphBuilder, step: Step, pad: _Pair, overhang: _Pair, value: float) -> str:
    ends = graph.constant(f"{step.name}:pads", [0, 0, *pad, 0, 0, *overhang], np.int64)
    return graph.op("Pad", [step.bottoms[0], ends, graph.constant(f"{step.name}:edge", value)])
