"""Files that a run writes besides its snapshots, and old snapshots that it removes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress

from fusion.nets.weights import save_weights
from fusion.onnx.sidecar import sidecar_path
from fusion.solver.callbacks.callback import Callback
from fusion.solver.callbacks.ema import ema_path


class KeepNewest(Callback):
    """Keeps the newest snapshots of this run: removes older ones that it wrote itself, once a newer one is complete.

    count  the number of snapshots to keep, at least 1
    """

    def __init__(self, count: int) -> None:
        self.count = max(count, 1)
        self._snapshots: list[tuple[str, ...]] = []

    def on_snapshot(self, iteration: int, files: Sequence[str]) -> None:
        """Remove the oldest ones, the solverstate first: without it the rest is no snapshot."""
        model, exact, state = files
        mean = ema_path(model)
        paths = (state, exact, model, mean, *(name for path in (model, mean) if (name := sidecar_path(path))))
        self._snapshots = [*(other for other in self._snapshots if other != paths), paths]
        while len(self._snapshots) > self.count:
            for path in self._snapshots.pop(0):
                with suppress(FileNotFoundError):
                    os.unlink(path)


class SaveInit(Callback):
    """Writes the weights before the first step."""

    def __init__(self, path: str) -> None:
        self.path = path

    def on_start(self) -> None:
        """Write them, whether filled, loaded or resumed."""
        if self.run.writes:
            save_weights(self.run.net, self.path)
        self.run.display.say(f"weights before the first step: {self.path}")
