"""A blob after an in-place layer has changed it through another blob that shares its memory in Caffe."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

SHARED_MEMORY = "SharedMemory"
"""The type of such calls in a plan; no prototxt has it."""


class SharedMemory(nn.Module):
    """What has become of a blob: the elements of the one that shares its memory, in its own shape.

    Caffe splits a blob with several readers, and splits share data but not gradients: what reads the blob later sees
    the change, while its gradient goes to the blob as if there were none.
    What read the blob before keeps what it read for its gradient, where Caffe would take the changed values.
    """

    def forward(self, changed: Tensor, blob: Tensor) -> Tensor:
        """The elements of `changed` in the shape of `blob`."""
        found: Tensor = _Seen.apply(changed, blob)
        return found


class _Seen(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(changed: Tensor, blob: Tensor) -> Tensor:
        return changed.reshape(blob.shape).clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Nothing is kept for the gradient."""

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        return None, gradients[0]
