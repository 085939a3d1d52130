"""The best weights so far, measured on validation records that are not those reported."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fusion.nets.weights import save_weights
from fusion.solver.callbacks.callback import Arrays, Callback
from fusion.solver.logging.console import six_digits
from prototxt.shapes.loss_kinds import LOSS_KINDS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fusion.solver.metrics import MeanOutputs


class BestWeights(Callback):
    """Writes PREFIX_best.caffemodel when the net's results on the validation records are better than ever before.

    Better is a higher accuracy where the test net measures that of one classifier and has no other task, else a lower
    loss.

    tests_since  the number of tests since the best one
    """

    name = "best"

    def __init__(self) -> None:
        self._output: str | None = None
        self._best, self._when, self.tests_since = -np.inf, 0, 0

    def on_start(self) -> None:
        """Find the output that decides."""
        plan = self.run.nets[-1].net.plan
        judges = [call for call in plan.calls if call.type in LOSS_KINDS or call.type == "Accuracy"]
        tops = [call.tops[0] for call in judges if call.type == "Accuracy" and call.tops]
        # Accuracy decides only where all losses and accuracies read one label: otherwise it ignores another task.
        single = len({call.bottoms[1] for call in judges if len(call.bottoms) > 1}) == 1
        outputs = dict(plan.outputs).values()
        self._output = next((top for top in tops if top in outputs), None) if single else None

    @property
    def path(self) -> str:
        """Return the path of the best weights."""
        return f"{self.run.settings.prefix}_best.caffemodel{'.h5' if self.run.settings.snapshot_hdf5 else ''}"

    def on_validation(self, iteration: int, result: MeanOutputs) -> None:
        """Write the weights if they are the best ones."""
        value = result.loss if self._output is None else result[self._output]
        score = -value if self._output is None else value
        text = f"Iteration {iteration}, validation: {self._output or 'loss'} = {six_digits(value)}"
        if score > self._best:
            self._best, self._when, self.tests_since = score, iteration, 0
            if self.run.writes:
                save_weights(self.run.net, self.path)
            self.run.display.say(f"{text}, the best so far: {self.path}")
            return
        self.tests_since += 1
        self.run.display.say(f"{text}; the best was {self._summary()}")

    def on_finish(self, iteration: int) -> None:
        """Log which weights were best."""
        if np.isfinite(self._best):
            line = f"Best weights: {self._summary()}: {self.path}"
            self.run.display.report([line], line)

    def state_dict(self) -> dict[str, NDArray[np.float64]]:
        """Return the best score, its iteration, and the number of tests since."""
        return {"found": np.array([self._best, self._when, self.tests_since], np.float64)}

    def load_state_dict(self, state: Arrays) -> None:
        """Resume with the best score of the snapshot."""
        if "found" in state:
            best, when, since = state["found"].tolist()
            self._best, self._when, self.tests_since = best, int(when), int(since)

    def _summary(self) -> str:
        value = -self._best if self._output is None else self._best
        return f"{six_digits(value)} in iteration {self._when}"
