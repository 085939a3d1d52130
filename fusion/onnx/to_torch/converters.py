"""The modules of the nodes of a graph in its plain form."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from types import BuiltinFunctionType
from typing import Any, Final

import onnx
import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Each of these adds its functions to OPERATORS.
import fusion.onnx.to_torch.arrangement
import fusion.onnx.to_torch.conv_pool
import fusion.onnx.to_torch.elementwise
import fusion.onnx.to_torch.gather_scatter
import fusion.onnx.to_torch.grid_sample
import fusion.onnx.to_torch.quantized
import fusion.onnx.to_torch.recurrent  # noqa: F401
from fusion.onnx.graphs import Graph
from fusion.onnx.graphs.graph import attributes
from fusion.onnx.to_torch.functions import OPERATORS
from fusion.onnx.to_torch.resize import Resize

TENSOR: Final = Ellipsis
"""Stands for an input that is a tensor."""


class BatchNormalization(nn.Module):
    """Normalization per channel, by the statistics of the batch in TRAIN, which then change the stored ones."""

    def __init__(self, *, epsilon: float = 1e-5, momentum: float = 0.9) -> None:
        super().__init__()
        self.epsilon, self.momentum = epsilon, 1 - momentum  # ONNX has the share of the old statistics

    def forward(self, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        """Normalize float [N, C, ...]."""
        return F.batch_norm(x, mean, variance, scale, bias, self.training, self.momentum, self.epsilon)


class MaskedDropout(nn.Module):
    """Dropout with its mask as a second output; the mask is all True except in TRAIN."""

    def __init__(self, ratio: float) -> None:
        super().__init__()
        self.ratio = ratio

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return x with elements dropped, and the bool mask of those kept; x has any shape."""
        if not self.training:
            return x, torch.ones_like(x, dtype=torch.bool)
        mask = torch.rand_like(x) >= self.ratio
        return x * mask / (1 - self.ratio), mask


class Computed(nn.Module):
    """A function of tensors as a module.

    slots   the inputs: None for an absent one, TENSOR for the next tensor, else a constant setting
    values  further arguments by name
    """

    def __init__(self, compute: Callable[..., Any], slots: Sequence[Any], values: Mapping[str, Any]) -> None:
        super().__init__()
        self.compute, self.slots, self.values = compute, tuple(slots), dict(values)

    def forward(self, *tensors: Tensor) -> Any:
        """Call the function with the tensors in its slots."""
        given = iter(tensors)
        return self.compute(*(next(given) if slot is TENSOR else slot for slot in self.slots), **self.values)


def node_module(node: onnx.NodeProto, graph: Graph) -> tuple[nn.Module, list[str]]:
    """Return the module of a node, and the names of the values that it takes as tensors, in order."""
    values = attributes(node)
    if node.op_type == "BatchNormalization":
        return BatchNormalization(**values), list(node.input)
    if node.op_type == "Dropout":
        ratio = values.get("ratio", 0.5)
        return nn.Dropout(ratio) if len(node.output) == 1 else MaskedDropout(ratio), list(node.input)
    if node.op_type == "Resize":
        return Resize(values.pop("sizes", None), values.pop("scales", None), **values), list(node.input)
    compute, settings = OPERATORS[node.op_type]
    # Constant settings become numbers, so that no tensor is read while the net runs.
    slots: list[Any] = [TENSOR if name else None for name in node.input]
    for index in settings:
        if index < len(slots) and node.input[index] in graph.constants:
            slots[index] = graph.constants[node.input[index]].tolist()
    known = {} if isinstance(compute, BuiltinFunctionType) else dict(inspect.signature(compute).parameters)
    every = any(item.kind is inspect.Parameter.VAR_KEYWORD for item in known.values())
    # The number of outputs decides which ones are computed; the meaning of RoiAlign depends on the opset.
    values.update({"outputs": len(node.output), "opset": graph.opset})
    values = {name: value for name, value in values.items() if name in known or (every and name != "opset")}
    return Computed(compute, slots, values), [
        name for name, slot in zip(node.input, slots, strict=True) if slot is TENSOR
    ]
