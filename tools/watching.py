"""A picture of the run's curves, drawn while it goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusion.report.curves import Points, write_plot
from fusion.solver.callbacks.callback import Observer, Shown

if TYPE_CHECKING:
    from fusion.solver.evaluate_test_nets import Average


class Plot(Observer):
    """Writes loss, accuracy and learning rate as a picture after each test, and at the end."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._points = Points()

    def shown(self, shown: Shown) -> None:
        """Note loss and learning rate."""
        self._points.loss[shown.iteration] = shown.loss
        if shown.rate is not None:
            self._points.rates[shown.iteration] = shown.rate

    def measured(self, iteration: int, index: int, average: Average) -> None:
        """Note the outputs of the first test net."""
        if index == 0:
            for name, values, _ in average.outputs:
                if len(values) == 1:
                    self._points.tests.setdefault(name, {})[iteration] = values[0]

    def tested(self, iteration: int) -> None:
        """Draw what there is."""
        self._draw()

    def end(self) -> None:
        """Draw all of it."""
        self._draw()

    def _draw(self) -> None:
        if self._points.loss:
            write_plot(self.path, self._points.curve("run"))
