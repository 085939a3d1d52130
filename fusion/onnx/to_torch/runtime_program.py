"""A graph in ONNX Runtime in place of its conversion to torch."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fusion.errors import OnnxError
from fusion.onnx.graphs import Graph, to_model
from fusion.onnx.graphs.standard_nodes import standard_nodes
from fusion.onnx.runtime import cast_input, inference_session


class RuntimeProgram:
    """A graph in its plain form in ONNX Runtime on the CPU, with torch's number of threads.

    Raises: OnnxError for an operator that opset 17 cannot express, ExportError where the runtime refuses the graph.
    """

    def __init__(self, graph: Graph) -> None:
        nodes = tuple(plain for node in graph.nodes for plain in standard_nodes(node))
        model = to_model(replace(graph, nodes=nodes)).SerializeToString()
        self._session = inference_session(model, torch.get_num_threads())
        self._inputs = self._session.get_inputs()

    def __call__(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the output or a tuple of them, without gradients, on the CPU as the inputs are. Raises: OnnxError."""
        fed = {
            item.name: cast_input(x.detach().contiguous().numpy(), item.type, item.name)
            for item, x in zip(self._inputs, inputs, strict=True)
        }
        try:
            found = tuple(torch.from_numpy(array) for array in self._session.run(None, fed))
        except Exception as error:  # its exceptions have no base class of their own
            raise OnnxError(f"ONNX Runtime cannot run it: {str(error).splitlines()[0]}") from error
        return found if len(found) > 1 else found[0]
