"""Axes as Caffe counts them, from the front or, if negative, from the back."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from fusion.layers.registry import Context
    from prototxt.schema.messages import LayerParameter


def canonical(axis: int, axes: int) -> int:
    """The axis counted from the front, for a blob of so many axes."""
    return axis + axes if axis < 0 else axis


def outer_inner(x: Tensor, axis: int) -> tuple[int, int]:
    """The number of elements before and behind the axis."""
    axis = canonical(axis, x.dim())
    return math.prod(x.shape[:axis]), math.prod(x.shape[axis + 1 :])


def behind_batch(axis: Callable[[LayerParameter], int]) -> Callable[[LayerParameter, Context], bool]:
    """Whether the axis that a layer works on leaves the batch axis, the first one, alone."""

    def asks(layer: LayerParameter, context: Context) -> bool:
        return canonical(axis(layer), len(context.bottoms[0])) > 0

    return asks


def full(x: Tensor) -> Tensor:
    """The tensor in at least float32: losses and statistics lose too much in half precision."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
