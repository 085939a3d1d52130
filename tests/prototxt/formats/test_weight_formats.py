"""HDF5 and safetensors: what Caffe wrote is read, what is written others read, and wrong content is refused."""

from __future__ import annotations

import json
import os
import struct
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from prototxt.errors import WeightsError
from prototxt.formats.hdf5_writer import SlashWarning
from prototxt.formats.solverstate import read_solverstate
from prototxt.formats.weights import read_weights, write_weights
from prototxt.sniff.protobuf_wire import encode_varint, length_field, text_field

h5py = pytest.importorskip("h5py")


@pytest.fixture
def small(golden: Path) -> Path:
    return golden / "formats" / "small"


def test_caffes_hdf5_holds_what_its_caffemodel_holds(small: Path) -> None:
    binary, hdf5 = read_weights(small / "net.caffemodel"), read_weights(small / "net.caffemodel.h5")
    assert set(binary) - set(hdf5) == {"h2"}, "h2 shares its blobs with h1, and Caffe writes them once"
    for name in hdf5:
        for ours, theirs in zip(hdf5[name], binary[name], strict=True):
            assert ours.shape == theirs.shape
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("ending", ["caffemodel", "caffemodel.h5", "safetensors"])
def test_every_format_round_trips(small: Path, tmp_path: Path, ending: str) -> None:
    original = read_weights(small / "net.caffemodel")
    write_weights(tmp_path / f"a.{ending}", original)
    write_weights(tmp_path / f"b.{ending}", read_weights(tmp_path / f"a.{ending}"))
    copy = read_weights(tmp_path / f"b.{ending}")
    assert set(copy) == set(original)
    for name in original:
        for ours, theirs in zip(copy[name], original[name], strict=True):
            assert ours.shape == theirs.shape
            np.testing.assert_array_equal(ours, theirs)


def test_nested_names_are_written_and_read_with_a_warning(tmp_path: Path) -> None:
    weights = {"odd/conv1": [np.ones((2, 3), np.float32)], "odd": [np.zeros(4, np.float32)]}
    with pytest.warns(
        SlashWarning, match=r"^[^/]*: Caffe does not load layers with '/' in their name from HDF5 \(odd/conv1"
    ):
        write_weights(tmp_path / "n.caffemodel.h5", weights)
    back = read_weights(tmp_path / "n.caffemodel.h5")
    assert {name: [blob.shape for blob in back[name]] for name in back} == {"odd": [(4,)], "odd/conv1": [(2, 3)]}
    with h5py.File(tmp_path / "n.caffemodel.h5") as file:
        assert file["data/odd/conv1/0"].shape == (2, 3)


def test_names_that_cannot_be_groups_are_refused(tmp_path: Path) -> None:
    clash = {"a": [np.ones(1)], "a/0": [np.ones(1)]}
    with pytest.raises(WeightsError, match=r"layer 'a/0' cannot be a group.*\n  hint: .*write a \.caffemodel"):
        write_weights(tmp_path / "x.h5", clash)
    assert not list(tmp_path.iterdir())


def test_chunked_compressed_double_and_half_datasets_are_read(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.float64).reshape(3, 4)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("data/fc/0", data=values, compression="gzip")
        file.create_dataset("data/fc/1", data=values[0].astype(np.float16))
        file.create_dataset("diff/fc/0", data=values)
    weights = read_weights(tmp_path / "x.h5")
    np.testing.assert_array_equal(weights["fc"][0], values.astype(np.float32))
    assert [blob.dtype for blob in weights["fc"]] == [np.float32, np.float32]
    write_weights(tmp_path / "y.caffemodel", weights)
    np.testing.assert_array_equal(read_weights(tmp_path / "y.caffemodel")["fc"][1], values[0].astype(np.float32))


def refuse(path: Path, says: str) -> None:
    with pytest.raises(WeightsError) as caught:
        read_weights(path)
    assert says in str(caught.value)
    assert str(caught.value).startswith(str(path))


def test_hdf5_of_other_programs_and_traps_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["model_weights/dense/kernel"] = np.ones(3)
    refuse(path, "this HDF5 file holds model_weights, but no layers of Caffe's")
    with h5py.File(path, "w") as file:
        file.create_dataset("data/fc/0", (1 << 40,), "<f4", chunks=(1 << 20,), compression="gzip")
    refuse(path, "blob 0 of layer 'fc' would unpack to 4398046511104 bytes from a file of")
    with h5py.File(path, "w") as file:
        file.create_group("data/fc")
        file["data/fc/0"] = h5py.ExternalLink("/etc/passwd", "/")
    refuse(path, "'fc/0' is a link to another place or file")
    with h5py.File(path, "w") as file:
        group = file.create_group("data/fc")
        group["again"] = group
    refuse(path, "groups are nested deeper than 32")
    with h5py.File(path, "w") as file:
        file["data/fc/0"] = np.arange(3)
    refuse(path, "blob 0 of layer 'fc' holds int64, not floating-point numbers")
    with h5py.File(path, "w") as file:
        file["data/fc/1"] = np.ones(3)
    refuse(path, "layer 'fc' has datasets 1")
    path.write_bytes(path.read_bytes()[:900])
    refuse(path, "HDF5 cannot open the file")


def test_without_h5py_the_remedy_is_named(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(WeightsError, match=r"need the package h5py.*\n  hint: pip install 'caffe-fusion\[hdf5\]'"):
        read_weights(small / "net.caffemodel.h5")


def test_safetensors_are_what_the_reference_library_reads(small: Path, tmp_path: Path) -> None:
    numpy = pytest.importorskip("safetensors.numpy")
    original = read_weights(small / "net.caffemodel")
    write_weights(tmp_path / "a.safetensors", original)
    loaded = numpy.load_file(tmp_path / "a.safetensors")
    np.testing.assert_array_equal(loaded["c1/0"], original["c1"][0])
    numpy.save_file({"fc/0": np.ones((2, 2), np.float16), "fc/1": np.zeros(2)}, tmp_path / "b.safetensors")
    back = read_weights(tmp_path / "b.safetensors")["fc"]
    assert (back[0].dtype, back[0].sum(), back[1].shape) == (np.float32, 4.0, (2,))
    kept = read_weights(tmp_path / "a.safetensors")
    assert (kept.entry("c1").type, kept.entry("c1").tops) == ("Convolution", ("c1",))


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ({"a/0": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, "tensor 'a/0' of shape (2,) has 4 bytes"),
        ({"a/0": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, "ends at byte"),
        ({"a/0": {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]}}, "tensor 'a/0' has type I64"),
        ({"a/0": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, "has a damaged description"),
        ({"a/1": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, "layer 'a' has blobs [1]"),
        ({"conv.weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, "is not named <layer>/<i>"),
    ],
)
def test_safetensors_that_cannot_be(tmp_path: Path, header: dict[str, object], says: str) -> None:
    text = json.dumps(header).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 8)
    refuse(path, says)


def test_bfloat16(tmp_path: Path) -> None:
    text = json.dumps({"a/0": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"\x80\x3f\x00\xc0")
    assert read_weights(tmp_path / "x.safetensors")["a"][0].tolist() == [1.0, -2.0]


def test_hdf5_that_is_damaged_inside_is_refused(golden: Path, tmp_path: Path) -> None:
    sources = [golden / "formats/small/net.caffemodel.h5", golden / "solvers/resume_sgd/snaph5_iter_10.solverstate.h5"]
    rng = np.random.default_rng(0)
    path = tmp_path / "x.h5"
    refused = 0
    for source in sources * 60:
        content = bytearray(source.read_bytes())
        for position in rng.integers(0, 2000, 4):
            content[position] = rng.integers(0, 256)
        path.write_bytes(content)
        for read in (read_weights, read_solverstate):
            try:
                read(path)
            except WeightsError as error:
                refused += str(path) in str(error)
    assert refused > 60


def test_hdf5_has_no_times_so_that_equal_weights_are_equal_files(tmp_path: Path) -> None:
    for name in ("x.h5", "y.h5"):
        write_weights(tmp_path / name, {"ip": [np.ones(3, np.float32)]})
        time.sleep(1.1)  # HDF5's times are in seconds
    assert (tmp_path / "x.h5").read_bytes() == (tmp_path / "y.h5").read_bytes()


def test_reads_that_stop_short_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.arange(1000, dtype=np.float64)
    content = length_field(7, length_field(1, encode_varint(1000))) + length_field(8, values.tobytes())
    path = tmp_path / "x.caffemodel"
    path.write_bytes(length_field(100, text_field(1, "c") + length_field(7, content)))
    whole = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, views, offset: whole(fd, [views[0][:300]], offset))
    np.testing.assert_array_equal(read_weights(path)["c"][0], values.astype(np.float32))
