"""Onnx layers of a net: the nodes of their graphs, with the layers' current weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx

from fusion.export.graph_builder import GraphBuilder, Step, exporter
from fusion.onnx.graphs.graph import OWN, attributes, make_node


@exporter("Onnx")
def _onnx_layer(graph: GraphBuilder, step: Step) -> None:
    """Write the graph between the layer's bottoms and tops; its values get the layer's name as a prefix."""
    from fusion.onnx.graphs import graph_weights
    from fusion.onnx.graphs.layer_graph import layer_graph

    part = layer_graph(step.layer, step.bottom_dims)
    if part.batch is not None and step.bottom_dims[0][0] is None:
        raise step.refusal(f"its file fixes the batch at {part.batch}", "export that file again with an open batch")
    own = graph_weights(part)
    trained = dict(zip(own, step.weights, strict=True)) if step.weights else own
    names = dict(zip(part.inputs, step.bottoms, strict=True))
    for name, array in part.constants.items():
        values = trained.get(name, array)
        names[name] = graph.constant(f"{step.name}:{name}", values, values.dtype)
    for node in part.nodes:
        for plain in _standard(graph, step, node):
            inputs = [names.get(name, f"{step.name}/{name}") if name else "" for name in plain.input]
            outputs = [f"{step.name}/{name}" if name else "" for name in plain.output]
            graph.node(plain.op_type, inputs, outputs, **attributes(plain))
    for value, top in zip(part.outputs, step.tops, strict=True):
        graph.node("Identity", [names.get(value, f"{step.name}/{value}")], top)


def _standard(graph: GraphBuilder, step: Step, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """Yield the node in operators of opset 17. Raises: ExportError for an operator that opset 17 cannot express."""
    values, x, y = attributes(node), node.input[0], node.output[0]
    if node.domain != OWN:
        yield node
    elif node.op_type == "Dropout" and len(node.output) == 1:
        yield make_node("Identity", [x], [y])
    elif node.op_type == "Mish":
        yield make_node("Softplus", [x], [f"{y}:softplus"])
        yield make_node("Tanh", [f"{y}:softplus"], [f"{y}:tanh"])
        yield make_node("Mul", [x, f"{y}:tanh"], [y])
    elif node.op_type == "Swish" and values.get("alpha", 1.0) == 1:
        yield make_node("Sigmoid", [x], [f"{y}:sigmoid"])
        yield make_node("Mul", [x, f"{y}:sigmoid"], [y])
    elif node.op_type == "Gelu" and values.get("approximate", "none") == "none":
        yield from _gelu(x, y)
    elif node.op_type == "Resize":
        yield from _resize(x, y, values)
    else:
        raise step.refusal(f"opset 17 cannot express its operator {node.op_type}", "cut the net before it")


def _resize(x: str, y: str, values: dict[str, Any]) -> Iterator[onnx.NodeProto]:
    """Yield Resize with factors or sizes of all axes; batch and channels keep theirs."""
    scales, sizes = values.pop("scales", None), values.pop("sizes", None)
    if scales is not None:
        yield _fixed(f"{y}:scales", np.asarray([1, 1, *scales], np.float32))
        yield make_node("Resize", [x, "", f"{y}:scales"], [y], **values)
        return
    yield _fixed(f"{y}:space", np.asarray(sizes, np.int64))
    yield make_node("Shape", [x], [f"{y}:front"], end=2)
    yield make_node("Concat", [f"{y}:front", f"{y}:space"], [f"{y}:sizes"], axis=0)
    yield make_node("Resize", [x, "", "", f"{y}:sizes"], [y], **values)


def _fixed(name: str, array: np.ndarray[Any, Any]) -> onnx.NodeProto:
    return make_node("Constant", [], [name], value=onnx.numpy_helper.from_array(array))


def _gelu(x: str, y: str) -> Iterator[onnx.NodeProto]:
    """Yield nodes for x * (1 + erf(x / sqrt 2)) / 2."""
    for name, value in (("root", 1 / math.sqrt(2)), ("one", 1.0), ("half", 0.5)):
        yield _fixed(f"{y}:{name}", np.asarray(value, np.float32))
    yield make_node("Mul", [x, f"{y}:root"], [f"{y}:scaled"])
    yield make_node("Erf", [f"{y}:scaled"], [f"{y}:erf"])
    yield make_node("Add", [f"{y}:erf", f"{y}:one"], [f"{y}:sum"])
    yield make_node("Mul", [x, f"{y}:sum"], [f"{y}:product"])
    yield make_node("Mul", [f"{y}:product", f"{y}:half"], [y])
