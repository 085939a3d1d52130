"""Learning rates: Caffe's own where recorded, formulas elsewhere."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from fusion.solver.lr_policy import Schedule, advance, learning_rate
from fusion.solver.settings import read_settings
from prototxt import load_solver

FOLDER = Path(__file__).parents[2] / "golden" / "solvers"


@pytest.mark.parametrize("case", sorted(path.parent.name for path in FOLDER.glob("*/run.npz")))
def test_rates_of_caffe(case: str) -> None:
    schedule = read_settings(load_solver(FOLDER / case / "solver.prototxt")).schedule
    step = 0
    for iteration, expected in enumerate(json.loads((FOLDER / case / "meta.json").read_text())["lr_used"]):
        step = advance(schedule, iteration, step)
        if expected is not None:
            assert learning_rate(schedule, iteration, step) == pytest.approx(expected, rel=2e-7)


def test_multistep_advances_once_per_iteration() -> None:
    schedule = Schedule("multistep", 1.0, gamma=0.1, steps=(3, 3))
    step, rates = 0, []
    for iteration in range(6):
        step = advance(schedule, iteration, step)
        rates.append(learning_rate(schedule, iteration, step))
    np.testing.assert_allclose(rates, [1, 1, 1, 0.1, 0.01, 0.01], rtol=1e-6)


def test_poly_ends_at_zero() -> None:
    schedule = Schedule("poly", 0.5, power=2.0, max_iter=10)
    assert learning_rate(schedule, 10) == 0
    assert learning_rate(schedule, 5) == pytest.approx(0.125)


def test_rates_that_overflow_are_infinite_or_no_numbers() -> None:
    assert learning_rate(Schedule("exp", 1.0, gamma=10.0), 1000) == math.inf
    assert math.isnan(learning_rate(Schedule("inv", 1.0, gamma=-1.0, power=0.5), 10))
    assert learning_rate(Schedule("sigmoid", 1.0, gamma=-5.0, stepsize=0), 10**6) == 0


def test_cosine_falls_from_the_base_rate_to_zero() -> None:
    schedule = Schedule("cosine", 0.4, max_iter=100)
    rates = [learning_rate(schedule, iteration) for iteration in (0, 25, 50, 75, 100, 101)]
    half = 0.2 * math.sqrt(0.5)
    np.testing.assert_allclose(rates, [0.4, 0.2 + half, 0.2, 0.2 - half, 0, 0], atol=1e-7)


def test_warm_up_rises_to_what_the_policy_says() -> None:
    for policy in ("fixed", "exp", "cosine"):
        plain = Schedule(policy, 1.0, gamma=0.9, max_iter=20)
        rising = Schedule(policy, 1.0, gamma=0.9, max_iter=20, warmup=4)
        shares = [learning_rate(rising, i) / learning_rate(plain, i) for i in range(7)]
        np.testing.assert_allclose(shares, [0.25, 0.5, 0.75, 1, 1, 1, 1], rtol=1e-6)
