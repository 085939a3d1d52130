"""Layers that put elements elsewhere, or add one blob to another.

Sources: Hu et al. 2018 and hujie-frank/SENet (Axpy), Zhang et al. 2018 and farmingyard/ShuffleNet (ShuffleChannel),
weiliu89/caffe at branch ssd (Permute), senlinuc/caffe_ocr (Transpose), hzli-ucas/caffe (Reverse), gklz1982/caffe-yolov2
after pjreddie/darknet (Reorg).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fusion.layers.axes import canonical
from fusion.layers.registry import Context, layer
from prototxt.shapes.fork_layers import fork_param

if TYPE_CHECKING:
    from prototxt.schema.messages import LayerParameter


class Axpy(nn.Module):
    """a * x + y."""

    def forward(self, scale: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """One factor per sample and channel [N, C, ...], and [N, C, *space] twice, to [N, C, *space]."""
        return scale.reshape(*x.shape[:2], *[1] * (x.dim() - 2)) * x + y


@layer("Axpy", per_sample=True)
def axpy(layer: LayerParameter, context: Context) -> nn.Module:
    """A shortcut added to a branch that is weighed channel by channel."""
    return Axpy()


class ShuffleChannel(nn.Module):
    """Channels of all groups in turn: read as [group, channels / group], written as its transpose."""

    def __init__(self, group: int) -> None:
        super().__init__()
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, ...] to the same."""
        groups = x.reshape(x.shape[0], self.group, -1, *x.shape[2:])
        return groups.transpose(1, 2).reshape(x.shape)


@layer("ShuffleChannel", per_sample=True)
def shuffle_channel(layer: LayerParameter, context: Context) -> nn.Module:
    """A fixed shuffle of the channels."""
    return ShuffleChannel(fork_param(layer, "shuffle_channel_param").group)


class Permute(nn.Module):
    """The axes in another order; axes that are not named follow behind."""

    def __init__(self, order: tuple[int, ...]) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to one of the same sizes."""
        named = [canonical(axis, x.dim()) for axis in self.order]
        return x.permute(*named, *(axis for axis in range(x.dim()) if axis not in named)).contiguous()


@layer("Permute", per_sample=lambda layer, context: list(fork_param(layer, "permute_param").order)[:1] == [0])
def permute(layer: LayerParameter, context: Context) -> nn.Module:
    """The axes in the given order."""
    return Permute(tuple(fork_param(layer, "permute_param").order))


@layer("Transpose", per_sample=lambda layer, context: list(fork_param(layer, "transpose_param").dim)[:1] == [0])
def transpose(layer: LayerParameter, context: Context) -> nn.Module:
    """The axes in the given order, every one of them named."""
    return Permute(tuple(fork_param(layer, "transpose_param").dim))


class Reverse(nn.Module):
    """The elements along an axis in reverse; with markers each sequence by itself, and 0 behind its end."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, x: Tensor, cont: Tensor | None = None) -> Tensor:
        """Any shape to the same; or sequences [T, N, C] and markers [T, N], 0 behind a sequence's end."""
        if cont is None:
            return x.flip(self.axis)
        time = torch.arange(x.shape[0], device=x.device)[:, None]
        lengths = ((cont != 0) * (time + 1)).amax(0).clamp(min=1)
        index = (lengths - 1 - time).clamp(min=0)[..., None].expand_as(x)
        return x.gather(0, index) * (time < lengths)[..., None]


@layer("Reverse", per_sample=lambda layer, context: fork_param(layer, "reverse_param").axis > 0)
def reverse(layer: LayerParameter, context: Context) -> nn.Module:
    """Sequences from back to front."""
    return Reverse(fork_param(layer, "reverse_param").axis)


class Reorg(nn.Module):
    """Squares of pixels to channels, or back, in darknet's order.

    That order reads the blob as [C / s^2, H * s, W * s], takes it apart into squares, and reads the result in the new
    shape: not what the YOLO papers draw, but what their weights were trained with.
    """

    def __init__(self, stride: int, back: bool) -> None:
        super().__init__()
        self.stride, self.back = stride, back

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C * s^2, H / s, W / s], or back."""
        s = self.stride
        num, channels, height, width = x.shape
        if self.back:
            squares = x.reshape(num, s, s, channels // s**2, height, width)
            return squares.permute(0, 3, 4, 1, 5, 2).reshape(num, channels // s**2, height * s, width * s)
        squares = x.reshape(num, channels // s**2, height, s, width, s)
        return squares.permute(0, 3, 5, 1, 2, 4).reshape(num, channels * s**2, height // s, width // s)


@layer("Reorg", per_sample=True)
def reorg(layer: LayerParameter, context: Context) -> nn.Module:
    """Squares of pixels to channels, or back; the channels must divide by stride^2 either way."""
    param = fork_param(layer, "reorg_param")
    return Reorg(param.stride, param.reverse)
