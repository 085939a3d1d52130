"""Onnx layers of a net: the nodes of their graphs, with the layers' current weights."""

from __future__ import annotations

import onnx

from fusion.errors import OnnxError
from fusion.export.graph_builder import GraphBuilder, Step, exporter
from fusion.onnx.graphs.graph import attributes
from fusion.onnx.graphs.standard_nodes import standard_nodes


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
        for plain in _standard(step, node):
            inputs = [names.get(name, f"{step.name}/{name}") if name else "" for name in plain.input]
            outputs = [f"{step.name}/{name}" if name else "" for name in plain.output]
            graph.node(plain.op_type, inputs, outputs, **attributes(plain))
    for value, top in zip(part.outputs, step.tops, strict=True):
        graph.node("Identity", [names.get(value, f"{step.name}/{value}")], top)


def _standard(step: Step, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    try:
        return list(standard_nodes(node))
    except OnnxError as error:
        raise step.refusal(error.message, error.hint) from None
