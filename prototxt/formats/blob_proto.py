"""BlobProto messages: the places of their values, found without reading them.

Sources: Caffe's caffe.proto (BlobProto, BlobShape) and Blob::FromProto; those of NVIDIA/caffe (`raw_data`) and of
facebookarchive/C3D (`length`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from prototxt.formats.index import BlobSpan
from prototxt.sniff.protobuf_wire import LENGTH, VARINT, ByteWindow, damage_error, signed_value, varint, wire_fields

MAX_AXES = 32  # Caffe's kMaxBlobAxes
_RAW_SIZES = {0: 8, 1: 4, 2: 2}  # NVCaffe's types DOUBLE, FLOAT and FLOAT16: bytes of a value
MAX_RUNS = 10_000  # protobuf allows values in any number of pieces; every known writer makes one


def scan_blob(window: ByteWindow, start: int, end: int, name: str) -> BlobSpan:
    """Find the shape and the values of the BlobProto in bytes `start` to `end`; `name` is used in errors.

    Raises: WeightsError if the dims are negative or too many, or do not agree with the number of values.
    """
    dims: list[int] = []
    old = [0, 0, 0, 0, 0]
    axes = 0  # of the old form: 4, or 5 in C3D, which numbers the fields after `length` one higher
    runs: dict[int, list[tuple[int, int, int]]] = {5: [], 6: [], 8: [], 12: []}
    raw_type = -1
    for number, wire, a, b in wire_fields(window, start, end):
        if 1 <= number <= 5 and wire == VARINT:  # num, channels, (length,) height, width
            old[number - 1], axes = signed_value(a), max(axes, 4, number)
        elif number in runs:
            if len(runs[number]) == MAX_RUNS:
                raise damage_error(window.path, a, f"{name}: its values come in more than {MAX_RUNS} pieces")
            runs[number].append((wire, a, b))
        elif number == 7 and wire == LENGTH and axes != 5:
            dims += _dims(window, a, b, name)
        elif number == 10 and wire == VARINT:
            raw_type = a
    shape = tuple(old[:axes] if axes else dims)
    if runs[12] and not runs[5] and not runs[8]:
        return _raw_blob(window, shape, runs[12][-1], raw_type, name)
    # Field of the values and their size: C3D's `data` is field 6; Caffe's `double_data` takes precedence over `data`.
    number, size = (6, 4) if axes == 5 else (8, 8) if runs[8] else (5, 4)
    # An unpacked run begins after its first key and has a key between any two values: n values take n * (size + 1) - 1.
    found = sum((b - a) // size if wire == LENGTH else (b - a + 1 + size) // (size + 1) for wire, a, b in runs[number])
    _check_blob(window, start, shape, found, name)
    packed = len(runs[number]) <= 1 and all(wire == LENGTH for wire, _, _ in runs[number])
    if packed:
        start, end = next(((a, b) for _, a, b in runs[number]), (start, start))
        if (end - start) % size:
            raise damage_error(
                window.path, start, f"{name}: {end - start} bytes are no whole number of {size}-byte values"
            )
    elif axes == 5:
        raise damage_error(window.path, start, f"{name}: its values come in pieces, as C3D does not write them")
    return BlobSpan(shape, f"<f{size}", start, end - start, packed, bool(axes))


def _raw_blob(window: ByteWindow, shape: tuple[int, ...], run: tuple[int, int, int], kind: int, name: str) -> BlobSpan:
    """Scan NVCaffe's form: raw values and their type."""
    wire, start, end = run
    if wire != LENGTH or kind not in _RAW_SIZES:
        known = "double, float and half precision are 0, 1 and 2"
        raise damage_error(
            window.path, start, f"{name}: its raw values are of type {kind}, which is none of weights: {known}"
        )
    size = _RAW_SIZES[kind]
    if (end - start) % size:
        raise damage_error(window.path, start, f"{name}: {end - start} bytes are no whole number of {size}-byte values")
    _check_blob(window, start, shape, (end - start) // size, name)
    return BlobSpan(shape, f"<f{size}", start, end - start)


def _check_blob(window: ByteWindow, at: int, shape: tuple[int, ...], found: int, name: str) -> None:
    if len(shape) > MAX_AXES:
        raise damage_error(window.path, at, f"{name} has {len(shape)} dims; Caffe allows {MAX_AXES}")
    if any(dim < 0 for dim in shape):
        raise damage_error(window.path, at, f"{name} has a negative dim: {shape}")
    count = math.prod(shape)
    if found == count:
        return
    if found == 0:
        hint = "the file describes a net without its weights, or a fork stored them in a form of its own"
        raise damage_error(window.path, at, f"{name} of shape {shape} should hold {count} values, but holds none", hint)
    raise damage_error(window.path, at, f"{name} of shape {shape} should hold {count} values, but holds {found}")


def _dims(window: ByteWindow, start: int, end: int, name: str) -> list[int]:
    dims = _few_small_dims(window.read(start, min(end, start + 64)), end - start)
    if dims:
        return dims
    for number, wire, a, b in wire_fields(window, start, end):
        if number != 1:
            continue
        if wire == VARINT:
            dims.append(signed_value(a))
        elif wire == LENGTH:
            position = a
            while position < b and len(dims) <= MAX_AXES:
                value, position = varint(window, position, b)
                dims.append(signed_value(value))
        if len(dims) > MAX_AXES:
            raise damage_error(window.path, start, f"{name} has more than the {MAX_AXES} dims that Caffe allows")
    return dims


def _few_small_dims(content: bytes, size: int) -> list[int]:
    """Decode the usual case fast, since large nets have thousands: one packed run of numbers below 2**28."""
    dims: list[int] = []
    if size > 64 or size < 3 or content[0] != 0x0A or content[1] != size - 2:
        return dims
    value = shift = 0
    for byte in content[2:]:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            dims.append(value)
            value = shift = 0
        elif shift > 21:
            return []
    return [] if shift else dims


def value_runs(window: ByteWindow, start: int, end: int, number: int) -> Iterator[tuple[int, bytes]]:
    """Yield the values of an unpacked or split blob message by run: (bytes from value to value, bytes of the run)."""
    size = 8 if number == 8 else 4
    for found, wire, a, b in wire_fields(window, start, end):
        if found == number:
            yield (size, window.read(a, b)) if wire == LENGTH else (size + 1, window.read(a, b))
