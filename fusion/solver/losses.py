"""The losses of a run: collected without waiting for the device, looked at together."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable

import torch
from torch import Tensor

from fusion.errors import TrainingError

_LOOK = 100  # losses that may wait


class Losses:
    """The mean of the last `window` losses (Caffe's average_loss), and the check that all are numbers."""

    def __init__(self, window: int, recent: Iterable[float] = ()) -> None:
        self._recent: deque[float] = deque(recent, maxlen=window)
        self._waiting: list[Tensor] = []
        self._first = 0

    def add(self, iteration: int, loss: Tensor) -> None:
        """Note an iteration's loss, a scalar."""
        if not self._waiting:
            self._first = iteration
        self._waiting.append(loss)

    @property
    def due(self) -> bool:
        """Whether so many wait that they should be looked at."""
        return len(self._waiting) >= _LOOK

    def look(self) -> None:
        """Read those that wait. Raises: TrainingError naming the iteration of the first that is not a number."""
        if not self._waiting:
            return
        values = torch.stack(self._waiting).tolist()
        self._waiting.clear()
        for offset, value in enumerate(values):
            if not math.isfinite(value):
                raise TrainingError(
                    f"the loss is {value} in iteration {self._first + offset}",
                    hint="lower base_lr, set clip_gradients, or look for broken inputs",
                )
            self._recent.append(value)

    @property
    def recent(self) -> tuple[float, ...]:
        """The losses in the window, oldest first."""
        self.look()
        return tuple(self._recent)

    @property
    def mean(self) -> float:
        """Their mean; 0 before the first."""
        recent = self.recent
        return sum(recent) / len(recent) if recent else 0.0
