"""An exponential moving average of the weights, used for tests and written beside each snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fusion.errors import TrainingError
from fusion.nets.weights import save_weights
from fusion.solver.callbacks.callback import Arrays, Callback

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def ema_path(model: str) -> str:
    """Return the path of the averaged weights beside a caffemodel."""
    stem, dot, ending = model.partition(".caffemodel")
    return f"{stem}.ema{dot}{ending}"


def averaging_decay(decay: float, updates: int) -> float:
    """Return the decay after N updates: lower at the start, so that the average forgets the initial weights."""
    return min(decay, (1 + updates) / (10 + updates))


class EMA(Callback):
    """average = d * average + (1 - d) * weights after each update, d = min(decay, (1 + n) / (10 + n)) in the n-th.

    Learnable parameters are averaged; BatchNorm's statistics are the present ones.

    Raises: TrainingError for a decay outside (0, 1).
    """

    name = "ema"

    def __init__(self, decay: float) -> None:
        if not 0 < decay < 1:
            raise TrainingError(f"the decay of averaged weights must lie between 0 and 1, not {decay:g}", hint="0.999")
        self.decay = decay
        self._params: list[Tensor] = []
        self._average: list[Tensor] = []
        self._weights: list[Tensor] = []
        self._restored: Arrays = {}

    def on_start(self) -> None:
        """Start from the present weights, or from the average of the snapshot."""
        self._params = [tensor.detach() for tensor in self.run.flat_params.updated]
        self._average = [tensor.clone() for tensor in self._params]
        self._apply()
        if self.run.iter and not self._restored:
            self.run.display.say("averaged weights: the snapshot has none, so they start from its weights")

    @torch.no_grad()
    def on_update(self, iteration: int) -> None:
        """Update the average."""
        torch._foreach_lerp_(self._average, self._params, 1 - averaging_decay(self.decay, iteration))

    def on_tests_start(self, iteration: int) -> None:
        """Replace the weights by the average."""
        self._weights = [tensor.clone() for tensor in self._params]  # tests measure the average in place of the weights
        torch._foreach_copy_(self._params, self._average)

    def on_tests_end(self, iteration: int) -> None:
        """Restore the weights."""
        torch._foreach_copy_(self._params, self._weights)
        self._weights = []

    def on_snapshot(self, iteration: int, files: Sequence[str]) -> None:
        """Write the average as a caffemodel."""
        if self._average:
            self.on_tests_start(iteration)
            save_weights(self.run.net, ema_path(files[0]))
            self.on_tests_end(iteration)

    def state_dict(self) -> dict[str, NDArray[np.float32]]:
        """Return the average, by the number of the blob in Caffe's order."""
        return {str(index): values.cpu().numpy() for index, values in self._blobs()}

    def load_state_dict(self, state: Arrays) -> None:
        """Set the average, now or when the run starts."""
        self._restored = state
        self._apply()

    def _apply(self) -> None:
        for index, target in self._blobs():
            if str(index) in self._restored:
                target.copy_(torch.tensor(self._restored[str(index)]))

    def _blobs(self) -> list[tuple[int, Tensor]]:
        if not self._average:  # the run has not started
            return []
        flat = self.run.flat_params
        values = dict(zip(flat.updated, self._average, strict=True))
        return [(index, flat.view(values, index)) for index, home in enumerate(flat.homes) if home is not None]
