"""Several nets that classify one image."""

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
    """Nets by name, each with one or several outputs: a fused net also has those of its sources, if it kept them.

    labels   names of the classes; by default those of the first net
    top      the number of classes per answer
    classes  net or output -> the class of each of its scores; by default all, or the classes in the net's text, or
             those in the first net's text for a source of this name
    """

    nets: Sequence[tuple[str, Predictor]]
    labels: Sequence[str] = ()
    top: int = 5
    classes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    _turn: threading.Lock = field(default_factory=threading.Lock)
    _notes: list[str] = field(default_factory=list)

    def rehearse(self) -> None:
        """Answer for a gray image, so that errors appear at the start. Raises: as `answer` does."""
        content = io.BytesIO()
        Image.new("L", (64, 64), 128).save(content, "PNG")
        for name, net in self.nets:
            _check_one_class(name, net)
            for output, rows in class_scores(net, [content.getvalue()]).items():
                note = self._scored(name, output, rows.shape[1]).note
                self._notes.extend([f"{name}: {note}"] if note else [])

    def about(self) -> dict[str, Any]:
        """Return the page's first content: the nets, the image size and channels that they take, and notes."""
        return {
            "nets": [
                {"name": name, "outputs": list(net.outputs), "inputs": [_described(how) for how in net.inputs.values()]}
                for name, net in self.nets
            ],
            "notes": [f"{name}: {note}" for name, net in self.nets for note in net.notes] + self._notes,
        }

    def answer(self, picture: bytes) -> dict[str, Any]:
        """Return each output's best classes, with shares from 0 to 1. Raises: DataError, FusionError."""
        # One request at a time: several would need memory for several batches of activations.
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
        classes = {"knows": knows, "foreign": bool(known.note), "top": top}
        return {"net": name, "output": output, "softmax": not own, **classes}

    def _scored(self, name: str, output: str, count: int) -> OutputClasses:
        """Return the classes of an output's scores, in the classes of the first net. Raises: FusionError."""
        first, net = self.nets[0][1], dict(self.nets)[name]
        numbers = self.classes.get(output, self.classes.get(name))
        if numbers is None and net is not first and output not in net.classes:
            known = first.class_names.numbers.get(name)
            numbers = known if known is not None and len(known) == count else None
        return output_classes(net, output, count, self.labels or first.class_names.names, numbers)


def _described(how: Any) -> str:
    size = f", {how.size[0]} x {how.size[1]}" if how.size else ""
    return ("colour" if how.color else "gray") + size


def _check_one_class(name: str, net: Predictor) -> None:
    """Check that outputs have one answer. Raises: FusionError for a multi-label output: the page shows shares."""
    types = {call.tops[0]: call.type for call in net.net.plan.calls if call.tops}
    many = [blob for blob, value in net.net.plan.outputs if types.get(value) == "Sigmoid"]
    if many:
        message = f"{name}: '{many[0]}' answers yes or no per class, and the page shows shares of one answer"
        raise FusionError(
            message, hint="use fusion-predict without --serve, or select another output with --output-blob"
        )
