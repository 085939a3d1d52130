"""Scale and Bias: a smaller blob, learned or given, broadcast over a larger one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from fusion.layers.axes import positive_axis
from fusion.layers.registry import Context, layer

if TYPE_CHECKING:
    from prototxt.schema.messages import LayerParameter


def broadcast_from(small: Tensor, x: Tensor, axis: int) -> Tensor:
    """Return `small` with trailing axes of size 1, so that its first axis is aligned with x's `axis`."""
    trailing = x.dim() - positive_axis(axis, x.dim()) - small.dim()
    return small.reshape(small.shape + (1,) * trailing) if small.dim() and trailing else small


class Scale(nn.Module):
    """x * scale + bias, both broadcast over x from `axis` on.

    weight  the scale, or None where it is the second bottom
    bias    of the scale's shape, or None
    """

    def __init__(self, weight: nn.Parameter | None, bias: nn.Parameter | None, axis: int) -> None:
        super().__init__()
        self.weight, self.bias, self.axis = weight, bias, axis
        self.caffe_params = tuple(name for name in ("weight", "bias") if getattr(self, name) is not None)

    def forward(self, x: Tensor, given: Tensor | None = None) -> Tensor:
        """Map any shape to the same shape."""
        scale = self.weight if given is None else given
        assert scale is not None
        y = x * broadcast_from(scale, x, self.axis)
        return y if self.bias is None else y + broadcast_from(self.bias, x, self.axis)


class Bias(nn.Module):
    """x + bias, broadcast over x from `axis` on; the bias is None where it is the second bottom."""

    def __init__(self, bias: nn.Parameter | None, axis: int) -> None:
        super().__init__()
        self.bias, self.axis = bias, axis
        self.caffe_params = () if bias is None else ("bias",)

    def forward(self, x: Tensor, given: Tensor | None = None) -> Tensor:
        """Map any shape to the same shape."""
        bias = self.bias if given is None else given
        assert bias is not None
        return x + broadcast_from(bias, x, self.axis)


def _scale_apart(layer: LayerParameter, context: Context) -> bool:
    # At axis 0 a second bottom has one row per sample, but a learned blob one per position in the batch.
    return (len(layer.bottom) > 1) == (positive_axis(layer.scale_param.axis, len(context.bottoms[0])) == 0)


def _bias_apart(layer: LayerParameter, context: Context) -> bool:
    return (len(layer.bottom) > 1) == (positive_axis(layer.bias_param.axis, len(context.bottoms[0])) == 0)


@layer("Scale", per_sample=_scale_apart)
def _scale(layer: LayerParameter, context: Context) -> nn.Module:
    # scale_layer.cpp fills the scale with 1 where no filler is given; the bias is blob 1, or 0 with a second bottom.
    param = layer.scale_param
    learned = 0 if len(layer.bottom) > 1 else 1
    weight = context.parameter(0, param.filler if param.HasField("filler") else 1.0) if learned else None
    bias = context.parameter(learned, param.bias_filler) if param.bias_term else None
    return Scale(weight, bias, param.axis)


@layer("Bias", per_sample=_bias_apart)
def _bias(layer: LayerParameter, context: Context) -> nn.Module:
    param = layer.bias_param
    return Bias(None if len(layer.bottom) > 1 else context.parameter(0, param.filler), param.axis)
