"""Layers that combine several blobs or the elements of one: Eltwise, Reduction, ArgMax, Softmax."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fusion.layers.axes import spares_batch
from fusion.layers.registry import Context, layer

if TYPE_CHECKING:
    from prototxt.schema.messages import LayerParameter


class Sum(nn.Module):
    """The sum of the bottoms, each times its coefficient."""

    def __init__(self, coeff: tuple[float, ...]) -> None:
        super().__init__()
        self.coeff = coeff

    def forward(self, *bottoms: Tensor) -> Tensor:
        """Map equal shapes to the same shape."""
        terms = [x if c == 1 else x * c for x, c in zip(bottoms, self.coeff, strict=True)]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total


class Product(nn.Module):
    """The product of the bottoms."""

    def forward(self, *bottoms: Tensor) -> Tensor:
        """Map equal shapes to the same shape."""
        product = bottoms[0]
        for x in bottoms[1:]:
            product = product * x
        return product


class Maximum(nn.Module):
    """The elementwise maximum of the bottoms."""

    def forward(self, *bottoms: Tensor) -> Tensor:
        """Map equal shapes to the same shape."""
        # Ties as in eltwise_layer.cpp: between the first two bottoms the second gets the gradient, later ones never do.
        first, second, *others = bottoms
        greatest = torch.where(first > second, first, second)
        for x in others:
            greatest = torch.where(x > greatest, x, greatest)
        return greatest


@layer("Eltwise", per_sample=True)
def _eltwise(layer: LayerParameter, context: Context) -> nn.Module:
    param = layer.eltwise_param
    if param.operation == param.PROD:
        return Product()
    if param.operation == param.MAX:
        return Maximum()
    return Sum(tuple(param.coeff) or (1.0,) * len(layer.bottom))


class Reduction(nn.Module):
    """Reduces all axes from `axis` on: to the sum, the mean, or the sum of magnitudes or squares; times coeff."""

    def __init__(self, operation: str, axis: int, coeff: float) -> None:
        super().__init__()
        self.operation, self.axis, self.coeff = operation, axis, coeff

    def forward(self, x: Tensor) -> Tensor:
        """Map [*front, *reduced] to [*front]."""
        rows = x.flatten(self.axis) if x.dim() else x.reshape(1)
        if self.operation == "ASUM":
            rows = rows.abs()
        elif self.operation == "SUMSQ":
            rows = rows.square()
        y = rows.mean(-1) if self.operation == "MEAN" else rows.sum(-1)
        return y if self.coeff == 1 else y * self.coeff


@layer("Reduction", per_sample=spares_batch(lambda layer: layer.reduction_param.axis))
def _reduction(layer: LayerParameter, context: Context) -> nn.Module:
    param = layer.reduction_param
    return Reduction(param.ReductionOp.Name(param.operation), param.axis, param.coeff)


class ArgMax(nn.Module):
    """Indices of the greatest elements, as floats; of equals the larger index comes first.

    axis     the axis searched; None searches each whole sample
    values   return the elements too: beside the indices without an axis, instead of them with one
    """

    def __init__(self, top_k: int, axis: int | None, values: bool) -> None:
        super().__init__()
        self.top_k, self.axis, self.values = top_k, axis, values

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, ...] to [N, 1 or 2, top_k, 1, ...] of x's rank (at least 3), or replace the axis's size by top_k."""
        axis = 1 if self.axis is None else self.axis
        rows = x.flatten(1) if self.axis is None else x
        # argmax_layer.cpp sorts (value, index) pairs, so of equals the larger index wins: a stable sort from the back.
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
    per_sample=spares_batch(lambda layer: layer.argmax_param.axis if layer.argmax_param.HasField("axis") else 1),
)
def _arg_max(layer: LayerParameter, context: Context) -> nn.Module:
    param = layer.argmax_param
    return ArgMax(param.top_k, param.axis if param.HasField("axis") else None, param.out_max_val)


@layer("Softmax", per_sample=spares_batch(lambda layer: layer.softmax_param.axis))
def _softmax(layer: LayerParameter, context: Context) -> nn.Module:
    return nn.Softmax(layer.softmax_param.axis)
