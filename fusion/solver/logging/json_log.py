"""A run as JSON, one object per line; docs/train.md describes the fields."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

from fusion.solver.callbacks.callback import Callback
from fusion.solver.logging.memory import peak_allocated, peak_resident
from prototxt.files import open_log

if TYPE_CHECKING:
    from fusion.solver.metrics import MeanOutputs, Outputs, TrainMetrics

VERSION = 1


class JsonLog(Callback):
    """Writes displays, tests and snapshots. A resumed run adds to the file; of equal iterations the later counts."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._file: TextIO | None = None
        self._started = 0.0

    def on_start(self) -> None:
        """Open the file: empty, or at its end in a resumed run."""
        run, self._started = self.run, time.monotonic()
        self._file = open_log(self.path, append=bool(run.iter))
        net, last = run.net.plan.name, run.settings.max_iter
        self._write("start", run.iter, version=VERSION, net=net, max_iter=last, device=str(run.device), seed=run.seed)

    def on_display(self, metrics: TrainMetrics) -> None:
        """Write the figures of a display."""
        speed, outputs = metrics.speed if metrics.iterations else None, _outputs(metrics.outputs)
        self._write("train", metrics.iteration, loss=metrics.loss, lr=metrics.rate, it_s=speed, outputs=outputs)

    def on_test_end(self, iteration: int, index: int, result: MeanOutputs) -> None:
        """Write the result of a test."""
        self._write("test", iteration, test_net=index, loss=result.loss, outputs=_outputs(result.outputs))

    def on_validation(self, iteration: int, result: MeanOutputs) -> None:
        """Write the result on the validation records."""
        self._write("choose", iteration, loss=result.loss, outputs=_outputs(result.outputs))

    def on_snapshot(self, iteration: int, files: Sequence[str]) -> None:
        """Write the paths of a snapshot."""
        self._write("snapshot", iteration, files=list(files))

    def on_finish(self, iteration: int) -> None:
        """Write the regular end."""
        self._write("end", iteration)

    def on_end(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, kind: str, iteration: int, **fields: Any) -> None:
        if self._file is None:
            return
        memory = {"resident": peak_resident(), "gpu": peak_allocated(self.run.device)}
        record = {
            "kind": kind, "iter": iteration, **fields, "time": round(time.time(), 3),
            "seconds": round(time.monotonic() - self._started, 3), "memory": memory,
        }  # fmt: skip
        print(json.dumps(_finite(record), allow_nan=False), file=self._file)


def _outputs(outputs: Outputs) -> dict[str, float | list[float]]:
    return {name: values[0] if len(values) == 1 else values for name, values, _ in outputs}


def _finite(value: Any) -> Any:
    """Return the value with null for infinities and NaN, which JSON cannot hold."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
