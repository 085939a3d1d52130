"""The limits of the caffemodel reader: each is met exactly, and one more is refused with its place."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest

from prototxt import WeightsError, read_weights
from prototxt.formats.blob_proto import MAX_AXES, MAX_RUNS, _few_small_dims
from prototxt.formats.caffemodel import scan_caffemodel
from prototxt.formats.copy import BufferedWriter
from prototxt.formats.mmap_reader import as_float32
from prototxt.sniff.protobuf_wire import FIXED32, LENGTH, VARINT, encode_varint, field_key, length_field, text_field

ONE = np.float32(1).tobytes()


def shape(*dims: int) -> bytes:
    return length_field(7, length_field(1, b"".join(map(encode_varint, dims))))


def blob(*dims: int, values: int) -> bytes:
    return shape(*dims) + length_field(5, ONE * values)


def layer(*blobs: bytes, name: str = "c") -> bytes:
    return length_field(100, text_field(1, name) + b"".join(length_field(7, one) for one in blobs))


def written(folder: Path, data: bytes) -> Path:
    path = folder / "net.caffemodel"
    path.write_bytes(data)
    return path


def test_axes(tmp_path: Path) -> None:
    most = scan_caffemodel(written(tmp_path, layer(blob(*[1] * MAX_AXES, values=1))))
    assert most.entries[0].blobs[0].shape == (1,) * 32
    for dims, count in ((shape(*[1] * 70), "more than the 32"), (shape(*[1] * 33), "33")):
        with pytest.raises(WeightsError, match=rf"byte \d+: blob 0 of layer 'c' has {count} dims"):
            scan_caffemodel(written(tmp_path, layer(dims + length_field(5, ONE))))


def test_dims(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"blob 0 of layer 'c' has a negative dim: \(-1, -1\)"):
        scan_caffemodel(written(tmp_path, layer(blob(-1, -1, values=1))))
    for values in (0, 5, 7):
        what = "none" if values == 0 else str(values)
        with pytest.raises(WeightsError, match=rf"of shape \(2, 3\) should hold 6 values, but holds {what}"):
            scan_caffemodel(written(tmp_path, layer(blob(2, 3, values=values))))
    assert scan_caffemodel(written(tmp_path, layer(blob(0, 3, values=0)))).entries[0].blobs[0].count == 0
    with pytest.raises(WeightsError, match="5 bytes are no whole number of 4-byte values"):
        scan_caffemodel(written(tmp_path, layer(shape(1) + length_field(5, ONE + b"\0"))))


def test_pieces(tmp_path: Path) -> None:
    most = written(tmp_path, layer(shape(MAX_RUNS) + length_field(5, ONE) * MAX_RUNS))
    assert read_weights(most)["c"][0].sum() == MAX_RUNS
    with pytest.raises(WeightsError, match="its values come in more than 10000 pieces"):
        scan_caffemodel(written(tmp_path, layer(shape(MAX_RUNS + 1) + length_field(5, ONE) * (MAX_RUNS + 1))))
    single = layer(shape(3) + (field_key(5, FIXED32) + ONE) * 3)
    np.testing.assert_array_equal(read_weights(written(tmp_path, single))["c"][0], [1, 1, 1])


def test_names(tmp_path: Path) -> None:
    assert scan_caffemodel(written(tmp_path, layer(name="x" * (1 << 20)))).entries[0].name == "x" * (1 << 20)
    with pytest.raises(WeightsError, match="a layer's name is 1048577 bytes long"):
        scan_caffemodel(written(tmp_path, layer(name="x" * ((1 << 20) + 1))))


def test_many_empty_layers(tmp_path: Path) -> None:
    empty = length_field(100, b"")
    assert len(scan_caffemodel(written(tmp_path, empty * 20_000)).entries) == 20_000
    with pytest.raises(WeightsError, match="more than 20000 layers in a file of"):
        scan_caffemodel(written(tmp_path, empty * 20_001))
    long = length_field(100, text_field(1, "c" * 250))  # of 256 bytes and more: as many as there are
    assert len(scan_caffemodel(written(tmp_path, long * 20_001)).entries) == 20_001


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (field_key(1, VARINT) + encode_varint(1), r"a layer's name \(field 1\) has wire type 0 instead of 2"),
        (field_key(2, VARINT) + encode_varint(1), r"a layer's type \(field 2\) has wire type 0 instead of 2"),
        (field_key(3, FIXED32) + ONE, r"a bottom \(field 3\) has wire type 5 instead of 2"),
        (field_key(4, VARINT) + encode_varint(1), r"a top \(field 4\) has wire type 0 instead of 2"),
        (field_key(7, VARINT) + encode_varint(1), r"a blob \(field 7\) has wire type 0 instead of 2"),
        (field_key(7, LENGTH) + encode_varint(9) + ONE, r"field 7 claims 9 bytes, but .* only 4 left"),
    ],
)
def test_wire_types(tmp_path: Path, body: bytes, what: str) -> None:
    with pytest.raises(WeightsError, match=what):
        scan_caffemodel(written(tmp_path, layer(blob(1, values=1)) + length_field(100, body)))


def varint(value: int, length: int = 1) -> bytes:
    """Encode in `length` bytes or more, which protobuf allows."""
    parts = [value >> 7 * index & 0x7F for index in range(max(length, -(-value.bit_length() // 7)))]
    return bytes([*(part | 0x80 for part in parts[:-1]), parts[-1]])


@pytest.mark.parametrize(
    ("dims", "lengths"),
    [([1], [1]), ([127, 0], [1, 1]), ([128, 5], [1, 1]), ([1 << 14, 1 << 20], [1, 1]), ([(1 << 28) - 1], [1]),
     ([1 << 28, 0], [1, 1]), ([1] * 31, [2] * 31), ([1] * 32, [2] * 31 + [1]), ([1] * 32, [2] * 32),
     ([1] * 3, [4, 5, 1])],
)  # fmt: skip
def test_dims_in_any_length(tmp_path: Path, dims: list[int], lengths: list[int]) -> None:
    """Runs of up to 64 bytes are decoded fast, larger ones and larger numbers as any others."""
    packed = b"".join(varint(dim, length) for dim, length in zip(dims, lengths, strict=True))
    content = length_field(1, packed)
    count = int(np.prod(dims, dtype=object))
    body = length_field(7, content) + length_field(5, ONE * (count if count < 1000 else 0))
    if count < 1000:
        found = scan_caffemodel(written(tmp_path, layer(body))).entries[0].blobs[0]
        assert (found.shape, found.count) == (tuple(dims), count)
    else:
        shown = f"({', '.join(map(str, dims))}{',' * (len(dims) == 1)})"
        with pytest.raises(WeightsError, match=re.escape(f"of shape {shown} should hold {count} values")):
            scan_caffemodel(written(tmp_path, layer(body)))
    fast = len(content) <= 64 and max(dims) < 1 << 28 and max(lengths) < 5
    assert _few_small_dims(content[:64], len(content)) == (dims if fast else [])
    assert _few_small_dims(content[:-1], len(content) - 1) == []
    assert _few_small_dims(length_field(2, packed), len(content)) == []


def test_dims_one_by_one_and_cut_ones(tmp_path: Path) -> None:
    single = b"".join(field_key(1, VARINT) + encode_varint(dim) for dim in (2, 3))
    body = length_field(7, single) + length_field(5, ONE * 6)
    assert scan_caffemodel(written(tmp_path, layer(body))).entries[0].blobs[0].shape == (2, 3)
    assert _few_small_dims(length_field(1, b"\x02\x83"), 4) == [], "the last number is not whole"
    assert _few_small_dims(b"\x0a\x00", 2) == []


def test_a_source_that_becomes_shorter_ends_a_copy(tmp_path: Path) -> None:
    """Also where values are read as numbers instead of mapped."""
    (tmp_path / "source").write_bytes(bytes(range(10)))
    with open(tmp_path / "target", "wb") as target, open(tmp_path / "source", "rb") as source:
        sink = BufferedWriter(target)
        sink.copy(source.fileno(), 2, 7, "source")
        sink.write(b"abc")
        assert sink.position == 10
        with pytest.raises(WeightsError, match="source: byte 10: the file became shorter while it was copied"):
            sink.copy(source.fileno(), 8, 5, "source")
        sink.flush()
    assert (tmp_path / "target").read_bytes() == bytes(range(2, 9)) + b"abc" + bytes([8, 9])
    path = written(tmp_path, layer(shape(300) + length_field(8, np.ones(300).tobytes())))
    weights = read_weights(path)
    os.truncate(path, 100)
    with pytest.raises(WeightsError, match=r"became shorter|has changed"):
        weights["c"]


def test_values_that_are_float32_are_not_copied() -> None:
    data = bytearray(ONE * 3)
    assert np.shares_memory(as_float32(data, "<f4"), np.frombuffer(data, "<f4"))
    assert as_float32(np.array([1.5, -2], "<f8").tobytes(), "<f8").tolist() == [1.5, -2]
    assert as_float32(b"\x80\x3f\x00\xc0", "bfloat16").tolist() == [1, -2]
