"""Single messages that Caffe stores outside nets: mean images (.binaryproto) and the records of its databases (Datum).

Source: Caffe's caffe.proto (BlobProto, Datum), and its io.cpp for the layout of a Datum's values.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prototxt.errors import WeightsError
from prototxt.files import atomic_write
from prototxt.formats.blob_proto import MAX_RUNS, scan_blob
from prototxt.formats.index import FileStamp, Scan
from prototxt.formats.mmap_reader import Array, MmapReader
from prototxt.sniff.protobuf_wire import (
    FIXED32,
    LENGTH,
    VARINT,
    ByteWindow,
    damage_error,
    encode_varint,
    field_key,
    length_field,
    signed_value,
    wire_fields,
)
from prototxt.sniff.weights_format import detect_format


def read_mean(path: str | os.PathLike[str]) -> Array:
    """Read the mean image of a .binaryproto file: float32 [C, H, W], in the channel order of its database.

    C3D's mean of video clips is [C, L, H, W].

    Raises: WeightsError if the file is damaged, something else, or holds more than one image.
    """
    place = os.fspath(path)
    detect_format(path)
    with open(path, "rb") as file:
        window = ByteWindow.over_file(file.fileno(), place)
        blob = scan_blob(window, 0, window.size, "the mean")
        scan = Scan(place, "caffemodel", "", (), FileStamp.of(file.fileno()))
    shape = blob.shape
    if len(shape) in (4, 5) and shape[0] == 1:
        shape = shape[1:]
    if len(shape) not in (3, 4) or (len(shape) == 4 and len(blob.shape) != 5) or not blob.count:
        hint = "compute_image_mean writes one image of shape (1, channels, height, width)"
        raise WeightsError(f"a blob of shape {blob.shape} is not a mean image", place=place, hint=hint)
    return MmapReader(scan).array(blob).reshape(shape)


def write_mean(path: str | os.PathLike[str], mean: NDArray[np.floating]) -> None:
    """Write a mean image, float [C, H, W], as Caffe's compute_image_mean does."""
    if mean.ndim != 3:
        raise WeightsError(f"a mean image has three axes, not {mean.ndim}", place=os.fspath(path))
    dims = (1, *mean.shape)
    head = b"".join(field_key(number, VARINT) + encode_varint(dim) for number, dim in enumerate(dims, 1))
    with atomic_write(path) as file:
        file.write(head + length_field(5, np.ascontiguousarray(mean, "<f4").tobytes()))


@dataclass(frozen=True, slots=True)
class Datum:
    """One record of a database: a picture or any array, and its label.

    data        bytes: uint8 values in C order [channels, height, width], or an encoded picture (JPEG, PNG, ...)
    float_data  float32 values in the same order, used where `data` is empty
    """

    channels: int = 0
    height: int = 0
    width: int = 0
    label: int = 0
    encoded: bool = False
    data: bytes = b""
    float_data: Array | None = None

    def array(self) -> NDArray[np.uint8] | Array:
        """Return the values of a record that is not encoded: uint8 or float32 [channels, height, width].

        Raises: WeightsError if the record is encoded, or its number of values does not match its size.
        """
        if self.encoded:
            raise WeightsError("the record holds an encoded picture: decode its bytes")
        values = np.frombuffer(self.data, np.uint8) if self.float_data is None else self.float_data
        shape = (self.channels, self.height, self.width)
        if values.size != self.channels * self.height * self.width or min(shape) < 0:
            raise WeightsError(f"the record's size is {shape}, but it holds {values.size} values")
        return values.reshape(shape)


def read_datum(record: bytes, name: str = "record") -> Datum:
    """Decode one database record; `name` (for instance its key) is the place in errors.

    Raises: WeightsError if the bytes are not a whole Datum.
    """
    numbers = [0] * 8
    data = b""
    floats: list[Array] = []
    for number, wire, a, b in wire_fields(ByteWindow.over_bytes(record, name), 0, len(record)):
        if wire == VARINT and number in (1, 2, 3, 5, 7):
            numbers[number] = signed_value(a)
        elif wire == LENGTH and number == 4:
            data = record[a:b]
        elif number == 6 and wire in (LENGTH, FIXED32):
            if len(floats) == MAX_RUNS:
                raise damage_error(name, a, f"the values come in more than {MAX_RUNS} pieces")
            step = 4 if wire == LENGTH else 5
            if wire == LENGTH and (b - a) % 4:
                raise damage_error(name, a, f"{b - a} bytes are no whole number of floats")
            floats.append(np.ndarray(((b - a + step - 4) // step,), "<f4", record, a, (step,)))
    float_data = np.concatenate(floats) if floats and not data else None
    return Datum(numbers[1], numbers[2], numbers[3], numbers[5], bool(numbers[7]), data, float_data)


def write_datum(datum: Datum) -> bytes:
    """Encode a record, in protobuf's canonical order."""
    parts = [
        field_key(number, VARINT) + encode_varint(value)
        for number, value in ((1, datum.channels), (2, datum.height), (3, datum.width))
        if value or not datum.encoded  # the size of an encoded picture is in its own header
    ]
    if datum.float_data is None:
        parts.append(length_field(4, datum.data))
    parts.append(field_key(5, VARINT) + encode_varint(datum.label))
    if datum.float_data is not None:
        floats = np.ascontiguousarray(datum.float_data, "<f4").reshape(-1)
        parts.extend(field_key(6, FIXED32) + value.tobytes() for value in floats)
    parts.append(field_key(7, VARINT) + encode_varint(datum.encoded))  # convert_imageset states false as well
    return b"".join(parts)
