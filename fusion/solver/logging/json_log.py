"""A run as JSON, one object per line; docs/train.md describes the fields."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

from fusion.solver.callbacks.callback import Observer, Outputs, Shown
from fusion.solver.logging.memory import peak_allocated, peak_resident

if TYPE_CHECKING:
    from fusion.solver.evaluate_test_nets import Average
    from fusion.solver.solver import Solver

VERSION = 1


class JsonLog(Observer):
    """Writes what is shown, measured and saved. A resumed run adds to the file; of equal iterations the later count."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._run: Solver | None = None
        self._file: TextIO | None = None
        self._started = 0.0

    def begin(self, run: Solver) -> None:
        """Open the file: anew, or at its end when the run goes on."""
        self._run, self._started = run, time.monotonic()
        self._file = open(self.path, "a" if run.iter else "w", encoding="utf-8")  # noqa: SIM115 - `end` closes it
        net, last = run.net.plan.name, run.settings.max_iter
        self._write("start", run.iter, version=VERSION, net=net, max_iter=last, device=str(run.device), seed=run.seed)

    def shown(self, shown: Shown) -> None:
        """A display."""
        speed, outputs = shown.speed if shown.iterations else None, _outputs(shown.outputs)
        self._write("train", shown.iteration, loss=shown.loss, lr=shown.rate, it_s=speed, outputs=outputs)

    def measured(self, iteration: int, index: int, average: Average) -> None:
        """A test."""
        self._write("test", iteration, test_net=index, loss=average.loss, outputs=_outputs(average.outputs))

    def judged(self, iteration: int, average: Average) -> None:
        """What the best weights are chosen by."""
        self._write("choose", iteration, loss=average.loss, outputs=_outputs(average.outputs))

    def saved(self, iteration: int, files: Sequence[str]) -> None:
        """A snapshot."""
        self._write("snapshot", iteration, files=list(files))

    def finished(self, iteration: int) -> None:
        """The regular end."""
        self._write("end", iteration)

    def end(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, kind: str, iteration: int, **fields: Any) -> None:
        if self._file is None or self._run is None:
            return
        memory = {"resident": peak_resident(), "gpu": peak_allocated(self._run.device)}
        record = {
            "kind": kind, "iter": iteration, **fields, "time": round(time.time(), 3),
            "seconds": round(time.monotonic() - self._started, 3), "memory": memory,
        }  # fmt: skip
        print(json.dumps(_finite(record), allow_nan=False), file=self._file, flush=True)


def _outputs(outputs: Outputs) -> dict[str, float | list[float]]:
    return {name: values[0] if len(values) == 1 else values for name, values, _ in outputs}


def _finite(value: Any) -> Any:
    """The value with null for what is no number, which JSON cannot hold."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
