"""pycaffe's solvers against runs of BVLC Caffe: weights at checkpoints and losses, also resumed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import fusion.pycaffe as caffe
from fusion.layers import pycaffe as blobs_module

FOLDER = Path(__file__).parents[2] / "golden" / "solvers"
CASES = sorted(path.parent.name for path in FOLDER.glob("*/run.npz"))
RESUMED = [case for case in CASES if case.startswith("resume_")]


def start(case: str, monkeypatch: pytest.MonkeyPatch) -> caffe.SGDSolver:
    pytest.importorskip("h5py")
    monkeypatch.chdir(FOLDER / case)
    solver = caffe.get_solver("solver.prototxt")
    solver.net.copy_from("init.caffemodel")
    return solver


def compare_weights(net: caffe.Net, run: dict[str, np.ndarray], prefix: str) -> None:
    found = [key for key in run if key.startswith(prefix)]
    assert found
    for key in found:
        layer, index = key.removeprefix(prefix).rsplit(":", 1)
        expected = run[key]
        limit = 2e-5 * max(1e-3, np.abs(expected).max())
        np.testing.assert_allclose(net.params[layer][int(index)].data, expected, rtol=1e-4, atol=limit, err_msg=key)


@pytest.mark.parametrize("case", CASES)
def test_run(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    solver = start(case, monkeypatch)
    with np.load("run.npz") as archive:
        run = dict(archive)
    held = {name: [blob.data for blob in blobs] for name, blobs in solver.net.params.items()}
    checkpoints, losses = json.loads(Path("meta.json").read_text())["checkpoints"], []
    for iteration in range(1, 21):
        solver.step(1)
        losses.append(float(solver.net.blobs["loss"].data))
        if iteration in checkpoints:
            compare_weights(solver.net, run, f"w{iteration}:")
    if solver.param.iter_size == 1:
        np.testing.assert_allclose(losses, run["losses"], rtol=2e-4, atol=1e-5)
    for name, arrays in held.items():  # training has not moved the parameters
        for array, blob in zip(arrays, solver.net.params[name], strict=True):
            assert np.shares_memory(array, blob.data)


@pytest.mark.parametrize("case", ["sgd_momentum", "sgd_bn", "adam_shared"])
def test_copies_for_numpy_train_alike(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU NumPy has a copy of each blob; writing parameters and gradients then changes those of torch."""

    def run() -> tuple[float, dict[str, list[np.ndarray]]]:
        solver = start(case, monkeypatch)
        blobs = solver.net.params["ip"]

        def halve() -> None:
            blobs[0].diff[...] *= 0.5

        solver.add_callback(lambda: None, halve)
        solver.step(2)
        blobs[0].data[1] += 1
        solver.step(1)
        return float(solver.net.blobs["loss"].data), {
            name: [part.copy() for blob in blobs for part in (blob.data, blob.diff)]
            for name, blobs in solver.net.params.items()
        }

    loss, parameters = run()
    monkeypatch.setattr(blobs_module, "has_copy", lambda tensor: True)
    copied_loss, copies = run()
    assert copied_loss == loss
    for name, arrays in parameters.items():
        for array, copied in zip(arrays, copies[name], strict=True):
            np.testing.assert_array_equal(copied, array)


@pytest.mark.parametrize("case", RESUMED)
def test_resume_from_caffes_snapshot(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    solver = start(case, monkeypatch)
    with np.load("resumed.npz") as archive:
        run = dict(archive)
    solver.restore("snap_iter_10.solverstate")
    assert solver.iter == 10
    solver.step(1)
    compare_weights(solver.net, run, "bin:w11:")
    solver.step(9)
    compare_weights(solver.net, run, "bin:w20:")
