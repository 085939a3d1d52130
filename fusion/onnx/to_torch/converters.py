"""Converters for onnx2torch's registry: operators that opset 17 lacks or onnx2torch gets wrong, in our own domain."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from types import BuiltinFunctionType
from typing import Any, Final

import torch
from onnx2torch.node_converters import get_converter
from onnx2torch.node_converters.registry import add_converter
from onnx2torch.utils.common import OnnxMapping, OperationConverterResult
from torch import Tensor, nn

# Each of these adds its functions to OPERATORS.
import fusion.onnx.to_torch.conv_pool
import fusion.onnx.to_torch.gather_scatter
import fusion.onnx.to_torch.grid_sample
import fusion.onnx.to_torch.quantized
import fusion.onnx.to_torch.recurrent  # noqa: F401
from fusion.onnx.graphs.graph import OWN
from fusion.onnx.to_torch.functions import OPERATORS
from fusion.onnx.to_torch.resize import Resize

TENSOR: Final = Ellipsis
"""Stands for an input that is computed while the net runs."""


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

    slots   the inputs: None for an absent one, TENSOR for the next computed one, else a constant setting
    values  further arguments by name
    """

    def __init__(self, compute: Callable[..., Any], slots: Sequence[Any], values: Mapping[str, Any]) -> None:
        super().__init__()
        self.compute, self.slots, self.values = compute, tuple(slots), dict(values)

    def forward(self, *tensors: Tensor) -> Any:
        """Call the function with the tensors in its slots."""
        given = iter(tensors)
        return self.compute(*(next(given) if slot is TENSOR else slot for slot in self.slots), **self.values)


def _computed(node: Any, graph: Any) -> Any:
    """Convert a node to a function of `OPERATORS`; constant settings become numbers, so that no tensor is read."""
    compute, settings = OPERATORS[node.operation_type]
    slots: list[Any] = []
    for index, name in enumerate(node.input_values):
        setting = name in graph.initializers and index in settings
        slots.append(graph.initializers[name].to_torch().tolist() if setting else TENSOR if name else None)
    known = {} if isinstance(compute, BuiltinFunctionType) else dict(inspect.signature(compute).parameters)
    every = any(item.kind is inspect.Parameter.VAR_KEYWORD for item in known.values())
    values = {name: value for name, value in node.attributes.items() if every or name in known}
    if "outputs" in known:  # the number of outputs decides which ones the function computes
        values["outputs"] = len(node.output_values)
    names = tuple(name for name, slot in zip(node.input_values, slots, strict=True) if slot is TENSOR)
    return OperationConverterResult(Computed(compute, slots, values), OnnxMapping(names, node.output_values))


def _result(node: Any, module: nn.Module) -> Any:
    return OperationConverterResult(module, OnnxMapping(inputs=node.input_values, outputs=node.output_values))


def _dropout(node: Any, graph: Any) -> Any:
    ratio = node.attributes.get("ratio", 0.5)
    return _result(node, nn.Dropout(ratio) if len(node.output_values) == 1 else MaskedDropout(ratio))


def _resize(node: Any, graph: Any) -> Any:
    values = dict(node.attributes)
    return _result(node, Resize(values.pop("sizes", None), values.pop("scales", None), **values))


for _name, _convert in {**dict.fromkeys(OPERATORS, _computed), "Dropout": _dropout, "Resize": _resize}.items():
    add_converter(operation_type=_name, version=1, domain=OWN)(_convert)
for _name in ("GreaterOrEqual", "LessOrEqual"):  # opset 16 only added bfloat16 to them
    try:
        get_converter(operation_type=_name, version=16)
    except NotImplementedError:
        add_converter(operation_type=_name, version=16)(get_converter(operation_type=_name, version=12))
