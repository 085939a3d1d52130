"""Caffe's log lines about a run, written to its display."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fusion.solver.callbacks.callback import Callback
from fusion.solver.logging.console import Display, output_lines, six_digits
from fusion.solver.logging.memory import peak_memory

if TYPE_CHECKING:
    from fusion.solver.metrics import MeanOutputs, TrainMetrics


class CaffeReport(Callback):
    """Logs as Caffe's solver does: losses, outputs, learning rates, tests, snapshots."""

    @property
    def display(self) -> Display:
        """Return the run's present display."""
        return self.run.display

    def on_start(self) -> None:
        """Log Caffe's lines before the first iteration; its log parsers count the time from there."""
        self.display.say(f"Solving {self.run.net.plan.name}")
        self.display.say(f"Learning Rate Policy: {self.run.settings.schedule.policy}")

    def on_log(self, iteration: int) -> None:
        """Update the bar."""
        self.display.tick(iteration)

    def on_display(self, metrics: TrainMetrics) -> None:
        """Log the loss with the speed, the outputs, the learning rate; after the last iteration the loss alone."""
        if metrics.rate is None:
            self.display.say(f"Iteration {metrics.iteration}, loss = {six_digits(metrics.loss)}")
            return
        speed = f"{six_digits(metrics.speed)} iter/s, {six_digits(metrics.seconds)}s/{self.run.settings.display} iters"
        self.display.say(f"Iteration {metrics.iteration} ({speed}), loss = {six_digits(metrics.loss)}")
        for line in output_lines("Train", metrics.outputs):
            self.display.say(line)
        self.display.say(f"Iteration {metrics.iteration}, lr = {six_digits(metrics.rate)}")
        self.display.tick(metrics.iteration, metrics.loss, metrics.rate)

    def on_test_start(self, iteration: int, index: int) -> None:
        """Log which test net is next."""
        self.display.say(f"Iteration {iteration}, Testing net (#{index})")

    def on_test_end(self, iteration: int, index: int, result: MeanOutputs) -> None:
        """Log a test net's outputs."""
        if self.run.settings.test_compute_loss:
            self.display.say(f"Test loss: {six_digits(result.loss)}")
        for line in output_lines("Test", result.outputs):
            self.display.say(line)

    def on_snapshot(self, iteration: int, files: Sequence[str]) -> None:
        """Log the paths of the snapshot."""
        form = "HDF5 file" if self.run.settings.snapshot_hdf5 else "binary proto file"
        model, _, state = files
        self.display.say(f"Snapshotting to {form} {model}")
        self.display.say(f"Snapshotting solver state to {form} {state}")

    def on_finish(self, iteration: int) -> None:
        """Log the peak memory, and Caffe's last line."""
        self.display.say(f"Peak memory: {peak_memory(self.run.device)}")
        self.display.say("Optimization Done.")
