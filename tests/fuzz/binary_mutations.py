"""Hostile binaries: real weights, states, means and records, damaged by someone who knows the formats."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable, Iterator

_ABSURD = (0, 1, 2, 127, 128, 255, 2**15, 2**16, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**63 - 1, 2**64 - 1)


def mutate(rng: random.Random, seeds: list[bytes]) -> bytes:
    """One hostile file, of the format of one of the seeds."""
    data = rng.choice(seeds)
    structured = _safetensors if data[8:9] == b"{" else _hdf5 if data[:4] == b"\x89HDF" else _protobuf
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        by_format = rng.random() < 0.6 and data
        data = structured(rng, data) if by_format else rng.choice(_BYTES)(rng, data, seeds)
        if len(data) > 1_000_000:
            break
    return data


def _cut(rng: random.Random, data: bytes, seeds: list[bytes]) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _flip(rng: random.Random, data: bytes, seeds: list[bytes]) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 10, 100))):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _number(rng: random.Random, data: bytes, seeds: list[bytes]) -> bytes:
    """A number of fixed width, as lengths and addresses in HDF5 and safetensors are."""
    size = rng.choice((1, 2, 4, 8))
    at = rng.randrange(max(1, len(data)))
    return data[:at] + (rng.choice(_ABSURD) & (1 << 8 * size) - 1).to_bytes(size, "little") + data[at + size :]


def _remove(rng: random.Random, data: bytes, seeds: list[bytes]) -> bytes:
    at, size = rng.randrange(max(1, len(data))), rng.choice((1, 4, 32, 500))
    return data[:at] + data[at + size :]


def _repeat(rng: random.Random, data: bytes, seeds: list[bytes]) -> bytes:
    at, size = rng.randrange(max(1, len(data))), rng.choice((1, 2, 3, 8, 64, 500))
    times, most = rng.choice((2, 2, 10, 1000, 30_000)), rng.choice((5_000, 5_000, 30_000, 500_000))
    return data[:at] + data[at : at + size] * min(times, most // size) + data[at + size :]


def _splice(rng: random.Random, data: bytes, seeds: list[bytes]) -> bytes:
    other = rng.choice(seeds)
    start, at = rng.randrange(len(other)), rng.randrange(len(data) + 1)
    return data[:at] + other[start : start + rng.choice((4, 64, 1000, 10**6))] + data[at:]


def _zeros(rng: random.Random, data: bytes, seeds: list[bytes]) -> bytes:
    at, size = rng.randrange(max(1, len(data))), rng.choice((4, 64, 512))
    return data[:at] + rng.choice((b"\0", b"\xff")) * min(size, len(data) - at) + data[at + size :]


_BYTES: tuple[Callable[[random.Random, bytes, list[bytes]], bytes], ...] = (
    *(_cut, _flip, _flip, _number, _number, _remove, _repeat, _splice, _zeros),
)


# -- protobuf: fields are changed at any depth, and the lengths around them follow or do not --------------------------


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 70:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 0x80:
            return value, at
    raise ValueError


def _fields(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """(start, key, start of the value, end) of each field. Raises: ValueError where the bytes are no message."""
    at = 0
    while at < len(data):
        start = at
        key, at = _read_varint(data, at)
        if key & 7 == 0:
            value, (_, at) = at, _read_varint(data, at)
        elif key & 7 == 2:
            length, value = _read_varint(data, at)
            at = value + length
        elif key & 7 in (1, 5):
            value, at = at, at + (8 if key & 7 == 1 else 4)
        else:
            raise ValueError
        if at > len(data) or key < 8:
            raise ValueError
        yield start, key, value, at


def _protobuf(rng: random.Random, data: bytes, depth: int = 0) -> bytes:
    try:
        fields = list(_fields(data))
    except ValueError:
        return _flip(rng, data, [])
    if not fields:
        return data + _odd_field(rng)
    start, key, value, end = rng.choice(fields)
    if key & 7 == 2 and end - value > 2 and depth < 6 and rng.random() < 0.75:
        inner = _protobuf(rng, data[value:end], depth + 1)
        return data[:start] + _varint(key) + _varint(len(inner)) + inner + data[end:]
    return data[:start] + _changed(rng, key, data[value:end]) + data[end:]


def _changed(rng: random.Random, key: int, content: bytes) -> bytes:
    """One field, changed."""
    size = _varint(len(content)) if key & 7 == 2 else b""
    whole = _varint(key) + size + content
    choice = rng.randrange(9)
    if choice == 0:
        return b""
    if choice == 1:
        return whole * rng.choice((2, 3, 33, 2000))
    if choice == 2:
        return _varint(key) + _varint(rng.choice(_ABSURD)) + content  # a length or value that cannot be
    if choice == 3:
        return _varint(rng.choice((key ^ 1, key ^ 2, key + 8, rng.randrange(8, 2000)))) + size + content
    if choice == 4:
        return whole + _odd_field(rng)
    if choice == 5:
        dims = b"".join(_varint(rng.choice(_ABSURD)) for _ in range(rng.choice((1, 4, 33, 300))))
        return (
            whole
            + _varint(7 << 3 | 2)
            + _varint(len(dims) + 1 + len(_varint(len(dims))))
            + b"\x0a"
            + _varint(len(dims))
            + dims
        )
    if choice == 6:
        cut = content[: rng.randrange(len(content) + 1)]
        return _varint(key) + (_varint(len(cut)) if key & 7 == 2 else b"") + cut
    if choice == 7:
        for _ in range(rng.choice((3, 100, 2000))):
            whole = _varint(key | 2) + _varint(len(whole)) + whole
        return whole
    return _varint(rng.choice((1, 2, 5, 7, 8, 9, 100)) << 3 | rng.choice((0, 1, 2, 5))) + whole


def _odd_field(rng: random.Random) -> bytes:
    content = bytes(rng.randrange(256) for _ in range(rng.choice((0, 1, 4, 8, 30))))
    return _varint(rng.randrange(1, 120) << 3 | rng.choice((0, 1, 2, 2, 2, 3, 4, 5))) + _varint(len(content)) + content


# -- safetensors: the header is JSON ----------------------------------------------------------------------------------


def _safetensors(rng: random.Random, data: bytes) -> bytes:
    size = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + size])
        name = rng.choice(sorted(header))
        part = header[name]
    except (ValueError, LookupError, TypeError, RecursionError):
        return _flip(rng, data, [])
    odd = rng.choice(
        (None, [], {}, "", 0, -1, 1.5, 10**30, [1] * 40, [-1], [2**62, 4], "F32", [0, 10**9], [[[]]], True)
    )
    key = rng.choice(("shape", "dtype", "data_offsets", "more", "name"))
    if rng.random() < 0.2 or not isinstance(part, dict):
        header[rng.choice((name, name + "/0", "a/00", "/", "__metadata__", "a/-1"))] = odd
    else:
        header[name] = {**part, key: odd}
    if rng.random() < 0.1:
        header["deep"] = 0
        text = json.dumps(header).replace('"deep": 0', '"deep": ' + "[" * 3000 + "]" * 3000).encode()
    else:
        text = json.dumps(header).encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(text) + rng.choice((0, 0, 0, 1, -1))) + text + data[8 + size :]


# -- HDF5: its structure lies in signatures and fixed-width numbers behind them ---------------------------------------


def _hdf5(rng: random.Random, data: bytes) -> bytes:
    marks = [
        at
        for mark in (b"TREE", b"SNOD", b"HEAP", b"OHDR", b"\x89HDF", b"FRHP", b"BTHD", b"GCOL")
        for at in _places(data, mark)
    ]
    if not marks:
        return _flip(rng, data, [])
    at = rng.choice(marks) + rng.randrange(4, 120)
    if at >= len(data):
        return data
    size = rng.choice((1, 2, 4, 8))
    value = rng.choice((*_ABSURD, rng.randrange(len(data)), rng.choice(marks)))
    return data[:at] + (value & (1 << 8 * size) - 1).to_bytes(size, "little") + data[at + size :]


def _places(data: bytes, mark: bytes) -> Iterator[int]:
    at = data.find(mark)
    while at >= 0:
        yield at
        at = data.find(mark, at + 1)
