"""A process that is killed at any moment, what it leaves, and that going on from there gives the same weights."""

from __future__ import annotations

import io
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fusion.errors import TrainingError
from fusion.nets.build import params
from fusion.solver import Solver
from fusion.solver.logging.console import Lines
from fusion.solver.snapshots import files
from fusion.solver.snapshots.files import states
from fusion.solver.snapshots.momentum import histories, restore_histories
from fusion.solver.snapshots.resume_state import (
    generators,
    read_resume_state,
    recurrent_states,
    set_generators,
    write_resume_state,
)
from prototxt import read_weights
from prototxt.errors import WeightsError

Make = Callable[..., Path]
Starter = Any  # see conftest.py

_DROPPED = """layer { name: "drop" type: "Dropout" bottom: "trunk" top: "trunk" }
layer { name: "ip" type: "InnerProduct" """


def make_random(project: Make, iterations: int) -> None:
    """A net whose every iteration draws: shuffled data, random crops and mirrors, dropout; snapshots without end."""
    project(frozen=False, shuffle=True, max_iter=iterations, snapshot=2, snapshot_after_train="true", test_interval=7)
    net = Path("net.prototxt").read_text().replace("scale: 0.01", "scale: 0.01 mirror: true crop_size: 4")
    Path("net.prototxt").write_text(net.replace('layer { name: "ip" type: "InnerProduct" ', _DROPPED))


def kill_often(starter: Starter, kills: int, longest: float, dice: random.Random) -> None:
    """Start, kill after a random while, start again with --resume, and so on."""
    for turn in range(kills):
        (process,), seen = starter.start("killed", "--resume"), len(states("killed"))
        while turn % 2 == 0 and len(states("killed")) <= seen:
            time.sleep(0.005)
        time.sleep(dice.uniform(0, longest))
        os.kill(process, signal.SIGKILL)
        assert starter.wait() == [-signal.SIGKILL], Path("killed.log").read_text()


def series(starter: Starter, iterations: int, kills: int, longest: float, seed: int) -> None:
    """An undisturbed run and one that is killed again and again end with the same weights, bit for bit."""
    starter.run("whole")
    kill_often(starter, kills, longest, random.Random(seed))
    starter.run("killed", "--resume")
    expected, found = (read_weights(f"{prefix}_iter_{iterations}.caffemodel") for prefix in ("whole", "killed"))
    for name in expected:
        for one, other in zip(expected[name], found[name], strict=True):
            np.testing.assert_array_equal(one, other, err_msg=name)
    log = Path("killed.log").read_text()
    assert log.count(", exactly\n") >= (kills + 1) // 2
    assert "damaged" not in log
    assert "as Caffe does" not in log
    assert not list(Path.cwd().glob(".snapshot-*"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["every layer learns", "head on a kept trunk"])
def test_killed_twenty_times(project: Make, starter: Starter, kind: str) -> None:
    """At random moments, many of them within the writing of a snapshot: it goes on all the time."""
    if kind == "every layer learns":
        make_random(project, 4000)
    else:
        project(shuffle=True, max_iter=4000, snapshot=2, snapshot_after_train="true", test_interval=7, type='"Adam"')
    series(starter, iterations=4000, kills=20, longest=0.6, seed=int(os.environ.get("SEED", "2")))


def test_the_newest_whole_snapshot_is_taken(project: Make, capsys: pytest.CaptureFixture[str]) -> None:
    path = project(snapshot=5)
    whole = solver(path)
    whole.train()
    state = Path("small_iter_20.solverstate")
    state.write_bytes(state.read_bytes()[:100])
    Path("small_iter_15.fusionstate").write_bytes(Path("small_iter_10.fusionstate").read_bytes())
    Path("small_iter_15.caffemodel").write_bytes(Path("small_iter_5.caffemodel").read_bytes())
    exact = read_resume_state("small_iter_10.fusionstate")
    assert exact is not None
    write_resume_state("small_iter_15.fusionstate", replace(exact, iteration=15))
    log = io.StringIO()
    resumed = solver(path, log)
    assert resumed.resume()
    assert "skipping small_iter_20.solverstate, of which a file is missing or damaged: " in log.getvalue()
    assert "skipping small_iter_15.solverstate: the files beside it belong to another run" in log.getvalue()
    assert "Restored iteration 10 from small_iter_10.solverstate, exactly" in log.getvalue()
    resumed.train()
    assert files_equal("small_iter_20.caffemodel", whole)


def test_nothing_to_go_on_from(project: Make) -> None:
    path, log = project(), io.StringIO()
    assert not solver(path, log).resume()
    assert "no snapshot of small to resume from: training starts from the beginning" in log.getvalue()
    Path("small_iter_3.solverstate").write_bytes(b"damaged")
    with pytest.raises(TrainingError, match="none of 1 snapshots can be used"):
        solver(path, log).resume()


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("small_iter_10.caffemodel", "this is not a solver state"),
        ("small_iter_10.fusionstate", "give small_iter_10.solverstate"),
        ("train0.png", "this is a PNG image"),
        ("small_iter_11.solverstate", "there is no such file"),
    ],
)
def test_wrong_files_are_explained(project: Make, name: str, what: str) -> None:
    path = project()
    solver(path).step(10)
    with pytest.raises((TrainingError, WeightsError), match=what):
        solver(path).restore(name)
    assert name != "small_iter_10.caffemodel" or load_error(path, "small_iter_10.solverstate") == (
        "this is a solver state, not trained weights"
    )


def test_a_snapshot_is_replaced_whole_or_not_at_all(project: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    run = solver(project())
    run.step(10)
    before = {path.name: path.read_bytes() for path in Path.cwd().glob("small_iter_10.*")}

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("prototxt.formats.solverstate.atomic_write", full)
    with pytest.raises(TrainingError, match="No space left on device"):
        run.snapshot()
    assert {path.name: path.read_bytes() for path in Path.cwd().glob("small_iter_10.*")} == before
    assert not list(Path.cwd().glob(".snapshot-*"))


def test_generators_go_on(project: Make) -> None:
    before = generators()
    drawn = (torch.rand(3), np.random.standard_normal(3), random.gauss(0, 1), np.random.standard_normal(2))
    random.gauss(0, 1)
    set_generators(before)
    again = (torch.rand(3), np.random.standard_normal(3), random.gauss(0, 1), np.random.standard_normal(2))
    assert all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(drawn, again, strict=True))


RECURRENT = """
layer { name: "cont" type: "DummyData" top: "cont" dummy_data_param {
  shape { dim: 4 dim: 1 } data_filler { type: "constant" value: 1 } } }
layer { name: "steps" type: "Reshape" bottom: "data" top: "steps" reshape_param { shape { dim: -1 dim: 1 dim: 30 } } }
layer { name: "lstm" type: "KIND" bottom: "steps" bottom: "cont" top: "lstm" recurrent_param {
  num_output: 3 weight_filler { type: "uniform" min: -0.3 max: 0.3 } } }
layer { name: "rows" type: "Reshape" bottom: "lstm" top: "rows" reshape_param { shape { dim: -1 dim: 3 } } }
layer { name: "ip" type: "InnerProduct" bottom: "rows" top: "ip" inner_product_param { num_output: 3
  weight_filler { type: "xavier" } } }
layer { name: "acc" type: "Accuracy" bottom: "ip" bottom: "label" top: "acc" include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""


@pytest.mark.parametrize("kind", ["LSTM", "RNN"])
def test_a_resumed_run_goes_on_from_the_states_of_recurrent_layers(project: Make, kind: str) -> None:
    """Sequences go on from batch to batch, so that the states at the snapshot decide all that comes after it."""
    path = project(max_iter=14)
    net = Path("net.prototxt").read_text()
    kind_param = RECURRENT.replace("KIND", kind)
    net = net[: net.index('layer { name: "trunk"')].replace("batch_size: 3", "batch_size: 4") + kind_param
    Path("net.prototxt").write_text(net)
    whole, resumed = solver(path), solver(path)
    whole.train()
    resumed.restore("small_iter_10.solverstate")
    for _ in range(4):
        resumed.step()
    states = recurrent_states(whole.net)
    assert states
    assert all(np.abs(state).max() > 1e-3 for state in states.values())
    assert all(np.array_equal(state, states[name]) for name, state in recurrent_states(resumed.net).items())
    assert files_equal("small_iter_14.caffemodel", resumed)


def test_a_resumed_run_tests_on_the_records_that_are_next(project: Make) -> None:
    """Three of four batches are tested at a time: the next test goes on with the fourth, as in the undisturbed run."""
    path = project(test_iter=3, test_interval=5)
    whole, resumed = solver(path), solver(path)
    whole.step(15)
    resumed.restore("small_iter_10.solverstate")
    resumed.step(5)
    assert [job.batches.position for job in resumed.nets] == [job.batches.position for job in whole.nets]
    assert resumed.nets[1].batches.position % 4 != 0
    assert resumed.test() == whole.test()


def test_a_snapshot_that_is_replaced_is_none_until_all_of_its_files_are_there(
    project: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at any file, the state of before must not stand beside new weights."""
    run = solver(project())
    run.step(10)
    names = ["small_iter_10.caffemodel", "small_iter_10.fusionstate", "small_iter_10.solverstate"]
    replace_file, seen = os.replace, []

    def watched(source: str, target: str) -> None:
        if target in names:
            seen.append((target, Path(names[2]).exists()))
        replace_file(source, target)

    monkeypatch.setattr(files.os, "replace", watched)
    run.snapshot()
    assert seen == [(name, False) for name in names]
    assert Path(names[2]).exists()


@pytest.mark.parametrize(
    ("word", "value"),
    [("True", True), ("False", False), ("None", None), ("", None)],
    ids=["yes", "no", "none", "empty"],
)
def test_choices_of_the_start_are_those_of_the_snapshot(project: Make, word: str, value: bool | None) -> None:
    path = project()
    solver(path).step(10)
    exact = read_resume_state("small_iter_10.fusionstate")
    assert exact is not None
    choices = dict.fromkeys(("closed_form", "compiled", "cached", "channels_last"), word)
    changed = replace(exact, decisions={**exact.decisions, **choices, "updates": "7"}, losses=(1.0, 3.0), threads=3)
    write_resume_state("small_iter_10.fusionstate", changed)
    run = solver(path)
    run.restore("small_iter_10.solverstate")
    assert (run.progress.closed_form, run.progress.compiled, run.progress.cached) == (value, value, value)
    assert run.autotuner.replayed == (3, value is True)
    assert (run.iter, run.progress.lr_step, run.optimizer.updates) == (10, 1, 7)
    assert run.progress.losses.recent == (1.0, 3.0)
    assert run.progress.last_good == "small_iter_10.solverstate"
    assert run.nets[0].batches.position == 10


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"seed": 4}, "but not the random draws: set random_seed: 4, which it was trained with"),
        ({"engine": "torch 1.0"}, "but perhaps not to the last bit: torch 1.0 wrote it, this is torch"),
        ({"decisions": {"processes": "2"}}, "but not the random draws: 2 processes wrote it"),
        ({"decisions": {}}, ", exactly"),
        ({"weights": 1}, "as Caffe does: the data starts from its beginning"),
        ({"iteration": 9}, "as Caffe does: the data starts from its beginning"),
    ],
    ids=str,
)
def test_how_exactly_a_run_goes_on_is_told(project: Make, changes: dict[str, Any], told: str) -> None:
    path, log = project(), io.StringIO()
    solver(path).step(10)
    exact = read_resume_state("small_iter_10.fusionstate")
    assert exact is not None
    write_resume_state("small_iter_10.fusionstate", replace(exact, **changes))
    run = solver(path, log)
    run.restore("small_iter_10.solverstate")
    assert told in log.getvalue()
    assert (run.iter, run.optimizer.updates) == (10, 10)
    assert run.nets[0].batches.position == (0 if "as Caffe does" in told else 10)


def test_a_history_of_other_blobs_is_refused(project: Make) -> None:
    path = project()
    run = solver(path)
    run.step(3)
    kept = histories(run.flat_params, run.optimizer)
    shapes = [(8, 30), (8,), (3, 8), (3,)]
    assert [array.shape for array in kept] == shapes
    assert [bool(array.any()) for array in kept] == [False, False, True, True], "zeros for what is frozen"
    doubled = [2 * array for array in kept]
    restore_histories(run.flat_params, run.optimizer, doubled, "x")
    for one, other in zip(histories(run.flat_params, run.optimizer), doubled, strict=True):
        np.testing.assert_array_equal(one, other)
    for wrong, says in (
        (kept[:1], "the state holds 1 history blobs, SGD on this net has 4"),
        (kept + kept, "the state holds 8 history blobs, SGD on this net has 4"),
        (kept[::-1], "history blob 0 has 3 values, layer 'trunk' needs 240"),
        ([*kept[:3], kept[3][:2]], "history blob 3 has 2 values, layer 'ip' needs 3"),
    ):
        with pytest.raises(TrainingError, match=says):
            restore_histories(run.flat_params, run.optimizer, wrong, "x")
    adam = solver(project(type='"Adam"'))
    adam.step(3)
    moments = [array.copy() for array in histories(adam.flat_params, adam.optimizer)]
    assert [array.shape for array in moments] == shapes * 2
    assert all((array > 0).all() for array in moments[6:]), "the squares come after the means"
    restore_histories(adam.flat_params, adam.optimizer, [array + 1 for array in moments], "x")
    learned = histories(adam.flat_params, adam.optimizer)
    for number in (2, 3, 6, 7):
        np.testing.assert_array_equal(learned[number], moments[number] + 1)
    assert not learned[0].any()


def solver(path: Path, log: io.StringIO | None = None) -> Solver:
    return Solver(path, device="cpu", display=Lines(log or io.StringIO()))


def load_error(path: Path, name: str) -> str:
    with pytest.raises(WeightsError) as error:
        solver(path).load([name])
    return error.value.message


def files_equal(model: str, run: Solver) -> bool:
    stored = read_weights(model)
    return all(
        np.array_equal(one, other.detach().numpy())
        for name, tensors in params(run.net).items()
        for one, other in zip(stored[name], tensors, strict=True)
    )
