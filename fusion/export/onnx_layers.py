"""Onnx layers of a net: the nodes of their graphs, with the weights that they have now."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx

from fusion.export.graph import Graph, Step, converter
from fusion.onnx.graphs import graph as graphs
from fusion.onnx.graphs.graph import attributes


@converter("Onnx")
def onnx_layer(graph: Graph, step: Step) -> None:
    """The graph between the layer's bottoms and tops; its values bear the layer's name in front."""
    from fusion.onnx.graphs import weights
    from fusion.onnx.graphs.layer_graph import layer_graph

    part = layer_graph(step.layer, step.bottom_dims)
    if part.batch is not None and step.bottom_dims[0][0] is None:
        raise step.refusal(f"its file fixes the batch at {part.batch}", "export that file again with an open batch")
    own = weights(part)
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


def _standard(graph: Graph, step: Step, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """The node in the words of opset 17. Raises: ExportError for an operator that these cannot say."""
    values, x, y = attributes(node), node.input[0], node.output[0]
    if node.domain != graphs.OWN:
        yield node
    elif node.op_type == "Dropout" and len(node.output) == 1:
        yield graphs.made("Identity", [x], [y])
    elif node.op_type == "Mish":
        yield graphs.made("Softplus", [x], [f"{y}:softplus"])
        yield graphs.made("Tanh", [f"{y}:softplus"], [f"{y}:tanh"])
        yield graphs.made("Mul", [x, f"{y}:tanh"], [y])
    elif node.op_type == "Swish" and values.get("alpha", 1.0) == 1:
        yield graphs.made("Sigmoid", [x], [f"{y}:sigmoid"])
        yield graphs.made("Mul", [x, f"{y}:sigmoid"], [y])
    elif node.op_type == "Gelu" and values.get("approximate", "none") == "none":
        yield from _gelu(x, y)
    elif node.op_type == "Resize":
        yield from _resize(x, y, values)
    else:
        raise step.refusal(f"opset 17 has no words for its {node.op_type}", "cut the net before it")


def _resize(x: str, y: str, values: dict[str, Any]) -> Iterator[onnx.NodeProto]:
    """Factors or sizes of all axes; batch and channels keep theirs."""
    scales, sizes = values.pop("scales", None), values.pop("sizes", None)
    if scales is not None:
        yield _fixed(f"{y}:scales", np.asarray([1, 1, *scales], np.float32))
        yield graphs.made("Resize", [x, "", f"{y}:scales"], [y], **values)
        return
    yield _fixed(f"{y}:space", np.asarray(sizes, np.int64))
    yield graphs.made("Shape", [x], [f"{y}:front"], end=2)
    yield graphs.made("Concat", [f"{y}:front", f"{y}:space"], [f"{y}:sizes"], axis=0)
    yield graphs.made("Resize", [x, "", "", f"{y}:sizes"], [y], **values)


def _fixed(name: str, array: np.ndarray[Any, Any]) -> onnx.NodeProto:
    return graphs.made("Constant", [], [name], value=onnx.numpy_helper.from_array(array))


def _gelu(x: str, y: str) -> Iterator[onnx.NodeProto]:
    """x * (1 + erf(x / sqrt 2)) / 2."""
    for name, value in (("root", 1 / math.sqrt(2)), ("one", 1.0), ("half", 0.5)):
        yield _fixed(f"{y}:{name}", np.asarray(value, np.float32))
    yield graphs.made("Mul", [x, f"{y}:root"], [f"{y}:scaled"])
    yield graphs.made("Erf", [f"{y}:scaled"], [f"{y}:erf"])
    yield graphs.made("Add", [f"{y}:erf", f"{y}:one"], [f"{y}:sum"])
    yield graphs.made("Mul", [x, f"{y}:sum"], [f"{y}:product"])
    yield graphs.made("Mul", [f"{y}:product", f"{y}:half"], [y])
