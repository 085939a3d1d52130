"""Binary files of forks: NVCaffe's raw values and solver states, C3D's blobs of five dims."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from prototxt import WeightsError, read_weights, write_weights
from prototxt.conversion.file_content import BLOB, STATE, contents_of
from prototxt.formats.caffemodel import scan_caffemodel
from prototxt.formats.datum import read_mean
from prototxt.formats.solverstate import SolverState, read_solverstate, write_solverstate
from prototxt.sniff.protobuf_wire import FIXED32, VARINT, encode_varint, field_key, length_field, text_field

VALUES = np.array([[1.5, -2.0, 0.25], [4.0, 5.0, -0.125]])
KINDS = {"<f8": 0, "<f4": 1, "<f2": 2}


def number(field: int, value: int) -> bytes:
    return field_key(field, VARINT) + encode_varint(value)


def shape(*dims: int) -> bytes:
    return length_field(7, length_field(1, b"".join(map(encode_varint, dims))))


def raw(values: np.ndarray, dtype: str, *dims: int) -> bytes:
    """A blob as NVCaffe's Blob::ToProto writes it."""
    return shape(*dims) + number(10, KINDS[dtype]) + length_field(12, values.astype(dtype).tobytes())


def c3d(values: np.ndarray, *dims: int) -> bytes:
    """A blob as C3D 1.0 writes it: num, channels, length, height, width, data."""
    stated = b"".join(number(field, dim) for field, dim in enumerate(dims, 1))
    return stated + length_field(6, values.astype("<f4").tobytes())


def layer(name: str, kind: str, *blobs: bytes) -> bytes:
    body = text_field(1, name) + text_field(2, kind) + b"".join(length_field(7, blob) for blob in blobs)
    return length_field(100, body)


def v1_layer(name: str, kind: int, *blobs: bytes) -> bytes:
    body = text_field(4, name) + number(5, kind) + b"".join(length_field(6, blob) for blob in blobs)
    return length_field(2, body)


@pytest.mark.parametrize("dtype", KINDS)
def test_raw_values(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "net.caffemodel"
    path.write_bytes(layer("ip", "InnerProduct", raw(VALUES, dtype, 2, 3)))
    weights = read_weights(path)
    np.testing.assert_array_equal(weights["ip"][0], VALUES.astype(np.float32))
    assert weights.entry("ip").blobs[0].dtype == dtype
    for name in ("copy.caffemodel", "copy.safetensors"):
        write_weights(tmp_path / name, weights)
        np.testing.assert_array_equal(read_weights(tmp_path / name)["ip"][0], VALUES)


def test_stored_values_come_before_raw_ones(tmp_path: Path) -> None:
    """As in NVCaffe's Blob::FromProto: double_data, then data, then raw_data."""
    path = tmp_path / "net.caffemodel"
    path.write_bytes(layer("ip", "Bias", raw(VALUES * 0, "<f4", 6) + length_field(5, VALUES.astype("<f4").tobytes())))
    np.testing.assert_array_equal(read_weights(path)["ip"][0], VALUES.ravel())


@pytest.mark.parametrize(
    ("blob", "message"),
    [
        (shape(2) + number(10, 3) + length_field(12, bytes(8)), "raw values are of type 3"),
        (shape(2) + length_field(12, bytes(8)), "raw values are of type -1"),
        (shape(2) + number(10, 2) + number(12, 8), "raw values are of type 2"),
        (shape(2) + number(10, 1) + length_field(12, bytes(4)), "should hold 2 values, but holds 1"),
        (shape(2) + number(10, 1) + length_field(12, bytes(9)), "no whole number of 4-byte values"),
        (c3d(VALUES, 1, 1, 1, 2, 4), "should hold 8 values, but holds 6"),
    ],
)
def test_damaged_blobs_of_forks(tmp_path: Path, blob: bytes, message: str) -> None:
    path = tmp_path / "net.caffemodel"
    path.write_bytes(layer("ip", "InnerProduct", blob))
    with pytest.raises(WeightsError, match=message):
        read_weights(path)


def test_five_dims(tmp_path: Path) -> None:
    kernel = np.arange(2 * 3 * 1 * 2 * 2).reshape(2, 3, 1, 2, 2)
    path = tmp_path / "c3d.caffemodel"
    path.write_bytes(
        v1_layer("conv", 30, c3d(kernel, *kernel.shape), c3d(VALUES[0, :2], 1, 1, 1, 1, 2))
        + v1_layer("fc", 14, c3d(VALUES, 1, 1, 1, 2, 3))
        + v1_layer("pool", 31)
    )
    entries = {entry.name: entry for entry in scan_caffemodel(path).entries}
    assert [entries[name].type for name in ("conv", "fc")] == ["Convolution3D", "InnerProduct"]
    weights = read_weights(path)
    np.testing.assert_array_equal(weights["conv"][0], kernel)
    write_weights(tmp_path / "new.caffemodel", weights)
    copied = read_weights(tmp_path / "new.caffemodel")
    assert [blob.shape for name in ("conv", "fc") for blob in copied[name]] == [kernel.shape, (2,), (2, 3)]
    np.testing.assert_array_equal(copied["fc"][0], VALUES)
    np.testing.assert_array_equal(copied["conv"][1], VALUES[0, :2])


def test_means_of_forks(tmp_path: Path) -> None:
    clip = np.arange(24.0).reshape(1, 3, 2, 2, 2)
    (tmp_path / "c3d.binaryproto").write_bytes(c3d(clip, *clip.shape))
    (tmp_path / "nv.binaryproto").write_bytes(raw(clip[:, :, 0], "<f2", 1, 3, 2, 2))
    np.testing.assert_array_equal(read_mean(tmp_path / "c3d.binaryproto"), clip[0])
    np.testing.assert_array_equal(read_mean(tmp_path / "nv.binaryproto"), clip[0, :, 0])
    for path in tmp_path.iterdir():
        assert contents_of(path).kind == BLOB
        with pytest.raises(WeightsError, match="this is one blob, such as a mean image"):
            scan_caffemodel(path)


def test_nvcaffe_s_solver_states(tmp_path: Path) -> None:
    path = tmp_path / "nv.solverstate"
    history = length_field(3, raw(VALUES, "<f2", 2, 3))
    rest = field_key(5, FIXED32) + np.float32(0.75).tobytes() + number(6, 40)
    path.write_bytes(number(1, 50) + text_field(2, "w.caffemodel") + history + number(4, 1) + rest)
    assert contents_of(path).kind == STATE
    state = read_solverstate(path)
    assert (state.iter, state.learned_net, state.current_step) == (50, "w.caffemodel", 1)
    assert (state.minimum_loss, state.iter_last_event) == (0.75, 40)
    np.testing.assert_array_equal(state.history[0], VALUES)
    write_solverstate(tmp_path / "again.solverstate", state)
    assert (tmp_path / "again.solverstate").read_bytes().endswith(rest)
    with pytest.raises(WeightsError, match="a solver state"):
        scan_caffemodel(path)


def test_caffe_s_solver_states_have_no_more_fields_than_caffe_s(tmp_path: Path) -> None:
    write_solverstate(tmp_path / "s.solverstate", SolverState(3, "", (), 2))
    assert (tmp_path / "s.solverstate").read_bytes() == number(1, 3) + number(4, 2)
    (tmp_path / "s.solverstate").write_bytes(number(1, 3) + number(5, 1))
    with pytest.raises(WeightsError, match="this is not a solver state"):
        read_solverstate(tmp_path / "s.solverstate")
