"""Convolutions and poolings of ONNX as functions of tensors, with any pads at either end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fusion.onnx.to_torch.functions import operator

_CONV: Final[dict[int, Any]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE: Final[dict[int, Any]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_MAX: Final[dict[int, Any]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE: Final[dict[int, Any]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def _flat(before: Sequence[int], after: Sequence[int]) -> list[int]:
    """Return pads in torch's order, the last axis first."""
    return [size for pair in reversed(list(zip(before, after, strict=True))) for size in pair]


def _halves(pads: Sequence[int] | None, count: int) -> tuple[list[int], list[int]]:
    whole = list(pads or [0] * (2 * count))
    return whole[:count], whole[count:]


@operator("Conv")
def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    strides: Sequence[int] = (),
    pads: Sequence[int] = (),
    dilations: Sequence[int] = (),
    group: int = 1,
) -> Tensor:
    """Convolve; for nodes whose weights are computed in the graph, or whose pads differ at the two ends."""
    count = weight.dim() - 2
    before, after = _halves(pads, count)
    if before != after:
        x, before = F.pad(x, _flat(before, after)), [0] * count
    ones = [1] * count
    return _tensor(_CONV[count](x, weight, bias, strides or ones, before, dilations or ones, group))


@operator("ConvTranspose")
def _transposed_convolution(x: Tensor, weight: Tensor, bias: Tensor | None = None, **values: Any) -> Tensor:
    """Convolve without pads, then crop or extend the result at its ends as pads and output_shape require."""
    count = weight.dim() - 2
    ones = [1] * count
    steps, longer = values.get("strides", ones), values.get("output_padding", [0] * count)
    settings = {"groups": values.get("group", 1), "dilation": values.get("dilations", ones)}
    whole = _tensor(_CONV_TRANSPOSE[count](x, weight, None, steps, **settings))
    output_shape, auto_pad = values.get("output_shape", []), values.get("auto_pad", "NOTSET")
    before, after = _halves(values.get("pads"), count)
    # output_shape overrides pads: the excess is cut half from either end, the odd element as auto_pad says.
    if auto_pad.startswith("SAME") and not output_shape:
        output_shape = [size * step for size, step in zip(x.shape[2:], steps, strict=True)]
    if output_shape:
        goals = output_shape[-count:]
        total = [max(0, size + more - goal) for size, more, goal in zip(whole.shape[2:], longer, goals, strict=True)]
        small, large = [size // 2 for size in total], [size - size // 2 for size in total]
        before, after = (small, large) if auto_pad == "SAME_UPPER" else (large, small)
        longer = [goal - size + cut for size, cut, goal in zip(whole.shape[2:], total, goals, strict=True)]
    ends = [more - size for size, more in zip(after, longer, strict=True)]
    whole = F.pad(whole, _flat([-size for size in before], ends))
    return whole if bias is None else whole + bias.reshape(-1, *ones)


def _reach(size: int, kernel: int, step: int, spread: int, ends: Sequence[int], ceil: bool) -> tuple[int, int]:
    """Return the number of windows on an axis, and the pad after it that the last one needs."""
    span = (kernel - 1) * spread + 1
    room = size + sum(ends) - span
    count = (-(-room // step) if ceil else room // step) + 1
    if ceil and (count - 1) * step >= size + ends[0]:
        count -= 1  # no window starts in the pad after the axis
    return count, (count - 1) * step + span - size - ends[0]


@operator("MaxPool")
def _max_pool(
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    strides: Sequence[int] = (),
    pads: Sequence[int] = (),
    dilations: Sequence[int] = (),
    ceil_mode: int = 0,
) -> Tensor:
    """Pool with any pads: torch itself accepts only equal pads at both ends, of half a window at most."""
    count = len(kernel_shape)
    ones = [1] * count
    steps, spreads = strides or ones, dilations or ones
    before, after = _halves(pads, count)
    if before == after and all(2 * pad <= size for pad, size in zip(before, kernel_shape, strict=True)):
        return _tensor(_MAX[count](x, kernel_shape, steps, before, spreads, bool(ceil_mode)))
    ends = [
        _reach(size, kernel, step, spread, around, bool(ceil_mode))[1]
        for size, kernel, step, spread, *around in zip(
            x.shape[2:], kernel_shape, steps, spreads, before, after, strict=True
        )
    ]
    low = -math.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
    return _tensor(_MAX[count](F.pad(x, _flat(before, ends), value=low), kernel_shape, steps, 0, spreads))


@operator("AveragePool")
def _average_pool(
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    strides: Sequence[int] = (),
    pads: Sequence[int] = (),
    ceil_mode: int = 0,
    count_include_pad: int = 0,
) -> Tensor:
    """Average over whole windows of the zero-padded input, then rescale each window to its own number of elements."""
    count = len(kernel_shape)
    steps = strides or [1] * count
    before, after = _halves(pads, count)
    if before == after and all(2 * pad <= size for pad, size in zip(before, kernel_shape, strict=True)):
        return _tensor(_AVERAGE[count](x, kernel_shape, steps, before, bool(ceil_mode), bool(count_include_pad)))
    ends, shares = [], np.ones((), np.float32)
    for size, kernel, step, *around in zip(x.shape[2:], kernel_shape, steps, before, after, strict=True):
        windows, end = _reach(size, kernel, step, 1, around, bool(ceil_mode))
        ends.append(end)
        starts = np.arange(windows) * step - around[0]
        first, last = (-around[0], size + around[1]) if count_include_pad else (0, size)
        inside = np.minimum(starts + kernel, last) - np.maximum(starts, first)
        shares = np.multiply.outer(shares, np.float32(kernel) / inside.astype(np.float32))
    means = _tensor(_AVERAGE[count](F.pad(x, _flat(before, ends)), kernel_shape, steps))
    return means * torch.from_numpy(shares).to(means)


def _tensor(found: Any) -> Tensor:
    assert isinstance(found, Tensor)
    return found
