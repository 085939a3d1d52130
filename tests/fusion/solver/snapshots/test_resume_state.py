"""A fusionstate is read whole or not at all, whatever was done to it."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from fusion.solver.snapshots.resume_state import ResumeState, generators, read_resume_state, write_resume_state


def write(path: Path, **changes: object) -> ResumeState:
    values = {"iteration": 5, "positions": (3, 1), "losses": (0.5,), "seed": 1, "weights": 77, **changes}
    state = ResumeState(**values)
    write_resume_state(str(path), state)
    return state


def test_every_value_comes_back(tmp_path: Path) -> None:
    state = write(tmp_path / "a", generators=generators(), arrays={"0/lstm.hidden": np.ones((2, 3), np.float32)})
    read = read_resume_state(str(tmp_path / "a"))
    assert read is not None
    assert (read.iteration, read.positions, read.losses, read.weights) == (5, (3, 1), (0.5,), 77)
    for name, values in {**state.generators, **state.arrays}.items():
        np.testing.assert_array_equal({**read.generators, **read.arrays}[name], values)


def test_damage_gives_none_or_the_same_values(tmp_path: Path) -> None:
    write(tmp_path / "a", arrays={"callbacks/ema": np.ones(3, np.float32)})
    data, rng = (tmp_path / "a").read_bytes(), random.Random(0)
    found = []
    for _ in range(1500):
        changed = bytearray(data)
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        (tmp_path / "b").write_bytes(changed)
        state = read_resume_state(str(tmp_path / "b"))
        found.append(state is None or (state.iteration, state.positions, state.weights) == (5, (3, 1), 77))
    assert all(found)


@pytest.mark.parametrize(
    "changes",
    [
        {"positions": (-1,)},
        {"iteration": "5"},
        {"threads": 1 << 40},
        {"losses": ("x",)},
        {"decisions": {"updates": 3}},
        {"decisions": {"extras": "[]"}},
        {"generators": {"cpu": np.zeros(3, np.uint8)}},
        {"generators": {"numpy": np.zeros(3)}},
        {"generators": {"python": np.full(9, np.nan)}},
    ],
)
def test_values_that_no_run_writes(tmp_path: Path, changes: dict[str, object]) -> None:
    write(tmp_path / "a", **changes)
    assert read_resume_state(str(tmp_path / "a")) is None
