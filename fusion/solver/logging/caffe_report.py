"""Caffe's log lines about a run, written to its display."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fusion.solver.callbacks.callback import Callback
from fusion.solver.logging.console import Display, output_lines, six_digits
from fusion.solver.logging.memory import peak_memory

if TYPE_CHECKING:
    from fusion.solver.metrics import MeanOutputs, Outputs, TrainMetrics


class CaffeReport(Callback):
    """Logs as Caffe's solver does: losses, outputs, learning rates, tests, snapshots.

    all_outputs  every value of outputs with several values; otherwise they are named once
    """

    def __init__(self, *, all_outputs: bool = False) -> None:
        self.all_outputs = all_outputs
        self._unlisted: set[str] = set()

    @property
    def display(self) -> Display:
        """Return the run's present display."""
        return self.run.display

    def on_start(self) -> None:
        """Log Caffe's lines before the first iteration; its log parsers count the time from there."""
        policy = self.run.settings.schedule.policy
        self.display.report([f"Solving {self.run.net.plan.name}", f"Learning Rate Policy: {policy}"])

    def on_log(self, iteration: int) -> None:
        """Update the bar."""
        self.display.tick(iteration)

    def on_display(self, metrics: TrainMetrics) -> None:
        """Log the loss with the speed, the outputs, the learning rate; after the last iteration the loss alone."""
        if metrics.rate is None:
            self.display.report([f"Iteration {metrics.iteration}, loss = {six_digits(metrics.loss)}"])
            return
        speed = f"{six_digits(metrics.speed)} iter/s, {six_digits(metrics.seconds)}s/{self.run.settings.display} iters"
        lines = [f"Iteration {metrics.iteration} ({speed}), loss = {six_digits(metrics.loss)}"]
        lines += self._output_lines("Train", metrics.outputs)
        self.display.report([*lines, f"Iteration {metrics.iteration}, lr = {six_digits(metrics.rate)}"])
        self.display.tick(metrics.iteration, metrics.loss, metrics.rate)

    def on_test_start(self, iteration: int, index: int) -> None:
        """Log which test net is next."""
        self.display.report([f"Iteration {iteration}, Testing net (#{index})"])

    def on_test_end(self, iteration: int, index: int, result: MeanOutputs) -> None:
        """Log a test net's outputs."""
        lines = [f"Test loss: {six_digits(result.loss)}"] if self.run.settings.test_compute_loss else []
        topic = f"test net {index}" if len(self.run.settings.test_iter) > 1 else "test"
        figures = [f"{name} {six_digits(values[0])}" for name, values, _ in result.outputs if len(values) == 1]
        brief = f"{topic}: {', '.join([f'iteration {iteration}', *figures])}"
        self.display.report([*lines, *self._output_lines("Test", result.outputs)], brief)

    def on_snapshot(self, iteration: int, files: Sequence[str]) -> None:
        """Log the paths of the snapshot."""
        form = "HDF5 file" if self.run.settings.snapshot_hdf5 else "binary proto file"
        model, _, state = files
        lines = [f"Snapshotting to {form} {model}", f"Snapshotting solver state to {form} {state}"]
        self.display.report(lines, f"snapshot: {model}")

    def on_finish(self, iteration: int) -> None:
        """Log the peak memory, and Caffe's last line."""
        self.display.report([f"Peak memory: {peak_memory(self.run.device)}", "Optimization Done."])

    def _output_lines(self, phase: str, outputs: Outputs) -> list[str]:
        """Return the lines of a net's outputs; name those that are left out when they first are."""
        lines = output_lines(phase, outputs, every=self.all_outputs)
        several = {name: len(values) for name, values, _ in outputs if len(values) > 1}
        new = [f"{name} ({count} values)" for name, count in several.items() if name not in self._unlisted]
        if new and not self.all_outputs:
            self._unlisted.update(several)
            lines.append(f"not listed: {', '.join(new)}; --all-outputs lists every value")
        return lines
