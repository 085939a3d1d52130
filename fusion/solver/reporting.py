"""Caffe's lines about a run, said on a display."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusion.solver.display import Display, number, output_lines
from fusion.solver.observers import Observer, Shown

if TYPE_CHECKING:
    from fusion.solver.loop import Solver
    from fusion.solver.testing import Average


class Report(Observer):
    """What Caffe's solver logs: losses, outputs, learning rates, tests."""

    def __init__(self, display: Display) -> None:
        self.display = display
        self._every = 0
        self._loss_too = False

    def begin(self, run: Solver) -> None:
        """Note how often it shows."""
        self.display = run.display
        self._every, self._loss_too = run.settings.display, run.settings.test_compute_loss

    def ticked(self, iteration: int) -> None:
        """Move the bar on."""
        self.display.tick(iteration)

    def shown(self, shown: Shown) -> None:
        """The loss with the speed, the outputs, the learning rate; behind the last iteration the loss alone."""
        if shown.rate is None:
            self.display.say(f"Iteration {shown.iteration}, loss = {number(shown.loss)}")
            return
        speed = f"{number(shown.speed)} iter/s, {number(shown.seconds)}s/{self._every} iters"
        self.display.say(f"Iteration {shown.iteration} ({speed}), loss = {number(shown.loss)}")
        for line in output_lines("Train", shown.outputs):
            self.display.say(line)
        self.display.say(f"Iteration {shown.iteration}, lr = {number(shown.rate)}")
        self.display.tick(shown.iteration, shown.loss, shown.rate)

    def measured(self, iteration: int, index: int, average: Average) -> None:
        """A test net's outputs."""
        self.display.say(f"Iteration {iteration}, Testing net (#{index})")
        if self._loss_too:
            self.display.say(f"Test loss: {number(average.loss)}")
        for line in output_lines("Test", average.outputs):
            self.display.say(line)
