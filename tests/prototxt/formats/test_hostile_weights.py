"""Damaged and wrong files: always our error, with path, byte and what to do; never a crash, a hang, or pickle."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from prototxt.errors import WeightsError
from prototxt.formats.datum import read_datum, read_mean
from prototxt.formats.solverstate import read_solverstate
from prototxt.formats.weights import read_weights

GOLDEN = Path(__file__).parents[2] / "golden"
SMALL = GOLDEN / "formats" / "small"
NET = (SMALL / "net.caffemodel").read_bytes()


def read_all(path: Path) -> None:
    weights = read_weights(path)
    for name in weights:
        for blob in weights[name]:
            blob.sum()


def read_or_refuse(read: Callable[[Path], object], path: Path) -> None:
    message = str(path)
    try:
        read(path)
    except WeightsError as error:
        message = str(error)
    assert str(path) in message


def refusal(path: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        read_all(path)
    text = str(caught.value)
    assert text.startswith(str(path)), text
    assert "\n  hint: " in text, text
    return text


def zipped(name: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, b"x")
    return out.getvalue()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "the file is empty"),
        (b'name: "LeNet"\nlayer { name: "data" }\n', "this is a text file; weights are binary"),
        ("# Größe\nlayer { }\n".encode(), "this is a text file"),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", "this is a web page, not a weights file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer, not the file itself"),
        (pickle.dumps({"state_dict": [1.0, 2.0]}, protocol=2), "this is a Python pickle"),
        (pickle.dumps({"a": 1}, protocol=5), "so none is read; save the weights as safetensors or HDF5"),
        (zipped("archive/data.pkl"), "this is a zip archive (PyTorch, NumPy .npz, ...)"),
        (b"\x93NUMPY\x01\x00", "this is a NumPy array"),
        (b"\x1f\x8b\x08\x00abc", "this is a gzip archive"),
        (b"\0" * 64, "the file starts with zeros only"),
        (b"\x89PNG\r\n\x1a\n", "this is a PNG image"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 40, "HDF5 cannot open the file"),
        (b"\x0a\x05small", "no layer from the start to here"),
        (b"\xa2\x06\x7f\x0a\x01a", "byte 0: field 100 claims 127 bytes, but the file has only 3 left"),
        (b"\xa2\x06" + b"\xff" * 9 + b"\x01", "byte 0: field 100 claims 18446744073709551615 bytes"),
        (b"\xa2\x06" + b"\xff" * 12, "a number is longer than the 10 bytes that protobuf allows"),
        (b"\xa2\x06" + b"\xff" * 9 + b"\x7f", "a number does not fit in 64 bits"),
        (b"\xa2", "the data ends inside a number"),
        (b"\x0a\x01n\x02\x00", "field number 0 does not exist in protobuf"),
        (b"\x0a\x01n\x0b\x0c", "wire type 3 of field 1 is none that Caffe's files use"),
        (struct.pack("<Q", 2) + b"{}", "the file holds no tensors"),
        (struct.pack("<Q", 9) + b'{"a":{}}' + b" ", "tensor 'a' is not named <layer>/<i>"),
        (struct.pack("<Q", 11) + b'{"a/0":{}}' + b" ", "tensor 'a/0' has a damaged description"),
        (struct.pack("<Q", 10) + b'{"a/0":nope', "the header is not JSON"),
    ],
)
def test_what_a_file_is_instead_is_said(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "x.caffemodel"
    path.write_bytes(content)
    assert says in refusal(path)


def layer(blob: bytes) -> bytes:
    def field(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2, len(content)]) + content

    inner = field(1, b"conv1") + field(7, blob)
    return b"\xa2\x06" + bytes([len(inner)]) + inner


VALUE = b"\x2a\x04\0\0\x80\x3f"
MINUS = b"\xff" * 9 + b"\x01"


@pytest.mark.parametrize(
    ("blob", "says"),
    [
        (VALUE + b"\x3a\x0c\x0a\x0a" + MINUS, "blob 0 of layer 'conv1' has a negative dim: (-1,)"),
        (VALUE + b"\x08" + MINUS, "blob 0 of layer 'conv1' has a negative dim: (-1, 0, 0, 0)"),
        (VALUE + b"\x3a\x03\x0a\x01\x02", "of shape (2,) should hold 2 values, but holds 1"),
        (b"\x3a\x03\x0a\x01\x02", "of shape (2,) should hold 2 values, but holds none"),
        (VALUE + b"\x3a\x08\x0a\x06" + b"\x80\x80\x80\x80\x80\x20", "should hold 1099511627776 values, but holds 1"),
        (VALUE + b"\x3a\x23\x0a\x21" + b"\x01" * 33, "has 33 dims; Caffe allows 32"),
        (b"\x2a\x05\0\0\x80\x3f\0", "5 bytes are no whole number of 4-byte values"),
        (b"\x2a\x40\0\0", "field 5 claims 64 bytes, but"),
    ],
)
def test_blobs_that_cannot_be(tmp_path: Path, blob: bytes, says: str) -> None:
    path = tmp_path / "x.caffemodel"
    path.write_bytes(layer(blob))
    text = refusal(path)
    assert says in text
    assert ": byte " in text


@pytest.mark.parametrize("count", [1, 2, 5, 20, 50, 200, 1000, 4000, len(NET) - 1])
def test_a_caffemodel_that_is_cut_off(tmp_path: Path, count: int) -> None:
    path = tmp_path / "cut.caffemodel"
    path.write_bytes(NET[:count])
    text = refusal(path)
    assert ": byte " in text or "text file" in text


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("solvers/resume_sgd/snap_iter_10.solverstate", "this is a solver state, not trained weights"),
        ("solvers/resume_sgd/snaph5_iter_10.solverstate.h5", "the weights are in the .caffemodel.h5 of the same"),
        ("solvers/resume_sgd/data.h5", "it looks like the input of an HDF5Data layer"),
        ("formats/data/mean.binaryproto", "this is one blob, such as a mean image"),
        ("formats/small/io.npz", "this is a zip archive"),
        ("formats/small", "this is a folder, not a weights file"),
    ],
)
def test_caffes_other_files_are_told_apart(path: str, says: str) -> None:
    assert says in refusal(GOLDEN / path)


def test_onnx_is_told_apart(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    graph = onnx.helper.make_graph([], "g", [], [])
    path = tmp_path / "m.caffemodel"
    onnx.save(onnx.helper.make_model(graph), path)
    assert "this is an ONNX model, not trained weights" in refusal(path)


def test_a_missing_file_and_a_name_without_a_format(tmp_path: Path) -> None:
    from prototxt.formats.weights import write_weights

    assert "there is no such file" in refusal(tmp_path / "none.caffemodel")
    with pytest.raises(WeightsError, match=r"end the name in \.caffemodel, \.caffemodel\.h5 or \.safetensors"):
        write_weights(tmp_path / "out.pth", {"a": [np.zeros(1)]})


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_bit_flips_never_crash(tmp_path: Path, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["net.caffemodel", "net_legacy_dims.caffemodel", "net_double.caffemodel"]))
    content = bytearray((SMALL / kind).read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "x.caffemodel"
    path.write_bytes(bytes(content[: data.draw(st.integers(1, len(content)))]))
    for read in (read_all, read_mean, read_solverstate):
        read_or_refuse(read, path)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.caffemodel"
    path.write_bytes(content)
    for read in (read_all, read_mean, read_solverstate):
        read_or_refuse(read, path)
    with suppress(WeightsError):
        read_datum(content)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(header=st.text(max_size=60), body=st.binary(max_size=40))
def test_safetensors_headers_are_read_or_refused(tmp_path: Path, header: str, body: bytes) -> None:
    text = ("{" + header).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    read_or_refuse(read_all, path)
