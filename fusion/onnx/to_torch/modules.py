"""An ONNX graph as one module of a net: any batch, its weights named, frozen or trained."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fusion.onnx.graphs import Graph, graph_weights
from fusion.onnx.graphs.initializers import statistics
from fusion.onnx.to_torch.conversion import assign_tensor, to_module, weight_at


class OnnxNet(nn.Module):
    """A graph that runs as a layer: `net(*inputs)` gives its output, or a tuple of them.

    caffe_params  paths of its weights, in the order of `fusion.onnx.graphs.weights`
    frozen        it computes the same whatever the phase: BatchNorm by its statistics, Dropout as the identity
    batch         the batch that the graph fixes; longer ones are cut in such pieces
    """

    def __init__(self, graph: Graph, *, frozen: bool = False) -> None:
        super().__init__()
        self.frozen, self.batch = frozen, graph.batch
        self.program, places = to_module(graph)
        for path, parameter in list(self.program.named_parameters()):
            assign_tensor(
                self.program, {"": [path]}, "", parameter.detach()
            )  # such as a bias of zeros that no file has
        kept = statistics(graph)
        self.names = tuple(graph_weights(graph))
        for name, array in graph_weights(graph).items():
            tensor = torch.from_numpy(array.copy())
            learns = not frozen and name not in kept
            assign_tensor(self.program, places, name, nn.Parameter(tensor) if learns else tensor)
        self.caffe_params = tuple(f"program.{places[name][0]}" for name in self.names)
        self._tied = tuple(tuple(paths) for paths in places.values() if len(paths) > 1)
        self.train(not frozen)

    def train(self, mode: bool = True) -> OnnxNet:
        """As every module, but frozen parts stay as they are."""
        super().train(mode and not self.frozen)
        return self

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """float [N, ...] each; one output or a tuple."""
        self._tie()
        inputs = tuple(x.float() if _is_other(x) else x for x in inputs)
        if self.batch is None or not inputs[0].dim() or len(inputs[0]) == self.batch:
            return _plain(self.program(*inputs))
        if len(inputs[0]) % self.batch:
            raise ValueError(f"the ONNX file fixes a batch of {self.batch}, and {len(inputs[0])} is no multiple of it")
        pieces = [
            _plain(self.program(*part)) for part in zip(*(torch.split(x, self.batch) for x in inputs), strict=True)
        ]
        if isinstance(pieces[0], Tensor):
            return torch.cat([piece for piece in pieces if isinstance(piece, Tensor)])
        return tuple(torch.cat(column) for column in zip(*pieces, strict=True))

    def _tie(self) -> None:
        """Give all places of a weight the tensor of its first one, which others may have put there."""
        for first, *others in self._tied:
            tensor = weight_at(self.program, first)
            for path in others:
                if weight_at(self.program, path) is not tensor:
                    assign_tensor(self.program, {"": [path]}, "", tensor)


def _is_other(x: Tensor) -> bool:
    """Whether a file asked for another precision than the one in which it is computed."""
    return x.dtype == torch.float64 or (x.dtype == torch.float16 and not torch.is_autocast_enabled(x.device.type))


def _plain(found: Tensor | list[Tensor] | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
    return found if isinstance(found, Tensor) else tuple(found)


def onnx_net(graph: Graph, *, frozen: bool = False) -> OnnxNet:
    """The module of a graph in its plain form. Raises: OnnxError listing all that cannot be converted."""
    return OnnxNet(graph, frozen=frozen)
