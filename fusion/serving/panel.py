"""Several nets that are asked about one picture."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fusion.errors import FusionError
from fusion.prediction import Predictor, scores, shares


@dataclass(frozen=True, eq=False)
class Panel:
    """Nets by name, each with one output or several: a fused net answers for its sources too where it kept them.

    labels   names of the classes, or nothing
    top      how many classes are told
    classes  which of them a net or an output knows, by its name, in the order of its scores; by default all, or what
             the net says of its references
    """

    nets: Sequence[tuple[str, Predictor]]
    labels: Sequence[str] = ()
    top: int = 5
    classes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def rehearse(self) -> None:
        """Answer for a gray picture, so that what cannot be answered is known at once. Raises: as `answer` does."""
        content = io.BytesIO()
        Image.new("L", (64, 64), 128).save(content, "PNG")
        self.answer(content.getvalue())

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

    def _answer(self, name: str, output: str, row: NDArray[np.float32]) -> dict[str, Any]:
        parts, own = shares(row)
        best = np.argsort(-parts, kind="stable")[: self.top].tolist()
        told = self._told(name, output, len(row))
        known: Sequence[int] = range(len(row)) if told is None else told
        top = [
            {"class": known[n], "label": self._label(known[n]), "share": float(parts[n]), "score": float(row[n])}
            for n in best
        ]
        knows = None if told is None else [self._label(n) or n for n in told]
        return {"net": name, "output": output, "softmax": not own, "knows": knows, "top": top}

    def _told(self, name: str, output: str, count: int) -> Sequence[int] | None:
        """The class of each score; None: all, in order. Raises: FusionError when they are not as many as the scores."""
        told = self.classes.get(output, self.classes.get(name))
        if told is None:
            told = dict(self.nets)[name].classes.get(output)
        if told is not None and len(told) != count:
            raise FusionError(f"{len(told)} classes are told for '{output}' of {name}, which has {count} scores")
        return told

    def _label(self, number: int) -> str:
        return self.labels[number] if number < len(self.labels) else ""


def _described(how: Any) -> str:
    size = f", {how.size[0]} x {how.size[1]}" if how.size else ""
    return ("colour" if how.color else "gray") + size
