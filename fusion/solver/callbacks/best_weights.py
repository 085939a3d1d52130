"""The best weights so far, judged on records that are not those reported, and an end when nothing gets better."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fusion.nets.weights import save_weights
from fusion.solver.callbacks.callback import Arrays, Observer
from fusion.solver.logging.console import number
from prototxt.shapes.loss_kinds import LOSS_KINDS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fusion.solver.evaluate_test_nets import Average
    from fusion.solver.solver import Solver


class Selection(Observer):
    """Writes PREFIX_best.caffemodel when the records to choose on are answered better than ever before.

    Better is a higher accuracy where the test net measures that of one classifier and has no other task, else a lower
    loss.

    patience  ends the run after so many tests in a row without anything better; 0: never
    """

    name = "best"

    def __init__(self, patience: int = 0) -> None:
        self.patience = patience
        self._run: Solver | None = None
        self._output: str | None = None
        self._best, self._when, self._waited = -np.inf, 0, 0

    def begin(self, run: Solver) -> None:
        """Find what to judge by."""
        self._run = run
        plan = run.jobs[-1].net.plan
        judges = [call for call in plan.calls if call.type in LOSS_KINDS or call.type == "Accuracy"]
        tops = [call.tops[0] for call in judges if call.type == "Accuracy" and call.tops]
        alone = len({call.bottoms[1] for call in judges if len(call.bottoms) > 1}) == 1
        given = dict(plan.outputs).values()
        self._output = next((top for top in tops if top in given), None) if alone else None

    @property
    def path(self) -> str:
        """Of the best weights."""
        assert self._run is not None
        return f"{self._run.settings.prefix}_best.caffemodel{'.h5' if self._run.settings.snapshot_hdf5 else ''}"

    def judged(self, iteration: int, average: Average) -> None:
        """Keep the weights if they are the best, else count."""
        assert self._run is not None
        value = average.loss if self._output is None else average[self._output]
        score = -value if self._output is None else value
        said = f"Iteration {iteration}, to choose by: {self._output or 'loss'} = {number(value)}"
        if score > self._best:
            self._best, self._when, self._waited = score, iteration, 0
            if self._run.writes:
                save_weights(self._run.net, self.path)
            self._run.display.say(f"{said}, the best so far: {self.path}")
            return
        self._waited += 1
        self._run.display.say(f"{said}; the best was {self._said()}")
        if self.patience and self._waited >= self.patience:
            self._run.stop(f"Early stopping: nothing better in {self._waited} tests")

    def finished(self, iteration: int) -> None:
        """Say which weights were best."""
        if np.isfinite(self._best):
            assert self._run is not None
            self._run.display.say(f"Best weights: {self._said()}: {self.path}")

    def state(self) -> dict[str, NDArray[np.float64]]:
        """What was best, when, and how many tests ago."""
        return {"found": np.array([self._best, self._when, self._waited], np.float64)}

    def restore(self, state: Arrays) -> None:
        """Go on with it."""
        if "found" in state:
            best, when, waited = state["found"].tolist()
            self._best, self._when, self._waited = best, int(when), int(waited)

    def _said(self) -> str:
        value = -self._best if self._output is None else self._best
        return f"{number(value)} in iteration {self._when}"
