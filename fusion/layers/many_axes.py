"""Convolutions over any number of spatial axes: torch has up to three, Caffe as many as a blob has.

With more than three, the first spatial axis is unrolled: for each position of the kernel along it, its slices become
batch entries and are convolved over the other axes, and the results are summed.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

Axis = tuple[int, int, int]  # stride, pad and dilation along one spatial axis
_PLAIN = (F.conv1d, F.conv2d, F.conv3d)
_TRANSPOSED = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, axes: list[Axis], group: int) -> Tensor:
    """Cross-correlate.

    x        [N, channels, *space]
    weight   [outputs, channels / group, *kernel]
    bias     [outputs] or None
    axes     one or more
    returns  [N, outputs, *windows]
    """
    if len(axes) <= len(_PLAIN):
        strides, pads, dilations = zip(*axes, strict=True)
        return _PLAIN[len(axes) - 1](x, weight, bias, strides, pads, dilations, group)
    (stride, pad, dilation), *inner = axes
    padded = F.pad(x, [0, 0] * len(inner) + [pad, pad])
    count = (padded.shape[2] - dilation * (weight.shape[2] - 1) - 1) // stride + 1
    total: Tensor | None = None
    for tap in range(weight.shape[2]):
        slices = padded[:, :, _steps(tap * dilation, stride, count)]
        part = convolve(_as_batch(slices), weight[:, :, tap], None, inner, group)
        total = part if total is None else total + part
    assert total is not None
    return _with_bias(_from_batch(total, len(x)), bias)


def deconvolve(x: Tensor, weight: Tensor, bias: Tensor | None, axes: list[Axis], group: int) -> Tensor:
    """Return the transpose of `convolve`: weight [channels, outputs / group, *kernel]."""
    if len(axes) <= len(_TRANSPOSED):
        strides, pads, dilations = zip(*axes, strict=True)
        return _TRANSPOSED[len(axes) - 1](x, weight, bias, strides, pads, 0, group, dilations)
    (stride, pad, dilation), *inner = axes
    count = x.shape[2]
    size = stride * (count - 1) + dilation * (weight.shape[2] - 1) + 1
    total: Tensor | None = None
    for tap in range(weight.shape[2]):
        part = _from_batch(deconvolve(_as_batch(x), weight[:, :, tap], None, inner, group), len(x))
        if total is None:
            total = part.new_zeros(len(x), part.shape[1], size, *part.shape[3:])
        total[:, :, _steps(tap * dilation, stride, count)] += part
    assert total is not None
    return _with_bias(total[:, :, pad : size - pad], bias)


def _steps(start: int, stride: int, count: int) -> slice:
    return slice(start, start + stride * (count - 1) + 1, stride)


def _as_batch(x: Tensor) -> Tensor:
    """[N, C, L, *space] to [N * L, C, *space]."""
    return x.transpose(1, 2).flatten(0, 1)


def _from_batch(x: Tensor, batch: int) -> Tensor:
    """[N * L, C, *space] to [N, C, L, *space]."""
    return x.reshape(batch, -1, *x.shape[1:]).transpose(1, 2)


def _with_bias(x: Tensor, bias: Tensor | None) -> Tensor:
    return x if bias is None else x + bias.reshape(-1, *[1] * (x.dim() - 2))
