"""Operators of ONNX that torch has, or that compute each element or row on its own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from onnx import helper
from torch import Tensor

from fusion.onnx.to_torch.functions import operator

_SAME: Final[dict[str, Callable[..., Tensor]]] = {
    "Abs": torch.abs, "Acos": torch.acos, "Acosh": torch.acosh, "Add": torch.add, "And": torch.logical_and,
    "Asin": torch.asin, "Asinh": torch.asinh, "Atan": torch.atan, "Atanh": torch.atanh, "Ceil": torch.ceil,
    "Celu": F.celu, "Cos": torch.cos, "Cosh": torch.cosh, "Det": torch.linalg.det, "Elu": F.elu,
    "Equal": torch.eq, "Erf": torch.erf, "Exp": torch.exp, "Floor": torch.floor, "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "HardSwish": F.hardswish, "IsNaN": torch.isnan, "Less": torch.lt, "LessOrEqual": torch.le, "Log": torch.log,
    "MatMul": torch.matmul, "Mish": F.mish, "Mul": torch.mul, "Neg": torch.neg, "Not": torch.logical_not,
    "Or": torch.logical_or, "Reciprocal": torch.reciprocal, "Relu": torch.relu, "Round": torch.round,
    "Sigmoid": torch.sigmoid, "Sign": torch.sign, "Sin": torch.sin, "Sinh": torch.sinh, "Softplus": F.softplus,
    "Softsign": F.softsign, "Sqrt": torch.sqrt, "Sub": torch.sub, "Tan": torch.tan, "Tanh": torch.tanh,
    "Where": torch.where, "Xor": torch.logical_xor,
}  # fmt: skip
"""Functions of torch that are the operators, with the same names of attributes."""
for _name, _compute in _SAME.items():
    operator(_name)(_compute)


def dtype_of(kind: int) -> torch.dtype:
    """Return torch's type for ONNX's number of an element type."""
    return torch.from_numpy(np.empty(0, helper.tensor_dtype_to_np_dtype(kind))).dtype


@operator("Cast")
def _cast(x: Tensor, *, to: int) -> Tensor:
    return x.to(dtype_of(to))


@operator("BitShift")
def _bit_shift(x: Tensor, y: Tensor, *, direction: str) -> Tensor:
    return (torch.bitwise_left_shift if direction == "LEFT" else torch.bitwise_right_shift)(x, y)


@operator("Div")
def _div(x: Tensor, y: Tensor) -> Tensor:
    """Divide; whole numbers give whole numbers, rounded towards zero."""
    return torch.div(x, y) if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


@operator("HardSigmoid")
def _hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    return torch.clamp(alpha * x + beta, 0, 1)


@operator("LeakyRelu")
def _leaky_relu(x: Tensor, *, alpha: float = 0.01) -> Tensor:
    return F.leaky_relu(x, alpha)


@operator("LogSoftmax")
def _log_softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    return torch.log_softmax(x, axis)


@operator("Softmax")
def _softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    return torch.softmax(x, axis)


def _folded(compute: Callable[[Tensor, Tensor], Tensor], *tensors: Tensor) -> Tensor:
    """Combine any number of tensors, from the first on."""
    return reduce(compute, tensors)


for _name, _pair in (("Max", torch.maximum), ("Min", torch.minimum), ("Sum", torch.add)):
    operator(_name)(partial(_folded, _pair))


@operator("Mean")
def _mean(*tensors: Tensor) -> Tensor:
    return _folded(torch.add, *tensors) / len(tensors)


@operator("Einsum")
def _einsum(*tensors: Tensor, equation: str) -> Tensor:
    return torch.einsum(equation, *tensors)


def _place_of_extreme(
    find: Callable[..., Tensor], x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0
) -> Tensor:
    """Return the index of the largest or smallest element along an axis, of equal ones the first or the last."""
    if not select_last_index:
        return find(x, axis, bool(keepdims))
    return x.shape[axis] - 1 - find(x.flip(axis), axis, bool(keepdims))


operator("ArgMax")(partial(_place_of_extreme, torch.argmax))
operator("ArgMin")(partial(_place_of_extreme, torch.argmin))


@operator("GlobalAveragePool")
def _global_average(x: Tensor) -> Tensor:
    return x.mean(tuple(range(2, x.dim())), keepdim=True)


@operator("GlobalLpPool")
def _global_norm(x: Tensor, *, p: int = 2) -> Tensor:
    found: Tensor = torch.linalg.vector_norm(x, p, tuple(range(2, x.dim())), keepdim=True)
    return found


@operator("EyeLike")
def _eye_like(x: Tensor, *, dtype: int | None = None, k: int = 0) -> Tensor:
    """Return a matrix of x's shape with ones on a diagonal; k counts it from the main one upwards."""
    kind = x.dtype if dtype is None else dtype_of(dtype)
    rows, columns = (torch.arange(size, device=x.device) for size in x.shape)
    return (columns - rows.unsqueeze(1) == k).to(kind)
