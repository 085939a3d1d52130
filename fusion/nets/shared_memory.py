"""The value of a blob after an in-place layer has changed another blob that shares its memory in Caffe."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

SHARED_MEMORY = "SharedMemory"
"""The type of such calls in a plan; no prototxt has it."""


class SharedMemory(nn.Module):
    """A blob's new value: the elements of the blob that shares its memory, in its own shape.

    Caffe splits a blob with several readers, and splits share data but not gradients: later readers of the blob get
    the changed values, while their gradient goes to the blob as if there were no change. Earlier readers keep their
    inputs for the gradient, where Caffe would use the changed values.
    """

    def forward(self, changed: Tensor, blob: Tensor) -> Tensor:
        """Return the elements of `changed` in the shape of `blob`."""
        found: Tensor = _CopyValues.apply(changed, blob)
        return found


class _CopyValues(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(changed: Tensor, blob: Tensor) -> Tensor:
        return changed.reshape(blob.shape).clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Keep nothing: the gradient needs no values."""

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        return None, gradients[0]
