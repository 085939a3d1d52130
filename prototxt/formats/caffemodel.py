"""Binary .caffemodel files of any version: scanned by field lengths only, and written as a stream.

Supported are V2 (`layer`, 100), V1 (`layers`, 2) and V0 (a `layer` inside it), blobs with a shape or with the old four
dims, float or double, packed or not, NVCaffe's raw values and C3D's five dims. Other fields are skipped, so files of
forks with field numbers of their own can be read too.
Source: Caffe's caffe.proto; the wire format is protobuf's.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

from prototxt.errors import WeightsError
from prototxt.files import atomic_write
from prototxt.formats.blob_proto import scan_blob
from prototxt.formats.copy import BufferedWriter, FileSlice, OpenFiles, Payload, payload_bytes
from prototxt.formats.index import BlobSpan, FileStamp, LayerEntry, Scan
from prototxt.schema.legacy import V1_TYPES
from prototxt.schema.params import modern_type
from prototxt.sniff.protobuf_wire import (
    LENGTH,
    VARINT,
    ByteWindow,
    damage_error,
    encode_varint,
    field_key,
    length_field,
    text_field,
    wire_fields,
)
from prototxt.sniff.weights_format import other_message_error

__all__ = ["LIMIT", "CaffemodelWriter", "Scan", "check_size", "frame_blob", "scan_caffemodel", "scan_descriptor"]

if TYPE_CHECKING:
    from types import TracebackType

LIMIT = 2**31 - 1  # protobuf's maximum message size; a caffemodel is one message
# An empty layer takes two bytes in the file and hundreds in memory: more than this need a minimum average length.
_MANY_LAYERS, _LAYER_BYTES = 20_000, 256


class _Layout(NamedTuple):
    """The field numbers of a layer message of one version."""

    name: int
    type: int
    bottom: int
    top: int
    blobs: int
    nested: int = 0


# C3D reuses numbers of V1's enum for types of its own; these have weights.
_C3D_TYPES = {"ArgMax": "Convolution3D", "MVN": "Deconvolution3D"}

_V2 = _Layout(name=1, type=2, bottom=3, top=4, blobs=7)
_V1 = _Layout(name=4, type=5, bottom=2, top=3, blobs=6, nested=1)
_V0 = _Layout(name=1, type=2, bottom=0, top=0, blobs=50)


def scan_caffemodel(path: str | os.PathLike[str]) -> Scan:
    """List the layers and blobs of a caffemodel without reading a value.

    Raises: WeightsError with the offset of the damage, or with the actual kind of the file.
    """
    with open(path, "rb") as file:
        return scan_descriptor(file.fileno(), os.fspath(path))


def scan_descriptor(fd: int, path: str) -> Scan:
    """Scan an open file, see `scan_caffemodel`."""
    window = ByteWindow.over_file(fd, path)
    most = max(_MANY_LAYERS, window.size // _LAYER_BYTES)
    name, entries = "", list[LayerEntry]()
    try:
        for number, wire, a, b in wire_fields(window, 0, window.size):
            if number == 1:
                name = _text(window, number, wire, a, b, "the net's name")
            elif number in (2, 100):
                _expect(window, number, wire, LENGTH, b, "a layer")
                if len(entries) == most:
                    raise damage_error(path, a, f"more than {most} layers in a file of {window.size} bytes")
                entries.append(_entry(window, a, b, _V2 if number == 100 else _V1))
    except WeightsError as error:
        raise other_message_error(window) or error from None
    if not entries:
        raise other_message_error(window) or damage_error(
            path, window.size, "no layer from the start to here", "is this a caffemodel? nothing in it looks like one"
        )
    return Scan(path, "caffemodel", name, tuple(entries), FileStamp.of(fd))


def _entry(window: ByteWindow, start: int, end: int, layout: _Layout) -> LayerEntry:
    name = kind = ""
    bottoms: list[str] = []
    tops: list[str] = []
    blobs: list[BlobSpan] = []
    for number, wire, a, b in wire_fields(window, start, end):
        if number == layout.blobs:
            _expect(window, number, wire, LENGTH, b, "a blob")
            blobs.append(scan_blob(window, a, b, f"blob {len(blobs)} of layer '{name}'"))
        elif number == layout.name:
            name = _text(window, number, wire, a, b, "a layer's name")
        elif number == layout.type:
            kind = _type(window, wire, a, b, layout)
        elif number == layout.bottom:
            bottoms.append(_text(window, number, wire, a, b, "a bottom"))
        elif number == layout.top:
            tops.append(_text(window, number, wire, a, b, "a top"))
        elif layout.nested and number == layout.nested:
            _expect(window, number, wire, LENGTH, b, "a layer")
            inner = _entry(window, a, b, _V0)
            name, kind = inner.name, inner.type
            blobs.extend(inner.blobs)
    if any(blob.legacy and len(blob.shape) == 5 for blob in blobs):
        kind = _C3D_TYPES.get(kind, kind)
    return LayerEntry(name, kind, tuple(blobs), tuple(bottoms), tuple(tops))


def _type(window: ByteWindow, wire: int, a: int, b: int, layout: _Layout) -> str:
    if layout is _V1:
        _expect(window, layout.type, wire, VARINT, b, "a layer's type")
        return _v1_type(a)
    text = _text(window, layout.type, wire, a, b, "a layer's type")
    return modern_type(text) if layout is _V0 else text


def _v1_type(value: int) -> str:
    """Return the current name of a V1 enum value, "" for one that Caffe does not have."""
    from prototxt.schema.messages import V1LayerParameter

    names = V1LayerParameter.LayerType
    return V1_TYPES.get(names.Name(value), "") if value in names.values() else ""


def _text(window: ByteWindow, number: int, wire: int, a: int, b: int, name: str) -> str:
    _expect(window, number, wire, LENGTH, b, name)
    if b - a > 1 << 20:
        raise damage_error(window.path, a, f"{name} is {b - a} bytes long")
    return window.read(a, b).decode("utf-8", "surrogateescape")


def _expect(window: ByteWindow, number: int, wire: int, expected: int, at: int, name: str) -> None:
    if wire != expected:
        raise damage_error(window.path, at, f"{name} (field {number}) has wire type {wire} instead of {expected}")


class CaffemodelWriter:
    """A writer that streams a V2 caffemodel, which replaces the file when the `with` block ends without error.

    The bytes depend on the arguments only, in protobuf's canonical field order, as from Caffe's own writer.

    least  minimum number of bytes of blobs, see `atomic_write`
    """

    def __init__(self, path: str | os.PathLike[str], name: str = "", *, least: int = 0) -> None:
        self.path = os.fspath(path)
        self._name = name
        self._least = least
        self._stack = ExitStack()

    def __enter__(self) -> CaffemodelWriter:
        self._file = self._stack.enter_context(atomic_write(self.path, least=self._least))
        self._sources = self._stack.enter_context(OpenFiles())
        self._sink = BufferedWriter(self._file)
        if self._name:
            self._sink.write(text_field(1, self._name))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            with self._stack:
                self._sink.flush()
        else:
            self._stack.__exit__(kind, error, trace)

    def add_layer(
        self,
        name: str,
        type: str = "",
        bottoms: Sequence[str] = (),
        tops: Sequence[str] = (),
        blobs: Sequence[Payload] = (),
    ) -> None:
        """Append one layer; blobs are arrays, or slices of other files that are copied as bytes.

        Raises: WeightsError if the file would exceed protobuf's limit.
        """
        head = text_field(1, name) + (text_field(2, type) if type else b"")
        head += b"".join(text_field(3, bottom) for bottom in bottoms) + b"".join(text_field(4, top) for top in tops)
        # A layer's length precedes its content, so all blobs are framed before the first is written.
        framed = [frame_blob(7, blob) for blob in blobs]
        length = len(head) + sum(len(before) + nbytes + len(after) for before, nbytes, after in framed)
        check_size(self.path, self._sink.position + length + 16)  # key and length of the layer take at most 16 bytes
        self._sink.write(field_key(100, LENGTH) + encode_varint(length) + head)
        for blob, (before, _, after) in zip(blobs, framed, strict=True):
            self._sink.write(before)
            self._sink.put(blob, self._sources)
            self._sink.write(after)

    def written(self) -> Scan:
        """Scan the file as written so far, before it replaces the target."""
        self._sink.flush()
        return scan_descriptor(self._file.fileno(), self.path)

    def read(self, offset: int, count: int) -> bytes:
        """Read bytes back from the file."""
        return os.pread(self._file.fileno(), count, offset)


def check_size(path: str, size: int) -> None:
    """Check that a caffemodel of `size` bytes can be read back. Raises: WeightsError."""
    if size > LIMIT:
        raise WeightsError(
            f"a binary caffemodel ends at 2 GiB, protobuf's limit, and this one would have {size / 2**30:.2f} GiB",
            place=path,
            hint="name the file .caffemodel.h5 or .safetensors: these formats have no such limit",
        )


def frame_blob(number: int, blob: Payload) -> tuple[bytes, int, bytes]:
    """Return a BlobProto field without its values: bytes before them, their number of bytes, bytes after them."""
    shape = blob.shape
    nbytes = payload_bytes(blob)
    before = field_key(5, LENGTH) + encode_varint(nbytes) if nbytes else b""
    after = b""
    if isinstance(blob, FileSlice) and blob.legacy and len(shape) == 4:
        before = b"".join(field_key(index, VARINT) + encode_varint(dim) for index, dim in enumerate(shape, 1)) + before
    else:
        dims = b"".join(encode_varint(dim) for dim in shape)
        after = length_field(7, length_field(1, dims)) if dims else b""
    return field_key(number, LENGTH) + encode_varint(len(before) + nbytes + len(after)) + before, nbytes, after
