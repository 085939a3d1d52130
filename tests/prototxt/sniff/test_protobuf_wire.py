"""The reader and writer of protobuf's wire format, number by number, in memory and across the edges of the window."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from prototxt.errors import WeightsError
from prototxt.sniff.protobuf_wire import (
    FIXED32,
    FIXED64,
    LENGTH,
    VARINT,
    ByteWindow,
    encode_varint,
    field_key,
    length_field,
    run_end,
    signed_value,
    text_field,
    varint,
    wire_fields,
)

NUMBERS = [
    (0, b"\x00"), (1, b"\x01"), (127, b"\x7f"), (128, b"\x80\x01"), (300, b"\xac\x02"),
    (1 << 31, b"\x80" * 4 + b"\x08"),
    (2**63, b"\x80" * 9 + b"\x01"), (2**64 - 1, b"\xff" * 9 + b"\x01"),
]  # fmt: skip
EDGE = 4096  # bytes of the window


def memory(data: bytes) -> ByteWindow:
    return ByteWindow.over_bytes(data, "m")


def fields(data: bytes) -> list[tuple[int, int, int, int]]:
    return list(wire_fields(memory(data), 0, len(data)))


@contextmanager
def on_disk(folder: Path, data: bytes) -> Iterator[ByteWindow]:
    path = folder / "data"
    path.write_bytes(data)
    with open(path, "rb") as file:
        yield ByteWindow.over_file(file.fileno(), str(path))


@pytest.mark.parametrize(("value", "data"), NUMBERS)
def test_numbers(value: int, data: bytes) -> None:
    assert encode_varint(value) == data
    assert varint(memory(b"?" + data + b"\x05"), 1, len(data) + 2) == (value, len(data) + 1)
    assert fields(field_key(3, VARINT) + data) == [(3, VARINT, value, len(data) + 1)]


@pytest.mark.parametrize("value", [-1, -(2**31), -(2**63), 5, 2**63 - 1])
def test_signs(value: int) -> None:
    number, end = varint(memory(encode_varint(value)), 0, 10)
    assert (signed_value(number), end) == (value, 10 if value < 0 else len(encode_varint(value)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x80", "byte 0: the data ends inside a number"),
        (b"\xff" * 9 + b"\x02", "byte 0: a number does not fit in 64 bits"),
        (b"\xff" * 11, "byte 0: a number is longer than the 10 bytes"),
    ],
)
def test_numbers_that_cannot_be(data: bytes, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        varint(memory(data), 0, len(data))


def test_a_number_ends_with_its_message() -> None:
    with pytest.raises(WeightsError, match="the data ends inside a number"):
        varint(memory(b"\x80\x01"), 0, 1)


def test_fields() -> None:
    long = b"x" * 200
    data = length_field(1, b"ab") + field_key(100, VARINT) + b"\x07" + length_field(100, long) + text_field(2, "\udcff")
    data += field_key(2000, FIXED64) + bytes(8)
    assert fields(data) == [(1, LENGTH, 2, 4), (100, VARINT, 7, 7), (100, LENGTH, 11, 211), (2, LENGTH, 213, 214),
                            (2000, FIXED64, 216, 224)]  # fmt: skip
    assert data[11:211] == long
    assert data[213:214] == b"\xff"
    assert list(wire_fields(memory(data), 4, 7)) == [(100, VARINT, 7, 7)]


@pytest.mark.parametrize("value", [126, 127, 128, 129, 16_383, 16_384])
def test_numbers_and_lengths_at_the_edge_of_one_byte(value: int) -> None:
    number = encode_varint(value)
    assert fields(b"\x08" + number) == [(1, VARINT, value, 1 + len(number))]
    assert fields(b"\x0a" + number + bytes(value)) == [(1, LENGTH, 1 + len(number), 1 + len(number) + value)]


@pytest.mark.parametrize("number", [15, 16, 31, 2047, 2048])
def test_field_numbers_at_the_edge_of_one_byte(number: int) -> None:
    key = field_key(number, VARINT)
    assert len(key) == (1 if number < 16 else 2 if number < 2048 else 3)
    assert fields(key + b"\x05") == [(number, VARINT, 5, len(key) + 1)]


@pytest.mark.parametrize("key", [b"\x0a", b"\x08"])
def test_a_message_that_ends_after_a_key_takes_nothing_from_the_bytes_behind_it(key: bytes) -> None:
    with pytest.raises(WeightsError, match="byte 1: the data ends inside a number"):
        list(wire_fields(memory(key + b"\x00"), 0, 1))
    with pytest.raises(WeightsError, match="byte 1: the data ends inside a number"):
        list(wire_fields(memory(key + b"\x80\x01"), 0, 2))


@pytest.mark.parametrize(("wire", "size"), [(FIXED32, 4), (FIXED64, 8)])
def test_the_last_value_may_end_with_the_message_and_not_after_it(wire: int, size: int) -> None:
    data = field_key(5, wire) + bytes(size)
    assert fields(data) == [(5, wire, 1, 1 + size)]
    with pytest.raises(WeightsError, match=f"byte 0: field 5 claims {size} bytes"):
        list(wire_fields(memory(data), 0, size))


@pytest.mark.parametrize(("wire", "size"), [(FIXED32, 4), (FIXED64, 8)])
@pytest.mark.parametrize("count", [1, 2, 70_000])
def test_values_of_one_field_come_as_one_run(wire: int, size: int, count: int) -> None:
    one = field_key(5, wire) + b"\x2d" * size  # the values look like the key of field 5, wire type 5
    data = one * count + field_key(6, wire) + bytes(size)
    end = count * (size + 1)
    assert fields(data) == [(5, wire, 1, end), (6, wire, end + 1, end + 1 + size)]


def test_a_run_ends_before_another_key_or_a_cut_value() -> None:
    one = b"\x2d" + bytes(4)
    assert run_end(memory(one * 3 + b"\x35" + bytes(4)), 5, 20, 0x2D, 4) == 15
    assert run_end(memory(one * 3), 5, 14, 0x2D, 4) == 10
    assert run_end(memory(one * 3), 5, 5, 0x2D, 4) == 5
    assert run_end(memory(one * 3), 5, 15, 0x2D, 4) == 15
    with pytest.raises(WeightsError, match="byte 15: field 5 claims 4 bytes, but the file has only 3 left"):
        fields(one * 3 + b"\x2d" + bytes(3))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x00", "byte 0: field number 0 does not exist"),
        (encode_varint((0x20000000 << 3) | VARINT) + b"\x01", "field number 536870912 does not exist"),
        (b"\x0b", "byte 0: wire type 3 of field 1 is none"),
        (b"\x0a\x03ab", "byte 0: field 1 claims 3 bytes, but the file has only 2 left"),
        (b"\x08\x01" + field_key(5, FIXED32) + b"abc", "byte 2: field 5 claims 4 bytes, but the file has only 3 left"),
        (field_key(5, FIXED64) + b"abcdefg", "byte 0: field 5 claims 8 bytes, but the file has only 7 left"),
    ],
)
def test_fields_that_cannot_be(data: bytes, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        fields(data)


def test_values_of_fields_whose_key_takes_two_bytes_come_one_by_one() -> None:
    one = field_key(100, FIXED32) + bytes(4)
    assert fields(one * 2) == [(100, FIXED32, 2, 6), (100, FIXED32, 8, 12)]
    assert run_end(memory(b"\x80" + bytes(4)), 0, 5, 0x80, 4) == 0


def test_a_file_is_read_in_and_out_of_the_window(tmp_path: Path) -> None:
    data = bytes(range(256)) * 64
    with on_disk(tmp_path, data) as window:
        assert window.size == len(data)
        for position in (0, 100, 9000):
            window.load(position)
            assert (window.start, window.stop) == (position, position + EDGE)
            for start in (0, position, position + 1, position + EDGE - 3, position + EDGE):
                assert window.read(start, start + 3) == data[start : start + 3]


def test_an_inner_message_is_named_where_the_file_goes_on() -> None:
    with pytest.raises(WeightsError, match="claims 9 bytes, but its message has only 1 left"):
        list(wire_fields(memory(b"\x0a\x09" + bytes(100)), 0, 3))
    assert fields(encode_varint((0x1FFFFFFF << 3) | VARINT) + b"\x01") == [(0x1FFFFFFF, VARINT, 1, 6)]


@pytest.mark.parametrize("start", range(EDGE - 12, EDGE + 2))
def test_the_window_moves_along(tmp_path: Path, start: int) -> None:
    """A number, a length and a run across the window's edge read as in memory."""
    before = length_field(1, b"p" * (start - 3))
    assert len(before) == start
    data = before + field_key(100, VARINT) + b"\xff" * 9 + b"\x01" + length_field(7, b"q" * 130)
    data += (field_key(5, FIXED32) + struct.pack("<f", 2.5)) * 2000 + length_field(9, b"end")
    with on_disk(tmp_path, data) as window:
        found = list(wire_fields(window, 0, window.size))
        assert found == fields(data)
        assert window.read(found[-1][2], found[-1][3]) == b"end"
        assert window.read(found[0][2], found[0][3]) == b"p" * (start - 3)
        assert varint(window, start + 2, window.size) == (2**64 - 1, start + 12)


def shrink(window: ByteWindow) -> None:
    os.truncate(window.path, 10)


@pytest.mark.parametrize(
    "work",
    [lambda window: window.load(0), lambda window: window.load(5000), lambda window: window.read(0, 5000)],
    ids=["first", "later", "values"],
)
def test_a_file_that_becomes_shorter(tmp_path: Path, work: Callable[[ByteWindow], object]) -> None:
    with on_disk(tmp_path, bytes(9000)) as window:
        shrink(window)
        with pytest.raises(WeightsError, match="the file became shorter while it was read"):
            work(window)
