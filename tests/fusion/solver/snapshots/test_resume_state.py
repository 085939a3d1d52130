"""A fusionstate is read whole or not at all, whatever was done to it."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from fusion.solver.snapshots.find import recorded_decisions
from fusion.solver.snapshots.resume_state import (
    ResumeState,
    below,
    generators,
    preserved_generators,
    read_resume_state,
    recurrent_states,
    set_recurrent_states,
    write_resume_state,
)


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
        {"iteration": -1},
        {"seed": 1 << 63},
        {"weights": -(1 << 63)},
        {"iteration": True},
        {"threads": 0},
        {"engine": 3},
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


@pytest.mark.parametrize(
    "changes",
    [{"threads": 1 << 16}, {"threads": 1}, {"seed": (1 << 63) - 1}, {"seed": -5}, {"iteration": 0}, {"positions": (0,)},
     {"positions": ()}, {"losses": ()}, {"losses": (1, float("inf"))}, {"decisions": {"extras": "{}"}}],
)  # fmt: skip
def test_values_at_the_ends_of_their_ranges(tmp_path: Path, changes: dict[str, object]) -> None:
    write(tmp_path / "a", **changes)
    found = read_resume_state(str(tmp_path / "a"))
    assert found is not None
    assert {name: getattr(found, name) for name in changes} == changes


def test_arrays_are_told_apart_by_the_start_of_their_names() -> None:
    one, other = np.zeros(1), np.ones(1)
    assert below({"0/a": one, "1/a": other, "10/b": other}, "1/") == {"a": other}


def test_states_of_recurrent_layers_are_those_and_no_others() -> None:
    from torch import nn

    net = nn.Module()
    net.lstm = nn.Module()
    for name, value in (("hidden", 1.0), ("cell", 2.0), ("mean", 3.0)):
        net.lstm.register_buffer(name, torch.full((2,), value))
    found = recurrent_states(net)
    assert {name: values.tolist() for name, values in found.items()} == {"lstm.hidden": [1, 1], "lstm.cell": [2, 2]}
    set_recurrent_states(net, {"lstm.cell": np.full(2, 7, np.float32)}, torch.device("cpu"))
    assert [buffer.tolist() for buffer in net.buffers()] == [[1, 1], [7, 7], [3, 3]]


def test_draws_within_a_block_change_none_after_it() -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    before = generators()
    with preserved_generators():
        torch.rand(3), np.random.rand(3), random.random(), random.gauss(0, 1)
    after = generators()
    assert before.keys() == after.keys()
    for name, state in before.items():
        np.testing.assert_array_equal(after[name], state)


def test_decisions_of_a_snapshot(tmp_path: Path) -> None:
    write(tmp_path / "a_iter_5.fusionstate", decisions={"extras": '{"warmup": 5}', "cached": "True"})
    assert recorded_decisions(str(tmp_path / "a_iter_5.solverstate")) == {"extras": '{"warmup": 5}', "cached": "True"}
    assert recorded_decisions(str(tmp_path / "a_iter_5.solverstate.h5"))["cached"] == "True"
    assert recorded_decisions(str(tmp_path / "b_iter_5.solverstate")) == {}
