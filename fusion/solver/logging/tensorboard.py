"""The figures of a run for TensorBoard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fusion.errors import TrainingError
from fusion.solver.callbacks.callback import Callback

if TYPE_CHECKING:
    from fusion.solver.metrics import MeanOutputs, Outputs, TrainMetrics


class TensorBoard(Callback):
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

    def on_start(self) -> None:
        """Open the folder; points of an earlier run after this iteration are hidden."""
        self._writer = self._open(self._folder, purge_step=self.run.iter or None)

    def on_display(self, metrics: TrainMetrics) -> None:
        """Write loss, learning rate, speed and outputs."""
        self._write("train", metrics.iteration, metrics.outputs)
        scalars = {"loss (smoothed)": metrics.loss, "lr": metrics.rate, "it/s": metrics.speed or None}
        for name, value in scalars.items():
            if value is not None:
                self._writer.add_scalar(f"train/{name}", value, metrics.iteration)

    def on_test_end(self, iteration: int, index: int, result: MeanOutputs) -> None:
        """Write the outputs of a test net."""
        self._write(f"test{index}", iteration, result.outputs)

    def on_validation(self, iteration: int, result: MeanOutputs) -> None:
        """Write the outputs on the validation records."""
        self._write("choose", iteration, result.outputs)

    def on_end(self) -> None:
        """Write the last points and close the folder."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _write(self, group: str, iteration: int, outputs: Outputs) -> None:
        for name, values, _ in outputs:
            for index, value in enumerate(values):
                tag = f"{group}/{name}" if len(values) == 1 else f"{group}/{name}/{index}"
                self._writer.add_scalar(tag, value, iteration)
