"""The weights among a graph's constants, in an order that depends on the file alone."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fusion.onnx.graphs.graph import Graph

# Operators whose constant inputs are weights even if they hold one value; for others a single value is a setting.
_WEIGHTED_NAMES = """
BatchNormalization Conv ConvTranspose GRU Gemm GroupNormalization InstanceNormalization LSTM LayerNormalization PRelu
RMSNormalization RNN
"""
_WEIGHTED: Final = frozenset(_WEIGHTED_NAMES.split())
_SETTINGS: Final = frozenset(
    ("Clip", "GridSample", "Max", "Min", "Pad", "Pow", "Range", "Resize", "TreeEnsemble", "Where")
)
_QUANTIZING: Final = frozenset(("DequantizeLinear", "FakeQuantize", "QuantizeLinear"))  # their scales are settings
STATISTICS: Final = {"BatchNormalization": (3, 4)}
"""Inputs that are statistics, not learned by gradients."""


def graph_weights(graph: Graph) -> dict[str, NDArray[np.float32]]:
    """Return the graph's weights and statistics by name, float32, in the order in which its nodes read them."""
    found: dict[str, NDArray[Any]] = {}
    for node in graph.nodes:
        for name in node.input[:1] if node.op_type in _QUANTIZING else node.input:
            array = graph.constants.get(name)
            if array is None or array.dtype != np.float32 or name in graph.settings:
                continue
            if is_weight(node.op_type, array):
                found.setdefault(name, array)
    return found


def is_weight(op: str, array: NDArray[Any]) -> bool:
    """Return whether a constant that this operator reads is learned, rather than a setting."""
    return op in _WEIGHTED or (op not in _SETTINGS and array.size > 1)


def statistics(graph: Graph) -> frozenset[str]:
    """Return the weights that no gradient changes: running means and variances."""
    return frozenset(
        node.input[index]
        for node in graph.nodes
        for index in STATISTICS.get(node.op_type, ())
        if index < len(node.input)
    )


def has_trees(graph: Graph) -> bool:
    """Return whether a part of the graph is trees, which cannot learn."""
    return any(node.op_type == "TreeEnsemble" for node in graph.nodes)
