"""Operators of opset 18 and later, expressed in opset 17 where that means exactly the same.

Sources: the operators' change logs at https://onnx.ai/onnx/operators/.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx
from onnx import defs, helper

from fusion.onnx.graphs.constants import Facts
from fusion.onnx.graphs.graph import OWN, attributes, make_node

# Versions after opset 17 of these only added element types, or attributes whose default is the old meaning.
_SAME_NAMES = """
Acos Acosh Asin Asinh Atan Atanh AveragePool BatchNormalization BitShift Cast CastLike Celu Clip Concat Constant
ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Det Dropout Einsum Elu Equal Expand
EyeLike Flatten GRU Gather GatherElements GatherND GlobalAveragePool GlobalLpPool GlobalMaxPool GridSample HardSigmoid
HardSwish Identity InstanceNormalization IsInf IsNaN LSTM LayerNormalization LpNormalization MaxPool Mod NonZero
OneHot Pad QuantizeLinear RNN Range Reshape Resize ReverseSequence RoiAlign Round ScatterElements ScatterND Selu Shape
Sin Sinh Size Slice Softplus Softsign SpaceToDepth Split Squeeze Tan ThresholdedRelu TopK Transpose Unsqueeze Where
"""
SAME: Final = frozenset(_SAME_NAMES.split())
_REDUCTIONS = "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSumSquare"
REDUCTIONS: Final = frozenset(_REDUCTIONS.split())
NEWER: Final = {"Gelu": 20, "GroupNormalization": 21, "Mish": 18, "RMSNormalization": 23, "Swish": 24}
"""Operators missing in opset 17 that this package converts itself, with the first version of their present meaning."""


def lower_node(node: onnx.NodeProto, facts: Facts, opset: int) -> list[onnx.NodeProto] | None:
    """Return the node in operators of opset 17; None if they cannot express it.

    opset  of the file
    """
    # The version of the operator decides, not the opset of the file: most did not change after opset 17.
    if node.domain or opset <= 17:
        return [node]
    try:
        version = defs.get_schema(node.op_type, opset, "").since_version
    except defs.SchemaError:
        return None
    if version <= 17:
        return [node]
    if node.op_type == "AffineGrid":
        return _affine_grid(node, facts)
    if node.op_type in NEWER:
        return _own(node) if version >= NEWER[node.op_type] else None
    if node.op_type in REDUCTIONS:
        return _reduction(node, facts)
    if node.op_type == "Resize":
        return _resize(node, facts)
    if node.op_type in _RULES:
        node = _RULES[node.op_type](node, facts) or node
    return _checked(node, opset) if node.op_type in SAME else None


def _checked(node: onnx.NodeProto, opset: int) -> list[onnx.NodeProto] | None:
    """Return the node without attributes that opset 17 lacks; None if one of them is not at its neutral value."""
    old, new = defs.get_schema(node.op_type, 17, ""), defs.get_schema(node.op_type, opset, "")
    if len(node.input) > old.max_input:
        return None
    remaining = []
    for item in node.attribute:
        if item.name in old.attributes:
            remaining.append(item)
            continue
        default = new.attributes[item.name].default_value if item.name in new.attributes else None
        neutral = item.name == "dilations" and set(item.ints) == {1}
        if not neutral and (default is None or helper.get_attribute_value(item) != helper.get_attribute_value(default)):
            return None
    result = onnx.NodeProto()
    result.CopyFrom(node)
    del result.attribute[:]
    result.attribute.extend(remaining)
    return [result]


def _own(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    result = onnx.NodeProto()
    result.CopyFrom(node)
    result.domain = OWN
    return [result]


def _reduction(node: onnx.NodeProto, facts: Facts) -> list[onnx.NodeProto] | None:
    """Return the reduction with axes as an attribute: they became an input in opset 18."""
    values = attributes(node)
    axes = facts.constant(node.input[1]) if len(node.input) > 1 and node.input[1] else None
    if len(node.input) > 1 and node.input[1] and axes is None:
        return None
    if axes is None or not axes.size:
        if values.get("noop_with_empty_axes"):
            return [make_node("Identity", node.input[:1], node.output)]
        return [make_node(node.op_type, node.input[:1], node.output, keepdims=values.get("keepdims", 1))]
    numbers = [int(axis) for axis in axes.reshape(-1)]
    return [make_node(node.op_type, node.input[:1], node.output, axes=numbers, keepdims=values.get("keepdims", 1))]


def _pad(node: onnx.NodeProto, facts: Facts) -> onnx.NodeProto | None:
    """Return Pad with pads for all axes: opset 18 added the axes as an input."""
    if len(node.input) < 4 or not node.input[3]:
        return make_node("Pad", [*node.input[:3]], node.output, **attributes(node))
    dims, axes, pads = facts.dims(node.input[0]), facts.constant(node.input[3]), facts.constant(node.input[1])
    if dims is None or axes is None or pads is None:
        return None
    every = np.zeros((2, len(dims)), np.int64)
    every[:, axes.reshape(-1)] = pads.reshape(2, -1)
    name = facts.add(f"{node.output[0]}:pads", every.reshape(-1))
    return make_node("Pad", [node.input[0], name, *node.input[2:3]], node.output, **attributes(node))


def _split(node: onnx.NodeProto, facts: Facts) -> onnx.NodeProto | None:
    """Return Split with explicit sizes: opset 18 added the number of parts, of which the last may be smaller."""
    values = attributes(node)
    count = values.pop("num_outputs", None)
    if count is None or (len(node.input) > 1 and node.input[1]):
        return make_node("Split", node.input, node.output, **values)
    dims, axis = facts.dims(node.input[0]), values.get("axis", 0)
    size = dims[axis] if dims is not None else None
    if size is None:
        return None
    part = -(-size // count)
    sizes = [max(0, min(part, size - part * index)) for index in range(count)]
    return make_node("Split", [node.input[0], facts.add(f"{node.output[0]}:split", sizes)], node.output, **values)


def _resize(node: onnx.NodeProto, facts: Facts) -> list[onnx.NodeProto] | None:
    """Return the node, its axes included, unless it uses features that opset 17 lacks."""
    values = attributes(node)
    if values.pop("antialias", 0) or values.pop("keep_aspect_ratio_policy", "stretch") != "stretch":
        return None
    return [make_node("Resize", node.input, node.output, **values)]


def _affine_grid(node: onnx.NodeProto, facts: Facts) -> list[onnx.NodeProto] | None:
    """Return AffineGrid of maps with their height and width as an attribute, for any number of matrices."""
    every = (*facts.probes, *([facts.declared] if facts.declared else []))
    sizes = [probe.values.get(node.input[1]) for probe in every]
    known = [[int(size) for size in found] for found in sizes if found is not None]
    if len(known) != len(every) or any(len(found) != 4 or found[2:] != known[0][2:] for found in known):
        return None
    if attributes(node).get("align_corners") and 1 in known[0][2:]:
        return None  # ONNX Runtime puts the only element at the start, torch in the middle
    # The batch of the file may be written into the sizes: then they need to fit that batch alone.
    judged = -1 if facts.declared else 0
    counts = [(probe.shapes.get(node.input[0]) or (None,))[0] for probe in every[judged:]]
    if counts != [found[0] for found in known[judged:]]:
        return None
    values = {**attributes(node), "size": known[0][2:]}
    return [make_node("AffineGrid", node.input[:1], node.output, domain=OWN, **values)]


def _grid_sample(node: onnx.NodeProto, facts: Facts) -> onnx.NodeProto | None:
    """Return GridSample with the names of its modes before opset 20."""
    values = attributes(node)
    mode = values.pop("mode", "linear")
    older = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
    return make_node("GridSample", node.input, node.output, mode=older, **values)


_RULES = {"GridSample": _grid_sample, "Pad": _pad, "Split": _split}
