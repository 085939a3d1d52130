"""A graph in its plain form as a torch.fx.GraphModule, with the path of every weight in it."""

from __future__ import annotations

from operator import getitem

import numpy as np
import torch
from torch import fx, nn

from fusion.errors import OnnxError
from fusion.onnx.graphs import Graph, check_support, graph_weights
from fusion.onnx.to_torch.converters import node_module


def to_module(graph: Graph) -> tuple[fx.GraphModule, dict[str, str]]:
    """Return a module that takes the graph's inputs in order, and the path of each weight in it.

    Raises: OnnxError listing all operators that cannot be run.
    """
    check_support(graph)
    root, program = nn.Module(), fx.Graph()
    values = {name: program.placeholder(f"input_{index}") for index, name in enumerate(graph.inputs, 1)}
    paths: dict[str, str] = {}

    def value(name: str) -> fx.Node:
        """Return the node of a value; a constant becomes a buffer where it is first read."""
        if name not in values:
            paths[name] = f"constant_{len(paths)}"
            root.register_buffer(paths[name], torch.from_numpy(np.array(graph.constants[name])))
            values[name] = program.get_attr(paths[name])
        return values[name]

    for index, node in enumerate(graph.nodes):
        title = f"n{index}_{node.op_type}"
        try:
            module, names = node_module(node, graph)
            root.add_module(title, module)
            found = program.call_module(title, tuple(map(value, names)))
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            message = f"node '{node.output[0]}' ({node.op_type}) cannot be converted: {error!r}"
            hint = "cut the net before it, or export it in another way"
            raise OnnxError(message, place=graph.place, hint=hint) from error
        if len(node.output) == 1:
            values[node.output[0]] = found
            continue
        for place, name in enumerate(node.output):
            if name:
                values[name] = program.call_function(getitem, (found, place))
    tops = tuple(map(value, graph.outputs))
    program.output(tops if len(tops) > 1 else tops[0])
    program.lint()
    return fx.GraphModule(root, program), {name: paths[name] for name in graph_weights(graph)}
