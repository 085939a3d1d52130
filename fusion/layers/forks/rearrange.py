"""Layers that rearrange elements, or add one blob to another.

Sources: Hu et al. 2018 and hujie-frank/SENet (Axpy), Zhang et al. 2018 and farmingyard/ShuffleNet (ShuffleChannel),
weiliu89/caffe at branch ssd (Permute), senlinuc/caffe_ocr (Transpose), hzli-ucas/caffe (Reverse), gklz1982/caffe-yolov2
after pjreddie/darknet (Reorg).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fusion.layers.axes import positive_axis
from fusion.layers.registry import Context, layer
from prototxt.shapes.fork_layers import fork_param

if TYPE_CHECKING:
    from prototxt.schema.messages import LayerParameter


@layer("Axpy", per_sample=True)
class Axpy(nn.Module):
    """a * x + y."""

    def forward(self, scale: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Map factors [N, C, ...] and [N, C, *space] twice to [N, C, *space]."""
        return scale.reshape(*x.shape[:2], *[1] * (x.dim() - 2)) * x + y


class ShuffleChannel(nn.Module):
    """Interleaves the groups: reads channels as [group, channels / group] and writes the transpose."""

    def __init__(self, group: int) -> None:
        super().__init__()
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, ...] to the same shape."""
        groups = x.reshape(x.shape[0], self.group, -1, *x.shape[2:])
        return groups.transpose(1, 2).reshape(x.shape)


@layer("ShuffleChannel", per_sample=True)
def _shuffle_channel(layer: LayerParameter, context: Context) -> nn.Module:
    return ShuffleChannel(fork_param(layer, "shuffle_channel_param").group)


class Permute(nn.Module):
    """Permutes the axes; axes that are not listed follow at the end."""

    def __init__(self, order: tuple[int, ...]) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        """Map any shape to one of the same sizes."""
        listed = [positive_axis(axis, x.dim()) for axis in self.order]
        return x.permute(*listed, *(axis for axis in range(x.dim()) if axis not in listed)).contiguous()


@layer("Permute", per_sample=lambda layer, context: list(fork_param(layer, "permute_param").order)[:1] == [0])
def _permute(layer: LayerParameter, context: Context) -> nn.Module:
    return Permute(tuple(fork_param(layer, "permute_param").order))


@layer("Transpose", per_sample=lambda layer, context: list(fork_param(layer, "transpose_param").dim)[:1] == [0])
def _transpose(layer: LayerParameter, context: Context) -> nn.Module:
    return Permute(tuple(fork_param(layer, "transpose_param").dim))


class Reverse(nn.Module):
    """Reverses the elements along an axis; with markers each sequence separately, and 0 after its end."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, x: Tensor, cont: Tensor | None = None) -> Tensor:
        """Map any shape to the same shape; or sequences [T, N, C] and markers [T, N], 0 after a sequence's end."""
        if cont is None:
            return x.flip(self.axis)
        time = torch.arange(x.shape[0], device=x.device)[:, None]
        lengths = ((cont != 0) * (time + 1)).amax(0).clamp(min=1)
        index = (lengths - 1 - time).clamp(min=0)[..., None].expand_as(x)
        return x.gather(0, index) * (time < lengths)[..., None]


@layer("Reverse", per_sample=lambda layer, context: fork_param(layer, "reverse_param").axis > 0)
def _reverse(layer: LayerParameter, context: Context) -> nn.Module:
    return Reverse(fork_param(layer, "reverse_param").axis)


class Reorg(nn.Module):
    """Moves squares of pixels to channels, or back, in darknet's order."""

    # darknet reads the blob as [C / s^2, H * s, W * s], splits it into squares and reads the result in the new shape:
    # not the order in the figures of the YOLO papers, but the one that their weights were trained with.

    def __init__(self, stride: int, back: bool) -> None:
        super().__init__()
        self.stride, self.back = stride, back

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, H, W] to [N, C * s^2, H / s, W / s], or back."""
        s = self.stride
        num, channels, height, width = x.shape
        if self.back:
            squares = x.reshape(num, s, s, channels // s**2, height, width)
            return squares.permute(0, 3, 4, 1, 5, 2).reshape(num, channels // s**2, height * s, width * s)
        squares = x.reshape(num, channels // s**2, height, s, width, s)
        return squares.permute(0, 3, 5, 1, 2, 4).reshape(num, channels * s**2, height // s, width // s)


@layer("Reorg", per_sample=True)
def _reorg(layer: LayerParameter, context: Context) -> nn.Module:
    param = fork_param(layer, "reorg_param")
    return Reorg(param.stride, param.reverse)
