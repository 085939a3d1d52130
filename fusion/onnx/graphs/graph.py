"""An ONNX graph as an immutable value: nodes in order, constants by name, known types and shapes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from fusion.errors import OnnxError
from prototxt.formats.index import Scan

Dims: TypeAlias = "tuple[int | None, ...]"
Constants: TypeAlias = "Mapping[str, NDArray[Any]]"
IR = 8
"""The version of ONNX's file format in which models are written."""
OWN = "caffe_fusion"
"""The domain of operators that are newer than the opset in which graphs are kept."""


@dataclass(frozen=True)
class Graph:
    """A graph, its constants apart from its nodes.

    place      the file, for errors
    opset      of the standard operators; `imports` are other domains' versions
    inputs     name -> shape, None where a size is open; the first axis is the batch
    types      name -> ONNX's number of the element type
    shapes     name -> shape, None where it follows the batch or is not known
    aliases    names in the file -> names of the values that replaced them
    batch      the batch size that the graph fixes; None: any
    newer      first outputs of nodes that opset 17 cannot express
    over_batch first outputs of recurrent nodes whose sequence is the batch
    partial    first outputs of nodes of which more outputs are read than can be computed
    unfit      first outputs of nodes whose inputs contradict each other
    refused    first outputs of nodes of other domains -> why they cannot be run
    settings   constants that are no weights, because they come from sizes that the file leaves open
    classifier whether outputs with labels were left out, so that the first output has a score per class
    notes      changes, one sentence each
    files      the mapped files that large constants are views of, with their state at that time
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
    over_batch: frozenset[str] = frozenset()
    partial: frozenset[str] = frozenset()
    unfit: frozenset[str] = frozenset()
    refused: Mapping[str, str] = field(default_factory=dict)
    settings: frozenset[str] = frozenset()
    classifier: bool = False
    notes: tuple[str, ...] = ()
    files: tuple[Scan, ...] = ()


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Return the node's attributes as Python values; strings are str."""
    return {item.name: _text(helper.get_attribute_value(item)) for item in node.attribute}


def _text(value: Any) -> Any:
    if isinstance(value, list) and isinstance(next(iter(value), None), bytes):
        return [item.decode() for item in value]
    return value.decode() if isinstance(value, bytes) else value


def make_node(
    op: str, inputs: Sequence[str], outputs: Sequence[str], domain: str = "", **values: Any
) -> onnx.NodeProto:
    """Return a node; attributes that are None are left out, as by onnx."""
    return helper.make_node(op, list(inputs), list(outputs), domain=domain, **values)


def known_sizes(dims: Sequence[int | None] | None) -> tuple[int, ...] | None:
    """Return the sizes of a shape, or of a part of it; None if one of them is not known."""
    sizes = [dim for dim in dims or () if dim is not None]
    return None if dims is None or len(sizes) != len(dims) else tuple(sizes)


def filled_shape(graph: Graph, name: str, given: Dims | None) -> Dims:
    """Return the shape of an input, with open sizes after the batch as given. Raises: OnnxError if others differ."""
    dims = graph.inputs[name]
    if given is None:
        return dims
    fits = len(given) == len(dims) and all(
        mine is None or other is None or mine == other for mine, other in zip(dims[1:], given[1:], strict=True)
    )
    if not fits:
        shown = ["x".join("?" if dim is None else str(dim) for dim in shape[1:]) for shape in (dims, given)]
        hint = "prepare the images with the size and the number of channels of the file"
        raise OnnxError(f"its input '{name}' takes {shown[0]} per sample, not {shown[1]}", place=graph.place, hint=hint)
    return (dims[0], *(mine if mine is not None else other for mine, other in zip(dims[1:], given[1:], strict=True)))


def prune(nodes: Sequence[onnx.NodeProto], values: Iterable[str]) -> tuple[onnx.NodeProto, ...]:
    """Return the nodes that the values depend on, in their order."""
    needed = set(values)
    result = []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            needed.update(all_reads([node]))
            result.append(node)
    return tuple(reversed(result))


def inner_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of the graphs in the attributes of nodes, at any depth."""
    waiting = [graph for node in nodes for graph in graphs_of(node)]
    while waiting:
        for node in waiting.pop().node:
            yield node
            waiting += graphs_of(node)


def all_reads(nodes: Iterable[onnx.NodeProto]) -> Iterator[str]:
    """Yield each name as often as nodes, and graphs within them, read it."""
    every = list(nodes)
    for node in (*every, *inner_nodes(every)):
        yield from node.input
        yield from (item.name for graph in graphs_of(node) for item in graph.output)


def graphs_of(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """Return the graphs in the attributes of a node: the branches of If, the bodies of Loop and Scan."""
    return [graph for item in node.attribute for graph in ([item.g] if item.HasField("g") else item.graphs)]


def to_model(graph: Graph) -> onnx.ModelProto:
    """Return the graph as a model; every node gets a unique name that is valid for a torch module."""
    nodes = []
    for index, node in enumerate(graph.nodes):
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = f"n{index}_{node.op_type}"
        nodes.append(copy)
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
    """Return a value's type; an open first axis is called N, any other open axis has no name."""
    if dims is None:
        return helper.make_tensor_value_info(name, kind, None)
    sizes = [("N" if axis == 0 else None) if dim is None else dim for axis, dim in enumerate(dims)]
    return helper.make_tensor_value_info(name, kind, sizes)
