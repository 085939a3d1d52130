"""Operators of ONNX as functions of tensors, with the register of them all.

Absent inputs are None; settings are numbers and lists, or tensors if the graph computes them.
Sources: the operators' definitions at https://onnx.ai/onnx/operators/.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

Setting: TypeAlias = "Tensor | Sequence[float] | float | None"
Ints: TypeAlias = "Tensor | Sequence[int] | int"


OPERATORS: Final[dict[str, tuple[Callable[..., Any], tuple[int, ...]]]] = {}
"""The functions of all operators but those that need modules, and which of their inputs are settings."""
_Function = TypeVar("_Function", bound=Callable[..., Any])


def operator(name: str, settings: tuple[int, ...] = ()) -> Callable[[_Function], _Function]:
    """Register a function for an operator of ONNX; `settings` are its inputs that become numbers if constant."""

    def register(function: _Function) -> _Function:
        OPERATORS[name] = function, settings
        return function

    return register


def integers(values: Ints) -> list[int]:
    """Return a setting of several integers."""
    found = values.tolist() if isinstance(values, Tensor) else values
    return [int(found)] if isinstance(found, (int, float)) else [int(value) for value in found]


def scalar(value: Tensor | Sequence[float] | float) -> float:
    """Return a setting of one number."""
    found = value.tolist() if isinstance(value, Tensor) else value
    while not isinstance(found, (bool, int, float)):
        found = found[0]
    return found


@operator("Clip", settings=(1, 2))
def _clip(x: Tensor, low: Setting = None, high: Setting = None, *, min: Setting = None, max: Setting = None) -> Tensor:
    """Clamp; the bounds are inputs, or attributes before opset 11, and either may be absent."""
    low, high = (bound if bound is not None else other for bound, other in ((low, min), (high, max)))
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        bounds = [None if bound is None else torch.as_tensor(bound, dtype=x.dtype, device=x.device).reshape(())
                  for bound in (low, high)]  # fmt: skip
        return torch.clamp(x, *bounds)
    # The most common bounds are torch's relu and relu6.
    ends = [None if bound is None else scalar(bound) for bound in (low, high)]
    if ends == [None, None]:
        return x
    if ends == [0, None]:
        return torch.relu(x)
    return F.relu6(x) if ends == [0, 6] else torch.clamp(x, *ends)


@operator("IsInf")
def _is_inf(x: Tensor, *, detect_negative: int = 1, detect_positive: int = 1) -> Tensor:
    found = torch.isinf(x)
    if not detect_negative:
        found = found & (x > 0)
    return found if detect_positive else found & (x < 0)


@operator("Selu")
def _selu(x: Tensor, *, alpha: float = 1.67326319217681884765625, gamma: float = 1.05070102214813232421875) -> Tensor:
    return gamma * F.elu(x, alpha)


@operator("Pow")
def _pow(x: Tensor, exponent: Tensor) -> Tensor:
    """Return the power in the dtype of the base."""
    base = x if x.is_floating_point() or not exponent.is_floating_point() else x.double()
    return torch.pow(base, exponent).to(x.dtype)


@operator("Gelu")
def _gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    return F.gelu(x, approximate=approximate)


@operator("Swish")
def _swish(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return x * torch.sigmoid(alpha * x)


@operator("PRelu")
def _prelu(x: Tensor, slope: Tensor) -> Tensor:
    """Apply a slope that broadcasts from the last axis on; one per channel is (C, 1, ...)."""
    trailing = slope.shape[1:] if slope.dim() == x.dim() else slope.shape
    if slope.numel() == 1 or (len(trailing) == x.dim() - 1 > 0 and slope.numel() == trailing[0] == x.shape[1]):
        return F.prelu(x, slope.reshape(-1))
    return torch.where(x > 0, x, x * slope)


@operator("Mod")
def _mod(x: Tensor, y: Tensor, *, fmod: int = 0) -> Tensor:
    """Return the remainder with the sign of the divisor, or as C's fmod with that of the dividend."""
    return torch.fmod(x, y) if fmod else torch.remainder(x, y)


@operator("Gemm")
def _gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,  # noqa: N803 - ONNX's names
    transB: int = 0,  # noqa: N803
) -> Tensor:
    found = (a.T if transA else a) @ (b.T if transB else b)
    found = found if alpha == 1 else (found * alpha).to(a.dtype)
    return found if c is None else found + (c if beta == 1 else (c * beta).to(a.dtype))


@operator("Flatten")
def _flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    """Reshape to two axes: those before `axis`, and the others."""
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@operator("Reshape", settings=(1,))
def _reshape(x: Tensor, shape: Ints, *, allowzero: int = 0) -> Tensor:
    """Reshape; a size of 0 keeps that of x, unless `allowzero`, and -1 is computed."""
    return x.reshape([size or (0 if allowzero else x.shape[axis]) for axis, size in enumerate(integers(shape))])


@operator("Squeeze", settings=(1,))
def _squeeze(x: Tensor, axes: Ints | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(tuple(integers(axes)))


@operator("Unsqueeze", settings=(1,))
def _unsqueeze(x: Tensor, axes: Ints) -> Tensor:
    """Insert axes, numbered as in the result."""
    added = integers(axes)
    for axis in sorted(axis % (x.dim() + len(added)) for axis in added):
        x = x.unsqueeze(axis)
    return x


@operator("Slice", settings=(1, 2, 3, 4))
def _slice(x: Tensor, starts: Ints, ends: Ints, axes: Ints | None = None, steps: Ints | None = None) -> Tensor:
    """Slice some axes; torch has no negative steps, so those are sliced forward and flipped."""
    first, last = integers(starts), integers(ends)
    over = list(range(len(first))) if axes is None else integers(axes)
    every = [1] * len(first) if steps is None else integers(steps)
    for axis, *cut in zip(over, first, last, every, strict=True):
        found = range(*slice(*cut).indices(x.shape[axis]))
        forward = found if found.step > 0 else found[::-1]
        where = [slice(None)] * x.dim()
        where[axis] = slice(forward.start, forward.stop, forward.step) if forward else slice(0, 0)
        x = x[tuple(where)]
        x = x if found.step > 0 else x.flip(axis)
    return x


@operator("Pad", settings=(1, 2, 3))
def _pad(x: Tensor, pads: Ints, value: Setting = None, axes: Ints | None = None, *, mode: str = "constant") -> Tensor:
    """Pad some axes, or all; negative pads crop."""
    sizes = integers(pads)
    over = [axis % x.dim() for axis in (range(x.dim()) if axes is None else integers(axes))]
    ends = dict(zip(over, zip(sizes[: len(over)], sizes[len(over) :], strict=True), strict=True))
    if mode == "constant":
        flat = [size for axis in reversed(range(x.dim())) for size in ends.get(axis, (0, 0))]
        return F.pad(x, flat, value=0 if value is None else scalar(value))
    for axis, (before, after) in ends.items():
        if before or after:
            x = x.index_select(axis, _reached(x.shape[axis], before, after, mode).to(x.device))
    return x


def _reached(size: int, before: int, after: int, mode: str) -> Tensor:
    """Return for each element of the padded axis the index of its source, int64 [before + size + after]."""
    found = torch.arange(-before, size + after)
    if mode == "edge":
        return found.clamp(0, size - 1)
    if mode == "wrap":
        return found % size
    phase = found % max(1, 2 * (size - 1))  # reflect: forth and back, with each end once
    return torch.where(phase < size, phase, 2 * (size - 1) - phase)


@operator("LRN")
def _lrn(x: Tensor, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0) -> Tensor:
    squares = F.pad(x.square().reshape(len(x), 1, x.shape[1], -1), (0, 0, size // 2, size // 2))
    means = F.avg_pool2d(squares, (size, 1), 1).reshape(x.shape)
    return x / (bias + alpha * means) ** beta


@operator("LayerNormalization")
def _layer_normalization(
    x: Tensor, scale: Tensor, bias: Tensor | None = None, *, axis: int = -1, epsilon: float = 1e-5, outputs: int = 1
) -> Any:
    """Normalize over all axes from `axis` on; return also the mean and the inverse deviation if they are read."""
    shape = x.shape[axis:]
    if scale.shape == shape and (bias is None or bias.shape == shape):
        found = F.layer_norm(x, shape, scale, bias, epsilon)
    else:
        found = F.layer_norm(x, shape, eps=epsilon) * scale
        found = found if bias is None else found + bias
    if outputs == 1:
        return found
    over = tuple(range(axis % x.dim(), x.dim()))
    variance, mean = torch.var_mean(x, over, correction=0, keepdim=True)
    return (found, mean, torch.rsqrt(variance + epsilon))[:outputs]


@operator("GroupNormalization")
def _group_normalization(x: Tensor, scale: Tensor, bias: Tensor, *, num_groups: int, epsilon: float = 1e-5) -> Tensor:
    """Normalize float [N, C, ...] per group of channels, as since opset 21: one scale and shift per channel."""
    return F.group_norm(x, num_groups, scale, bias, epsilon)


@operator("RMSNormalization")
def _rms_normalization(x: Tensor, scale: Tensor, *, axis: int = -1, epsilon: float = 1e-5) -> Tensor:
    """Divide by the root of the mean square over all axes from `axis` on."""
    power = x.square().mean(tuple(range(axis % x.dim(), x.dim())), keepdim=True)
    return x * torch.rsqrt(power + epsilon) * scale


@operator("InstanceNormalization")
def _instance_normalization(x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    # Not F.instance_norm, which refuses channels of one element; those become the shift.
    return torch.group_norm(x, x.shape[1], scale, bias, epsilon)


@operator("CumSum", settings=(1,))
def _cumsum(x: Tensor, axis: Ints, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    (over,) = integers(axis)
    x = x.flip(over) if reverse else x
    if exclusive:
        x = torch.cat([torch.zeros_like(x.narrow(over, 0, 1)), x.narrow(over, 0, x.shape[over] - 1)], over)
    found = torch.cumsum(x, over, dtype=x.dtype)
    return found.flip(over) if reverse else found


@operator("Range")
def _range(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype, device=start.device)


@operator("LpNormalization")
def _lp_normalization(x: Tensor, *, axis: int = -1, p: int = 2) -> Tensor:
    """Divide by the norm; vectors of zeros stay zeros."""
    norm = torch.linalg.vector_norm(x, p, axis, keepdim=True)
    return x / torch.where(norm == 0, torch.ones_like(norm), norm)


@operator("ThresholdedRelu")
def _thresholded_relu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return torch.where(x > alpha, x, torch.zeros_like(x))


@operator("Trilu", settings=(1,))
def _trilu(x: Tensor, diagonal: Ints = 0, *, upper: int = 1) -> Tensor:
    (count,) = integers(diagonal)
    return torch.triu(x, count) if upper else torch.tril(x, count)


def _lowest(x: Tensor, sign: int) -> float:
    if x.dtype == torch.bool:
        return sign < 0
    if x.is_floating_point():
        return -sign * math.inf
    limits = torch.iinfo(x.dtype)
    return limits.min if sign > 0 else limits.max


def _extreme(x: Tensor, over: list[int], keepdim: bool, sign: int) -> Tensor:
    for axis in sorted(over, reverse=True):  # not amax: each axis alone sends the gradient to one of equal elements
        if not x.shape[axis]:
            shape = [1 if at == axis else size for at, size in enumerate(x.shape) if keepdim or at != axis]
            x = x.new_full(shape, _lowest(x, sign))
        else:
            x = (torch.max if sign > 0 else torch.min)(x, axis, keepdim=keepdim).values
    return x


def _product(x: Tensor, over: list[int], keepdim: bool) -> Tensor:
    for axis in sorted(over, reverse=True):
        x = torch.prod(x, axis, keepdim=keepdim, dtype=x.dtype)
    return x


def _mean(x: Tensor, over: list[int], keepdim: bool) -> Tensor:
    if x.is_floating_point():
        return torch.mean(x, over, keepdim)
    return torch.div(torch.sum(x, over, keepdim), math.prod(x.shape[axis] for axis in over), rounding_mode="trunc")


_Reduction: TypeAlias = "Callable[[Tensor, list[int], bool], Tensor]"
_REDUCTIONS: Final[dict[str, _Reduction]] = {
    "ReduceL1": lambda x, over, keepdim: torch.sum(x.abs(), over, keepdim),
    "ReduceL2": lambda x, over, keepdim: torch.linalg.vector_norm(
        x if x.is_floating_point() else x.double(), 2, over, keepdim
    ),
    "ReduceLogSum": lambda x, over, keepdim: torch.log(torch.sum(x, over, keepdim)),
    "ReduceLogSumExp": lambda x, over, keepdim: torch.logsumexp(x, over, keepdim),
    "ReduceMax": lambda x, over, keepdim: _extreme(x, over, keepdim, 1),
    "ReduceMean": _mean,
    "ReduceMin": lambda x, over, keepdim: _extreme(x, over, keepdim, -1),
    "ReduceProd": _product,
    "ReduceSum": lambda x, over, keepdim: torch.sum(x, over, keepdim),
    "ReduceSumSquare": lambda x, over, keepdim: torch.sum(x.square(), over, keepdim),
}


def _reduce(
    kind: str, x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    """Reduce over some axes, or over all if none are given."""
    over = [] if axes is None else sorted(axis % x.dim() for axis in integers(axes))
    if not over:
        if noop_with_empty_axes:
            return x
        over = list(range(x.dim()))
    if not over:  # a scalar is reduced as one element
        return _reduce(kind, x.reshape(1), [0], keepdims=0)
    return _REDUCTIONS[kind](x, over, bool(keepdims)).to(x.dtype)


for _kind in _REDUCTIONS:
    operator(_kind, settings=(1,))(partial(_reduce, _kind))
