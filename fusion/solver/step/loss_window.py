"""The losses of a run: collected without waiting for the device, and read together."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable

import torch
from torch import Tensor

from fusion.errors import TrainingError

EVERY = 100  # iterations after which losses should be looked at


class Losses:
    """The mean of the last `window` losses (Caffe's average_loss), and the check that all are numbers."""

    def __init__(self, window: int, recent: Iterable[float] = ()) -> None:
        self._recent: deque[float] = deque(recent, maxlen=window)
        self._waiting: list[tuple[int, Tensor]] = []

    def add(self, iteration: int, loss: Tensor) -> None:
        """Add an iteration's loss, a scalar."""
        self._waiting.append((iteration, loss))

    def look(self) -> None:
        """Read the collected losses. Raises: TrainingError with the iteration of the first that is not a number."""
        if not self._waiting:
            return
        iterations, losses = zip(*self._waiting, strict=True)
        self._waiting.clear()
        for iteration, value in zip(iterations, torch.stack(losses).tolist(), strict=True):
            if not math.isfinite(value):
                raise TrainingError(
                    f"the loss is {value} in iteration {iteration}",
                    hint="lower base_lr, set clip_gradients, look for broken inputs, or take bf16 instead of fp16",
                )
            self._recent.append(value)

    @property
    def recent(self) -> tuple[float, ...]:
        """Return the losses in the window, oldest first."""
        self.look()
        return tuple(self._recent)

    @property
    def mean(self) -> float:
        """Return their mean; 0 before the first."""
        recent = self.recent
        return sum(recent) / len(recent) if recent else 0.0
