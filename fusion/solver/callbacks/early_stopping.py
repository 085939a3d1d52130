"""An early end of a run whose validation results do not improve."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusion.solver.callbacks.callback import Callback

if TYPE_CHECKING:
    from fusion.solver.callbacks.best_weights import BestWeights
    from fusion.solver.metrics import MeanOutputs
    from fusion.solver.run import Run


class EarlyStopping(Callback):
    """Ends the run after `patience` tests in a row that are no better than the best one.

    best  counts these tests, and comes before this callback
    """

    def __init__(self, best: BestWeights, patience: int) -> None:
        self.best, self.patience = best, patience
        self._run: Run | None = None

    def on_start(self, run: Run) -> None:
        """Remember the run, which is ended through it."""
        self._run = run

    def on_validation(self, iteration: int, result: MeanOutputs) -> None:
        """End the run where it is time."""
        if self._run is not None and self.best.tests_since >= self.patience:
            self._run.stop(f"Early stopping: no improvement in {self.best.tests_since} tests")
