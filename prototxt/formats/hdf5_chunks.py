"""Read chunked HDF5 datasets without HDF5's library, which a damaged chunk can crash.

The library gives the place of each chunk. Its bytes are read, checked and unpacked here, to at most one chunk's size.
Source: the HDF5 file format specification (filters), H5_checksum_fletcher32 in the library's H5checksum.c.
"""

from __future__ import annotations

import math
import os
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prototxt.errors import WeightsError

_DEFLATE, _SHUFFLE, _FLETCHER32 = 1, 2, 3
DAMAGED = "the file is cut off or damaged: fetch or copy it again"
_REPACK = "rewrite the file with gzip, or without compression: h5repack -f GZIP=4"


def read_chunked(dataset: Any, fd: int, place: str) -> NDArray[Any]:
    """Read all values of a chunked h5py.Dataset, in its own type; chunks never written hold its fill value.

    fd  the same file, open for reading
    Raises: WeightsError if a chunk is damaged, or compressed by a filter that needs the library.
    """
    identifier, chunk = dataset.id, tuple(dataset.chunks)
    creation = identifier.get_create_plist()
    filters = [creation.get_filter(index)[0] for index in range(creation.get_nfilters())]
    for number in filters:
        if number not in (_DEFLATE, _SHUFFLE, _FLETCHER32):
            raise WeightsError(f"dataset '{dataset.name}' is packed by filter {number}", place=place, hint=_REPACK)
    values = np.full(dataset.shape, dataset.fillvalue, dataset.dtype)
    size = math.prod(chunk) * dataset.dtype.itemsize
    for index in range(identifier.get_num_chunks()):
        info = identifier.get_chunk_info(index)
        data = _bytes(fd, info.byte_offset, info.size, size, place)
        # A set bit of the mask means that this filter was skipped for this chunk.
        active = [number for bit, number in enumerate(filters) if not info.filter_mask >> bit & 1]
        data = _unpacked(data, active, size, dataset.dtype.itemsize, info.byte_offset, place)
        _put(values, np.frombuffer(data, dataset.dtype).reshape(chunk), info.chunk_offset, place)
    return values


def _bytes(fd: int, offset: int | None, count: int, chunk: int, place: str) -> bytes:
    """Read a packed chunk; packing adds only a few bytes to incompressible data."""
    if offset is None or count > chunk + chunk // 100 + 1024:
        raise WeightsError(f"a chunk of {chunk} bytes takes {count} in the file", place=place, hint=DAMAGED)
    data = os.pread(fd, count, offset)
    if len(data) < count:
        raise WeightsError(f"byte {offset}: a chunk lies after the end of the file", place=place, hint=DAMAGED)
    return data


def _unpacked(data: bytes, filters: list[int], size: int, width: int, offset: int, place: str) -> bytes:
    """Undo the filters, last one first. Raises: WeightsError unless `size` bytes come out."""
    for number in reversed(filters):
        if number == _DEFLATE:
            try:
                data = zlib.decompressobj().decompress(data, size + 5)  # a checksum may follow the values
            except zlib.error as error:
                raise WeightsError(f"byte {offset}: a chunk is damaged: {error}", place=place, hint=DAMAGED) from None
        elif number == _SHUFFLE:
            data = _unshuffled(data, width)
        else:
            data, stored = data[:-4], int.from_bytes(data[-4:], "little")
            if not _matches(data, stored):
                message = f"byte {offset}: a chunk's checksum is wrong"
                raise WeightsError(message, place=place, hint=DAMAGED)
    if len(data) != size:
        message = f"byte {offset}: a chunk holds {len(data)} bytes instead of {size}"
        raise WeightsError(message, place=place, hint=DAMAGED)
    return data


def _unshuffled(data: bytes, width: int) -> bytes:
    """Undo the shuffle filter, which stores all first bytes, then all second bytes, and so on, then the remainder."""
    count = len(data) // width
    values = np.frombuffer(data, np.uint8, count * width).reshape(width, count)
    return np.ascontiguousarray(values.T).tobytes() + data[count * width :]


def _matches(data: bytes, stored: int) -> bool:
    """Return whether Fletcher's checksum over big-endian 16-bit words fits; old libraries wrote its bytes swapped."""
    words = np.frombuffer(data + b"\0" * (len(data) % 2), ">u2").astype(np.int64)
    # The sum of running sums counts the first word n times, the last one once; all sums are modulo 65535.
    factors = np.arange(len(words), 0, -1, dtype=np.int64) % 65535
    low, high = int(words.sum()) % 65535, int((words * factors % 65535).sum()) % 65535
    swapped = (stored >> 8 & 0x00FF00FF) | (stored << 8 & 0xFF00FF00)
    return any((value & 0xFFFF) % 65535 == low and (value >> 16) % 65535 == high for value in (stored, swapped))


def _put(values: NDArray[Any], part: NDArray[Any], offset: tuple[int, ...], place: str) -> None:
    """Copy a chunk to its place, cutting off what exceeds the dataset."""
    if any(start % step or start >= size for start, step, size in zip(offset, part.shape, values.shape, strict=True)):
        raise WeightsError(f"a chunk lies at {offset} of {values.shape}", place=place, hint=DAMAGED)
    inside = tuple(
        slice(start, min(start + step, size))
        for start, step, size in zip(offset, part.shape, values.shape, strict=True)
    )
    values[inside] = part[tuple(slice(0, area.stop - area.start) for area in inside)]
