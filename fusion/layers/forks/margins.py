"""SphereFace's inner product with an angular margin.

Source: Liu et al. 2017; wy1iu/sphereface (margin_inner_product_layer.cpp).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fusion.layers.axes import full
from fusion.layers.registry import Context, layer
from prototxt.shapes.fork_layers import fork_param

if TYPE_CHECKING:
    from prototxt.schema.messages import LayerParameter


def chebyshev(cosine: Tensor, margin: int) -> tuple[Tensor, Tensor]:
    """Return psi(theta) = (-1)^k cos(m theta) - 2 k, where k = floor(m theta / pi), and its derivative by cos(theta).

    cosine   float, any shape
    margin   m: 1, 2, 3 or 4
    """
    c = cosine
    value, slope = {
        1: (c, torch.ones_like(c)),
        2: (2 * c**2 - 1, 4 * c),
        3: (4 * c**3 - 3 * c, 12 * c**2 - 3),
        4: (8 * c**4 - 8 * c**2 + 1, 32 * c**3 - 16 * c),
    }[margin]
    k = (margin * c.clamp(-1, 1).acos() / torch.pi).floor().clamp(max=margin - 1)
    sign = 1 - 2 * (k % 2)
    return sign * value - 2 * k, sign * slope


class Margin(torch.autograd.Function):
    """(lambda * x.w + |x| psi) / (1 + lambda) at the label, x.w elsewhere, with the fork's own gradient.

    These gradients are the authors', not derivatives: that of x at the label is scaled so that its coefficients of w
    and x have length 1, and that of w is the plain inner product's.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, label: Tensor, margin: int, mix: float) -> Tensor:
        """Map features [N, D], unit weights [C, D] and labels [N] to [N, C]."""
        y = x @ weight.T
        ctx.margin, ctx.mix = margin, mix
        ctx.save_for_backward(x, weight, label)
        if margin == 1:
            return y
        norm = x.norm(dim=1)
        own = y.gather(1, label[:, None])[:, 0]
        psi, _ = chebyshev(own / norm, margin)
        return y.scatter(1, label[:, None], ((mix * own + norm * psi) / (1 + mix))[:, None])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        """Return the fork's gradients."""
        x, weight, label = ctx.saved_tensors
        gradient = gradient.to(x.dtype)  # autocast multiplies in half precision on the way in, but not on the way back
        by_weight = gradient.T @ x
        if ctx.margin == 1:
            return gradient @ weight, by_weight, None, None, None
        norm = x.norm(dim=1)
        cosine = (x * weight[label]).sum(1) / norm
        psi, slope = chebyshev(cosine, ctx.margin)
        of_x = (psi - cosine * slope) / norm
        length = (slope**2 + of_x**2).sqrt()
        own = gradient.gather(1, label[:, None])
        others = gradient.scatter(1, label[:, None], 0.0)
        angular = own * ((slope / length)[:, None] * weight[label] + (of_x / length)[:, None] * x)
        by_x = (others @ weight + angular + ctx.mix * (gradient @ weight)) / (1 + ctx.mix)
        return by_x, by_weight, None, None, None


class MarginInnerProduct(nn.Module):
    """Inner products with weights of length 1, and a margin at the label that grows as lambda falls.

    weight  [num_output, inputs]; every call scales its rows to length 1 in place
    lambda  max(least, base * (1 + gamma * calls)^-power)
    """

    caffe_params = ("weight",)

    def __init__(
        self,
        weight: nn.Parameter,
        margin: int,
        axis: int,
        schedule: tuple[float, float, float, float],
        calls: int,
        return_lambda: bool,
    ) -> None:
        super().__init__()
        self.weight, self.margin, self.axis = weight, margin, axis
        self.schedule, self.calls, self.return_lambda = schedule, calls, return_lambda

    def forward(self, x: Tensor, label: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Map features [*batch, *sample] and labels of any dtype to [*batch, num_output] and optional lambda [1]."""
        base, gamma, power, least = self.schedule
        self.calls += 1
        mix = max(base * (1 + gamma * self.calls) ** -power, least)
        x = full(x)
        rows = x.flatten(self.axis)
        with torch.no_grad():
            self.weight.div_(self.weight.norm(dim=1, keepdim=True))
        y: Tensor = Margin.apply(
            rows.reshape(-1, rows.shape[-1]), self.weight, label.flatten().long(), self.margin, mix
        )
        y = y.reshape(*rows.shape[:-1], -1)
        return (y, y.new_full((1,), mix)) if self.return_lambda else y


@layer("MarginInnerProduct")
def _margin_inner_product(layer: LayerParameter, context: Context) -> nn.Module:
    # SINGLE to QUADRUPLE are margins of 1 to 4 times the angle; `iteration` is the number of earlier calls.
    param = fork_param(layer, "margin_inner_product_param")
    weight = context.parameter(0, param.weight_filler)
    schedule = (param.base, param.gamma, param.power, param.lambda_min)
    return MarginInnerProduct(weight, param.type + 1, param.axis, schedule, param.iteration, len(layer.top) > 1)
