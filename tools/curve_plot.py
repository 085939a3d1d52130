"""Plots of a run's curves during training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusion.report.curves import Points, write_plot
from fusion.solver.callbacks.callback import Callback

if TYPE_CHECKING:
    from fusion.solver.metrics import MeanOutputs, TrainMetrics


class CurvePlot(Callback):
    """Plots loss, accuracy and learning rate into a PNG file after each test and at the end."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._points = Points()

    def on_display(self, metrics: TrainMetrics) -> None:
        """Record loss and learning rate."""
        self._points.loss[metrics.iteration] = metrics.loss
        if metrics.rate is not None:
            self._points.rates[metrics.iteration] = metrics.rate

    def on_test_end(self, iteration: int, index: int, result: MeanOutputs) -> None:
        """Record the outputs of the first test net."""
        if index == 0:
            for name, values, _ in result.outputs:
                if len(values) == 1:
                    self._points.tests.setdefault(name, {})[iteration] = values[0]

    def on_tests_end(self, iteration: int) -> None:
        """Draw the curves up to this iteration."""
        self._draw()

    def on_end(self) -> None:
        """Draw the complete curves."""
        self._draw()

    def _draw(self) -> None:
        if self._points.loss:
            write_plot(self.path, self._points.curve("run"))
