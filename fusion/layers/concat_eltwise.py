"""Layers that make one blob of several, or of many elements: Eltwise, Reduction, ArgMax, Softmax."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fusion.layers.axes import behind_batch
from fusion.layers.registry import Context, layer

if TYPE_CHECKING:
    from prototxt.schema.messages import LayerParameter


class Sum(nn.Module):
    """The sum of the bottoms, each times its coefficient."""

    def __init__(self, coeff: tuple[float, ...]) -> None:
        super().__init__()
        self.coeff = coeff

    def forward(self, *bottoms: Tensor) -> Tensor:
        """Equal shapes to the same."""
        terms = [x if c == 1 else x * c for x, c in zip(bottoms, self.coeff, strict=True)]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total


class Product(nn.Module):
    """The product of the bottoms."""

    def forward(self, *bottoms: Tensor) -> Tensor:
        """Equal shapes to the same."""
        product = bottoms[0]
        for x in bottoms[1:]:
            product = product * x
        return product


class Maximum(nn.Module):
    """The greatest of the bottoms; of equals in the first two the second gets the gradient, later ones do not."""

    def forward(self, *bottoms: Tensor) -> Tensor:
        """Equal shapes to the same."""
        first, second, *others = bottoms
        greatest = torch.where(first > second, first, second)
        for x in others:
            greatest = torch.where(x > greatest, x, greatest)
        return greatest


@layer("Eltwise", per_sample=True)
def eltwise(layer: LayerParameter, context: Context) -> nn.Module:
    """The sum, product or maximum of equally shaped bottoms."""
    param = layer.eltwise_param
    if param.operation == param.PROD:
        return Product()
    if param.operation == param.MAX:
        return Maximum()
    return Sum(tuple(param.coeff) or (1.0,) * len(layer.bottom))


class Reduction(nn.Module):
    """One number for everything from `axis` on: the sum, the mean, or the sum of magnitudes or squares; times coeff."""

    def __init__(self, operation: str, axis: int, coeff: float) -> None:
        super().__init__()
        self.operation, self.axis, self.coeff = operation, axis, coeff

    def forward(self, x: Tensor) -> Tensor:
        """[*front, *reduced] to [*front]."""
        rows = x.flatten(self.axis) if x.dim() else x.reshape(1)
        if self.operation == "ASUM":
            rows = rows.abs()
        elif self.operation == "SUMSQ":
            rows = rows.square()
        y = rows.mean(-1) if self.operation == "MEAN" else rows.sum(-1)
        return y if self.coeff == 1 else y * self.coeff


@layer("Reduction", per_sample=behind_batch(lambda layer: layer.reduction_param.axis))
def reduction(layer: LayerParameter, context: Context) -> nn.Module:
    """One number for everything from an axis on."""
    param = layer.reduction_param
    return Reduction(param.ReductionOp.Name(param.operation), param.axis, param.coeff)


class ArgMax(nn.Module):
    """Where the greatest elements are, as floats; of equals the larger index comes first.

    axis     that is searched; None searches each whole sample
    values   tell the elements themselves: beside the indices without an axis, instead of them with one
    """

    def __init__(self, top_k: int, axis: int | None, values: bool) -> None:
        super().__init__()
        self.top_k, self.axis, self.values = top_k, axis, values

    def forward(self, x: Tensor) -> Tensor:
        """[N, ...] to [N, 1 or 2, top_k, 1, ...] of x's rank, or of 3 axes; or top_k in place of the axis's size."""
        axis = 1 if self.axis is None else self.axis
        rows = x.flatten(1) if self.axis is None else x
        backwards = rows.detach().flip(axis)
        order = torch.sort(backwards, dim=axis, descending=True, stable=True).indices.narrow(axis, 0, self.top_k)
        index = rows.shape[axis] - 1 - order
        values = rows.detach().gather(axis, index)
        if self.axis is not None:
            return values if self.values else index.to(x.dtype)
        tops = [index.to(x.dtype), values] if self.values else [index.to(x.dtype)]
        stacked = torch.stack(tops, 1)
        return stacked.reshape(stacked.shape + (1,) * max(x.dim() - 3, 0))


@layer(
    "ArgMax",
    per_sample=behind_batch(lambda layer: layer.argmax_param.axis if layer.argmax_param.HasField("axis") else 1),
)
def arg_max(layer: LayerParameter, context: Context) -> nn.Module:
    """Where the greatest elements are, and what they are."""
    param = layer.argmax_param
    return ArgMax(param.top_k, param.axis if param.HasField("axis") else None, param.out_max_val)


@layer("Softmax", per_sample=behind_batch(lambda layer: layer.softmax_param.axis))
def softmax(layer: LayerParameter, context: Context) -> nn.Module:
    """Probabilities along an axis."""
    return nn.Softmax(layer.softmax_param.axis)
