"""An early end of a run whose validation results do not improve."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusion.solver.callbacks.callback import Callback

if TYPE_CHECKING:
    from fusion.solver.callbacks.best_weights import BestWeights
    from fusion.solver.metrics import MeanOutputs


class EarlyStopping(Callback):
    """Ends the run after `patience` tests in a row that are no better than the best one.

    best  counts these tests, and comes before this callback
    """

    def __init__(self, best: BestWeights, patience: int) -> None:
        self.best, self.patience = best, patience

    def on_validation(self, iteration: int, result: MeanOutputs) -> None:
        """End the run where it is time."""
        if self.best.tests_since >= self.patience:
            self.run.stop(f"Early stopping: no improvement in {self.best.tests_since} tests")
