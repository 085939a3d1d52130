"""The mean of recent losses, and losses that are no numbers."""

from __future__ import annotations

import math

import pytest
import torch

from fusion.errors import TrainingError
from fusion.solver.step.loss_window import Losses


def losses(window: int, *values: float) -> Losses:
    found = Losses(window, values[:1])
    for iteration, value in enumerate(values[1:], 5):
        found.add(iteration, torch.tensor(value))
    return found


def test_the_mean_is_that_of_the_window() -> None:
    assert Losses(3).mean == 0.0
    assert losses(3, 1.0, 2.0).mean == 1.5
    found = losses(3, 1.0, 2.0, 4.0, 6.0)
    assert (found.recent, found.mean) == ((2.0, 4.0, 6.0), 4.0)
    found.add(9, torch.tensor(8.0))
    assert found.recent == (4.0, 6.0, 8.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_first_that_is_no_number_is_named(value: float) -> None:
    found = losses(4, 1.0, 2.0, value, math.nan)
    with pytest.raises(TrainingError, match=f"the loss is {value} in iteration 6"):
        found.look()
