"""An ONNX graph as one module of a net, for any batch, frozen or trained."""

from __future__ import annotations

from dataclasses import replace
from operator import attrgetter

import torch
from torch import Tensor, nn

from fusion.errors import OnnxError
from fusion.onnx.graphs import Graph
from fusion.onnx.graphs.initializers import has_trees, statistics
from fusion.onnx.to_torch.conversion import to_module
from fusion.onnx.to_torch.runtime_program import RuntimeProgram


class OnnxNet(nn.Module):
    """A graph in its plain form as a layer: `net(*inputs)` returns its output, or a tuple of them.

    caffe_params  paths of its weights, in the order of `fusion.onnx.graphs.graph_weights`
    frozen        it computes the same in both phases: BatchNorm with its statistics, Dropout as the identity
    batch         the batch that the graph fixes; longer ones run in pieces of that size
    runtime       runs instead of the conversion to torch while it is set (fusion.nets.frozen_engine)
    Raises: OnnxError listing all operators that cannot be run, and for trees that are not frozen.
    """

    def __init__(self, graph: Graph, *, frozen: bool = False) -> None:
        super().__init__()
        if not frozen and has_trees(graph):
            hint = "freeze the layer: onnx_param { frozen: true }, and no --thaw that finds it"
            raise OnnxError("its trees cannot learn", place=graph.place, hint=hint)
        self.frozen, self.batch = frozen, graph.batch
        self.runtime: RuntimeProgram | None = None
        self.program, paths = to_module(graph)
        fixed = statistics(graph)
        self.names = tuple(paths)
        for name, path in paths.items():
            if not frozen and name not in fixed:
                tensor = self.program.get_buffer(path)
                delattr(self.program, path)
                self.program.register_parameter(path, nn.Parameter(tensor))
        self.caffe_params = tuple(f"program.{path}" for path in paths.values())
        settings = {name: array for name, array in graph.constants.items() if name not in self.names}
        self._graph = replace(graph, constants=settings, files=())  # the weights are this module's tensors
        self.train(not frozen)

    def train(self, mode: bool = True) -> OnnxNet:
        """Set the mode as for any module; a frozen graph stays in evaluation mode."""
        super().train(mode and not self.frozen)
        return self

    def to_runtime(self) -> RuntimeProgram:
        """Return the graph in ONNX Runtime with the present weights.

        Raises: OnnxError, ExportError where the runtime cannot have it.
        """
        weights = {
            name: attrgetter(path)(self).detach().cpu().numpy()
            for name, path in zip(self.names, self.caffe_params, strict=True)
        }
        if other := {array.dtype.name for array in weights.values()} - {"float32"}:
            raise OnnxError(f"its weights are {other.pop()}")
        return RuntimeProgram(replace(self._graph, constants={**self._graph.constants, **weights}))

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return one output or a tuple of them; inputs are float [N, ...]."""
        inputs = tuple(x.float() if _is_other(x) else x for x in inputs)
        run = self.program if self.runtime is None else self.runtime
        if self.batch is None or not inputs[0].dim() or len(inputs[0]) == self.batch:
            return _plain(run(*inputs))
        if len(inputs[0]) % self.batch:
            raise ValueError(f"the ONNX file fixes a batch of {self.batch}; {len(inputs[0])} is not a multiple of it")
        pieces = [_plain(run(*part)) for part in zip(*(torch.split(x, self.batch) for x in inputs), strict=True)]
        rows = {len(top) for piece in pieces for top in ((piece,) if isinstance(piece, Tensor) else piece)}
        if rows != {self.batch}:
            message = f"the ONNX file fixes a batch of {self.batch}, which is not the first axis of its outputs"
            raise ValueError(f"{message}: it runs no batch of {len(inputs[0])}")
        if isinstance(pieces[0], Tensor):
            return torch.cat([piece for piece in pieces if isinstance(piece, Tensor)])
        return tuple(torch.cat(column) for column in zip(*pieces, strict=True))


def _is_other(x: Tensor) -> bool:
    """Return whether an input is in another precision than that in which the graph is computed."""
    return x.dtype == torch.float64 or (x.dtype == torch.float16 and not torch.is_autocast_enabled(x.device.type))


def _plain(found: Tensor | list[Tensor] | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
    return found if isinstance(found, Tensor) else tuple(found)
