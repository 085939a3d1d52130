"""Forward and backward through autograd."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from fusion.nets.build import total_loss
from fusion.nets.graph import Net
from fusion.solver.batches import Blobs
from fusion.solver.mixed_precision import Precision

Run = Callable[[Blobs], dict[str, Tensor]]  # a net, or what stands for it
Step = Callable[[Blobs], tuple[dict[str, Tensor], Tensor]]  # outputs and loss; gradients are left in the arena


def eager(net: Net, precision: Precision | None = None, run: Run | None = None) -> Step:
    """A step whose gradients are added to what the arena holds.

    precision  what the forward pass reckons in; None: float32
    run        what runs instead of the net and gives the same
    """
    precision, forward = precision or Precision(), run or net

    def step(blobs: Blobs) -> tuple[dict[str, Tensor], Tensor]:
        with precision.cast():
            out = forward(blobs)
            loss = total_loss(net, out)
        precision.backward(loss)
        return out, loss.detach()

    return step
