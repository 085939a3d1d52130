"""Nodes of opset 17 in forms that convert exactly: explicit pads, dense layers with rows of weights, one output."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from fusion.onnx.graphs.constants import Facts, Rule
from fusion.onnx.graphs.graph import OWN, attributes, known_sizes, make_node
from fusion.onnx.graphs.recurrent_form import plain_recurrent
from fusion.onnx.graphs.shape_probe import Probe

_WINDOWED: Final = frozenset(("Conv", "MaxPool", "AveragePool"))


def canonical_nodes(node: onnx.NodeProto, facts: Facts) -> list[onnx.NodeProto]:
    """Return the node in its plain form, or equivalent simpler nodes."""
    if node.domain:
        return [node]
    if node.op_type in _WINDOWED:
        node = _explicit_pads(node, facts)
    rule = _RULES.get(node.op_type)
    found = rule(node, facts) if rule else None
    return [node] if found is None else found


def _explicit_pads(node: onnx.NodeProto, facts: Facts) -> onnx.NodeProto:
    """Return the node with auto_pad replaced by pads: SAME where the sizes are known, VALID as none."""
    values = attributes(node)
    mode = values.pop("auto_pad", "NOTSET")
    if mode == "NOTSET":
        return node
    if mode == "VALID":
        values.pop("pads", None)
        return make_node(node.op_type, node.input, node.output, **values)
    dims = facts.dims(node.input[0])
    weight = facts.dims(node.input[1]) if node.op_type == "Conv" else None
    sizes = known_sizes((dims or ())[2:])
    kernel = known_sizes(values.get("kernel_shape") or (weight or ())[2:])
    if not sizes or not kernel:
        return node
    count = len(kernel)
    strides, dilations = values.get("strides", [1] * count), values.get("dilations", [1] * count)
    pads = np.zeros((2, count), np.int64)
    for axis, (size, reach, stride, spread) in enumerate(zip(sizes, kernel, strides, dilations, strict=True)):
        span = (-(-size // stride) - 1) * stride + (reach - 1) * spread + 1
        total = max(0, span - size)
        small, large = total // 2, total - total // 2
        pads[:, axis] = (small, large) if mode == "SAME_UPPER" else (large, small)
    return make_node(
        node.op_type, node.input, node.output, **{**values, "pads": [int(pad) for pad in pads.reshape(-1)]}
    )


def _normalization(node: onnx.NodeProto, facts: Facts) -> list[onnx.NodeProto] | None:
    """Keep one output: the torch module updates the running statistics itself."""
    values = attributes(node)
    if values.pop("training_mode", 0):
        facts.notes["BatchNormalization, exported as in training, uses its statistics except in TRAIN"] = None
    values.pop("is_test", None)
    values.pop("spatial", None)
    return [make_node("BatchNormalization", node.input, node.output[:1], **values)]


def _split_to_sequence(node: onnx.NodeProto, facts: Facts) -> list[onnx.NodeProto] | None:
    """Return Split, where nothing but single elements of the sequence is read: torch writes `chunk` in this way."""
    values, sequence = attributes(node), node.output[0]
    given = facts.constant(node.input[1]) if len(node.input) > 1 else np.int64(1)
    axis, dims = values.get("axis", 0), facts.dims(node.input[0])
    size = dims[axis] if dims is not None and -len(dims) <= axis < len(dims) else None
    listed = facts.elements[sequence] == facts.uses[sequence]
    if size is None or given is None or not listed or (len(node.input) == 1 and not values.get("keepdims", 1)):
        return None
    step = int(np.max(given))
    sizes = np.reshape(given, -1) if np.ndim(given) else np.diff([*range(0, size, step), size])
    names = [f"{sequence}:{number}" for number in range(len(sizes))]
    facts.sequences[sequence] = names
    return [make_node("Split", [node.input[0], facts.add(f"{sequence}:sizes", sizes)], names, axis=axis)]


def _sequence_at(node: onnx.NodeProto, facts: Facts) -> list[onnx.NodeProto] | None:
    names, index = facts.sequences.get(node.input[0]), facts.constant(node.input[1])
    if names is None or index is None or not -len(names) <= int(index) < len(names):
        return None
    facts.uses[names[int(index)]] += 1
    return [make_node("Identity", [names[int(index)]], node.output)]


def _dropout(node: onnx.NodeProto, facts: Facts) -> list[onnx.NodeProto] | None:
    """Return Dropout with its ratio as an attribute and a mask only if it is read; None for seeded training mode."""
    names = [*node.input, "", ""]
    ratio, training = facts.constant(names[1]), facts.constant(names[2])
    share = float(ratio.reshape(-1)[0]) if ratio is not None else float(attributes(node).get("ratio", 0.5))
    if names[2] and share and (training is None or (training.any() and "seed" in attributes(node))):
        return None
    if names[1] and ratio is None:
        facts.notes["Dropout with a computed ratio drops nothing, also in TRAIN"] = None
        share = 0.0
    count = 2 if len(node.output) > 1 and facts.uses.get(node.output[1]) else 1
    return [make_node("Dropout", node.input[:1], node.output[:count], domain=OWN, ratio=share)]


def _gemm(node: onnx.NodeProto, facts: Facts) -> list[onnx.NodeProto] | None:
    """Return Gemm with constant weights of shape (outputs, inputs), a bias vector, and alpha and beta multiplied in."""
    values = attributes(node)
    weight = facts.constant(node.input[1])
    has_bias = len(node.input) > 2 and bool(node.input[2])
    bias = facts.constant(node.input[2]) if has_bias else None
    if weight is None or values.get("transA") or (has_bias and bias is None) or weight.dtype != np.float32:
        return None
    rows = weight if values.get("transB") else weight.T
    if bias is not None and (bias.size not in (1, len(rows)) or bias.ndim > 2 or (bias.ndim == 2 and len(bias) != 1)):
        return None
    alpha, beta = values.get("alpha", 1.0), values.get("beta", 1.0)
    inputs = [node.input[0], _update(facts, node.input[1], weight, rows if alpha == 1 else rows * np.float32(alpha))]
    if bias is not None:
        vector = np.broadcast_to(bias.reshape(-1), (len(rows),))
        inputs.append(_update(facts, node.input[2], bias, vector if beta == 1 else vector * np.float32(beta)))
    return [make_node("Gemm", inputs, node.output, transB=1)]


def _update(facts: Facts, name: str, old: NDArray[Any], new: NDArray[Any]) -> str:
    """Store a constant's new value; return its name, which stays unless other nodes read the old value.

    Matrices are not compared by value: they may be large and mapped from a file.
    """
    if new is old or (new.ndim == 1 and np.array_equal(new, old)):
        return name
    if facts.uses[name] != 1:
        return facts.add(f"{name}:rows", new, np.float32)
    facts.know(name, new)
    return name


def _global_max(node: onnx.NodeProto, facts: Facts) -> list[onnx.NodeProto] | None:
    dims = facts.dims(node.input[0])
    if dims is None:
        return None
    return [make_node("ReduceMax", node.input, node.output, axes=list(range(2, len(dims))), keepdims=1)]


def _depth_to_space(node: onnx.NodeProto, facts: Facts) -> list[onnx.NodeProto] | None:
    """Return Reshape, Transpose, Reshape for blocks of mode DCR, of which torch has no function."""
    values, sizes = attributes(node), known_sizes((facts.dims(node.input[0]) or ())[1:])
    size = values["blocksize"]
    if not sizes or values.get("mode", "DCR") != "DCR":
        return None
    channels, height, width = sizes
    split = [0, size, size, channels // size**2, height, width]
    return _permuted(node, facts, split, [0, 3, 4, 1, 5, 2], [0, channels // size**2, height * size, width * size])


def _space_to_depth(node: onnx.NodeProto, facts: Facts) -> list[onnx.NodeProto] | None:
    size, sizes = attributes(node)["blocksize"], known_sizes((facts.dims(node.input[0]) or ())[1:])
    if not sizes:
        return None
    channels, height, width = sizes
    split = [0, channels, height // size, size, width // size, size]
    return _permuted(node, facts, split, [0, 3, 5, 1, 2, 4], [0, channels * size**2, height // size, width // size])


def _permuted(
    node: onnx.NodeProto, facts: Facts, split: list[int], order: list[int], merged: list[int]
) -> list[onnx.NodeProto]:
    name = node.output[0]
    first, last = facts.add(f"{name}:apart:shape", split), facts.add(f"{name}:shape", merged)
    return [
        make_node("Reshape", [node.input[0], first], [f"{name}:apart"]),
        make_node("Transpose", [f"{name}:apart"], [f"{name}:turned"], perm=order),
        make_node("Reshape", [f"{name}:turned", last], [name]),
    ]


def _cast_like(node: onnx.NodeProto, facts: Facts) -> list[onnx.NodeProto] | None:
    kind = facts.probes[0].types.get(node.input[1])
    return None if kind is None else [make_node("Cast", node.input[:1], node.output, to=kind)]


def _first_output(node: onnx.NodeProto, facts: Facts) -> list[onnx.NodeProto] | None:
    """Return the node without unread outputs; None if there are none, or one is read."""
    if len(node.output) == 1 or any(facts.uses.get(name) for name in node.output[1:] if name):
        return None
    return [make_node(node.op_type, node.input, node.output[:1], **attributes(node))]


def _layer_norm(node: onnx.NodeProto, facts: Facts) -> list[onnx.NodeProto] | None:
    values = attributes(node)
    values.pop("stash_type", None)
    count = max(index + 1 for index, name in enumerate(node.output) if not index or facts.uses.get(name))
    return [make_node(node.op_type, [name for name in node.input if name], node.output[:count], **values)]


def _resize(node: onnx.NodeProto, facts: Facts) -> list[onnx.NodeProto] | None:
    """Return Resize with attributes for sizes or factors of the spatial axes; None if others change or are unknown."""
    values = attributes(node)
    dims = [probe.shapes.get(node.input[0]) for probe in facts.probes]
    if any(shape is None for shape in dims) or any(name and name not in facts.constants for name in node.input[1:3]):
        return None
    shape = dims[0] or ()
    axes = values.pop("axes", list(range(len(shape))))
    scales = facts.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if scales is not None and scales.size:
        factors = {axis % len(shape): float(scale) for axis, scale in zip(axes, scales, strict=True)}
        if any(factors.get(axis, 1.0) != 1 for axis in (0, 1)):
            return None
        values["scales"] = [factors.get(axis, 1.0) for axis in range(2, len(shape))]
    else:
        found = [_resized(node, probe, axes, facts.declared) for probe in facts.probes]
        if found[0] is None or any(sizes != found[0] for sizes in found):
            return None
        values["sizes"] = found[0]
    return [make_node("Resize", node.input[:1], node.output, domain=OWN, **values)]


def _resized(node: onnx.NodeProto, probe: Probe, axes: list[int], declared: Probe | None) -> tuple[int, ...] | None:
    """Return the spatial sizes for one batch; None if they are not known, or batch or channels change."""
    target, dims = probe.values.get(node.input[3]) if len(node.input) > 3 else None, probe.shapes[node.input[0]]
    if target is None:
        return None
    sizes = {axis % len(dims): int(size) for axis, size in zip(axes, target.reshape(-1), strict=True)}
    batches = (dims[0], declared.shapes[node.input[0]][0] if declared is not None else dims[0])
    if sizes.get(0, dims[0]) not in batches or sizes.get(1, dims[1]) != dims[1]:
        return None
    return known_sizes([sizes.get(axis, dims[axis]) for axis in range(2, len(dims))])


_RULES: Final[dict[str, Rule]] = {
    "BatchNormalization": _normalization,
    "CastLike": _cast_like,
    "DepthToSpace": _depth_to_space,
    "Dropout": _dropout,
    "Gemm": _gemm,
    "GlobalMaxPool": _global_max,
    "GRU": plain_recurrent,
    "LSTM": plain_recurrent,
    "LayerNormalization": _layer_norm,
    "MaxPool": _first_output,
    "RNN": plain_recurrent,
    "Resize": _resize,
    "SequenceAt": _sequence_at,
    "SpaceToDepth": _space_to_depth,
    "SplitToSequence": _split_to_sequence,
}
