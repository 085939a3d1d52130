"""Axes as Caffe numbers them: from the front or, if negative, from the back."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from fusion.layers.registry import Context
    from prototxt.schema.messages import LayerParameter


def positive_axis(axis: int, axes: int) -> int:
    """Return the axis counted from the front, for a blob with `axes` axes."""
    return axis + axes if axis < 0 else axis


def spares_batch(axis: Callable[[LayerParameter], int]) -> Callable[[LayerParameter, Context], bool]:
    """Return a predicate: does the axis that the layer works on come after the batch axis, the first one?"""

    def after_batch(layer: LayerParameter, context: Context) -> bool:
        return positive_axis(axis(layer), len(context.bottoms[0])) > 0

    return after_batch


def full(x: Tensor) -> Tensor:
    """Return the tensor in at least float32: losses and statistics lose too much in half precision."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
