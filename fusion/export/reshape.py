"""Layers that move, cut, join or choose elements: as ONNX nodes."""

from __future__ import annotations

import numpy as np

from fusion.export.graph_builder import GraphBuilder, Step, exporter
from prototxt.shapes.fork_layers import fork_param


@exporter("Concat")
def _concat(graph: GraphBuilder, step: Step) -> None:
    param = step.layer.concat_param
    axis = param.concat_dim if param.HasField("concat_dim") else param.axis
    graph.node("Concat", step.bottoms, step.tops, axis=step.axis(axis))


@exporter("Slice")
def _slice(graph: GraphBuilder, step: Step) -> None:
    param = step.layer.slice_param
    axis = step.axis(param.slice_dim if param.HasField("slice_dim") else param.axis)
    sizes = [dims[axis] for dims in step.top_dims]
    if len(step.tops) == 1:
        graph.node("Identity", step.bottoms, step.tops)
    elif None in sizes:
        raise step.refusal("it cuts along the batch", "cut along another axis")
    else:
        graph.node(
            "Split", [step.bottoms[0], graph.constant(f"{step.name}:split", sizes, np.int64)], step.tops, axis=axis
        )


@exporter("Split")
def _split(graph: GraphBuilder, step: Step) -> None:
    for top in step.tops:
        graph.node("Identity", step.bottoms, top)


@exporter("Dropout", "SpatialDropout")
def _dropout(graph: GraphBuilder, step: Step) -> None:
    graph.node("Identity", step.bottoms, step.tops)


@exporter("Silence")
def _silence(graph: GraphBuilder, step: Step) -> None:
    """Write nothing."""


@exporter("Flatten", "Reshape", "Reorg")
def _reshape(graph: GraphBuilder, step: Step) -> None:
    """Write Flatten for all axes after the batch, else Reshape to the top's sizes."""
    param = step.layer.flatten_param
    if step.layer.type == "Reorg":
        raise step.refusal("the order of its elements has no counterpart")
    if step.layer.type == "Flatten" and (param.axis, param.end_axis) == (1, -1):
        graph.node("Flatten", step.bottoms, step.tops, axis=1)
    else:
        graph.reshape(step.bottoms[0], step.target(), step.tops[0])


@exporter("Permute", "Transpose")
def _permute(graph: GraphBuilder, step: Step) -> None:
    """Write Transpose; axes that the layer does not list come last, in their order."""
    order = (
        fork_param(step.layer, "permute_param").order
        if step.layer.type == "Permute"
        else fork_param(step.layer, "transpose_param").dim
    )
    first = [step.axis(axis) for axis in order]
    rest = [axis for axis in range(len(step.bottom_dims[0])) if axis not in first]
    graph.node("Transpose", step.bottoms, step.tops, perm=[*first, *rest])


@exporter("ShuffleChannel")
def _shuffle_channel(graph: GraphBuilder, step: Step) -> None:
    """Write the channels of all groups in turn: a transpose of (group, channel)."""
    group = fork_param(step.layer, "shuffle_channel_param").group
    _, channels, *space = step.bottom_dims[0]
    if None in space or channels is None:
        raise step.refusal("a size of its bottom follows the batch")
    sizes = [size or 0 for size in space]
    groups = graph.reshape(step.bottoms[0], [-1, group, channels // group, *sizes])
    turned = graph.op("Transpose", [groups], perm=[0, 2, 1, *range(3, 3 + len(sizes))])
    graph.reshape(turned, [-1, channels, *sizes], step.tops[0])


@exporter("Tile")
def _tile(graph: GraphBuilder, step: Step) -> None:
    repeats = [1] * len(step.bottom_dims[0])
    repeats[step.axis(step.layer.tile_param.axis)] = step.layer.tile_param.tiles
    graph.node("Tile", [step.bottoms[0], graph.constant(f"{step.name}:repeats", repeats, np.int64)], step.tops)


@exporter("Crop")
def _crop(graph: GraphBuilder, step: Step) -> None:
    """Write Slice to the sizes of the second bottom."""
    param = step.layer.crop_param
    start = step.axis(param.axis)
    axes = list(range(start, len(step.bottom_dims[0])))
    sizes = [step.bottom_dims[1][axis] for axis in axes]
    if None in sizes:
        raise step.refusal("it cuts along the batch", "cut along other axes")
    offsets = list(param.offset) or [0]
    offsets = offsets * len(axes) if len(offsets) == 1 else offsets
    ends = [offset + (size or 0) for offset, size in zip(offsets, sizes, strict=True)]
    cuts = [graph.constant(f"{step.name}:{name}", values, np.int64)
            for name, values in (("starts", offsets), ("ends", ends), ("axes", axes))]  # fmt: skip
    graph.node("Slice", [step.bottoms[0], *cuts], step.tops)


@exporter("Softmax")
def _softmax(graph: GraphBuilder, step: Step) -> None:
    graph.node("Softmax", step.bottoms, step.tops, axis=step.axis(step.layer.softmax_param.axis))


@exporter("ArgMax")
def _arg_max(graph: GraphBuilder, step: Step) -> None:
    """Write ArgMax as a float; among equal values Caffe returns the larger index."""
    param = step.layer.argmax_param
    if param.top_k != 1:
        raise step.refusal(
            "ONNX orders equal values of top_k differently", "export the scores, and select from them afterwards"
        )
    axis = step.axis(param.axis) if param.HasField("axis") else 1
    rows = step.bottoms[0] if param.HasField("axis") else graph.op("Flatten", step.bottoms, axis=1)
    best = graph.reduce("ReduceMax", rows, [axis], keep=True)
    index = graph.op("Cast", [graph.op("ArgMax", [rows], axis=axis, keepdims=1, select_last_index=1)], to=1)
    if param.HasField("axis"):
        graph.node("Identity", [best if param.out_max_val else index], step.tops)
        return
    found = graph.op("Concat", [index, best], axis=1) if param.out_max_val else index
    graph.reshape(found, step.target(), step.tops[0])


_REDUCTIONS = {"SUM": "ReduceSum", "MEAN": "ReduceMean", "ASUM": "ReduceL1", "SUMSQ": "ReduceSumSquare"}


@exporter("Reduction")
def _reduction(graph: GraphBuilder, step: Step) -> None:
    """Write a reduction of all axes from one on, times its coefficient."""
    param = step.layer.reduction_param
    op = _REDUCTIONS[param.ReductionOp.Name(param.operation)]
    axes = list(range(step.axis(param.axis), len(step.bottom_dims[0])))
    if param.coeff == 1:
        graph.reduce(op, step.bottoms[0], axes, keep=False, end=step.tops[0])
    else:
        total = graph.reduce(op, step.bottoms[0], axes, keep=False)
        graph.node("Mul", [total, graph.constant(f"{step.name}:coeff", param.coeff)], step.tops)


@exporter("Parameter")
def _parameter(graph: GraphBuilder, step: Step) -> None:
    graph.node("Identity", [step.weight(graph)], step.tops)
