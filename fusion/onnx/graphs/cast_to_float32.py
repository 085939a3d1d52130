"""Conversion of half and double precision to float32, the only precision in which nets are computed here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_OTHERS: Final[dict[int, str]] = {TensorProto.FLOAT16: "float16", TensorProto.DOUBLE: "float64"}
_KINDS: Final = frozenset(("to", "dtype", "output_datatype"))
"""Attributes whose value is an element type."""


def to_float32(model: onnx.ModelProto, notes: list[str] | None = None) -> onnx.ModelProto:
    """Return the model with all floats in float32, or itself if they are. Functions must have been inlined.

    notes  gets a sentence if anything was changed
    """
    found = sorted({name for graph in _graphs(model.graph) for name in _precisions(graph)})
    if not found:
        return model
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for graph in _graphs(result.graph):
        _widen(graph)
    if notes is not None:
        notes.append(f"its {' and '.join(found)} values are computed in float32")
    return result


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield the graph and the graphs in its nodes' attributes, at any depth."""
    waiting = [graph]
    while waiting:
        yield (current := waiting.pop())
        for node in current.node:
            for item in node.attribute:
                waiting += [item.g] if item.HasField("g") else list(item.graphs)


def _kinds(node: onnx.NodeProto) -> Iterator[onnx.AttributeProto]:
    return (item for item in node.attribute if item.name in _KINDS and item.i in _OTHERS)


def _tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for item in node.attribute:
            if item.HasField("t"):
                yield item.t
            yield from item.tensors


def _values(graph: onnx.GraphProto) -> Iterator[onnx.ValueInfoProto]:
    yield from graph.input
    yield from graph.output


def _precisions(graph: onnx.GraphProto) -> Iterator[str]:
    yield from (_OTHERS[tensor.data_type] for tensor in _tensors(graph) if tensor.data_type in _OTHERS)
    yield from (_OTHERS[kind] for value in _values(graph) if (kind := value.type.tensor_type.elem_type) in _OTHERS)
    yield from (_OTHERS[item.i] for node in graph.node for item in _kinds(node))


def _widen(graph: onnx.GraphProto) -> None:
    for tensor in _tensors(graph):
        if tensor.data_type in _OTHERS:
            with np.errstate(over="ignore"):
                values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for value in _values(graph):
        if value.type.tensor_type.elem_type in _OTHERS:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    nodes = []
    for node in graph.node:
        nodes.append(node)
        for item in node.attribute:
            if item.name.endswith("_as_tensor"):  # of trees; float32 has attributes without this ending
                name = item.name.removesuffix("_as_tensor")
                item.CopyFrom(helper.make_attribute(name, numpy_helper.to_array(item.t).tolist()))
        for item in _kinds(node):
            # A Cast to half rounds values on purpose: it stays, followed by a Cast back to float32.
            if node.op_type == "Cast" and item.i == TensorProto.FLOAT16:
                name = node.output[0]
                node.output[0] = f"{name}:half"
                nodes.append(helper.make_node("Cast", [f"{name}:half"], [name], to=TensorProto.FLOAT))
            else:
                item.i = TensorProto.FLOAT
    if len(nodes) != len(graph.node):
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(copies)
    del graph.value_info[:]  # inferred again later
