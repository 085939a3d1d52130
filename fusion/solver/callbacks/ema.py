"""An exponential moving average of the weights, used for tests and written beside each snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fusion.errors import TrainingError
from fusion.nets.weights import save_weights
from fusion.solver.callbacks.callback import Arrays, Observer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fusion.solver.solver import Solver


def beside(model: str) -> str:
    """Where the averaged weights of a caffemodel are."""
    stem, dot, ending = model.partition(".caffemodel")
    return f"{stem}.ema{dot}{ending}"


def averaging_decay(decay: float, updates: int) -> float:
    """The decay after so many updates: lower at the start, to forget where the weights came from."""
    return min(decay, (1 + updates) / (10 + updates))


class EMA(Observer):
    """average = d * average + (1 - d) * weights after each update, d = min(decay, (1 + n) / (10 + n)) in the n-th.

    The lower decay at the start lets the average forget where the weights came from. What learns is averaged;
    BatchNorm's statistics are the present ones.

    Raises: TrainingError for a decay outside (0, 1).
    """

    name = "ema"

    def __init__(self, decay: float) -> None:
        if not 0 < decay < 1:
            raise TrainingError(f"the decay of averaged weights must lie between 0 and 1, not {decay:g}", hint="0.999")
        self.decay = decay
        self._run: Solver | None = None
        self._now: list[Tensor] = []
        self._average: list[Tensor] = []
        self._before: list[Tensor] = []
        self._restored: Arrays = {}

    def begin(self, run: Solver) -> None:
        """Start from the present weights, or from what the snapshot held."""
        self._run = run
        self._now = [tensor.detach() for tensor in run.arena.updated]
        self._average = [tensor.clone() for tensor in self._now]
        self._take_over()
        if run.iter and not self._restored:
            run.display.say("averaged weights: the snapshot has none, so they start from its weights")

    @torch.no_grad()
    def updated(self, iteration: int) -> None:
        """Move the average."""
        torch._foreach_lerp_(self._average, self._now, 1 - averaging_decay(self.decay, iteration))

    def testing(self, iteration: int) -> None:
        """Put the average in the weights' place."""
        self._before = [tensor.clone() for tensor in self._now]
        torch._foreach_copy_(self._now, self._average)

    def tested(self, iteration: int) -> None:
        """Put the weights back."""
        torch._foreach_copy_(self._now, self._before)
        self._before = []

    def saved(self, iteration: int, files: Sequence[str]) -> None:
        """Write the average as a caffemodel."""
        if self._run is not None:
            self.testing(iteration)
            save_weights(self._run.net, beside(files[0]))
            self.tested(iteration)

    def state(self) -> dict[str, NDArray[np.float32]]:
        """The average, by the number of the blob in Caffe's order."""
        return {str(index): values.cpu().numpy() for index, values in self._blobs()}

    def restore(self, state: Arrays) -> None:
        """Take it over, now or when the run begins."""
        self._restored = state
        self._take_over()

    def _take_over(self) -> None:
        for index, target in self._blobs():
            if str(index) in self._restored:
                target.copy_(torch.tensor(self._restored[str(index)]))

    def _blobs(self) -> list[tuple[int, Tensor]]:
        if self._run is None:
            return []
        arena = self._run.arena
        values = dict(zip(arena.updated, self._average, strict=True))
        return [(index, arena.view(values, index)) for index, home in enumerate(arena.homes) if home is not None]
