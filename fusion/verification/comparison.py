"""What a comparison found: one row per blob with the largest difference, as a table and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

RTOL = 1e-5


@dataclass(frozen=True, slots=True)
class Difference:
    """How far one blob is from what it should be.

    absolute  the largest difference of two values; infinite where the shapes differ or only one of them is finite
    relative  that, divided by the largest magnitude in the blob as it should be
    found     the shape found, where it is another
    """

    layer: str
    blob: str
    shape: tuple[int, ...]
    absolute: float
    relative: float
    found: tuple[int, ...] | None = None

    def exceeds(self, rtol: float) -> bool:
        """Whether it is more than allowed."""
        return self.relative > rtol


@dataclass(frozen=True)
class Comparison:
    """One thing compared with another, blob by blob in the order of execution.

    name     what was compared, in a word: a source's prefix
    what     what was compared with what, in a sentence
    skipped  layers of the one that the other does not have
    notes    what else a reader should know
    """

    name: str
    what: str
    differences: tuple[Difference, ...]
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    rtol: float = RTOL

    @property
    def first(self) -> Difference | None:
        """The first blob that differs by more than `rtol`, None if all agree."""
        return next((item for item in self.differences if item.exceeds(self.rtol)), None)

    @property
    def largest(self) -> float:
        """The largest relative difference of all blobs."""
        return max((item.relative for item in self.differences), default=0.0)

    def verdict(self) -> str:
        """The outcome in a line."""
        if self.first is None:
            count = len(self.differences)
            exact = "bit for bit" if self.largest == 0 else f"within {self.largest:.1e} relative"
            return f"{self.name}: {'1 blob agrees' if count == 1 else f'all {count} blobs agree'} {exact}"
        first = self.first
        how = f"absolute {_figure(first.absolute)}, relative {_figure(first.relative)} (allowed {self.rtol:g})"
        if first.found is not None:
            how = f"its shape is {_shape(first.found)}, not {_shape(first.shape)}"
        return f"{self.name}: differs first in layer '{first.layer}', blob '{first.blob}': {how}"


def compare_arrays(layer: str, blob: str, expected: NDArray[Any], found: NDArray[Any]) -> Difference:
    """Compare two arrays; NaN and infinities agree with themselves only."""
    shape = tuple(expected.shape)
    if shape != tuple(found.shape):
        return Difference(layer, blob, shape, math.inf, math.inf, tuple(found.shape))
    if not expected.size or np.array_equal(expected, found, equal_nan=expected.dtype.kind == "f"):
        return Difference(layer, blob, shape, 0.0, 0.0)
    expected, found = expected.astype(np.float64), found.astype(np.float64)
    finite = np.isfinite(expected)
    odd = ~finite | ~np.isfinite(found)
    if odd.any() and not np.array_equal(expected[odd], found[odd], equal_nan=True):
        return Difference(layer, blob, shape, math.inf, math.inf)
    absolute = float(np.abs(expected[~odd] - found[~odd]).max(initial=0.0))
    scale = float(np.abs(expected[~odd]).max(initial=0.0))
    return Difference(layer, blob, shape, absolute, absolute / scale if scale else math.inf if absolute else 0.0)


def comparisons_text(comparisons: Sequence[Comparison]) -> str:
    """All blobs as text, each comparison with its verdict below it."""
    return "\n\n".join(_table(item) for item in comparisons)


def _table(item: Comparison) -> str:
    rows = [("layer", "blob", "shape", "max absolute", "max relative", "")]
    rows += [
        (
            *(found.layer, found.blob, _shapes(found)),
            *(_figure(found.absolute), _figure(found.relative), "DIFFERS" if found.exceeds(item.rtol) else ""),
        )
        for found in item.differences
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [f"{item.name}: {item.what}"]
    lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    if item.skipped:
        lines.append(f"not compared, because only one of the two has them: {', '.join(item.skipped)}")
    return "\n".join([*lines, *item.notes, item.verdict()])


def comparisons_json(comparisons: Sequence[Comparison]) -> str:
    """The content of the table; an infinite difference is null."""
    content = [
        {
            "name": item.name,
            "what": item.what,
            "agrees": item.first is None,
            "rtol": item.rtol,
            "first_difference": None if item.first is None else item.first.layer,
            "blobs": [
                {
                    "layer": found.layer,
                    "blob": found.blob,
                    "shape": list(found.shape),
                    "absolute": _number(found.absolute),
                    "relative": _number(found.relative),
                    "differs": found.exceeds(item.rtol),
                }
                for found in item.differences
            ],
            "skipped": list(item.skipped),
            "notes": list(item.notes),
        }
        for item in comparisons
    ]
    return json.dumps(content, indent=2)


def _shapes(item: Difference) -> str:
    return _shape(item.shape) + ("" if item.found is None else f", not {_shape(item.found)}")


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _figure(value: float) -> str:
    return "0" if value == 0 else "infinite" if math.isinf(value) else f"{value:.2e}"


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
