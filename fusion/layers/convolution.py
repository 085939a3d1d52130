"""Convolution and Deconvolution over any number of spatial axes, and Im2col."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion.layers.axes import spares_batch
from fusion.layers.many_axes import convolve, deconvolve
from fusion.layers.registry import Context, layer
from prototxt.shapes.convolution import KernelWindow, kernel_windows

if TYPE_CHECKING:
    from prototxt.schema.messages import ConvolutionParameter, LayerParameter


class Convolution(nn.Module):
    """Convolves every bottom with the same weights.

    axis     of the channels, from the end if below 0; all axes before it are batch, all after it are space
    weight   [num_output, channels / group, *kernel]; of a deconvolution [channels, num_output / group, *kernel]
    bias     [num_output] or None

    channels_last  whether to use that layout, which later layers inherit; the same numbers up to rounding
    """

    channels_last = False

    def __init__(
        self,
        weight: nn.Parameter,
        bias: nn.Parameter | None,
        geometry: list[KernelWindow],
        group: int,
        axis: int,
        transposed: bool,
    ) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias
        self.caffe_params = ("weight",) if bias is None else ("weight", "bias")
        self.stride = tuple(window.stride for window in geometry)
        self.pad = tuple(window.pad for window in geometry)
        self.dilation = tuple(window.dilation for window in geometry)
        self.group, self.axis, self.transposed = group, axis, transposed

    def forward(self, x: Tensor, *more: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Map [N, channels, *space] each to [N, num_output, *space]."""
        return tuple(self._one(y) for y in (x, *more)) if more else self._one(x)

    def _one(self, x: Tensor) -> Tensor:
        if self.axis == 1 and self.stride:
            return self._convolve(x)
        batch, sample = x.shape[: self.axis], x.shape[self.axis :]
        y = self._convolve(x.reshape(math.prod(batch), *sample))
        return y.reshape(*batch, *y.shape[1:])

    def _convolve(self, x: Tensor) -> Tensor:
        if not self.stride:  # no spatial axes: Caffe's convolution of [N, C] is an inner product
            return F.linear(x, self.weight.T if self.transposed else self.weight, self.bias)
        geometry = list(zip(self.stride, self.pad, self.dilation, strict=True))
        over = deconvolve if self.transposed else convolve
        weight: Tensor = self.weight
        if self.channels_last and weight.dim() == 4:
            weight = weight.to(memory_format=torch.channels_last)  # contiguous() would leave one channel as it is
        return over(x, weight, self.bias, geometry, self.group)

    def extra_repr(self) -> str:
        """Return the settings that the weights do not show."""
        return f"stride={self.stride}, pad={self.pad}, dilation={self.dilation}, group={self.group}"


def _channel_axis(layer: LayerParameter) -> int:
    return layer.convolution_param.axis


@layer("Convolution", per_sample=spares_batch(_channel_axis))
def _convolution(layer: LayerParameter, context: Context) -> nn.Module:
    return _build(layer.convolution_param, context, transposed=False)


@layer("Deconvolution", per_sample=spares_batch(_channel_axis))
def _deconvolution(layer: LayerParameter, context: Context) -> nn.Module:
    return _build(layer.convolution_param, context, transposed=True)


def _build(param: ConvolutionParameter, context: Context, transposed: bool) -> nn.Module:
    weight = context.parameter(0, param.weight_filler)
    bias = context.parameter(1, param.bias_filler) if param.bias_term else None
    geometry = kernel_windows(param, weight.dim() - 2)
    return Convolution(weight, bias, geometry, param.group, param.axis, transposed)
