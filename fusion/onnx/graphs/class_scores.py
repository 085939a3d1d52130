"""Class scores of a classifier of `ai.onnx.ml` whose output is probabilities: their logarithms.

Losses and heads take the softmax of class scores, and that of probabilities would be close to uniform.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import numpy as np
import onnx

from fusion.onnx.graphs.cut import scores_value
from fusion.onnx.graphs.graph import Graph, make_node
from fusion.onnx.graphs.ml_operators import SCORES

_LEAST: Final = np.finfo(np.float32).eps  # for the logarithm of 0: of a class without votes
_BOUND: Final = -1e-5  # of sums that are 0 but for their rounding
_NAMES = "Abs Exp HardSigmoid ReduceL1 ReduceL2 Relu Sigmoid Softmax Softplus Sqrt"
_ALWAYS: Final = frozenset(_NAMES.split())
_PASSING_NAMES = """
Cast Expand Flatten Gather Identity Reciprocal ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum Reshape Slice Split
Squeeze Tile Transpose Unsqueeze
"""
_PASSING: Final = frozenset(_PASSING_NAMES.split())
_JOINING: Final = frozenset(("Add", "Concat", "Div", "Max", "Mean", "Min", "Mul", "Pow", "Sum"))


def with_class_scores(graph: Graph) -> Graph:
    """Return a classifier's graph with the logarithms of its first output as `NAME:scores`, if none is negative.

    The graph is unchanged if its output is the softmax or sigmoid of scores, or may be negative, as scores are.
    """
    name, makers = scores_value(graph), {value: node for node in graph.nodes for value in node.output}
    if name != graph.outputs[0] or not _is_positive(graph, makers, name):
        return graph
    least, clipped, scores = f"{name}:least", f"{name}:clipped:part", f"{name}{SCORES}"
    nodes = make_node("Max", [name, least], [clipped]), make_node("Log", [clipped], [scores])
    return replace(
        graph,
        nodes=(*graph.nodes, *nodes),
        constants={**graph.constants, least: np.asarray(_LEAST, np.float32)},
        shapes={**graph.shapes, **dict.fromkeys((clipped, scores), graph.shapes.get(name, (None, None))), least: ()},
        types={**graph.types, **dict.fromkeys((clipped, scores, least), onnx.TensorProto.FLOAT)},
        notes=(*graph.notes, f"its class scores are the logarithms of '{name.lstrip('/')}'"),
    )


def _is_positive(graph: Graph, makers: Mapping[str, onnx.NodeProto], name: str) -> bool:
    """Return whether the value is known to be 0 or more."""
    array, node = graph.constants.get(name), makers.get(name)
    if array is not None:
        return array.dtype.kind in "biuf" and bool((array >= 0).all())
    if graph.types.get(name) == onnx.TensorProto.BOOL:
        return True
    if node is None:
        return False
    if node.op_type == "TreeEnsemble":
        return any(item.name == "least" and item.f >= _BOUND for item in node.attribute)
    if node.op_type == "Sub":  # of a probability from 1
        one, other = graph.constants.get(node.input[0]), _origin(makers, node.input[1])
        return one is not None and bool((one >= 1).all()) and other in ("Sigmoid", "Softmax")
    known = [_is_positive(graph, makers, each) for each in node.input if each] if node.op_type in _JOINING else []
    passed = node.op_type in _PASSING and _is_positive(graph, makers, node.input[0])
    chosen = node.op_type == "Where" and all(_is_positive(graph, makers, each) for each in node.input[1:])
    return node.op_type in _ALWAYS or (bool(known) and all(known)) or passed or chosen


def _origin(makers: Mapping[str, onnx.NodeProto], name: str) -> str:
    """Return the operator that computed the elements of a value."""
    while name in makers and makers[name].op_type in _PASSING - {"Reciprocal", "ReduceProd", "ReduceSum"}:
        name = makers[name].input[0]
    return makers[name].op_type if name in makers else ""
