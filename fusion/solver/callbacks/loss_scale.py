"""The scale of fp16 losses: kept in snapshots, and logged where gradients overflow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fusion.solver.callbacks.callback import Arrays, Callback

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fusion.solver.metrics import TrainMetrics


class LossScale(Callback):
    """Keeps the scale of fp16 losses in snapshots, and logs the updates that were skipped."""

    name = "amp"

    def __init__(self) -> None:
        self._restored: Arrays = {}
        self._logged = 0

    def on_start(self) -> None:
        """Start from the scale of the snapshot."""
        self._apply()

    def on_display(self, metrics: TrainMetrics) -> None:
        """Log the updates skipped since the last time."""
        self._log()

    def on_log(self, iteration: int) -> None:
        """Log them where no display is due, too."""
        self._log()

    def on_finish(self, iteration: int) -> None:
        """Log the last ones."""
        self._log()

    def _log(self) -> None:
        if self.run.precision.skipped == self._logged:
            return
        count, self._logged = self.run.precision.skipped - self._logged, self.run.precision.skipped
        scale = self.run.precision.scale
        updates = "1 update" if count == 1 else f"{count} updates"
        self.run.display.say(f"fp16: {updates} left out, for gradients overflowed; now scaled by {scale:g}")

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Return the scale and its age."""
        return {key: np.array(value) for key, value in self.run.precision.state_dict().items()}

    def load_state_dict(self, state: Arrays) -> None:
        """Set the scale, now or when the run starts."""
        self._restored = state
        self._apply()

    def _apply(self) -> None:
        # Before the run starts it has no scale, and this has no effect.
        self.run.precision.load_state_dict({key: value.item() for key, value in self._restored.items()})
