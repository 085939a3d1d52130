"""QuantizeLinear and DequantizeLinear; a pair of them is one node of our own domain, which passes gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto

from fusion.onnx.graphs.constants import Facts
from fusion.onnx.graphs.graph import OWN, Dims, attributes, make_node

QUANTIZED: Final = frozenset(("QuantizeLinear", "DequantizeLinear"))
_KINDS: Final = {"QuantizeLinear": ("INT8", "UINT8"), "DequantizeLinear": ("INT8", "UINT8", "INT32")}


def pair_quantization(nodes: Sequence[onnx.NodeProto], facts: Facts) -> Iterator[onnx.NodeProto]:
    """Yield the nodes; one that dequantizes what another has quantized alike becomes FakeQuantize of its input."""
    makers = {node.output[0]: node for node in nodes if node.op_type == "QuantizeLinear" and not node.domain}
    for node in nodes:
        first = makers.get(node.input[0]) if node.op_type == "DequantizeLinear" and not node.domain else None
        limits = () if first is None else quantization_limits(first, facts.probes[0].types, facts.dims)
        if first is not None and _are_alike(first, node, facts) and not any(limits):
            yield make_node("FakeQuantize", first.input, node.output, domain=OWN, **attributes(node))
        else:
            yield node


def _are_alike(first: onnx.NodeProto, second: onnx.NodeProto, facts: Facts) -> bool:
    settings = list(zip(first.input[1:], second.input[1:], strict=False))
    same = len(first.input) == len(second.input) and attributes(first) == attributes(second)
    return same and all(_are_equal(facts, *names) for names in settings)


def _are_equal(facts: Facts, name: str, other: str) -> bool:
    one, two = facts.constant(name), facts.constant(other)
    return name == other or (
        one is not None and two is not None and one.dtype == two.dtype and np.array_equal(one, two)
    )


def quantization_limits(
    node: onnx.NodeProto, types: Mapping[str, int], dims: Callable[[str], Dims | None]
) -> Iterator[str]:
    """Yield why a node cannot be run: opset 17 has 8 bits, 32 for biases, and one scale or one per index of an axis."""
    place = 2 if node.op_type == "QuantizeLinear" else 0
    name = TensorProto.DataType.Name(types.get(node.input[place], 0)) if node.input[place:] else "UINT8"
    if name not in _KINDS[node.op_type]:
        yield f"whole numbers of type {name.lower()}"
    shape, scales, axis = dims(node.input[0]), dims(node.input[1]), attributes(node).get("axis", 1)
    if scales is None or len(scales) > 1:
        yield "scales of unknown shape, or of several axes"
    elif scales not in ((), (1,)) and (
        shape is None or not -len(shape) <= axis < len(shape) or shape[axis] != scales[0]
    ):
        yield "scales that are not as many as its input has on their axis"
