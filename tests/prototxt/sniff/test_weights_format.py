"""What a file is, from its first bytes: each known kind, and what only looks like one."""

from __future__ import annotations

from pathlib import Path

import pytest

from prototxt.errors import WeightsError
from prototxt.sniff.protobuf_wire import (
    FIXED32,
    LENGTH,
    VARINT,
    ByteWindow,
    encode_varint,
    field_key,
    length_field,
    text_field,
)
from prototxt.sniff.weights_format import (
    HDF5_MAGIC,
    detect_format,
    foreign_format,
    is_onnx_message,
    message_kind,
    other_message_error,
    outer_fields,
)

LAYER = length_field(100, text_field(1, "ip"))


def number(field: int, value: int = 1) -> bytes:
    return field_key(field, VARINT) + encode_varint(value)


def kind(data: bytes) -> str | None:
    return message_kind(ByteWindow.over_bytes(data, "m"))


@pytest.fixture
def written(tmp_path: Path) -> Path:
    return tmp_path / "weights"


def detected(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return detect_format(path)


def test_formats_of_weights(written: Path) -> None:
    assert detected(written, LAYER) == "caffemodel"
    assert detected(written, HDF5_MAGIC) == "hdf5"
    header = (2).to_bytes(8, "little")
    assert detected(written, header + b"{}") == "safetensors"
    assert detected(written, (3).to_bytes(8, "little") + b"{}") == "caffemodel", "its header is longer than the file"
    assert detected(written, header + b"[]") == "caffemodel"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (bytes(16), "the file starts with zeros only"),
        (b"layer {", "this is a text file"),
        ('name: "ü"'.encode(), "this is a text file"),
        (b"\xff\xfen\0a\0", "this is a text file"),
        (b"\xfe\xff\0n\0a", "this is a text file"),
        (b"a" * 4095 + "ü".encode(), "this is a text file"),
        (b"a" * 4093 + "\U0001f600".encode(), "this is a text file"),
        (b"\r\n\t <!DOCTYPE html>", "this is a web page, not a weights file"),
        ("\ufeff<svg>".encode(), "this is a web page"),
        (bytes(257) + b"ustar", "this is a tar archive"),
    ],
)
def test_what_is_no_weights_file(written: Path, data: bytes, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        detected(written, data)


@pytest.mark.parametrize("data", [bytes(15), b"ab", b"abc\x01", b"\xc3\xc3ab", b"abc\xe2abcdef", b"\x80\x06", b"\x80"])
def test_what_only_looks_like_another_kind(written: Path, data: bytes) -> None:
    assert detected(written, data) == "caffemodel"


def test_a_folder_and_a_missing_file(tmp_path: Path) -> None:
    for place, message in ((tmp_path, "this is a folder"), (tmp_path / "none", "there is no such file")):
        with pytest.raises(WeightsError, match=message):
            detect_format(place)


def test_pickles_of_every_protocol() -> None:
    found = [foreign_format(bytes((0x80, protocol))) for protocol in range(1, 7)]
    assert [one is not None for one in found] == [False, True, True, True, True, False]


DIMS = number(1) + number(2, 3) + number(3) + number(4)
MEAN = "one blob, such as a mean image (.binaryproto)"
STATE = "a solver state"


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (number(1) + text_field(2, "a.caffemodel"), STATE),
        (number(1) + length_field(3, length_field(5, b"")) + number(4), STATE),
        (number(1) + text_field(2, "a") + field_key(5, FIXED32) + bytes(4) + number(6), STATE),
        (number(1) + text_field(2, "a") + text_field(3, "") + number(4) + field_key(5, FIXED32) + bytes(4) + number(6),
         STATE),
        (number(1) + text_field(2, "a") + number(7), "a caffemodel (a net's weights)"),
        (DIMS + length_field(5, bytes(12)), MEAN),
        (number(10) + length_field(12, bytes(4)), MEAN),
        (DIMS + number(5) + length_field(6, bytes(4)), MEAN),
        (DIMS + number(5) + length_field(6, b"") + length_field(7, b""), MEAN),
        (b"".join(number(field) + length_field(field, b"") for field in range(1, 32)), "an ONNX model"),
        (number(1) + number(2) + number(3) + length_field(4, b"\0") + number(5), "one record of a database (Datum)"),
        (number(1) + length_field(7, b""), "an ONNX model"),
        (number(1) + length_field(7, b"") + number(32), None),
        (LAYER, "a caffemodel (a net's weights)"),
        (length_field(2, b"") + number(40), "a caffemodel (a net's weights)"),
        (number(40), None),
        (LAYER + b"\x0a\x05", None),
    ],
)  # fmt: skip
def test_messages(data: bytes, found: str | None) -> None:
    assert kind(data) == found
    seen = outer_fields(ByteWindow.over_bytes(data, "m"))
    assert is_onnx_message(seen) == (found == "an ONNX model")


def test_another_message_is_an_error_with_its_remedy() -> None:
    error = other_message_error(ByteWindow.over_bytes(number(1) + text_field(2, "a"), "m"))
    assert error is not None
    assert "this is a solver state, not trained weights" in str(error)
    assert "in the .caffemodel of the same iteration" in str(error)
    assert other_message_error(ByteWindow.over_bytes(LAYER, "m")) is None


def test_fields_before_a_damaged_one_count_where_requested() -> None:
    window = ByteWindow.over_bytes(LAYER + number(3) + b"\x0a\x05", "m")
    assert outer_fields(window) == set()
    assert outer_fields(window, damaged=True) == {(100, LENGTH), (3, VARINT)}


def test_only_the_first_thousand_fields_are_read() -> None:
    window = ByteWindow.over_bytes(number(1) * 1500 + number(9), "m")
    assert outer_fields(window) == {(1, VARINT)}
    window = ByteWindow.over_bytes(number(1) * 1000 + number(9), "m")
    assert outer_fields(window) == {(1, VARINT), (9, VARINT)}
