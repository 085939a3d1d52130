"""HDF5Output writes what Caffe wrote, and goes on where Caffe gives up."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

import fusion
from fusion.errors import BuildError
from fusion.layers.output import HDF5Output
from prototxt import load_net

h5py = pytest.importorskip("h5py")


def test_the_file_of_caffe(golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = golden / "misc" / "hdf5output"
    net = fusion.build(load_net(folder / "net.prototxt"), "TEST")
    inputs = {name: torch.from_numpy(values) for name, values in np.load(folder / "io.npz").items()}
    assert net(inputs) == {}
    with h5py.File("out.h5") as ours, h5py.File(folder / "out.h5") as theirs:
        assert set(ours) == set(theirs)
        for name in theirs:
            assert ours[name].dtype == theirs[name].dtype
            np.testing.assert_array_equal(ours[name][:], theirs[name][:])
    net(inputs)
    with h5py.File("out.h5") as file:
        assert len(file["data"]) == len(file["label"]) == 6
        np.testing.assert_array_equal(file["data"][3:], file["data"][:3])
    again = copy.deepcopy(fusion.build(load_net(folder / "net.prototxt"), "TEST"))
    again(inputs)
    with h5py.File("out.h5") as file:
        assert len(file["data"]) == 3, "a new run writes a new file"


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_is_an_error_with_the_name(tmp_path: Path) -> None:
    layer = HDF5Output(str(tmp_path / "out.h5"))
    with pytest.raises(OSError, match=r"out\.h5"):  # noqa: PT012 - the batch at which the room ends does not matter
        for _ in range(9):
            layer(torch.zeros(10, 3, 30, 30), torch.zeros(10))
    assert 0 < layer.batches < 9


def test_batches_are_counted_and_vectors_have_four_axes(tmp_path: Path) -> None:
    layer = HDF5Output(str(tmp_path / "out.h5"))
    for count in (1, 2):
        assert layer(torch.zeros(3, 2), torch.zeros(3, dtype=torch.float64)) == ()
        assert layer.batches == count
    with h5py.File(tmp_path / "out.h5") as file:
        assert (file["data"].shape, file["label"].shape) == ((6, 2, 1, 1), (6, 1, 1, 1))
        assert (file["data"].dtype, file["label"].dtype) == (np.float32, np.float64)


def test_a_missing_folder(golden: Path) -> None:
    net = load_net(golden / "misc" / "hdf5output" / "net.prototxt")
    net.layer[2].hdf5_output_param.file_name = ""
    with pytest.raises(BuildError, match="no file_name"):
        fusion.build(net, "TEST")
    net.layer[2].hdf5_output_param.file_name = "nowhere/out.h5"
    with pytest.raises(BuildError, match=r"the folder of 'nowhere/out\.h5' does not exist"):
        fusion.build(net, "TEST")
