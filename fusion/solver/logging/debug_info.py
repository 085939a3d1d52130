"""debug_info: the magnitudes of every layer's outputs and gradients, in the lines of Caffe's net.cpp."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fusion.nets.build import total_loss
from fusion.nets.graph import Call, Net, Param
from fusion.nets.shared_params import tensor_by_path
from fusion.solver.batches import Blobs
from fusion.solver.logging.console import six_digits
from fusion.solver.step.eager_step import Step

if TYPE_CHECKING:
    from fusion.solver.mixed_precision import Precision
    from prototxt.schema.messages import NetParameter

Say = Callable[[str], None]


class Watched:
    """A net that logs the mean magnitude of each blob, parameter and gradient.

    Caffe inserts layers that copy a blob for each layer that reads it; there are none here, so no lines about them.
    """

    def __init__(self, net: Net, message: NetParameter, say: Say, precision: Precision) -> None:
        self._net, self._say, self._precision = net, say, precision
        self._brings = {top: layer.name for layer in message.layer if not layer.bottom for top in layer.top}
        self._params: dict[str, list[Param]] = {}
        for param in net.plan.params:
            self._params.setdefault(param.path, []).append(param)

    def __call__(self, blobs: Blobs) -> dict[str, Tensor]:
        """Run forward with a line per blob and parameter; gradients flow."""
        return self._forward(blobs)[0]

    def step(self, blobs: Blobs) -> tuple[dict[str, Tensor], Tensor]:
        """Run forward and backward; returns outputs and loss, and adds the gradients (scaled in fp16)."""
        with self._precision.cast():
            out, edges = self._forward(blobs)
            loss = total_loss(self._net, out)
        self._precision.backward(loss)
        for call, bottoms in reversed(edges):
            self._log_gradients(call, bottoms)
        self._log_norms()
        return out, loss.detach()

    def instead(self, plain: Step, due: Callable[[], bool]) -> Step:
        """Return a step that logs where a display is due, and is the plain one otherwise."""
        return lambda blobs: self.step(blobs) if due() else plain(blobs)

    def _forward(self, blobs: Blobs) -> tuple[dict[str, Tensor], list[tuple[Call, Sequence[Tensor]]]]:
        plan = self._net.plan
        values = {value: blobs[key] for key, value in plan.inputs if key in blobs}
        for key, value in plan.inputs:
            if value in values:
                layer = self._brings.get(key, key)
                self._say(f"    [Forward] Layer {layer}, top blob {key} data: {_mean(values[value])}")
        edges: list[tuple[Call, Sequence[Tensor]]] = []
        for call in plan.calls:
            bottoms = [_edge(values[value], index in call.blocked) for index, value in enumerate(call.bottoms)]
            tops = self._net.get_submodule(call.path)(*bottoms)
            outputs = (tops,) if len(call.tops) == 1 else tops
            values.update(zip(call.tops, outputs, strict=True))
            edges.append((call, bottoms))
            for value, tensor in zip(call.tops, outputs, strict=True):
                self._say(f"    [Forward] Layer {call.name}, top blob {_blob(value)} data: {_mean(tensor)}")
            for param in self._params.get(call.path, ()):
                data = _mean(tensor_by_path(self._net, param.attribute))
                self._say(f"    [Forward] Layer {call.name}, param blob {param.name or param.index} data: {data}")
        return {key: values[value] for key, value in plan.outputs}, edges

    def _log_gradients(self, call: Call, bottoms: Sequence[Tensor]) -> None:
        scale = self._precision.scale
        for value, tensor in zip(call.bottoms, bottoms, strict=True):
            if tensor.grad is not None:
                self._say(
                    f"    [Backward] Layer {call.name}, bottom blob {_blob(value)} diff: {_mean(tensor.grad / scale)}"
                )
        for param in self._params.get(call.path, ()):
            gradient = tensor_by_path(self._net, param.attribute).grad
            if gradient is not None:
                self._say(f"    [Backward] Layer {call.name}, param blob {param.index} diff: {_mean(gradient / scale)}")

    def _log_norms(self) -> None:
        """Log the norms of all parameters together."""
        own = [param for params in self._params.values() for param in params if not param.shared]
        data = [tensor_by_path(self._net, param.attribute).detach() for param in own]
        found = [g for param in own if (g := tensor_by_path(self._net, param.attribute).grad) is not None]
        gradients = [gradient / self._precision.scale for gradient in found]
        one = f"({_sum(data, 1)}, {_sum(gradients, 1)})"
        two = f"({_sum(data, 2)}, {_sum(gradients, 2)})"
        self._say(f"    [Backward] All net params (data, diff): L1 norm = {one}; L2 norm = {two}")


def _edge(value: Tensor, blocked: bool) -> Tensor:
    """Return the value as one layer reads it, which keeps this layer's share of its gradient."""
    if blocked or not value.requires_grad or not torch.is_grad_enabled():
        return value.detach()
    edge = value.view_as(value)  # one edge per reader: the gradient of the blob itself is their sum
    edge.retain_grad()
    return edge


def _blob(value: str) -> str:
    return value.rpartition("@")[0] or value


def _mean(tensor: Tensor) -> str:
    return six_digits(tensor.detach().abs().double().mean().item()) if tensor.numel() else "0"


def _sum(tensors: Sequence[Tensor], order: int) -> str:
    norms = [torch.linalg.vector_norm(tensor, order) for tensor in tensors]
    return six_digits(torch.linalg.vector_norm(torch.stack(norms), order).item()) if norms else "0"
