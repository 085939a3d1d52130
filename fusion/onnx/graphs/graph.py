"""An ONNX graph as a value: nodes in order, constants by name, and what is known of shapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from prototxt.formats.index import Scan

Dims: TypeAlias = "tuple[int | None, ...]"
Constants: TypeAlias = "Mapping[str, NDArray[Any]]"
IR = 8
"""The version of the file format that models are made in."""
OWN = "caffe_fusion"
"""The domain of operators that are newer than the form in which graphs are kept."""


@dataclass(frozen=True)
class Graph:
    """A graph, its constants apart from its nodes.

    place      the file, for errors
    opset      of the standard operators; `imports` are other domains' versions
    inputs     name -> shape, None where a size is open; the first axis is the batch
    types      name -> ONNX's number of the element type, for inputs and what follows from them
    shapes     name -> shape, None where it follows the batch or is not known
    aliases    names of the file that are other values' names now
    batch      the batch size that the graph fixes; None: any
    newer      first outputs of nodes whose meaning opset 17 cannot say
    partial    first outputs of nodes of which more outputs are read than can be computed
    unfit      first outputs of nodes whose inputs contradict each other
    notes      what was changed, one sentence each
    files      of whose bytes large constants are views, as they were then
    """

    place: str
    name: str
    nodes: tuple[onnx.NodeProto, ...]
    constants: Constants
    inputs: Mapping[str, Dims]
    outputs: tuple[str, ...]
    opset: int
    imports: Mapping[str, int] = field(default_factory=dict)
    types: Mapping[str, int] = field(default_factory=dict)
    shapes: Mapping[str, Dims] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    batch: int | None = None
    newer: frozenset[str] = frozenset()
    partial: frozenset[str] = frozenset()
    unfit: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    files: tuple[Scan, ...] = ()


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """The node's attributes as Python values; strings are str."""
    found = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in found.items()}


def made(op: str, inputs: Sequence[str], outputs: Sequence[str], domain: str = "", **values: Any) -> onnx.NodeProto:
    """A node; attributes that are None are left out."""
    kept = {name: value for name, value in values.items() if value is not None}
    return helper.make_node(op, list(inputs), list(outputs), domain=domain, **kept)


def pruned(nodes: Sequence[onnx.NodeProto], wanted: Iterable[str]) -> tuple[onnx.NodeProto, ...]:
    """The nodes that lead to the wanted values, in their order."""
    needed = set(wanted)
    kept = []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    return tuple(reversed(kept))


def to_model(graph: Graph) -> onnx.ModelProto:
    """The graph as a model; every node gets a name that is unique and a legal name of a torch module."""
    nodes = []
    for index, node in enumerate(graph.nodes):
        named = onnx.NodeProto()
        named.CopyFrom(node)
        named.name = f"n{index}_{node.op_type}"
        nodes.append(named)
    used = {name for node in nodes for name in node.input} | set(graph.outputs)
    initializers = [
        numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
        for name, array in graph.constants.items()
        if name in used
    ]
    infos = [_info(name, graph.types.get(name, 1), dims) for name, dims in graph.inputs.items()]
    results = [_info(name, graph.types.get(name, 1), graph.shapes.get(name)) for name in graph.outputs]
    inner = [_info(name, graph.types[name], dims) for name, dims in graph.shapes.items()
             if name in used and name in graph.types and name not in graph.inputs and name not in graph.constants
             and name not in graph.outputs]  # fmt: skip
    proto = helper.make_graph(nodes, graph.name or "net", infos, results, initializers, value_info=inner)
    imports = {"": graph.opset, **graph.imports}
    own = {node.domain for node in nodes} - set(imports)
    opsets = [helper.make_opsetid(domain, version) for domain, version in {**imports, **dict.fromkeys(own, 1)}.items()]
    return helper.make_model(proto, opset_imports=opsets, producer_name="caffe-fusion", ir_version=IR)


def _info(name: str, kind: int, dims: Dims | None) -> onnx.ValueInfoProto:
    """A value's type; an open first axis is called N, an open other one has no name."""
    if dims is None:
        return helper.make_tensor_value_info(name, kind, None)
    named = [("N" if axis == 0 else None) if dim is None else dim for axis, dim in enumerate(dims)]
    return helper.make_tensor_value_info(name, kind, named)
