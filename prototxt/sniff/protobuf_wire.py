"""Protobuf's wire format, read through a small moving window and written piece by piece.

Values are copied and decoded only on request: a 500 MB blob is skipped by its length. A window instead of a mapping
keeps memory flat: touching a mapped page makes it, and its neighbours, resident.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from prototxt.errors import WeightsError

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
DAMAGED = "the file is cut off or damaged: fetch or copy it again, and compare its size or checksum with the original"

_STEP = 4096
_MARGIN = 20  # a tag and a value are varints of at most 10 bytes each


def damage_error(path: str, offset: int, message: str, hint: str = DAMAGED) -> WeightsError:
    """Return the error for a place in a damaged binary file."""
    return WeightsError(f"byte {offset}: {message}", place=path, hint=hint)


class ByteWindow:
    """A part of a file that moves along as it is read; or bytes in memory, which never move."""

    __slots__ = ("_fd", "buffer", "path", "size", "start", "stop")

    def __init__(self, path: str, size: int, fd: int | None, data: bytes = b"") -> None:
        self.path = path
        self.size = size
        self._fd = fd
        self.buffer = data
        self.start = 0
        self.stop = len(data)

    @classmethod
    def over_file(cls, fd: int, path: str) -> ByteWindow:
        """Open a window on a file descriptor, which the caller closes."""
        return cls(path, os.fstat(fd).st_size, fd)

    @classmethod
    def over_bytes(cls, data: bytes, name: str) -> ByteWindow:
        """Open a window on a message in memory; `name` takes the place of the path in errors."""
        return cls(name, len(data), None, data)

    def load(self, position: int) -> None:
        """Move the window, which is one on a file, to start at `position`."""
        assert self._fd is not None
        self.buffer = os.pread(self._fd, _STEP, position)
        self.start = position
        self.stop = position + len(self.buffer)
        if not self.buffer or (len(self.buffer) < _STEP and self.stop < self.size):
            raise damage_error(self.path, self.stop, "the file became shorter while it was read")

    def read(self, start: int, end: int) -> bytes:
        """Read the bytes from `start` to `end`, which must lie inside the file."""
        if self.start <= start and end <= self.stop:
            return self.buffer[start - self.start : end - self.start]
        assert self._fd is not None  # a window in memory has all bytes
        parts = []
        while start < end:
            part = os.pread(self._fd, end - start, start)
            if not part:
                raise damage_error(self.path, start, "the file became shorter while it was read")
            parts.append(part)
            start += len(part)
        return b"".join(parts)


def varint(window: ByteWindow, position: int, end: int) -> tuple[int, int]:
    """Return the unsigned number at `position` and the position after it.

    Raises: WeightsError if it runs past `end` or past 64 bits.
    """
    if position < window.start or (position + _MARGIN > window.stop and window.stop < window.size):
        window.load(position)
    buffer, index = window.buffer, position - window.start
    limit = min(end, window.stop) - window.start
    value = shift = 0
    while index < limit:
        byte = buffer[index]
        index += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 64:
                raise damage_error(window.path, position, "a number does not fit in 64 bits")
            return value, window.start + index
        shift += 7
        if shift > 63:
            raise damage_error(window.path, position, "a number is longer than the 10 bytes that protobuf allows")
    raise damage_error(window.path, position, "the data ends inside a number")


def wire_fields(window: ByteWindow, position: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield the fields of the message in bytes `position` to `end`: (number, wire type, a, b).

    For a varint (wire type 0) `a` is its unsigned value and `b` the position after it; for all others the value lies
    in bytes `a` to `b`, already checked against `end`. Consecutive fixed-width values of one field (unpacked floats)
    come as one run: from the first value to the end of the last, with a key between any two.
    Raises: WeightsError for anything but a whole field.
    """
    # One-byte keys, lengths and numbers are read inline: they are nearly all, and a call to varint costs three times.
    while position < end:
        at = position
        if position < window.start or (position + _MARGIN > window.stop and window.stop < window.size):
            window.load(position)
        key = window.buffer[position - window.start]
        if key < 0x80:
            position += 1
        else:
            key, position = varint(window, position, end)
        number, wire = key >> 3, key & 7
        if number == 0 or number > 0x1FFFFFFF:
            raise damage_error(window.path, at, f"field number {number} does not exist in protobuf")
        if wire == LENGTH:
            if position < end and (length := window.buffer[position - window.start]) < 0x80:
                position += 1
            else:
                length, position = varint(window, position, end)
            if length > end - position:
                raise _too_long(window, at, number, length, end - position)
            yield number, wire, position, position + length
            position += length
        elif wire == VARINT:
            if position < end and (value := window.buffer[position - window.start]) < 0x80:
                position += 1
            else:
                value, position = varint(window, position, end)
            yield number, wire, value, position
        elif wire in (FIXED32, FIXED64):
            length = 4 if wire == FIXED32 else 8
            if length > end - position:
                raise _too_long(window, at, number, length, end - position)
            first, position = position, run_end(window, position + length, end, key, length)
            yield number, wire, first, position
        else:
            raise damage_error(window.path, at, f"wire type {wire} of field {number} is none that Caffe's files use")


def run_end(window: ByteWindow, position: int, end: int, key: int, size: int) -> int:
    """Return the end of a run of fixed-width values that continues at `position`: each is its key and `size` bytes."""
    step = size + 1
    mark = bytes((key,)) if key < 0x80 else b""
    while mark and end - position >= step and window.read(position, position + 1) == mark:
        units = min((end - position) // step, 1 << 16)
        keys = window.read(position, position + units * step)[::step]
        same = len(keys) - len(keys.lstrip(mark))
        position += same * step
        if same < units:
            break
    return position


def signed_value(value: int) -> int:
    """Return the value of an int32 or int64 field from its unsigned number on the wire."""
    return value - (1 << 64) if value >> 63 else value


def _too_long(window: ByteWindow, at: int, number: int, length: int, left: int) -> WeightsError:
    inside = "the file has" if at + left >= window.size - _MARGIN else "its message has"
    return damage_error(window.path, at, f"field {number} claims {length} bytes, but {inside} only {left} left")


def encode_varint(value: int) -> bytes:
    """Encode a number as a varint; a negative one takes ten bytes."""
    if value < 0:
        value += 1 << 64
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def field_key(number: int, wire: int) -> bytes:
    """Return the key that precedes a field."""
    return encode_varint(number << 3 | wire)


def length_field(number: int, content: bytes) -> bytes:
    """Return a whole field of bytes, text, or a message."""
    return field_key(number, LENGTH) + encode_varint(len(content)) + content


def text_field(number: int, text: str) -> bytes:
    """Return a whole field of text; bytes that were not UTF-8 when read are restored."""
    return length_field(number, text.encode("utf-8", "surrogateescape"))
