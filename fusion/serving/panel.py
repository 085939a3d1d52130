"""Several nets that are asked about one picture."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fusion.prediction import Predictor, scores, shares


@dataclass(frozen=True, eq=False)
class Panel:
    """Nets by name, each with one output or several: a fused net answers for its sources too where it kept them.

    labels  names of the classes, or nothing
    top     how many classes are told
    """

    nets: Sequence[tuple[str, Predictor]]
    labels: Sequence[str] = ()
    top: int = 5
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def about(self) -> dict[str, Any]:
        """What the page tells before it is asked: the nets, how they take pictures, and notes."""
        return {
            "nets": [
                {"name": name, "outputs": list(net.outputs), "inputs": [_described(how) for how in net.inputs.values()]}
                for name, net in self.nets
            ],
            "notes": [f"{name}: {note}" for name, net in self.nets for note in net.notes],
        }

    def answer(self, picture: bytes) -> dict[str, Any]:
        """Each output's best classes, with shares from 0 to 1. Nets take turns, so that requests do not crowd memory.

        Raises: DataError, FusionError
        """
        with self._turn:
            start = time.perf_counter()
            found = [(name, scores(net, [picture])) for name, net in self.nets]
            seconds = time.perf_counter() - start
        answers = [self._answer(name, blob, rows[0]) for name, outputs in found for blob, rows in outputs.items()]
        return {"answers": answers, "milliseconds": round(1000 * seconds)}

    def _answer(self, net: str, output: str, row: np.ndarray) -> dict[str, Any]:
        parts, own = shares(row)
        best = np.argsort(-parts, kind="stable")[: self.top].tolist()
        return {
            "net": net,
            "output": output,
            "softmax": not own,
            "top": [
                {"class": n, "label": self._label(n), "share": float(parts[n]), "score": float(row[n])} for n in best
            ],
        }

    def _label(self, number: int) -> str:
        return self.labels[number] if number < len(self.labels) else ""


def _described(how: Any) -> str:
    size = f", {how.size[0]} x {how.size[1]}" if how.size else ""
    return ("colour" if how.color else "gray") + size
