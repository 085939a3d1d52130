"""Metrics batch by batch, for custom training loops: update, compute, reset.

They take arrays or tensors on any device and store only counts. With several processes of torch.distributed, `compute`
and `outcomes` cover the samples of all, and all must call them; with `sync=False` each covers its own.
Partial results gathered in other ways can be added with `+`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fusion.errors import ReportError
from fusion.pct.metrics import Outcomes


class Accuracy:
    """The share of right answers; `sync`: of all processes."""

    def __init__(self, sync: bool = True) -> None:
        self.sync = sync
        self.right = 0
        self.total = 0

    def reset(self) -> None:
        """Forget all batches."""
        self.right = self.total = 0

    def update(self, logits: Any, target: Any) -> None:
        """Count a batch: logits [N, C], class indices [N]."""
        scores, labels = _checked(logits, target)
        self.right += int((scores.argmax(1) == labels).sum())
        self.total += len(labels)

    def compute(self) -> float | None:
        """Return the accuracy so far; None before the first sample."""
        counts = np.array([self.right, self.total])
        right, total = (_of_all(counts) if self.sync else counts).tolist()
        return right / total if total else None

    def __add__(self, other: Accuracy) -> Accuracy:
        both = Accuracy(self.sync)
        both.right, both.total = self.right + other.right, self.total + other.total
        return both


class FlipRates:
    """The outcomes of a new net against one reference.

    classes  the new net's class of each of the reference's columns; default: the same classes. Samples of other
             classes are not counted.
    sync     whether `outcomes` and `compute` cover the samples of all processes
    """

    def __init__(self, classes: Sequence[int] | None = None, sync: bool = True) -> None:
        self.sync = sync
        self.classes = None if classes is None else np.asarray(classes)
        self.counts = np.zeros(4, dtype=np.int64)

    def reset(self) -> None:
        """Forget all batches."""
        self.counts = np.zeros(4, dtype=np.int64)

    def update(self, *, old: Any, new: Any, target: Any) -> None:
        """Count a batch: reference logits [N, K], new logits [N, C], class indices [N].

        Raises: ReportError for shapes that do not fit.
        """
        before, labels = _checked(old, target)
        after, _ = _checked(new, target)
        width = before.shape[1]
        classes = np.arange(width) if self.classes is None else self.classes
        if len(classes) != width or (self.classes is None and after.shape[1] != width):
            raise ReportError(
                f"{width} reference columns for {len(classes)} classes of {after.shape[1]}",
                hint="give the reference's classes: FlipRates(classes=[1, 3, 5, 7, 9])",
            )
        known = np.isin(labels, classes)
        old_right = (classes[before.argmax(1)] == labels)[known]
        new_right = (after.argmax(1) == labels)[known]
        self.counts += np.bincount(2 * ~old_right + ~new_right, minlength=4)

    def outcomes(self) -> Outcomes:
        """Return the four counts so far; `pct.bootstrap` and `pct.mcnemar` take them."""
        return Outcomes(*(_of_all(self.counts) if self.sync else self.counts).tolist())

    def compute(self) -> dict[str, float | None]:
        """Return every metric of metrics.FORMULAS; undefined ones are None."""
        return self.outcomes().values()

    def __add__(self, other: FlipRates) -> FlipRates:
        both = FlipRates(self.classes.tolist() if self.classes is not None else None, self.sync)
        both.counts = self.counts + other.counts
        return both


def _of_all(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the counts summed over all processes of torch.distributed."""
    # sys.modules: without torch loaded there is only one process, and importing it here would cost a second.
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return counts
    import torch

    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    summed = torch.from_numpy(counts.copy()).to(device)
    distributed.all_reduce(summed)
    total: npt.NDArray[np.int64] = summed.cpu().numpy()
    return total


def _checked(logits: Any, target: Any) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    scores, labels = _array(logits), _array(target).reshape(-1)
    if scores.ndim != 2 or len(scores) != len(labels):
        raise ReportError(
            f"logits of shape {scores.shape} and targets of shape {labels.shape}; [N, C] and [N] are needed"
        )
    return scores, labels


def _array(values: Any) -> npt.NDArray[Any]:
    """Convert to an array; tensors are detached, moved to the CPU and converted from half precision first."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if values.is_floating_point() else values
    return np.asarray(values)
