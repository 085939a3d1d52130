"""pycaffe's solvers: the loops of scripts, callbacks, and memory that training leaves in place."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pycaffe_nets import TRAINED

import fusion.pycaffe as caffe

Write = Callable[..., str]
Open = Callable[..., caffe.SGDSolver]

FED = """
layer { name: "data" type: "Input" top: "data" top: "label"
  input_param { shape { dim: 4 dim: 5 } shape { dim: 4 } } }
""" + TRAINED[TRAINED.index('layer { name: "low"') :].replace('type: "Dropout"', 'type: "ReLU"')
SETTINGS = """base_lr: 0.5 display: 0 max_iter: 6 random_seed: 3 snapshot_after_train: false """


@pytest.fixture
def solver_of(prototxt_file: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    """A function that opens a solver of a net; it runs in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def solver_of(net: str = FED, settings: str = "", kind: Callable[[str], caffe.SGDSolver] | None = None):
        policy = "" if "lr_policy" in settings else 'lr_policy: "fixed"'
        text = f'net: "{prototxt_file(net)}" snapshot_prefix: "snap" {SETTINGS} {policy} {settings}'
        return (kind or caffe.SGDSolver)(prototxt_file(text, "solver.prototxt"))

    return solver_of


def feed(net: caffe.Net, seed: int = 0) -> None:
    net.blobs["data"].data[...] = np.random.default_rng(seed).standard_normal((4, 5))
    net.blobs["label"].data[...] = [0, 1, 2, 1]


def test_a_step_trains_on_what_a_script_wrote_and_leaves_its_blobs_and_gradients(solver_of: Open) -> None:
    solver = solver_of(settings="weight_decay: 0.1")
    net = solver.net
    weights, bias = (blob.data for blob in net.params["high"])
    assert solver.iter == 0
    feed(net)
    before, below = weights.copy(), net.params["low"][0].data.copy()
    solver.step(1)
    low = np.maximum(net.blobs["data"].data @ below.T, 0)
    np.testing.assert_allclose(net.blobs["low"].data, low, rtol=1e-4, atol=1e-6)
    scores = np.exp(low @ before.T)
    scores /= scores.sum(1, keepdims=True)
    slope = 2 * (scores - np.eye(3)[[0, 1, 2, 1]]) / 4
    np.testing.assert_allclose(net.blobs["high"].diff, slope, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(net.params["high"][0].diff, slope.T @ low, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(weights, before - 0.5 * (slope.T @ low + 0.1 * before), rtol=1e-4, atol=1e-6)
    assert np.shares_memory(bias, net.params["high"][1].data)
    assert solver.iter == 1


def test_parameters_written_between_steps_are_those_that_train(solver_of: Open) -> None:
    solver = solver_of()
    feed(solver.net)
    solver.step(2)
    held = solver.net.params["high"][0].data
    held[...] = 0
    solver.net.params["high"][1].data[...] = [1000, 0, 0]
    solver.step(1)
    assert float(solver.net.blobs["loss"].data) == pytest.approx(
        0.75 * -np.log(np.finfo(np.float32).tiny)
    )  # of 4 labels 3 are not 0
    assert np.shares_memory(held, solver.net.params["high"][0].data)


def test_several_steps_equal_single_ones_and_a_resumed_run(solver_of: Open) -> None:
    many = solver_of(TRAINED, "momentum: 0.9 snapshot: 3")
    many.step(5)
    one = solver_of(TRAINED, "momentum: 0.9")  # a solver seeds the random numbers of all layers, as in Caffe
    for _ in range(5):
        one.step(1)
    resumed = solver_of(TRAINED, "momentum: 0.9")
    resumed.restore("snap_iter_3.solverstate")
    assert resumed.iter == 3
    resumed.step(2)
    for name, blobs in many.net.params.items():
        for index, blob in enumerate(blobs):
            np.testing.assert_array_equal(blob.data, one.net.params[name][index].data)
            np.testing.assert_array_equal(blob.data, resumed.net.params[name][index].data)
    np.testing.assert_array_equal(many.net.blobs["data"].data, one.net.blobs["data"].data)
    np.testing.assert_array_equal(many.net.params["low"][0].diff, one.net.params["low"][0].diff)


def test_gradients_of_several_passes_are_added(solver_of: Open) -> None:
    solver = solver_of(settings="iter_size: 3")
    feed(solver.net)
    solver.step(1)
    summed = solver.net.params["high"][0].diff.copy()
    solver = solver_of()
    feed(solver.net)
    solver.step(1)
    np.testing.assert_allclose(summed, 3 * solver.net.params["high"][0].diff, rtol=1e-5)


def test_callbacks_run_around_the_passes_and_may_change_the_gradients(solver_of: Open) -> None:
    solver = solver_of()
    net, calls = solver.net, []
    feed(net)

    def on_start() -> None:
        calls.append(("start", solver.iter, float(net.params["high"][0].diff.sum())))

    def on_gradients_ready() -> None:
        calls.append(("ready", solver.iter, bool(net.params["high"][0].diff.any())))
        for blobs in net.params.values():
            for blob in blobs:
                blob.diff[...] = 0
        net.params["high"][1].diff[0] = 2

    before = {name: [blob.data.copy() for blob in blobs] for name, blobs in net.params.items()}
    solver.add_callback(on_start, on_gradients_ready)
    solver.step(2)
    assert calls == [("start", 0, 0), ("ready", 0, True), ("start", 1, 0), ("ready", 1, True)]
    before["high"][1][0] -= 2 * 0.5 * 2
    for name, blobs in net.params.items():
        for blob, values in zip(blobs, before[name], strict=True):
            np.testing.assert_array_equal(blob.data, values)


def test_an_update_by_hand_takes_the_diffs_and_counts_no_iteration(solver_of: Open) -> None:
    solver = solver_of(settings='lr_policy: "step" stepsize: 2 gamma: 0.1')
    weights = solver.net.params["low"][0]
    weights.data[...] = 1
    weights.diff[...] = 3
    assert solver.lr == 0.5
    solver.apply_update()
    assert (weights.data == -0.5).all()
    assert solver.iter == 0
    feed(solver.net)
    solver.step(2)
    assert solver.lr == pytest.approx(0.05)
    solver.param.base_lr = 0.2
    assert solver.lr == pytest.approx(0.02)


def test_a_frozen_layer_that_a_script_changes_is_not_remembered(solver_of: Open) -> None:
    frozen = FED.replace('top: "low"\n', 'top: "low" param { lr_mult: 0 } param { lr_mult: 0 }\n', 1)
    assert frozen != FED
    solver = solver_of(frozen)
    feed(solver.net)
    solver.step(1)
    solver.net.params["low"][0].data[...] = 0
    solver.net.params["low"][1].data[...] = 7
    solver.step(1)
    assert (solver.net.blobs["low"].data == 7).all()
    assert (solver.net.params["low"][1].data == 7).all()


def test_test_nets_share_the_parameters_and_keep_the_blobs_of_the_last_test(solver_of: Open) -> None:
    solver = solver_of(TRAINED.replace('type: "Dropout"', 'type: "ReLU"'), "test_iter: 2 test_interval: 2")
    (test,) = solver.test_nets
    assert np.shares_memory(test.params["low"][0].data, solver.net.params["low"][0].data)
    solver.step(1)  # tests before the first iteration
    seen = test.blobs["data"].data.copy()
    assert seen.any()
    test.forward()
    assert (test.blobs["data"].data != seen).all()
    weights, bias = (blob.data for blob in solver.net.params["low"])
    low = np.maximum(test.blobs["data"].data @ weights.T + bias, 0)
    np.testing.assert_allclose(test.blobs["low"].data, low, rtol=1e-4, atol=1e-6)
    other = caffe.Net(str(Path("net.prototxt")), caffe.TEST)
    solver.share_weights(other)
    solver.net.params["high"][1].data[...] = 9
    assert other.params["high"][1].data.tolist() == [9, 9, 9]


def test_solve_runs_to_the_end_and_resumes(solver_of: Open) -> None:
    solver = solver_of(TRAINED, "snapshot: 4 test_iter: 1 test_interval: 3")
    solver.solve()
    assert solver.iter == 6
    assert sorted(name for name in os.listdir() if name.endswith("solverstate")) == ["snap_iter_4.solverstate"]
    again = solver_of(TRAINED)
    again.solve("snap_iter_4.solverstate")
    assert again.iter == 6
    np.testing.assert_array_equal(again.net.params["low"][0].data, solver.net.params["low"][0].data)


def test_the_class_decides_the_type_and_get_solver_reads_it(solver_of: Open) -> None:
    for kind in ("SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam"):
        solver = solver_of(settings=f'type: "{kind}"', kind=caffe.get_solver)
        assert type(solver) is getattr(caffe, f"{kind}Solver")
        assert isinstance(solver, caffe.SGDSolver)
    solver = solver_of(settings='type: "Adam"', kind=caffe.SGDSolver)
    solver.net.params["high"][1].diff[...] = 4
    solver.apply_update()
    assert solver.net.params["high"][1].data.tolist() == [-2, -2, -2]  # Adam's first step would be 0.5


def test_what_caffe_would_refuse_is_a_runtime_error(solver_of: Open) -> None:
    with pytest.raises(RuntimeError, match="could not open file nowhere"):
        caffe.SGDSolver("nowhere.prototxt")
    with pytest.raises(RuntimeError, match="unknown solver type 'SDG'"):
        solver_of(settings='type: "SDG"', kind=caffe.get_solver)
    solver = solver_of()
    solver.net.blobs["label"].data[...] = 5
    with pytest.raises(RuntimeError, match="'loss'"):
        solver.step(1)


def test_a_seed_makes_a_script_repeatable(prototxt_file: Write, solver_of: Open) -> None:
    path = prototxt_file(
        f'net: "{prototxt_file(TRAINED)}" {SETTINGS.replace("random_seed: 3", "")} lr_policy: "fixed"', "s.prototxt"
    )
    runs = []
    for _ in range(2):
        caffe.set_random_seed(5)
        solver = caffe.SGDSolver(path)
        solver.step(3)
        runs.append(solver.net.params["low"][0].data.copy())
    np.testing.assert_array_equal(*runs)
