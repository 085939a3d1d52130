"""Which constants of a graph are its weights, in one order that depends on the file alone."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fusion.onnx.graphs.graph import Graph

# Inputs that are weights even if they hold one value, by operator; of other operators constants of one value are none.
_WEIGHTED_NAMES = """
BatchNormalization Conv ConvTranspose Gemm GroupNormalization InstanceNormalization LayerNormalization PRelu
RMSNormalization
"""
_WEIGHTED: Final = frozenset(_WEIGHTED_NAMES.split())
_SETTINGS: Final = frozenset(("Clip", "Max", "Min", "Pad", "Pow", "Range", "Resize", "Where"))
STATISTICS: Final = {"BatchNormalization": (3, 4)}
"""Inputs that are kept and not learned."""


def weights(graph: Graph) -> dict[str, NDArray[np.float32]]:
    """The graph's weights and statistics by name, float32, in the order in which its nodes read them."""
    found: dict[str, NDArray[Any]] = {}
    for node in graph.nodes:
        for name in node.input:
            array = graph.constants.get(name)
            if array is not None and array.dtype == np.float32 and is_weight(node.op_type, array):
                found.setdefault(name, array)
    return found


def is_weight(op: str, array: NDArray[Any]) -> bool:
    """Whether a constant that this operator reads is learned, rather than a setting."""
    return op in _WEIGHTED or (op not in _SETTINGS and array.size > 1)


def statistics(graph: Graph) -> frozenset[str]:
    """The weights that no gradient changes: running means and variances."""
    return frozenset(
        node.input[index]
        for node in graph.nodes
        for index in STATISTICS.get(node.op_type, ())
        if index < len(node.input)
    )
