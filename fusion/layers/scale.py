"""Scale and Bias: a smaller blob, learned or given, spread over a larger one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from fusion.layers.axes import canonical
from fusion.layers.registry import Context, layer

if TYPE_CHECKING:
    from prototxt.schema.messages import LayerParameter


def spread(small: Tensor, x: Tensor, axis: int) -> Tensor:
    """`small` with axes of size 1 behind, so that its first one meets x's `axis`."""
    behind = x.dim() - canonical(axis, x.dim()) - small.dim()
    return small.reshape(small.shape + (1,) * behind) if small.dim() and behind else small


class Scale(nn.Module):
    """x * scale + bias, both meeting x from `axis` on.

    weight  the scale, or None where it is the second bottom
    bias    in the scale's shape, or None
    """

    def __init__(self, weight: nn.Parameter | None, bias: nn.Parameter | None, axis: int) -> None:
        super().__init__()
        self.weight, self.bias, self.axis = weight, bias, axis
        self.caffe_params = tuple(name for name in ("weight", "bias") if getattr(self, name) is not None)

    def forward(self, x: Tensor, given: Tensor | None = None) -> Tensor:
        """Any shape to the same."""
        scale = self.weight if given is None else given
        assert scale is not None
        y = x * spread(scale, x, self.axis)
        return y if self.bias is None else y + spread(self.bias, x, self.axis)


class Bias(nn.Module):
    """x + bias, meeting x from `axis` on; the bias is None where it is the second bottom."""

    def __init__(self, bias: nn.Parameter | None, axis: int) -> None:
        super().__init__()
        self.bias, self.axis = bias, axis
        self.caffe_params = () if bias is None else ("bias",)

    def forward(self, x: Tensor, given: Tensor | None = None) -> Tensor:
        """Any shape to the same."""
        bias = self.bias if given is None else given
        assert bias is not None
        return x + spread(bias, x, self.axis)


def _scale_apart(layer: LayerParameter, context: Context) -> bool:
    """A second bottom that meets axis 0 has a row for each sample; a learned one, for each place in the batch."""
    return (len(layer.bottom) > 1) == (canonical(layer.scale_param.axis, len(context.bottoms[0])) == 0)


def _bias_apart(layer: LayerParameter, context: Context) -> bool:
    return (len(layer.bottom) > 1) == (canonical(layer.bias_param.axis, len(context.bottoms[0])) == 0)


@layer("Scale", per_sample=_scale_apart)
def scale(layer: LayerParameter, context: Context) -> nn.Module:
    """x times a learned blob, which starts at 1, or times the second bottom; with `bias_term` plus a learned one."""
    param = layer.scale_param
    learned = 0 if len(layer.bottom) > 1 else 1
    weight = context.parameter(0, param.filler if param.HasField("filler") else 1.0) if learned else None
    bias = context.parameter(learned, param.bias_filler) if param.bias_term else None
    return Scale(weight, bias, param.axis)


@layer("Bias", per_sample=_bias_apart)
def bias(layer: LayerParameter, context: Context) -> nn.Module:
    """x plus a learned blob, or plus the second bottom."""
    param = layer.bias_param
    return Bias(None if len(layer.bottom) > 1 else context.parameter(0, param.filler), param.axis)
