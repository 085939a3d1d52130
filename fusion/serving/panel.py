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
from fusion.serving.predictor import OutputClasses, Predictor, class_scores, class_shares, output_classes


@dataclass(frozen=True, eq=False)
class Panel:
    """Nets by name, each with one output or several: a fused net answers for its sources too where it kept them.

    labels   names of the classes; by default those of the first net
    top      how many classes are told
    classes  which of them a net or an output knows, by its name, in the order of its scores; by default all, or what
             the net, or the first one of a net that is called like a source of it, says
    """

    nets: Sequence[tuple[str, Predictor]]
    labels: Sequence[str] = ()
    top: int = 5
    classes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    _turn: threading.Lock = field(default_factory=threading.Lock)
    _notes: list[str] = field(default_factory=list)

    def rehearse(self) -> None:
        """Answer for a gray picture, so that what cannot be answered is known at once. Raises: as `answer` does."""
        content = io.BytesIO()
        Image.new("L", (64, 64), 128).save(content, "PNG")
        for name, net in self.nets:
            _check_one_class(name, net)
            for output, rows in class_scores(net, [content.getvalue()]).items():
                note = self._scored(name, output, rows.shape[1]).note
                self._notes.extend([f"{name}: {note}"] if note else [])

    def about(self) -> dict[str, Any]:
        """What the page tells before it is asked: the nets, how they take pictures, and notes."""
        return {
            "nets": [
                {"name": name, "outputs": list(net.outputs), "inputs": [_described(how) for how in net.inputs.values()]}
                for name, net in self.nets
            ],
            "notes": [f"{name}: {note}" for name, net in self.nets for note in net.notes] + self._notes,
        }

    def answer(self, picture: bytes) -> dict[str, Any]:
        """Each output's best classes, with shares from 0 to 1. Nets take turns, so that requests do not crowd memory.

        Raises: DataError, FusionError
        """
        with self._turn:
            start = time.perf_counter()
            found = [(name, class_scores(net, [picture])) for name, net in self.nets]
            seconds = time.perf_counter() - start
        answers = [self._answer(name, blob, rows[0]) for name, outputs in found for blob, rows in outputs.items()]
        return {"answers": answers, "milliseconds": round(1000 * seconds)}

    def _answer(self, name: str, output: str, row: NDArray[np.float32]) -> dict[str, Any]:
        parts, own = class_shares(row)
        best = np.argsort(-parts, kind="stable")[: self.top].tolist()
        known = self._scored(name, output, len(row))
        top = [
            {"class": known.numbers[n], "label": known.labels[n], "share": float(parts[n]), "score": float(row[n])}
            for n in best
        ]
        knows = [label or n for n, label in zip(known.numbers, known.labels, strict=True)] if known.part else None
        told = {"knows": knows, "foreign": bool(known.note), "top": top}
        return {"net": name, "output": output, "softmax": not own, **told}

    def _scored(self, name: str, output: str, count: int) -> OutputClasses:
        """What the scores of a net's output stand for, in the classes of the first net. Raises: FusionError."""
        first, net = self.nets[0][1], dict(self.nets)[name]
        told = self.classes.get(output, self.classes.get(name))
        if told is None and net is not first and output not in net.classes:
            given = first.named.numbers.get(name)
            told = given if given is not None and len(given) == count else None
        return output_classes(net, output, count, self.labels or first.named.names, told)


def _described(how: Any) -> str:
    size = f", {how.size[0]} x {how.size[1]}" if how.size else ""
    return ("colour" if how.color else "gray") + size


def _check_one_class(name: str, net: Predictor) -> None:
    """Raises: FusionError for an output of which several may be right: the page shows shares of one answer."""
    made = {call.tops[0]: call.type for call in net.net.plan.calls if call.tops}
    many = [blob for blob, value in net.net.plan.outputs if made.get(value) == "Sigmoid"]
    if many:
        what = f"{name}: '{many[0]}' is a yes or no per output, and the page shows the shares of one answer"
        raise FusionError(what, hint="ask fusion-predict without --serve, or name another output with --output")
