"""Sizes that hold for every batch: those of Reshape become constants, and a batch that the file fixes is opened."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import onnx

from fusion.onnx.graphs.constants import Facts
from fusion.onnx.graphs.graph import Dims, attributes, known_sizes, make_node
from fusion.onnx.graphs.shape_probe import Probe

_UNARY: Final = frozenset(("Cast", "Clip", "Erf", "Gelu", "HardSwish", "Relu", "Sigmoid", "Swish", "Tanh"))
_OVER_AXES_NAMES = """
CumSum Hardmax LayerNormalization LogSoftmax LpNormalization RMSNormalization Softmax TopK
"""
_OVER_AXES: Final = frozenset(_OVER_AXES_NAMES.split())


def static_reshape(node: onnx.NodeProto, facts: Facts, declared: Probe | None) -> list[onnx.NodeProto] | None:
    """Return the node with a constant target, None if there is none for all batches.

    declared  the probe of the batch size that the file fixes; None where it leaves the batch open
    """
    zeros = any(item.name == "allowzero" and item.i for item in node.attribute)
    if declared is not None:
        target = _opened(node, facts, declared, zeros)
    else:
        known = [probe for probe in facts.witnesses if _resolved(node, probe, zeros) is not None]
        resolved = [_resolved(node, probe, zeros) for probe in (*facts.probes, *known)]
        target = _common(resolved, [probe.shapes.get(node.input[0]) for probe in (*facts.probes, *known)])
    if target is None:
        return None
    name = facts.add(f"{node.output[0]}:shape", target)
    return [make_node("Reshape", [node.input[0], name], node.output)]


def as_reshape(gather: onnx.NodeProto, facts: Facts, declared: Probe) -> onnx.NodeProto:
    """Return a Gather of all entries of a row in their order, which exporters write for `as_strided`, as a Reshape."""
    places, row = facts.constant(gather.input[1]), declared.shapes.get(gather.input[0])
    if places is None or places.ndim < 2 or row != (places.size,) or attributes(gather).get("axis", 0):
        return gather
    if not np.array_equal(places.reshape(-1), np.arange(places.size)):
        return gather
    shape = facts.add(f"{gather.output[0]}:sizes", list(places.shape))
    return make_node("Reshape", [gather.input[0], shape], gather.output, name=gather.name)


def _resolved(node: onnx.NodeProto, probe: Probe, zeros: bool) -> tuple[int, ...] | None:
    """Return the output's shape for the probe's batch, None if it is not known."""
    dims, sizes = probe.shapes.get(node.input[0]), probe.values.get(node.input[1])
    if dims is None or sizes is None:
        return None
    kept = dict(enumerate(dims))
    numbers = enumerate(map(int, sizes.reshape(-1)))
    target = known_sizes([size if size or zeros else kept.get(axis) for axis, size in numbers])
    if target is None or -1 not in target:
        return target
    whole = known_sizes(dims)
    if whole is None:
        return None
    total, rest = math.prod(whole), math.prod(size for size in target if size != -1)
    if not rest or total % rest:
        return None
    return tuple(total // rest if size == -1 else size for size in target)


def _common(
    resolved: Sequence[tuple[int, ...] | None], dims: Sequence[tuple[int | None, ...] | None]
) -> list[int] | None:
    """Return sizes for all probes: fixed, 0 to keep the input's, -1 for another that follows the batch; else None."""
    known = [sizes for sizes in resolved if sizes is not None]
    if len(known) != len(resolved) or len({len(sizes) for sizes in known}) != 1:
        return None
    target: list[int] = []
    for axis, column in enumerate(zip(*known, strict=True)):
        if set(column) == {0}:
            return None  # it would be read as "keep the input's"
        if len(set(column)) == 1:
            target.append(column[0])
        elif all(
            shape is not None and axis < len(shape) and shape[axis] == size
            for shape, size in zip(dims, column, strict=True)
        ):
            target.append(0)
        else:
            target.append(-1)
    return target if target.count(-1) < 2 else None


def _opened(node: onnx.NodeProto, facts: Facts, declared: Probe, zeros: bool) -> list[int] | None:
    """Return the file's sizes with the first one left to the batch if the input's first follows it; else None."""
    fixed = _resolved(node, declared, zeros)
    known = [sizes for probe in facts.probes if (sizes := known_sizes(probe.shapes.get(node.input[0]))) is not None]
    if fixed is None or len(known) != len(facts.probes):
        return None
    if len(set(known)) == 1:
        return list(fixed)
    before, outer = declared.shapes.get(node.input[0]), facts.merged.get(node.input[0])
    if outer is not None or any(len(set(column)) > 1 for column in list(zip(*known, strict=True))[1:]):
        place, sizes = _batch_axis(known), known_sizes(before)
        if place is None or sizes is None or sizes[place] % declared.batch or 0 in fixed:
            return None
        outer = math.prod(sizes[:place]) if outer is None else outer
        axis = _batch_place(node, facts, fixed, declared.batch, outer)
        return None if axis is None else [-1 if index == axis else size for index, size in enumerate(fixed)]
    sample = math.prod(fixed[1:])
    if not sample or any(math.prod(shape) % sample for shape in known):
        return None
    return [0 if before and before[0] == fixed[0] else -1, *fixed[1:]] if 0 not in fixed else None


def _batch_place(node: onnx.NodeProto, facts: Facts, fixed: tuple[int, ...], batch: int, outer: int) -> int | None:
    """Return the axis of the file's sizes that follows the batch, None if that is not certain.

    The order of elements does not change, so the batch has as many elements outside it as before. It may be an axis of
    its own, or share one with elements inside it, as with the heads of attention, or outside it, as with a sequence.
    """
    alone = _same_places(fixed, batch, outer)
    if alone:
        return alone[0] if len(alone) == 1 else None
    last = len(fixed) - (node.output[0] in facts.rows)  # a dense layer has a fixed number of features
    starts = [math.prod(fixed[:axis]) for axis in range(last)]
    inside = [axis for axis, start in enumerate(starts) if start == outer and fixed[axis] % batch == 0]
    outside = [axis for axis, start in enumerate(starts) if start < outer and start * fixed[axis] == outer * batch]
    if outside and not inside:
        facts.merged[node.output[0]] = outer
    return next(iter(inside or outside), None)


def keeps_merged(node: onnx.NodeProto, facts: Facts) -> bool:
    """Return whether a node computes each element of the axis that the batch shares by itself; record its output."""
    merged = [name for name in node.input if name in facts.merged]
    if not merged or node.op_type == "Reshape":
        return True
    dims = facts.dims(merged[0]) or ()
    place = next((axis for axis, dim in enumerate(dims) if dim is None), 0)
    others = [facts.constant(name) for name in node.input if name and name not in facts.merged]
    if node.op_type in ("Gemm", "MatMul"):
        sound = merged == [node.input[0]] and place < len(dims) - 1 and all(array is not None for array in others)
    elif node.op_type in ("Add", "Div", "Mul", "Sub"):
        sizes = [None if array is None else ((1,) * len(dims) + array.shape)[place - len(dims)] for array in others]
        sound = set(sizes) <= {1}
    else:
        sound = node.op_type in (*_UNARY, "LayerNormalization") and merged == [node.input[0]]
    if not sound or len({(facts.merged[name], facts.dims(name)) for name in merged}) > 1:
        return False
    facts.merged[node.output[0]] = facts.merged[merged[0]]
    return True


def mixes_batch(node: onnx.NodeProto, facts: Facts) -> bool:
    """Return whether a node computes elements from others along an axis that follows the batch."""
    dims, values = facts.dims(node.input[0]) if node.input else None, attributes(node)
    if dims is None or node.op_type not in _OVER_AXES:
        return False
    axis = values.get("axis", -1)
    if node.op_type == "CumSum":
        index = facts.constant(node.input[1])
        axis = 0 if index is None else int(index.reshape(-1)[0])
    onwards = node.op_type.endswith("Normalization") and node.op_type != "LpNormalization"
    return None in (dims[axis:] if onwards else (dims[axis],))


def expanded_rows(node: onnx.NodeProto, facts: Facts, declared: Probe) -> list[onnx.NodeProto]:
    """Return a Concat whose constants for the file's batch, such as a class token, are expanded to the batch.

    The rows of such a constant must be equal.
    """
    inputs, axis = list(node.input), attributes(node)["axis"]
    known = [(name, dims) for name in inputs if name not in facts.constants and (dims := facts.dims(name))]
    followed = next(((name, dims) for name, dims in known if dims.count(None) == 1), None)
    if followed is None or followed[1].index(None) == axis % len(followed[1]):
        return [node]
    value, dims = followed
    place, stem = dims.index(None), f"{node.output[0]}:batch"
    rows = {name: array.take([0], place) for name in inputs if (array := facts.constant(name)) is not None
            and array.ndim == len(dims) and array.shape[place] == declared.batch
            and (array == array.take([0], place)).all()}  # fmt: skip
    if not rows:
        return [node]
    ends, ones = (facts.add(f"{stem}:{end}", [place + end]) for end in (0, 1)), [1] * len(dims)
    front, back = facts.add(f"{stem}:front", ones[:place]), facts.add(f"{stem}:back", ones[place + 1 :])
    nodes = [
        make_node("Shape", [value], [f"{stem}:sizes:part"]),
        make_node("Slice", [f"{stem}:sizes:part", *ends], [f"{stem}:part"]),
        make_node("Concat", [front, f"{stem}:part", back], [f"{stem}:shape:part"], axis=0),
    ]
    for number, (name, row) in enumerate(rows.items()):
        source = name if declared.batch == 1 else facts.add(f"{name}:row", row, row.dtype)
        inputs[inputs.index(name)] = f"{stem}:{number}:row:part"
        nodes.append(make_node("Expand", [source, f"{stem}:shape:part"], [f"{stem}:{number}:row:part"]))
    return [*nodes, make_node("Concat", inputs, node.output, axis=axis)]


def keeps_samples(before: Sequence[Dims | None], after: Sequence[Dims | None], batches: Sequence[int]) -> bool:
    """Return whether a Reshape or Flatten leaves a batch that is not the first axis outermost on an axis.

    before, after  the shapes for each of the batches
    """
    known = [known_sizes(dims) for dims in before]
    if len({None if dims is None else dims[:1] for dims in before}) > 1 or len(set(before)) == 1:
        return True  # the batch is outermost, or there is none
    place = _batch_axis([sizes for sizes in known if sizes is not None])
    if place is None or None in known:
        return False
    places = [_same_places(then, batch, math.prod(sizes[:place]), whole=False) if sizes and then is not None else []
              for sizes, then, batch in zip(known, map(known_sizes, after), batches, strict=True)]  # fmt: skip
    return bool(set.intersection(*map(set, places)))


def _batch_axis(shapes: Sequence[tuple[int, ...]]) -> int | None:
    """Return the only axis on which shapes for several batches differ, None if there is not one."""
    found = [axis for axis, column in enumerate(zip(*shapes, strict=True)) if len(set(column)) > 1]
    return found[0] if len(found) == 1 else None


def _same_places(sizes: Sequence[int], batch: int, outer: int, *, whole: bool = True) -> list[int]:
    """Return the axes of the batch's size, or of a multiple of it, that have as many elements outside them."""
    return [
        axis
        for axis, size in enumerate(sizes)
        if (size == batch if whole else size % batch == 0) and math.prod(sizes[:axis]) == outer
    ]
