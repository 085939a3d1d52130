"""Read values of a scanned weights file as arrays on demand: memory-mapped where possible, else copied."""

from __future__ import annotations

import mmap
import os
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prototxt.errors import WeightsError
from prototxt.formats.blob_proto import value_runs
from prototxt.formats.index import BlobSpan, Scan
from prototxt.sniff.protobuf_wire import ByteWindow

Array = NDArray[np.float32]


class MmapReader:
    """A reader of a scanned file, whose aligned float32 arrays are views of one read-only mapping."""

    def __init__(self, scan: Scan) -> None:
        scan.check_unchanged()
        self.scan = scan
        self._fd = os.open(scan.path, os.O_RDONLY)
        self._map: mmap.mmap | None = None
        self.close = weakref.finalize(self, os.close, self._fd)

    def array(self, blob: BlobSpan) -> Array:
        """Return the values of a blob, float32 and read-only, in the shape stored in the file.

        Raises: WeightsError if the file became shorter.
        """
        if blob.count == 0:
            return _sealed(np.zeros(blob.shape, np.float32))
        if not blob.packed:
            return _sealed(self._collected(blob).reshape(blob.shape))
        if blob.copyable and blob.offset % 4 == 0:
            return np.frombuffer(self._mapping(), "<f4", blob.count, blob.offset).reshape(blob.shape)
        return _sealed(as_float32(self._read(blob.offset, blob.nbytes), blob.dtype).reshape(blob.shape))

    def _mapping(self) -> mmap.mmap:
        if self._map is None:
            self._map = mmap.mmap(self._fd, 0, access=mmap.ACCESS_READ)
        return self._map

    def _read(self, offset: int, count: int) -> bytearray:
        data = bytearray(count)
        view, done = memoryview(data), 0
        while done < count:
            part = os.preadv(self._fd, [view[done:]], offset + done)
            if not part:
                raise WeightsError(f"byte {offset + done}: the file became shorter", place=self.scan.path)
            done += part
        return data

    def _collected(self, blob: BlobSpan) -> Array:
        """Return the values of a blob message that are unpacked, or in several runs."""
        window = ByteWindow.over_file(self._fd, self.scan.path)
        size = 8 if blob.dtype == "<f8" else 4
        values = np.empty(blob.count, np.float32)
        done = 0
        for step, data in value_runs(window, blob.offset, blob.offset + blob.nbytes, size if size == 8 else 5):
            count = (len(data) + step - size) // step
            run = np.ndarray((count,), blob.dtype, data, 0, (step,))  # the stride skips the keys between values
            values[done : done + count] = run
            done += count
        return values


def as_float32(data: bytes | bytearray, dtype: str) -> Array:
    """Convert bytes of any stored type to float32 values; a view of `data` if they are float32 already."""
    if dtype == "bfloat16":  # the upper half of a float32
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    values: NDArray[Any] = np.frombuffer(data, dtype)
    return values.astype(np.float32, copy=False)


def _sealed(values: Array) -> Array:
    """Make an array read-only, as mapped ones are, so that no result depends on a blob's alignment in the file."""
    values.flags.writeable = False
    return values
