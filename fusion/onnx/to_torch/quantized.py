"""QuantizeLinear and DequantizeLinear of ONNX, and both as fake quantization."""

from __future__ import annotations

import torch
from torch import Tensor

from fusion.onnx.to_torch.functions import operator


def _along(values: Tensor, x: Tensor, axis: int) -> Tensor:
    """Return one value, or one per index of an axis, in a shape that broadcasts to x."""
    if values.numel() == 1:
        return values.reshape(())
    shape = [1] * x.dim()
    shape[axis] = -1
    return values.reshape(shape)


def _steps(x: Tensor, scale: Tensor, zero: Tensor | None, axis: int) -> tuple[Tensor, Tensor, torch.iinfo]:
    """Return x in whole steps from the zero point, the zero point, both float, and the limits of the whole numbers."""
    zero = torch.zeros((), dtype=torch.uint8, device=x.device) if zero is None else zero
    start = _along(zero, x, axis).to(torch.float32)
    return torch.round(x / _along(scale, x, axis)), start, torch.iinfo(zero.dtype)


@operator("QuantizeLinear")
def _quantize(x: Tensor, scale: Tensor, zero: Tensor | None = None, *, axis: int = 1) -> Tensor:
    """Return whole numbers, in the dtype of the zero point, uint8 without one; halves are rounded to even numbers."""
    steps, start, limits = _steps(x, scale, zero, axis)
    return (steps + start).clamp(limits.min, limits.max).to(torch.uint8 if zero is None else zero.dtype)


@operator("DequantizeLinear")
def _dequantize(q: Tensor, scale: Tensor, zero: Tensor | None = None, *, axis: int = 1) -> Tensor:
    number = q.to(torch.int32)
    number = number if zero is None else number - _along(zero, q, axis).to(torch.int32)
    return number.to(torch.float32) * _along(scale, q, axis)


@operator("FakeQuantize")
def _fake_quantize(x: Tensor, scale: Tensor, zero: Tensor | None = None, *, axis: int = 1) -> Tensor:
    """Quantize and dequantize; within the limits the gradient passes unchanged, outside it is zero.

    Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference", CVPR 2018.
    """
    steps, start, limits = _steps(x, scale, zero, axis)
    bounded = (steps + start).clamp(limits.min, limits.max) - start
    straight = torch.where(bounded == steps, x, 0.0)
    return (bounded * _along(scale, x, axis)).detach() + (straight - straight.detach())
