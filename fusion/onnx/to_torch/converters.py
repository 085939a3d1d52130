"""Converters for onnx2torch's registry: operators that opset 17 has no words for, under a domain of our own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import BuiltinFunctionType
from typing import Any, Final

import torch
import torch.nn.functional as F
from onnx2torch.node_converters import get_converter
from onnx2torch.node_converters.registry import add_converter
from onnx2torch.utils.common import OnnxMapping, OperationConverterResult
from torch import Tensor, nn

from fusion.onnx.graphs.graph import OWN
from fusion.onnx.to_torch import conv_pool, functions as of, gather_scatter
from fusion.onnx.to_torch.resize import Resize

TENSOR: Final = Ellipsis
"""Stands for an input that comes while the net runs."""
COMPUTED: Final[dict[str, tuple[Callable[..., Any], tuple[int, ...]]]] = {
    **{name: (compute, ()) for name, compute in (
        ("Acosh", torch.acosh), ("Asinh", torch.asinh), ("Atanh", torch.atanh), ("Cosh", torch.cosh),
        ("Sinh", torch.sinh),
    )},
    **{f"Reduce{kind}": (partial(of.reduced, f"Reduce{kind}"), (1,)) for kind in (
        "L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare"
    )},
    "AveragePool": (conv_pool.average_pool, ()),
    "Clip": (of.clip, (1, 2)),
    "Conv": (conv_pool.convolution, ()),
    "ConvTranspose": (conv_pool.transposed_convolution, ()),
    "CumSum": (of.cumulated, (1,)),
    "Flatten": (of.flatten, ()),
    "GatherElements": (gather_scatter.gather_elements, ()),
    "GatherND": (gather_scatter.gather_nd, ()),
    "Gemm": (of.gemm, ()),
    "Hardmax": (gather_scatter.hardmax, ()),
    "InstanceNormalization": (of.instance_normalization, ()),
    "IsInf": (of.is_inf, ()),
    "LRN": (of.lrn, ()),
    "LayerNormalization": (of.layer_normalization, ()),
    "LpNormalization": (of.lp_normalization, ()),
    "MaxPool": (conv_pool.max_pool, ()),
    "Mod": (of.remainder, ()),
    "NonMaxSuppression": (gather_scatter.non_max_suppression, (2, 3, 4)),
    "NonZero": (gather_scatter.non_zero, ()),
    "OneHot": (gather_scatter.one_hot, (1,)),
    "PRelu": (of.prelu, ()),
    "Pad": (of.pad, (1, 2, 3)),
    "Pow": (of.power, ()),
    "Range": (of.range_, ()),
    "ScatterElements": (gather_scatter.scatter_elements, ()),
    "ScatterND": (gather_scatter.scatter_nd, ()),
    "Selu": (of.selu, ()),
    "Slice": (of.slice_, (1, 2, 3, 4)),
    "Squeeze": (of.squeeze, (1,)),
    "ThresholdedRelu": (of.thresholded_relu, ()),
    "TopK": (gather_scatter.top_k, (1,)),
    "Trilu": (of.trilu, (1,)),
    "Unsqueeze": (of.unsqueeze, (1,)),
}  # fmt: skip
"""Standard operators whose functions are our own, and which of their inputs are settings."""


class GroupNorm(nn.Module):
    """GroupNormalization of opset 21: one scale and shift per channel."""

    def __init__(self, groups: int, epsilon: float) -> None:
        super().__init__()
        self.groups, self.epsilon = groups, epsilon

    def forward(self, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        """float [N, C, ...] normalized within each group of channels."""
        return F.group_norm(x, self.groups, scale, bias, self.epsilon)


class RMSNorm(nn.Module):
    """RMSNormalization: divided by the root of the mean square over all axes from `axis` on."""

    def __init__(self, axis: int, epsilon: float) -> None:
        super().__init__()
        self.axis, self.epsilon = axis, epsilon

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        """float of any shape; scale broadcasts over the last axes."""
        start = self.axis % x.dim()
        power = x.square().mean(tuple(range(start, x.dim())), keepdim=True)
        return x * torch.rsqrt(power + self.epsilon) * scale


class MaskedDropout(nn.Module):
    """Dropout that also gives its mask, in which all is kept but in TRAIN."""

    def __init__(self, ratio: float) -> None:
        super().__init__()
        self.ratio = ratio

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Of any shape."""
        mask = torch.ones_like(x, dtype=torch.bool)
        if not self.training:
            return x, mask
        mask = torch.rand_like(x) >= self.ratio
        return x * mask / (1 - self.ratio), mask


class Reshape(nn.Module):
    """Reshape to sizes that are known; 0 keeps a size, -1 is worked out."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.sizes = sizes

    def forward(self, x: Tensor) -> Tensor:
        """float of any shape."""
        return x.reshape([x.shape[axis] if size == 0 else size for axis, size in enumerate(self.sizes)])


class Swish(nn.Module):
    """x * sigmoid(alpha * x)."""

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, x: Tensor) -> Tensor:
        """Element by element."""
        return x * torch.sigmoid(self.alpha * x)


class Computed(nn.Module):
    """A function of tensors.

    slots   its inputs: None for one left out, TENSOR for the next one that comes, else a constant setting
    values  further arguments by name
    """

    def __init__(self, compute: Callable[..., Any], slots: Sequence[Any], values: Mapping[str, Any]) -> None:
        super().__init__()
        self.compute, self.slots, self.values = compute, tuple(slots), dict(values)

    def forward(self, *tensors: Tensor) -> Any:
        """What the function gives."""
        given = iter(tensors)
        return self.compute(*(next(given) if slot is TENSOR else slot for slot in self.slots), **self.values)


def computed(node: Any, graph: Any) -> Any:
    """A function of `COMPUTED`; constant settings among its inputs as numbers, so that no tensor is looked at."""
    compute, settings = COMPUTED[node.operation_type]
    slots: list[Any] = []
    for index, name in enumerate(node.input_values):
        setting = name in graph.initializers and index in settings
        slots.append(graph.initializers[name].to_torch().tolist() if setting else TENSOR if name else None)
    known = {} if isinstance(compute, BuiltinFunctionType) else dict(inspect.signature(compute).parameters)
    every = any(item.kind is inspect.Parameter.VAR_KEYWORD for item in known.values())
    values = {name: value for name, value in node.attributes.items() if every or name in known}
    if "outputs" in known:
        values["outputs"] = len(node.output_values)
    names = tuple(name for name, slot in zip(node.input_values, slots, strict=True) if slot is TENSOR)
    return OperationConverterResult(Computed(compute, slots, values), OnnxMapping(names, node.output_values))


def _result(node: Any, module: nn.Module) -> Any:
    return OperationConverterResult(module, OnnxMapping(inputs=node.input_values, outputs=node.output_values))


def dropout(node: Any, graph: Any) -> Any:
    """Dropout, in TRAIN alone."""
    ratio = node.attributes.get("ratio", 0.5)
    return _result(node, nn.Dropout(ratio) if len(node.output_values) == 1 else MaskedDropout(ratio))


def gelu(node: Any, graph: Any) -> Any:
    """Gelu, exact or by tanh."""
    return _result(node, nn.GELU(node.attributes.get("approximate", "none")))


def group_normalization(node: Any, graph: Any) -> Any:
    """GroupNormalization."""
    return _result(node, GroupNorm(node.attributes["num_groups"], node.attributes.get("epsilon", 1e-5)))


def mish(node: Any, graph: Any) -> Any:
    """Mish."""
    return _result(node, nn.Mish())


def reshape(node: Any, graph: Any) -> Any:
    """Reshape to a constant target, which of a scalar is empty."""
    return _result(node, Reshape([] if node.attributes.get("scalar") else node.attributes["shape"]))


def resize(node: Any, graph: Any) -> Any:
    """Resize by constant sizes or factors."""
    values = dict(node.attributes)
    return _result(node, Resize(values.pop("sizes", None), values.pop("scales", None), **values))


def rms_normalization(node: Any, graph: Any) -> Any:
    """RMSNormalization."""
    return _result(node, RMSNorm(node.attributes.get("axis", -1), node.attributes.get("epsilon", 1e-5)))


def swish(node: Any, graph: Any) -> Any:
    """Swish."""
    return _result(node, Swish(node.attributes.get("alpha", 1.0)))


for _name, _convert in (
    ("Dropout", dropout),
    ("Gelu", gelu),
    ("GroupNormalization", group_normalization),
    ("Mish", mish),
    ("Reshape", reshape),
    ("Resize", resize),
    ("RMSNormalization", rms_normalization),
    ("Swish", swish),
):
    add_converter(operation_type=_name, version=1, domain=OWN)(_convert)
for _name in COMPUTED:
    add_converter(operation_type=_name, version=1, domain=OWN)(computed)
for _name in ("GreaterOrEqual", "LessOrEqual"):  # opset 16 lets them compare bfloat16, and changes nothing else
    try:
        get_converter(operation_type=_name, version=16)
    except NotImplementedError:
        add_converter(operation_type=_name, version=16)(get_converter(operation_type=_name, version=12))
