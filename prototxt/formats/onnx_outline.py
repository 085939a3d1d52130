"""ONNX files without the values of their large tensors, so that the description of any net is small.

Source: onnx.proto (ModelProto.graph 7, GraphProto.initializer 5, TensorProto's data_type 2, float_data 4, raw_data 9).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from prototxt.sniff.protobuf_wire import LENGTH, VARINT, ByteWindow, length_field, wire_fields

_GRAPH, _INITIALIZER, _TYPE, _FLOATS, _RAW = 7, 5, 2, 4, 9
_FLOAT: Final = 1  # TensorProto.FLOAT
LARGE: Final = 1 << 14
"""Size in bytes from which a tensor's values are omitted."""

Span = tuple[int, int]


@dataclass(frozen=True)
class Outline:
    """A model's bytes in protobuf's wire format, its large float32 initializers without values.

    places  for each initializer the byte range of its values in the file, None if they are in `content`
    """

    content: bytes
    places: tuple[Span | None, ...]


def outline(file: BinaryIO) -> Outline:
    """Scan an open file without reading the values. Raises: WeightsError if it is not in the wire format; OSError."""
    window = ByteWindow.over_file(file.fileno(), str(file.name))
    places: list[Span | None] = []
    parts = []
    position = 0
    for number, wire, start, end in wire_fields(window, 0, window.size):
        if number == _GRAPH and wire == LENGTH:
            parts.append(length_field(_GRAPH, b"".join(_graph(window, start, end, places))))
        else:
            parts.append(window.read(position, end))
        position = end
    return Outline(b"".join(parts), tuple(places))


def _graph(window: ByteWindow, position: int, stop: int, places: list[Span | None]) -> Iterator[bytes]:
    """Yield the graph's bytes; the byte ranges of its initializers are added to `places`."""
    for number, wire, start, end in wire_fields(window, position, stop):
        if number == _INITIALIZER and wire == LENGTH:
            content, place = _tensor(window, start, end)
            places.append(place)
            yield length_field(_INITIALIZER, content)
        else:
            yield window.read(position, end)
        position = end


def _tensor(window: ByteWindow, start: int, stop: int) -> tuple[bytes, Span | None]:
    """Return a tensor's bytes, and the range of its values if they are omitted: one large run of float32."""
    if stop - start < LARGE:
        return window.read(start, stop), None
    rest, kind = [], 0
    values: list[tuple[int, int, int]] = []
    position = start
    for number, wire, first, end in wire_fields(window, start, stop):
        if number in (_FLOATS, _RAW):
            values.append((wire, first, end))
        else:
            rest.append(window.read(position, end))
            kind = first if number == _TYPE and wire == VARINT else kind
        position = end
    (wire, first, end), *others = values or [(VARINT, 0, 0)]
    if kind != _FLOAT or others or wire != LENGTH or end - first < LARGE:
        return window.read(start, stop), None
    return b"".join(rest), (first, end)
