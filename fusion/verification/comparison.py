"""Results of a comparison: one row per blob with its largest difference, as a table and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prototxt.summary.text_table import format_table

RTOL = 1e-5


@dataclass(frozen=True, slots=True)
class Difference:
    """The difference between a blob and its expected values.

    absolute  the largest difference of two values; infinite where the shapes differ or only one of them is finite
    relative  that, divided by the largest magnitude in the expected blob
    found     the shape found, if it differs
    """

    layer: str
    blob: str
    shape: tuple[int, ...]
    absolute: float
    relative: float
    found: tuple[int, ...] | None = None

    def exceeds(self, rtol: float) -> bool:
        """Return whether the relative difference is larger than allowed."""
        return self.relative > rtol


@dataclass(frozen=True)
class Comparison:
    """One thing compared with another, blob by blob in the order of execution.

    name     a source's prefix, or one word
    what     the two things compared, in a sentence
    skipped  layers that only one of the two has
    notes    further information, one sentence each
    """

    name: str
    what: str
    differences: tuple[Difference, ...]
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    rtol: float = RTOL

    @property
    def first(self) -> Difference | None:
        """Return the first blob that differs by more than `rtol`, None if all agree."""
        return next((item for item in self.differences if item.exceeds(self.rtol)), None)

    @property
    def largest(self) -> float:
        """Return the largest relative difference of all blobs."""
        return max((item.relative for item in self.differences), default=0.0)

    def verdict(self) -> str:
        """Return the result in one line."""
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
    expected, found = expected.astype(np.float64), found.astype(np.float64)
    finite = np.isfinite(expected)
    special = ~finite | ~np.isfinite(found)
    if special.any() and not np.array_equal(expected[special], found[special], equal_nan=True):
        return Difference(layer, blob, shape, math.inf, math.inf)
    absolute = float(np.abs(expected[~special] - found[~special]).max(initial=0.0))
    scale = float(np.abs(expected[~special]).max(initial=0.0))
    return Difference(layer, blob, shape, absolute, absolute / scale if scale else math.inf if absolute else 0.0)


def comparisons_text(comparisons: Sequence[Comparison]) -> str:
    """Return all blobs as text, each comparison followed by its verdict."""
    return "\n\n".join(_text(item) for item in comparisons)


def _text(item: Comparison) -> str:
    rows = [(row.layer, row.blob, _shape(row.shape) + ("" if row.found is None else f", not {_shape(row.found)}"),
             _figure(row.absolute), _figure(row.relative), "DIFFERS" if row.exceeds(item.rtol) else "")
            for row in item.differences]  # fmt: skip
    lines = [
        f"{item.name}: {item.what}",
        format_table(("layer", "blob", "shape", "max absolute", "max relative", ""), rows),
    ]
    if item.skipped:
        lines.append(f"not compared, because only one of the two has them: {', '.join(item.skipped)}")
    return "\n".join([*lines, *item.notes, item.verdict()])


def comparisons_json(comparisons: Sequence[Comparison]) -> str:
    """Return the content of the table as JSON; an infinite difference is null."""
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


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _figure(value: float) -> str:
    return "0" if value == 0 else "infinite" if math.isinf(value) else f"{value:.2e}"


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
