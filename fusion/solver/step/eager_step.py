"""Forward and backward through autograd."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from fusion.nets.build import total_loss
from fusion.nets.graph import Net
from fusion.solver.batches import Blobs
from fusion.solver.mixed_precision import Precision

Run = Callable[[Blobs], dict[str, Tensor]]  # a net, or a function that replaces it
Step = Callable[[Blobs], tuple[dict[str, Tensor], Tensor]]  # outputs and loss; gradients are left in the parameters


def eager(net: Net, precision: Precision | None = None, run: Run | None = None) -> Step:
    """Return a step that adds its gradients to those of the parameters.

    precision  of the forward pass; None: float32
    run        runs instead of the net, with the same outputs
    """
    precision, forward = precision or Precision(), run or net

    def step(blobs: Blobs) -> tuple[dict[str, Tensor], Tensor]:
        with precision.cast():
            out = forward(blobs)
            loss = total_loss(net, out)
        precision.backward(loss)
        return out, loss.detach()

    return step
