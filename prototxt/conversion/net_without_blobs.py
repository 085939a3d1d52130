"""A binary net without its weights: the description as a message, the blobs as byte ranges of the file.

A net of any size can so be upgraded or printed as text with no values in memory; blobs are copied unchanged.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError

from prototxt.errors import WeightsError
from prototxt.files import atomic_write
from prototxt.formats.caffemodel import check_size
from prototxt.formats.copy import BufferedWriter
from prototxt.schema.messages import LayerParameter, NetParameter
from prototxt.schema.scalars import is_repeated
from prototxt.schema.upgrade import upgrade_with_origins
from prototxt.sniff.protobuf_wire import (
    DAMAGED,
    LENGTH,
    ByteWindow,
    damage_error,
    encode_varint,
    field_key,
    length_field,
    wire_fields,
)

_BLOBS = 7
_MOST = 64 << 20  # maximum bytes of a field of the description; the largest public nets have less than one MiB in all
Span = tuple[int, int]


@dataclass(frozen=True)
class NetWithoutBlobs:
    """A net of any version without its blobs.

    net     the message; its layers have no blobs
    blobs   for each of `net.layers`, or of `net.layer` if there are none: the byte range of each blob's message
    """

    path: str
    net: NetParameter
    blobs: list[list[Span]]

    @property
    def blob_count(self) -> int:
        """Return the number of blobs in the file."""
        return sum(map(len, self.blobs))


def read_without_blobs(path: str | os.PathLike[str]) -> NetWithoutBlobs:
    """Read a binary NetParameter without its blobs.

    Raises: WeightsError if the file is damaged or not a net.
    """
    place = os.fspath(path)
    with open(path, "rb") as file:
        window = ByteWindow.over_file(file.fileno(), place)
        parts: list[bytes] = []
        blobs: dict[int, list[list[Span]]] = {2: [], 100: []}
        position = 0
        for number, wire, a, b in wire_fields(window, 0, window.size):
            if number in blobs and wire == LENGTH:
                found: list[Span] = []
                body = _without_blobs(window, a, b, 6 if number == 2 else _BLOBS, found, nested=number == 2)
                parts.append(length_field(number, body))
                blobs[number].append(found)
            else:
                parts.append(_kept(window, position, b))
            position = b
    try:
        net = NetParameter.FromString(b"".join(parts))
    except DecodeError as error:
        raise WeightsError(f"this is not a net: {error}", place=place, hint=DAMAGED) from None
    mend_strings(net, place)
    return NetWithoutBlobs(place, net, blobs[2] if net.layers else blobs[100])


def mend_strings(message: Any, place: str) -> None:
    """Replace strings that are not UTF-8, which protobuf returns as bytes, in a message read from a file. Warns."""
    mended = _mended(message)
    if mended:
        names = ", ".join(mended[:3])
        warnings.warn(f"{place}: not UTF-8, bytes replaced by marks: {names}", UserWarning, stacklevel=3)


def _mended(message: Any) -> list[str]:
    found: list[str] = []
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if is_repeated(field) else (value,):
                found += _mended(part)
        elif is_repeated(field) and field.type == field.TYPE_STRING:
            for index, item in enumerate(value):
                if isinstance(item, bytes):
                    value[index] = item.decode("utf-8", "replace")
                    found.append(value[index])
        elif isinstance(value, bytes) and field.type == field.TYPE_STRING and not field.is_extension:
            setattr(message, field.name, value.decode("utf-8", "replace"))
            found.append(getattr(message, field.name))
    return found


def _without_blobs(window: ByteWindow, start: int, end: int, blobs: int, found: list[Span], *, nested: bool) -> bytes:
    """Return a layer's bytes without its blobs, whose ranges are added to `found`; V0 nests its layer in field 1."""
    parts: list[bytes] = []
    position = start
    for number, wire, a, b in wire_fields(window, start, end):
        if number == blobs and wire == LENGTH:
            found.append((a, b))
        elif nested and number == 1 and wire == LENGTH:
            parts.append(length_field(1, _without_blobs(window, a, b, 50, found, nested=False)))
        else:
            parts.append(_kept(window, position, b))
        position = b
    return b"".join(parts)


def _kept(window: ByteWindow, start: int, end: int) -> bytes:
    """Read bytes of the description. Raises: WeightsError for an implausibly large field."""
    if end - start > _MOST:
        raise damage_error(window.path, start, f"a field of {end - start} bytes that holds no weights", DAMAGED)
    return window.read(start, end)


def write_upgraded(skeleton: NetWithoutBlobs, path: str | os.PathLike[str]) -> int:
    """Write the upgraded net with its blobs copied byte by byte; return the number of layers.

    The result equals that of Caffe's upgrade_net_proto_binary. Raises: UpgradeError; WeightsError over 2 GiB.
    """
    net, origins = upgrade_with_origins(skeleton.net)
    outer = NetParameter()
    outer.CopyFrom(net)
    del outer.layer[:]
    check_size(os.fspath(path), sum(end - start for spans in skeleton.blobs for start, end in spans))
    with open(skeleton.path, "rb") as source, atomic_write(path) as file:
        sink = BufferedWriter(file)
        sink.write(outer.SerializeToString(deterministic=True))
        for layer, origin in zip(net.layer, origins, strict=True):
            spans = skeleton.blobs[origin] if origin is not None else []
            _write_layer(sink, layer, spans, source.fileno(), skeleton.path)
        check_size(os.fspath(path), sink.position)
        sink.flush()
    return len(net.layer)


def _write_layer(sink: BufferedWriter, layer: LayerParameter, spans: list[Span], source: int, path: str) -> None:
    """Write a layer in the order of its field numbers, as protobuf does."""
    head = _part(layer, lambda number: number < _BLOBS)
    tail = _part(layer, lambda number: number > _BLOBS, keep_unknown=True)
    frames = [field_key(_BLOBS, LENGTH) + encode_varint(end - start) for start, end in spans]
    blobs = sum(len(frame) + end - start for frame, (start, end) in zip(frames, spans, strict=True))
    sink.write(field_key(100, LENGTH) + encode_varint(len(head) + blobs + len(tail)) + head)
    for frame, (start, end) in zip(frames, spans, strict=True):
        sink.write(frame)
        sink.copy(source, start, end - start, path)
    sink.write(tail)


def _part(layer: LayerParameter, keep: Any, *, keep_unknown: bool = False) -> bytes:
    part = LayerParameter()
    part.CopyFrom(layer)
    for field, _ in layer.ListFields():
        if keep(field.number):
            continue
        if field.is_extension:
            part.ClearExtension(field)  # type: ignore[arg-type]
        else:
            part.ClearField(field.name)
    if not keep_unknown:
        part.DiscardUnknownFields()
    return part.SerializeToString(deterministic=True)
