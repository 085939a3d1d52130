"""The layers of a head in closed form, each as operations on tensors that are allocated once.

A step runs the same few operations on tensors of the same shapes. Arguments and results are bound when the step is
prepared, so that an iteration calls torch's functions and nothing else. Values are float [N, F]; those that depend on
the parameters of H stacked heads are float [N, H, F].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from fusion.layers.concat_eltwise import Sum
from fusion.layers.dense import InnerProduct
from fusion.layers.reshape import Concat
from fusion.layers.score_gradients import NoClosedFormError, Operations
from fusion.nets.graph import Call, Net

Stack = Mapping[str, Tensor]
NAMES = ("InnerProduct", "ReLU", "Concat", "Eltwise SUM")


@dataclass(frozen=True, eq=False)
class HeadLayer:
    """One layer between the lowest parameters that learn and the scores.

    learns  whether each bottom depends on a parameter that learns
    weight  float [O, F], or [H, O, F] of H heads; None for all layers but InnerProduct
    bias    float [O] or [H, O], or None
    """

    call: Call
    module: nn.Module
    learns: tuple[bool, ...]
    weight: Tensor | None = None
    bias: Tensor | None = None

    def forward(self, operations: Operations, bottoms: Sequence[Tensor]) -> Tensor:
        """Append the operations that compute the top, and return the tensor that they write."""
        return _KINDS[type(self.module)][0](self, operations, _stacked(operations, self, bottoms))

    def backward(
        self, operations: Operations, slope: Tensor, bottoms: Sequence[Tensor], top: Tensor
    ) -> Sequence[Tensor | None]:
        """Append the operations of the backward pass; returns each bottom's slope, N times the gradient."""
        return _KINDS[type(self.module)][1](self, operations, slope, bottoms, top)


def head_layer(net: Net, call: Call, learning: frozenset[str], stack: Stack | None) -> HeadLayer:
    """Return a layer ready to be bound. Raises: NoClosedFormError for layers that are not one of NAMES."""
    module = net.get_submodule(call.path)
    if type(module) not in _KINDS or call.blocked or len(call.tops) != 1:
        raise NoClosedFormError(f"layer '{call.name}' ({call.type}) is not one of {', '.join(NAMES)}")
    if isinstance(module, Concat) and module.axis not in (1, -1):
        raise NoClosedFormError(f"layer '{call.name}' joins along axis {module.axis}")
    learns = tuple(value in learning for value in call.bottoms)
    if not isinstance(module, InnerProduct):
        return HeadLayer(call, module, learns)
    if module.axis != 1 or module.transpose:
        raise NoClosedFormError(f"layer '{call.name}' is transposed or works on another axis")
    if any(not param.requires_grad for param in module.parameters()):
        raise NoClosedFormError(f"only a part of layer '{call.name}' learns")
    own: Stack = {f"{call.path}.{key}": param for key, param in module.named_parameters()} if stack is None else stack
    return HeadLayer(call, module, learns, own[f"{call.path}.weight"], own.get(f"{call.path}.bias"))


def gradient_of(param: Tensor) -> Tensor:
    """Return where the gradient of a parameter is left."""
    if param.grad is None:
        param.grad = torch.zeros_like(param)
    return param.grad


def add_slopes(operations: Operations, slopes: dict[str, Tensor], value: str, slope: Tensor) -> None:
    """Add to a value's slope. A new tensor holds the sum: both bottoms of an Eltwise may share one slope."""
    if value in slopes:
        total = torch.empty_like(slope)
        operations.append(partial(torch.add, slopes[value], slope, out=total))
        slope = total
    slopes[value] = slope


def _stacked(operations: Operations, layer: HeadLayer, bottoms: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return the bottoms of a layer, each with an axis of heads where one of them has it."""
    heads = max((x.shape[1] for x in bottoms if x.dim() == 3), default=0)
    if not heads or layer.weight is not None:
        return bottoms
    result = []
    for x in bottoms:
        if x.dim() == 2:
            whole = x.new_empty(len(x), heads, x.shape[1])
            operations.append(partial(whole.transpose(0, 1).copy_, x))  # no view of x: inputs move from step to step
            x = whole
        result.append(x)
    return result


def _dense(layer: HeadLayer, operations: Operations, bottoms: Sequence[Tensor]) -> Tensor:
    (x,), weight, bias = bottoms, layer.weight, layer.bias
    assert weight is not None, "of an InnerProduct"
    weight, bias = weight.detach(), None if bias is None else bias.detach()
    top = x.new_empty(len(x), *weight.shape[:-1])
    if x.dim() == 2:  # one product for all heads, which read the same rows
        turned, out = weight.reshape(-1, weight.shape[-1]).t(), top.view(len(x), -1)
        call = partial(torch.mm, x, turned) if bias is None else partial(torch.addmm, bias.reshape(-1), x, turned)
    else:
        rows, turned, out = x.transpose(0, 1), weight.transpose(1, 2), top.transpose(0, 1)
        call = partial(torch.bmm, rows, turned) if bias is None else partial(torch.baddbmm, bias[:, None], rows, turned)
    operations.append(partial(call, out=out))
    return top


def _dense_backward(
    layer: HeadLayer, operations: Operations, slope: Tensor, bottoms: Sequence[Tensor], top: Tensor
) -> Sequence[Tensor | None]:
    """Slopes are N times the gradient, so that parameters get a share of 1 / N."""
    (x,) = bottoms
    count, share = len(slope), 1 / len(slope)
    assert layer.weight is not None, "of an InnerProduct"
    weight, gradient = layer.weight.detach(), gradient_of(layer.weight)
    wide = slope.reshape(count, -1).t()
    if x.dim() == 2:
        flat = gradient.view(-1, weight.shape[-1])
        operations.append(partial(torch.addmm, flat, wide, x, beta=0, alpha=share, out=flat))
    else:
        turned = slope.permute(1, 2, 0), x.transpose(0, 1)
        operations.append(partial(torch.baddbmm, gradient, *turned, beta=0, alpha=share, out=gradient))
    if layer.bias is not None:  # a product with a vector takes half the time of a sum
        shares = slope.new_full((count,), share)
        operations.append(partial(torch.mv, wide, shares, out=gradient_of(layer.bias).view(-1)))
    if not layer.learns[0]:
        return (None,)
    below = torch.empty_like(x)
    if x.dim() == 2:
        operations.append(partial(torch.mm, slope, weight, out=below))
    else:
        operations.append(partial(torch.bmm, slope.transpose(0, 1), weight, out=below.transpose(0, 1)))
    return (below,)


def _relu(layer: HeadLayer, operations: Operations, bottoms: Sequence[Tensor]) -> Tensor:
    top = torch.empty_like(bottoms[0])
    operations.append(partial(torch.clamp_min, bottoms[0], 0, out=top))
    return top


def _relu_backward(
    layer: HeadLayer, operations: Operations, slope: Tensor, bottoms: Sequence[Tensor], top: Tensor
) -> Sequence[Tensor]:
    below = torch.empty_like(slope)
    operations.append(partial(torch.ops.aten.threshold_backward.grad_input, slope, top, 0, grad_input=below))
    return (below,)


def _concat(layer: HeadLayer, operations: Operations, bottoms: Sequence[Tensor]) -> Tensor:
    top = bottoms[0].new_empty(*bottoms[0].shape[:-1], sum(x.shape[-1] for x in bottoms))
    operations.append(partial(torch.cat, list(bottoms), -1, out=top))
    return top


def _concat_backward(
    layer: HeadLayer, operations: Operations, slope: Tensor, bottoms: Sequence[Tensor], top: Tensor
) -> Sequence[Tensor]:
    parts = torch.split(slope, [x.shape[-1] for x in bottoms], -1)
    if slope.dim() == 2:
        return parts
    whole = [part.contiguous() for part in parts]  # as products of all heads need them
    for part, copy in zip(parts, whole, strict=True):
        operations.append(partial(copy.copy_, part))
    return whole


def _sum(layer: HeadLayer, operations: Operations, bottoms: Sequence[Tensor]) -> Tensor:
    assert isinstance(layer.module, Sum)
    top = torch.empty_like(bottoms[0])
    operations.append(partial(torch.mul, bottoms[0], layer.module.coeff[0], out=top))
    for x, factor in zip(bottoms[1:], layer.module.coeff[1:], strict=True):
        operations.append(partial(top.add_, x, alpha=factor))
    return top


def _sum_backward(
    layer: HeadLayer, operations: Operations, slope: Tensor, bottoms: Sequence[Tensor], top: Tensor
) -> Sequence[Tensor]:
    assert isinstance(layer.module, Sum)
    result = []
    for factor in layer.module.coeff:
        below = slope if factor == 1 else torch.empty_like(slope)
        if factor != 1:
            operations.append(partial(torch.mul, slope, factor, out=below))
        result.append(below)
    return result


Forward = Callable[[HeadLayer, Operations, Sequence[Tensor]], Tensor]
Backward = Callable[[HeadLayer, Operations, Tensor, Sequence[Tensor], Tensor], Sequence[Tensor | None]]
_KINDS: Mapping[type[nn.Module], tuple[Forward, Backward]] = {
    InnerProduct: (_dense, _dense_backward),
    nn.ReLU: (_relu, _relu_backward),
    Concat: (_concat, _concat_backward),
    Sum: (_sum, _sum_backward),
}
