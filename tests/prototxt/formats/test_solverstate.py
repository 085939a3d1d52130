"""Solver states, binary and HDF5, as BVLC Caffe's five solvers wrote them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from prototxt.errors import WeightsError
from prototxt.formats.solverstate import SolverState, read_solverstate, write_solverstate

CASES = ("sgd", "adam", "adadelta", "adagrad", "rmsprop")


@pytest.mark.parametrize("form", ["snap_iter_10.solverstate", "snaph5_iter_10.solverstate.h5"])
@pytest.mark.parametrize("case", CASES)
def test_caffes_states_are_read(golden: Path, case: str, form: str) -> None:
    folder = golden / "solvers" / f"resume_{case}"
    meta = json.loads((folder / "meta.json").read_text())
    run = np.load(folder / "run.npz")
    state = read_solverstate(folder / form)
    assert state.iter == 10
    assert state.learned_net == form.replace("solverstate", "caffemodel")
    assert len(state.history) == meta["n_history"]
    assert state.current_step >= 0
    for index, blob in enumerate(state.history):
        np.testing.assert_array_equal(blob, run[f"hist10:{index}"])


@pytest.mark.parametrize("case", CASES)
def test_binary_states_round_trip_to_the_byte(golden: Path, tmp_path: Path, case: str) -> None:
    original = golden / "solvers" / f"resume_{case}" / "snap_iter_10.solverstate"
    write_solverstate(tmp_path / "copy.solverstate", read_solverstate(original))
    assert (tmp_path / "copy.solverstate").read_bytes() == original.read_bytes()


def test_hdf5_states_hold_what_caffes_hold(golden: Path, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    original = golden / "solvers" / "resume_adam" / "snaph5_iter_10.solverstate.h5"
    write_solverstate(tmp_path / "copy.solverstate.h5", read_solverstate(original))
    with h5py.File(original) as ours, h5py.File(tmp_path / "copy.solverstate.h5") as copy:
        for name in ("iter", "current_step", "learned_net"):
            assert copy[name].dtype == ours[name].dtype
            assert copy[name].shape == ours[name].shape
            assert copy[name][()] == ours[name][()]
        assert list(copy["history"]) == list(ours["history"])


def test_a_state_without_weights_or_history(tmp_path: Path) -> None:
    for name in ("a.solverstate", "a.solverstate.h5"):
        write_solverstate(tmp_path / name, SolverState(7, "", ()))
        assert read_solverstate(tmp_path / name) == SolverState(7, "", ())


def test_weights_are_no_solver_state(golden: Path) -> None:
    small = golden / "formats" / "small"
    with pytest.raises(WeightsError, match=r"byte \d+: this is not a solver state\n  hint: a solver state"):
        read_solverstate(small / "net.caffemodel")
    with pytest.raises(WeightsError, match="this HDF5 file is not a solver state"):
        read_solverstate(small / "net.caffemodel.h5")
    with pytest.raises(WeightsError, match=r"this is one blob, such as a mean image .*, not a solver state"):
        read_solverstate(golden / "formats" / "data" / "mean.binaryproto")


def test_truncation_names_the_byte(golden: Path, tmp_path: Path) -> None:
    data = (golden / "solvers" / "resume_sgd" / "snap_iter_10.solverstate").read_bytes()
    (tmp_path / "cut.solverstate").write_bytes(data[:300])
    with pytest.raises(WeightsError, match=r"cut\.solverstate: byte \d+: field 3 claims .* the file has only"):
        read_solverstate(tmp_path / "cut.solverstate")


@pytest.mark.parametrize("name", ["a.solverstate", "a.solverstate.h5"])
def test_nvcaffes_plateau_survives_in_both_forms(tmp_path: Path, name: str) -> None:
    state = SolverState(7, "w", (), 2, minimum_loss=0.75, iter_last_event=0)
    write_solverstate(tmp_path / name, state)
    assert read_solverstate(tmp_path / name) == state
    half = SolverState(7, "w", (), 2, minimum_loss=0.0)
    write_solverstate(tmp_path / name, half)
    assert read_solverstate(tmp_path / name) == half
