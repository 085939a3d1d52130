"""References' logits kept in half precision are off by its rounding, and no more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fusion.pct.predictions import Predictions
from fusion.solver import Solver
from fusion.solver.logging.console import Silent


def test_half_a_cache_is_as_near_as_float16(project: Callable[..., Path], write_old: Callable[..., None]) -> None:
    solver: Path = project(snapshot=0)
    write_old()
    losses, kept = {}, {}
    for name, options in (("whole", ""), ("half", ",half")):
        reference = f"old.prototxt:old.caffemodel,cache={name}.npz{options}"
        made = Solver(solver, device="cpu", display=Silent(), references=[reference], pct=["kd"])
        losses[name] = made.step(3)
        kept[name] = Predictions.load(f"{name}.npz").logits
    assert kept["half"].dtype == np.float16
    assert kept["whole"].dtype == np.float32
    bound = 2.0**-11 * np.abs(kept["whole"]) + 2.0**-25  # half a unit in the last place; below 2^-14 a fixed step
    assert (np.abs(kept["half"].astype(np.float32) - kept["whole"]) <= bound).all()
    assert losses["half"] == pytest.approx(losses["whole"], rel=1e-2)
