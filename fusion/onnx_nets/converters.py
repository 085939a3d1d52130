"""Converters for onnx2torch's registry: operators that opset 17 has no words for, under a domain of our own."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from onnx2torch.node_converters import get_converter
from onnx2torch.node_converters.registry import add_converter
from onnx2torch.utils.common import OnnxMapping, OperationConverterResult
from torch import Tensor, nn

from fusion.onnx_graphs.graph import OWN


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


class Reshape(nn.Module):
    """Reshape to sizes that are known; 0 keeps a size, -1 is worked out."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.sizes = sizes

    def forward(self, x: Tensor) -> Tensor:
        """float of any shape."""
        return x.reshape([x.shape[axis] if size == 0 else size for axis, size in enumerate(self.sizes)])


class Resize(nn.Module):
    """Resize of the axes behind the channels, in the modes that torch has."""

    def __init__(self, mode: str, sizes: list[int] | None, scales: list[float] | None, corners: bool | None) -> None:
        super().__init__()
        self.mode, self.sizes, self.scales, self.corners = mode, sizes, scales, corners

    def forward(self, x: Tensor) -> Tensor:
        """float [N, C, ...]."""
        mode = {"linear": {1: "linear", 2: "bilinear", 3: "trilinear"}.get(x.dim() - 2), "cubic": "bicubic"}
        return F.interpolate(x, self.sizes, self.scales, mode.get(self.mode) or "nearest", self.corners)


class Slice(nn.Module):
    """Every step-th element of some axes, counted from the end for negative steps."""

    def __init__(self, starts: list[int], ends: list[int], axes: list[int], steps: list[int]) -> None:
        super().__init__()
        self.cuts = tuple(zip(axes, starts, ends, steps, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        """float of any shape."""
        for axis, *cut in self.cuts:
            found = range(*slice(*cut).indices(x.shape[axis]))
            forward = found if found.step > 0 else found[::-1]
            where = [slice(None)] * x.dim()
            where[axis] = slice(forward.start, forward.stop, forward.step) if forward else slice(0, 0)
            x = x[tuple(where)]
            x = x if found.step > 0 else x.flip(axis)
        return x


class Swish(nn.Module):
    """x * sigmoid(alpha * x)."""

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, x: Tensor) -> Tensor:
        """Element by element."""
        return x * torch.sigmoid(self.alpha * x)


def _result(node: Any, module: nn.Module) -> Any:
    return OperationConverterResult(module, OnnxMapping(inputs=node.input_values, outputs=node.output_values))


def dropout(node: Any, graph: Any) -> Any:
    """Dropout, in TRAIN alone."""
    return _result(node, nn.Dropout(node.attributes.get("ratio", 0.5)))


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
    """Resize, nearest, linear or cubic; which of ONNX's modes are torch's has been checked before."""
    values = node.attributes
    mode = values.get("mode", "nearest")
    corners = None if mode == "nearest" else values.get("coordinate_transformation_mode") == "align_corners"
    return _result(node, Resize(mode, values.get("sizes"), values.get("scales"), corners))


def rms_normalization(node: Any, graph: Any) -> Any:
    """RMSNormalization."""
    return _result(node, RMSNorm(node.attributes.get("axis", -1), node.attributes.get("epsilon", 1e-5)))


def slice_(node: Any, graph: Any) -> Any:
    """Slice by known numbers."""
    values = node.attributes
    starts, ends = values["starts"], values["ends"]
    axes = values.get("axes", list(range(len(starts))))
    return _result(node, Slice(starts, ends, axes, values.get("steps", [1] * len(starts))))


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
    ("Slice", slice_),
    ("Swish", swish),
):
    add_converter(operation_type=_name, version=1, domain=OWN)(_convert)
for _name in ("GreaterOrEqual", "LessOrEqual"):  # opset 16 lets them compare bfloat16, and changes nothing else
    try:
        get_converter(operation_type=_name, version=16)
    except NotImplementedError:
        add_converter(operation_type=_name, version=16)(get_converter(operation_type=_name, version=12))
