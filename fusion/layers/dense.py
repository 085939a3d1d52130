"""InnerProduct and Embed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional as F

from fusion.layers.axes import spares_batch
from fusion.layers.registry import Context, layer

if TYPE_CHECKING:
    from prototxt.schema.messages import LayerParameter


class InnerProduct(nn.Module):
    """The axes from `axis` on, flattened, times a matrix, plus a bias.

    weight  [num_output, inputs], or [inputs, num_output] if transposed
    bias    [num_output] or None
    """

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None, axis: int, transpose: bool) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias
        self.caffe_params = ("weight",) if bias is None else ("weight", "bias")
        self.axis, self.transpose = axis, transpose

    def forward(self, x: Tensor) -> Tensor:
        """Map [*batch, *sample] to [*batch, num_output]."""
        return F.linear(x.flatten(self.axis), self.weight.T if self.transpose else self.weight, self.bias)


@layer("InnerProduct", per_sample=spares_batch(lambda layer: layer.inner_product_param.axis))
def _inner_product(layer: LayerParameter, context: Context) -> nn.Module:
    param = layer.inner_product_param
    weight = context.parameter(0, param.weight_filler)
    bias = context.parameter(1, param.bias_filler) if param.bias_term else None
    return InnerProduct(weight, bias, param.axis, param.transpose)


class Embed(nn.Module):
    """Rows of a table, selected by index.

    weight  [input_dim, num_output]
    bias    [num_output] or None
    """

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias
        self.caffe_params = ("weight",) if bias is None else ("weight", "bias")

    def forward(self, x: Tensor) -> Tensor:
        """Map whole numbers, of any dtype, [...] to [..., num_output]."""
        y = F.embedding(x.long(), self.weight)
        return y if self.bias is None else y + self.bias


@layer("Embed", per_sample=True)
def _embed(layer: LayerParameter, context: Context) -> nn.Module:
    param = layer.embed_param
    weight = context.parameter(0, param.weight_filler)
    return Embed(weight, context.parameter(1, param.bias_filler) if param.bias_term else None)
