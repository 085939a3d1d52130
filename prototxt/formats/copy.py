"""Write many small pieces and copied slices of other files into one file, with constant memory.

Everything passes through one buffer, which is written when it is full, at multiples of its size. Copying inside the
kernel (copy_file_range, sendfile) was measured to be slower here: blobs lie at odd offsets, and unaligned pages are
copied in two halves. One aligned buffer is as fast as `cat`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

from prototxt.errors import WeightsError
from prototxt.formats.index import BlobSpan, Scan, Shape

if TYPE_CHECKING:
    from types import TracebackType

    from numpy.typing import NDArray

# Measured: half of it is a tenth slower, and for 1 MiB the kernel searches long for contiguous pages.
_BUFFER = 1 << 18


@dataclass(frozen=True, slots=True)
class FileSlice:
    """A blob to be copied as bytes: one run of float32 values in a scanned file, and their new shape.

    legacy  write the shape as the old four dims, because its actual number of axes is unknown
    """

    scan: Scan
    blob: BlobSpan
    shape: Shape
    legacy: bool = False


@dataclass(frozen=True, slots=True)
class LazyBlob:
    """A blob of known shape whose values are computed when it is written, and then dropped."""

    shape: Shape
    load: Callable[[], NDArray[Any]]


Payload: TypeAlias = "NDArray[Any] | FileSlice | LazyBlob"


def payload_bytes(blob: Payload) -> int:
    """Return the number of bytes of a blob as float32."""
    return math.prod(blob.shape) * 4


class OpenFiles:
    """The open files that slices are copied from; a context manager, so that all are closed."""

    def __init__(self) -> None:
        self._open: dict[str, int] = {}

    def descriptor(self, scan: Scan) -> int:
        """Return the descriptor of a scanned file, opened once and checked to be unchanged since the scan."""
        if scan.path not in self._open:
            scan.check_unchanged()
            self._open[scan.path] = os.open(scan.path, os.O_RDONLY)
        return self._open[scan.path]

    def __enter__(self) -> OpenFiles:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()


class BufferedWriter:
    """A buffered writer to an open, empty binary file; `position` counts its bytes."""

    def __init__(self, file: BinaryIO) -> None:
        self._fd = file.fileno()
        self._buffer = memoryview(bytearray(_BUFFER))
        self._used = 0
        self.position = 0

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes."""
        done, count = 0, len(data)
        while done < count:
            part = min(count - done, self._room())
            self._buffer[self._used : self._used + part] = data[done : done + part]
            self._used += part
            done += part
        self.position += count

    def copy(self, source: int, offset: int, count: int, path: str) -> None:
        """Append `count` bytes of the file open as `source`; `path` names it in errors.

        Raises: WeightsError if the source ends early.
        """
        self.position += count
        while count:
            part = min(count, self._room())
            done = os.preadv(source, [self._buffer[self._used : self._used + part]], offset)
            if not done:
                raise WeightsError(f"byte {offset}: the file became shorter while it was copied", place=path)
            self._used += done
            offset, count = offset + done, count - done

    def put(self, blob: Payload, sources: OpenFiles) -> None:
        """Append a blob's values as little-endian float32, copied or from memory."""
        if isinstance(blob, FileSlice):
            fd = sources.descriptor(blob.scan)
            self.copy(fd, blob.blob.offset, blob.blob.nbytes, blob.scan.path)
        elif payload_bytes(blob):
            self.write(float_bytes(blob))

    def flush(self) -> None:
        """Write the buffered bytes to the file."""
        rest = self._buffer[: self._used]
        while rest:
            rest = rest[os.write(self._fd, rest) :]
        self._used = 0

    def _room(self) -> int:
        if self._used == _BUFFER:
            self.flush()
        return _BUFFER - self._used


def float_bytes(blob: NDArray[Any] | LazyBlob) -> memoryview:
    """Return the values in C order as little-endian float32, without a copy if they are that already."""
    import numpy as np

    values = blob.load() if isinstance(blob, LazyBlob) else blob
    return np.ascontiguousarray(values, "<f4").reshape(-1).view(np.uint8).data
