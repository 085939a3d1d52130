"""Files with channels last, as TensorFlow's, whose images are scaled before a Transpose brings their channels first."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray

from fusion.onnx.graphs.cut import CHANNELS_FIRST
from fusion.onnx.graphs.graph import Dims, Graph, all_reads, attributes, make_node

_NAMES = "Abs Add Clip Div Max Min Mul Neg Pow Relu Sigmoid Sqrt Sub Tanh"
_BY_VALUE: Final = frozenset(_NAMES.split())


def with_channels_first(graph: Graph) -> Graph:
    """Return the graph with the Transpose of each input before the operators that change each value by itself.

    The input's first reader is then the Transpose, as in files without such operators.
    """
    for name, dims in graph.inputs.items():
        chain = _chain(graph, name) if len(dims) == 4 else []
        if len(chain) > 1:
            graph = _moved(graph, name, chain)
    return graph


def _chain(graph: Graph, name: str) -> list[onnx.NodeProto]:
    """Return the nodes from an input to the Transpose that brings its channels first; none if there is no such one."""
    chain: list[onnx.NodeProto] = []
    while name not in graph.outputs:
        readers = [node for node in graph.nodes if name in all_reads([node])]
        if len(readers) != 1 or readers[0].domain:
            return []
        node = readers[0]
        chain.append(node)
        if node.op_type == "Transpose":
            return chain if list(attributes(node).get("perm", ())) == CHANNELS_FIRST else []
        others = [value for value in node.input if value and value != name]
        if node.op_type not in _BY_VALUE or any(
            value not in graph.constants or graph.constants[value].ndim > 4 for value in others
        ):
            return []
        name = node.output[0]
    return []


def _moved(graph: Graph, name: str, chain: list[onnx.NodeProto]) -> Graph:
    *steps, last = chain
    renamed = {value: f"{value}:channels_first" for value in (name, *(node.output[0] for node in steps))}
    shapes = {new: _turned(graph.shapes[old]) for old, new in renamed.items() if old in graph.shapes}
    types = {new: graph.types[old] for old, new in renamed.items() if old in graph.types}
    renamed[steps[-1].output[0]] = last.output[0]
    constants: dict[str, NDArray[np.generic]] = {}
    nodes = [make_node("Transpose", [name], [renamed[name]], perm=CHANNELS_FIRST, name=last.name)]
    for step in steps:
        node = onnx.NodeProto()
        node.CopyFrom(step)
        node.output[0] = renamed[step.output[0]]
        for index, value in enumerate(step.input):
            array = graph.constants.get(value)
            if array is not None and array.size > 1:
                node.input[index] = f"{value}:channels_first"
                four = array.reshape((1,) * (4 - array.ndim) + array.shape)
                constants[node.input[index]] = np.ascontiguousarray(four.transpose(CHANNELS_FIRST))
            else:
                node.input[index] = renamed.get(value, value)
        nodes.append(node)
    # by identity: protobuf compares messages by their values
    nodes += [node for node in graph.nodes if all(node is not one for one in chain)]
    read = {*all_reads(nodes), *graph.outputs}
    return replace(
        graph,
        nodes=tuple(nodes),
        constants={value: array for value, array in {**graph.constants, **constants}.items() if value in read},
        shapes={**graph.shapes, **shapes, **{new: tuple(array.shape) for new, array in constants.items()}},
        types={**graph.types, **types, **dict.fromkeys(constants, onnx.TensorProto.FLOAT)},
    )


def _turned(dims: Dims) -> Dims:
    return tuple(dims[axis] for axis in CHANNELS_FIRST) if len(dims) == 4 else dims
