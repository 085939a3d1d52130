"""Operators of ONNX as functions of tensors, where onnx2torch has none or computes something else in a corner.

Inputs that a graph leaves out are None; settings are numbers and lists, or tensors where they are computed.
Sources: the operators' definitions at https://onnx.ai/onnx/operators/.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

Setting: TypeAlias = "Tensor | Sequence[float] | float | None"
Ints: TypeAlias = "Tensor | Sequence[int] | int"


def integers(values: Ints) -> list[int]:
    """A setting of several whole numbers."""
    found = values.tolist() if isinstance(values, Tensor) else values
    return [int(found)] if isinstance(found, (int, float)) else [int(value) for value in found]


def number(value: Tensor | Sequence[float] | float) -> float:
    """A setting of one number."""
    found = value.tolist() if isinstance(value, Tensor) else value
    while not isinstance(found, (bool, int, float)):
        found = found[0]
    return found


def clip(x: Tensor, low: Setting = None, high: Setting = None, *, min: Setting = None, max: Setting = None) -> Tensor:
    """Bounds as inputs, or as attributes before opset 11; either may be left out."""
    low, high = (bound if bound is not None else other for bound, other in ((low, min), (high, max)))
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        bounds = [None if bound is None else torch.as_tensor(bound, dtype=x.dtype, device=x.device).reshape(())
                  for bound in (low, high)]  # fmt: skip
        return torch.clamp(x, *bounds)
    ends = [None if bound is None else number(bound) for bound in (low, high)]
    if ends == [None, None]:
        return x
    if ends == [0, None]:
        return torch.relu(x)
    return F.relu6(x) if ends == [0, 6] else torch.clamp(x, *ends)


def is_inf(x: Tensor, *, detect_negative: int = 1, detect_positive: int = 1) -> Tensor:
    """Infinities of the signs asked for."""
    found = torch.isinf(x)
    if not detect_negative:
        found = found & (x > 0)
    return found if detect_positive else found & (x < 0)


def selu(x: Tensor, *, alpha: float = 1.67326319217681884765625, gamma: float = 1.05070102214813232421875) -> Tensor:
    """With factors of its own."""
    return gamma * F.elu(x, alpha)


def power(x: Tensor, exponent: Tensor) -> Tensor:
    """In the type of the base."""
    base = x if x.is_floating_point() or not exponent.is_floating_point() else x.double()
    return torch.pow(base, exponent).to(x.dtype)


def prelu(x: Tensor, slope: Tensor) -> Tensor:
    """A slope that broadcasts from the last axis on; one per channel is (C, 1, ...)."""
    trailing = slope.shape[1:] if slope.dim() == x.dim() else slope.shape
    if slope.numel() == 1 or (len(trailing) == x.dim() - 1 > 0 and slope.numel() == trailing[0] == x.shape[1]):
        return F.prelu(x, slope.reshape(-1))
    return torch.where(x > 0, x, x * slope)


def remainder(x: Tensor, y: Tensor, *, fmod: int = 0) -> Tensor:
    """With the sign of the divisor, or as C's fmod with that of the dividend."""
    return torch.fmod(x, y) if fmod else torch.remainder(x, y)


def gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,  # noqa: N803 - ONNX's names
    transB: int = 0,  # noqa: N803
) -> Tensor:
    """A product of matrices and a sum."""
    found = (a.T if transA else a) @ (b.T if transB else b)
    found = found if alpha == 1 else (found * alpha).to(a.dtype)
    return found if c is None else found + (c if beta == 1 else (c * beta).to(a.dtype))


def flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    """To two axes, those before `axis` and the others."""
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def squeeze(x: Tensor, axes: Ints | None = None) -> Tensor:
    """Without some axes, or all, of size 1."""
    return x.squeeze() if axes is None else x.squeeze(tuple(integers(axes)))


def unsqueeze(x: Tensor, axes: Ints) -> Tensor:
    """With new axes, counted in the result."""
    wanted = integers(axes)
    for axis in sorted(axis % (x.dim() + len(wanted)) for axis in wanted):
        x = x.unsqueeze(axis)
    return x


def slice_(x: Tensor, starts: Ints, ends: Ints, axes: Ints | None = None, steps: Ints | None = None) -> Tensor:
    """Every step-th element of some axes, counted from the end for negative steps."""
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


def pad(x: Tensor, pads: Ints, value: Setting = None, axes: Ints | None = None, *, mode: str = "constant") -> Tensor:
    """Around some axes, or all; negative pads cut."""
    sizes = integers(pads)
    over = [axis % x.dim() for axis in (range(x.dim()) if axes is None else integers(axes))]
    ends = dict(zip(over, zip(sizes[: len(over)], sizes[len(over) :], strict=True), strict=True))
    if mode == "constant":
        flat = [size for axis in reversed(range(x.dim())) for size in ends.get(axis, (0, 0))]
        return F.pad(x, flat, value=0 if value is None else number(value))
    for axis, (before, after) in ends.items():
        if before or after:
            x = x.index_select(axis, _reached(x.shape[axis], before, after, mode).to(x.device))
    return x


def _reached(size: int, before: int, after: int, mode: str) -> Tensor:
    """Which element of an axis each one of the padded axis is."""
    found = torch.arange(-before, size + after)
    if mode == "edge":
        return found.clamp(0, size - 1)
    if mode == "wrap":
        return found % size
    turned = found % max(1, 2 * (size - 1))  # reflect: back and forth without its ends twice
    return torch.where(turned < size, turned, 2 * (size - 1) - turned)


def lrn(x: Tensor, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0) -> Tensor:
    """Across an odd number of channels."""
    squares = F.pad(x.square().reshape(len(x), 1, x.shape[1], -1), (0, 0, size // 2, size // 2))
    means = F.avg_pool2d(squares, (size, 1), 1).reshape(x.shape)
    return x / (bias + alpha * means) ** beta


def layer_normalization(
    x: Tensor, scale: Tensor, bias: Tensor | None = None, *, axis: int = -1, epsilon: float = 1e-5, outputs: int = 1
) -> Any:
    """Over all axes from `axis` on, scale and shift broadcast; also the mean and the inverse deviation."""
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


def instance_normalization(x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    """Each channel of each sample; one of a single element becomes the shift."""
    return torch.group_norm(x, x.shape[1], scale, bias, epsilon)


def cumulated(x: Tensor, axis: Ints, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    """CumSum."""
    (over,) = integers(axis)
    x = x.flip(over) if reverse else x
    if exclusive:
        x = torch.cat([torch.zeros_like(x.narrow(over, 0, 1)), x.narrow(over, 0, x.shape[over] - 1)], over)
    found = torch.cumsum(x, over, dtype=x.dtype)
    return found.flip(over) if reverse else found


def range_(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    """In the type of its start."""
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype, device=start.device)


def lp_normalization(x: Tensor, *, axis: int = -1, p: int = 2) -> Tensor:
    """Zeros stay zeros."""
    norm = torch.linalg.vector_norm(x, p, axis, keepdim=True)
    return x / torch.where(norm == 0, torch.ones_like(norm), norm)


def thresholded_relu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """What is above alpha."""
    return torch.where(x > alpha, x, torch.zeros_like(x))


def trilu(x: Tensor, diagonal: Ints = 0, *, upper: int = 1) -> Tensor:
    """One triangle of each matrix."""
    (count,) = integers(diagonal)
    return torch.triu(x, count) if upper else torch.tril(x, count)


def _lowest(x: Tensor, sign: int) -> float:
    if x.dtype == torch.bool:
        return sign < 0
    if x.is_floating_point():
        return -sign * math.inf
    limits = torch.iinfo(x.dtype)
    return limits.min if sign > 0 else limits.max


def _extreme(x: Tensor, over: list[int], kept: bool, sign: int) -> Tensor:
    for axis in sorted(over, reverse=True):  # one by one: the gradient goes to one of equal elements
        if not x.shape[axis]:
            shape = [1 if at == axis else size for at, size in enumerate(x.shape) if kept or at != axis]
            x = x.new_full(shape, _lowest(x, sign))
        else:
            x = (torch.max if sign > 0 else torch.min)(x, axis, keepdim=kept).values
    return x


def _product(x: Tensor, over: list[int], kept: bool) -> Tensor:
    for axis in sorted(over, reverse=True):
        x = torch.prod(x, axis, keepdim=kept, dtype=x.dtype)
    return x


def _mean(x: Tensor, over: list[int], kept: bool) -> Tensor:
    if x.is_floating_point():
        return torch.mean(x, over, kept)
    return torch.div(torch.sum(x, over, kept), math.prod(x.shape[axis] for axis in over), rounding_mode="trunc")


_Reduction: TypeAlias = "Callable[[Tensor, list[int], bool], Tensor]"
_REDUCTIONS: Final[dict[str, _Reduction]] = {
    "ReduceL1": lambda x, over, kept: torch.sum(x.abs(), over, kept),
    "ReduceL2": lambda x, over, kept: torch.linalg.vector_norm(
        x if x.is_floating_point() else x.double(), 2, over, kept
    ),
    "ReduceLogSum": lambda x, over, kept: torch.log(torch.sum(x, over, kept)),
    "ReduceLogSumExp": lambda x, over, kept: torch.logsumexp(x, over, kept),
    "ReduceMax": lambda x, over, kept: _extreme(x, over, kept, 1),
    "ReduceMean": _mean,
    "ReduceMin": lambda x, over, kept: _extreme(x, over, kept, -1),
    "ReduceProd": _product,
    "ReduceSum": lambda x, over, kept: torch.sum(x, over, kept),
    "ReduceSumSquare": lambda x, over, kept: torch.sum(x.square(), over, kept),
}


def reduced(
    kind: str, x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    """Reduce...; over all axes where none is named."""
    over = [] if axes is None else sorted(axis % x.dim() for axis in integers(axes))
    if not over:
        if noop_with_empty_axes:
            return x
        over = list(range(x.dim()))
    if not over:  # a number: each reduction of one element
        return reduced(kind, x.reshape(1), [0], keepdims=0)
    return _REDUCTIONS[kind](x, over, bool(keepdims)).to(x.dtype)
