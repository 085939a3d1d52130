"""Files that a run writes besides its snapshots, and snapshots that it removes again."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from fusion.nets.weights import save_weights
from fusion.onnx.sidecar import sidecar_path
from fusion.solver.callbacks import ema
from fusion.solver.callbacks.callback import Observer

if TYPE_CHECKING:
    from fusion.solver.solver import Solver


class Keep(Observer):
    """Keeps the newest snapshots of this run: removes older ones that it wrote itself, once a newer one is complete.

    count  how many, at least 1
    """

    def __init__(self, count: int) -> None:
        self.count = max(count, 1)
        self._written: list[tuple[str, ...]] = []

    def saved(self, iteration: int, files: Sequence[str]) -> None:
        """Remove what is too many, the solverstate first: without it the rest is no snapshot."""
        model, exact, state = files
        mean = ema.beside(model)
        found = (state, exact, model, mean, *(name for path in (model, mean) if (name := sidecar_path(path))))
        self._written = [*(other for other in self._written if other != found), found]
        while len(self._written) > self.count:
            for path in self._written.pop(0):
                with suppress(FileNotFoundError):
                    os.unlink(path)


class SaveInit(Observer):
    """Writes the weights in front of the first step."""

    def __init__(self, path: str) -> None:
        self.path = path

    def begin(self, run: Solver) -> None:
        """Write them, whether filled, loaded or resumed."""
        if run.writes:
            save_weights(run.net, self.path)
        run.display.say(f"weights before the first step: {self.path}")
