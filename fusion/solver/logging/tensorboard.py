"""A run for TensorBoard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fusion.errors import TrainingError
from fusion.solver.callbacks.callback import Observer, Outputs, Shown

if TYPE_CHECKING:
    from fusion.solver.evaluate_test_nets import Average
    from fusion.solver.solver import Solver


class TensorBoard(Observer):
    """Writes scalars to a folder of event files: train/loss, train/lr, train/OUTPUT, testN/OUTPUT, choose/OUTPUT.

    Raises: TrainingError when the tensorboard package is missing.
    """

    def __init__(self, folder: str) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            hint = "pip install caffe-fusion[tensorboard]"
            raise TrainingError(f"--tensorboard needs the package tensorboard: {error}", hint=hint) from error
        self._open = SummaryWriter
        self._folder = folder
        self._writer: Any = None

    def begin(self, run: Solver) -> None:
        """Open the folder; what an earlier run wrote behind this iteration is hidden."""
        self._writer = self._open(self._folder, purge_step=run.iter if run.iter else None)

    def shown(self, shown: Shown) -> None:
        """Loss, learning rate, speed and outputs."""
        self._write("train", shown.iteration, shown.outputs)
        scalars = {"loss (smoothed)": shown.loss, "lr": shown.rate, "it/s": shown.speed or None}
        for name, value in scalars.items():
            if value is not None:
                self._writer.add_scalar(f"train/{name}", value, shown.iteration)

    def measured(self, iteration: int, index: int, average: Average) -> None:
        """The outputs of a test net."""
        self._write(f"test{index}", iteration, average.outputs)

    def judged(self, iteration: int, average: Average) -> None:
        """What the best weights are chosen by."""
        self._write("choose", iteration, average.outputs)

    def end(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _write(self, group: str, iteration: int, outputs: Outputs) -> None:
        for name, values, _ in outputs:
            for index, value in enumerate(values):
                tag = f"{group}/{name}" if len(values) == 1 else f"{group}/{name}/{index}"
                self._writer.add_scalar(tag, value, iteration)
