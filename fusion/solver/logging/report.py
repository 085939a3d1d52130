"""Caffe's lines about a run, said on a display."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fusion.solver.callbacks.callback import Observer, Shown
from fusion.solver.logging.console import Display, number, output_lines
from fusion.solver.logging.memory import peak_memory

if TYPE_CHECKING:
    from fusion.solver.evaluate_test_nets import Average
    from fusion.solver.solver import Solver


class Report(Observer):
    """What Caffe's solver logs: losses, outputs, learning rates, tests, snapshots."""

    def __init__(self, run: Solver) -> None:
        self._run = run

    @property
    def display(self) -> Display:
        """The run's present display."""
        return self._run.display

    def begin(self, run: Solver) -> None:
        """What Caffe says in front of the first iteration; its log parsers count the time from there."""
        self.display.say(f"Solving {run.net.plan.name}")
        self.display.say(f"Learning Rate Policy: {run.settings.schedule.policy}")

    def ticked(self, iteration: int) -> None:
        """Move the bar on."""
        self.display.tick(iteration)

    def shown(self, shown: Shown) -> None:
        """The loss with the speed, the outputs, the learning rate; behind the last iteration the loss alone."""
        if shown.rate is None:
            self.display.say(f"Iteration {shown.iteration}, loss = {number(shown.loss)}")
            return
        speed = f"{number(shown.speed)} iter/s, {number(shown.seconds)}s/{self._run.settings.display} iters"
        self.display.say(f"Iteration {shown.iteration} ({speed}), loss = {number(shown.loss)}")
        for line in output_lines("Train", shown.outputs):
            self.display.say(line)
        self.display.say(f"Iteration {shown.iteration}, lr = {number(shown.rate)}")
        self.display.tick(shown.iteration, shown.loss, shown.rate)

    def measuring(self, iteration: int, index: int) -> None:
        """Which test net comes next."""
        self.display.say(f"Iteration {iteration}, Testing net (#{index})")

    def measured(self, iteration: int, index: int, average: Average) -> None:
        """A test net's outputs."""
        if self._run.settings.test_compute_loss:
            self.display.say(f"Test loss: {number(average.loss)}")
        for line in output_lines("Test", average.outputs):
            self.display.say(line)

    def saved(self, iteration: int, files: Sequence[str]) -> None:
        """Where the snapshot is."""
        form = "HDF5 file" if self._run.settings.snapshot_hdf5 else "binary proto file"
        model, _, state = files
        self.display.say(f"Snapshotting to {form} {model}")
        self.display.say(f"Snapshotting solver state to {form} {state}")

    def finished(self, iteration: int) -> None:
        """The most memory that was in use, and Caffe's last line."""
        self.display.say(f"Peak memory: {peak_memory(self._run.device)}")
        self.display.say("Optimization Done.")
