"""The numbers that a run reports: loss, learning rate, and the outputs of its nets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Outputs = Sequence[tuple[str, list[float], float]]  # an output's name, its values, its weight in the loss


@dataclass(frozen=True)
class TrainMetrics:
    """The figures of training where a display is due.

    iteration   the one that is running
    loss        averaged over average_loss iterations
    rate        the learning rate, or None after the last iteration
    outputs     of the training net, for the last batch
    iterations  since the last display, and `seconds` that they took
    """

    iteration: int
    loss: float
    rate: float | None = None
    outputs: Outputs = ()
    iterations: int = 0
    seconds: float = 0.0

    @property
    def speed(self) -> float:
        """Return the iterations per second since the last display; 0 at the first one."""
        return self.iterations / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True)
class MeanOutputs:
    """The outputs of a test net, averaged over its batches, in the order that Caffe prints."""

    outputs: tuple[tuple[str, list[float], float], ...]

    @property
    def loss(self) -> float:
        """Return the mean of the total loss."""
        return sum(weight * value for _, values, weight in self.outputs for value in values)

    def __getitem__(self, name: str) -> float:
        return next(values[0] for output, values, _ in self.outputs if output == name)
