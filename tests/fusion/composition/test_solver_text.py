"""The solver of a fused net: each line of its text, and settings that are refused."""

from __future__ import annotations

import pytest

from fusion.composition.solver_text import SolverSettings, check_settings, solver_text
from prototxt.schema.load import load_solver
from prototxt.text.parser import parse

DEFAULT = """# How the head of the fused net is trained; the branches are frozen.
net: "train_val.prototxt"

test_iter: 7
test_interval: 1000
test_initialization: false

base_lr: 0.01
momentum: 0.9
weight_decay: 0.0005
lr_policy: "step"
gamma: 0.707
stepsize: 1000

display: 200
max_iter: 30000
snapshot: 30000
snapshot_prefix: "fused"
"""


def lines(**settings: object) -> str:
    return solver_text(SolverSettings(**settings), 7)  # type: ignore[arg-type]


def test_the_text_of_the_defaults() -> None:
    assert lines() == DEFAULT
    assert SolverSettings().changed_fields() == {}


@pytest.mark.parametrize(
    ("settings", "old", "new"),
    [
        ({"test_interval": 0}, "test_iter: 7\ntest_interval: 1000\ntest_initialization: false\n\n", ""),
        ({"test_interval": 5}, "test_interval: 1000", "test_interval: 5"),
        ({"lr_policy": "fixed"}, '"step"\ngamma: 0.707\nstepsize: 1000', '"fixed"'),
        ({"lr_policy": "inv"}, '"step"\ngamma: 0.707\nstepsize: 1000', '"inv"\ngamma: 0.707'),
        ({"snapshot": 50}, "snapshot: 30000", "snapshot: 50"),
        ({"max_iter": 9}, "max_iter: 30000\nsnapshot: 30000", "max_iter: 9\nsnapshot: 9"),
        ({"base_lr": 0.1, "momentum": 0, "gamma": 0.5}, "0.01\nmomentum: 0.9", "0.1\nmomentum: 0"),
        ({"display": 0, "weight_decay": 1e-10}, "weight_decay: 0.0005", "weight_decay: 1e-10"),
    ],
)
def test_the_text_of_each_setting(settings: dict[str, object], old: str, new: str) -> None:
    expected = DEFAULT.replace(old, new)
    expected = expected.replace("gamma: 0.707", f"gamma: {settings.get('gamma', 0.707)}")
    assert lines(**settings) == expected.replace("display: 200", f"display: {settings.get('display', 200)}")
    assert SolverSettings(**settings).changed_fields() == settings  # type: ignore[arg-type]


def test_further_fields_are_written_in_their_form() -> None:
    settings = SolverSettings().with_fields(
        {"base_lr": 0.5, "stepvalue": [10, 20], "random_seed": 1, "type": "Adam", "solver_mode": "CPU", "own": "x"}
    )
    text = solver_text(settings, 1)
    assert text.endswith(
        'stepvalue: 10\nstepvalue: 20\nrandom_seed: 1\ntype: "Adam"\nsolver_mode: CPU\nown: "x"\n'
    )  # fmt: skip
    assert "base_lr: 0.5\n" in text
    assert list(settings.further) == ["stepvalue", "random_seed", "type", "solver_mode", "own"]
    again = settings.with_fields({"random_seed": 2, "max_iter": 4})
    assert (again.further["random_seed"], again.max_iter, again.base_lr) == (2, 4, 0.5)
    assert settings.changed_fields() == {"base_lr": 0.5, **settings.further}
    assert load_solver(parse(text.replace('own: "x"\n', ""))).stepvalue == [10, 20]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"lr_policy": "stp"}, ["there is no lr_policy 'stp'"]),
        ({"max_iter": 0}, ["max_iter must be at least 1, not 0"]),
        ({"stepsize": 0}, ["stepsize must be at least 1, not 0"]),
        ({"test_interval": -1}, ["test_interval must be at least 0, not -1"]),
        ({"display": -1}, ["display must be at least 0, not -1"]),
        ({"base_lr": -0.1}, ["base_lr must not be negative, as -0.1 is"]),
        (
            {"max_iter": 0, "base_lr": -1},
            ["max_iter must be at least 1, not 0", "base_lr must not be negative, as -1 is"],
        ),
        ({"max_iter": 1, "stepsize": 1, "test_interval": 0, "display": 0, "base_lr": 0}, []),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, object], says: list[str]) -> None:
    assert [error.message for error in check_settings(SolverSettings(**settings))] == says  # type: ignore[arg-type]
    for policy in ("fixed", "step", "exp", "inv", "multistep", "poly", "sigmoid"):
        assert not check_settings(SolverSettings(lr_policy=policy))
