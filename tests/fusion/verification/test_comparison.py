"""How far one array is from another, where values may be infinite, missing or not numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fusion.verification.comparison import compare_arrays


@pytest.mark.parametrize(
    ("expected", "found", "absolute", "relative"),
    [
        ([1.0, 2.0], [1.0, 2.5], 0.5, 0.25),
        ([0.0, 0.0], [0.0, 0.5], 0.5, math.inf),
        ([math.nan, 1.0], [math.nan, 1.0], 0.0, 0.0),
        ([math.nan, 1.0], [1.0, 1.0], math.inf, math.inf),
        ([math.inf, 1.0], [math.inf, 1.5], 0.5, 0.5),
        ([math.inf], [-math.inf], math.inf, math.inf),
        ([1.0], [1.0, 1.0], math.inf, math.inf),
        ([], [], 0.0, 0.0),
    ],
)
def test_differences(expected: list[float], found: list[float], absolute: float, relative: float) -> None:
    row = compare_arrays("l", "b", np.array(expected, np.float32), np.array(found, np.float32))
    assert (row.absolute, row.relative) == (absolute, relative)
    assert row.found == ((len(found),) if len(found) != len(expected) else None)
