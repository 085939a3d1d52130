"""Writing many small pieces and copied stretches of other files into one file, with flat memory.

Stretches go from file to file inside the kernel (copy_file_range, else sendfile), so that no page of them is ever
resident here; where neither works they pass through a small buffer.
"""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

from prototxt.errors import WeightsError
from prototxt.spans import BlobSpan, Scan, Shape

if TYPE_CHECKING:
    from types import TracebackType

    from numpy.typing import NDArray

_SMALL = 1 << 16  # below this a read and a buffered write beat two system calls
_CHUNK = 1 << 20
_NOT_HERE = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF, errno.ETXTBSY}


@dataclass(frozen=True, slots=True)
class Stretch:
    """A blob to be copied as bytes: one run of float32 values in a scanned file, and their shape from now on."""

    scan: Scan
    blob: BlobSpan
    shape: Shape


@dataclass(frozen=True, slots=True)
class Deferred:
    """A blob whose values are made when it is written, and dropped after: only its shape is known before."""

    shape: Shape
    load: Callable[[], NDArray[Any]]


Payload: TypeAlias = "NDArray[Any] | Stretch | Deferred"


def payload_bytes(blob: Payload) -> int:
    """How many bytes a blob takes as float32."""
    return math.prod(blob.shape) * 4


class Sources:
    """The open files that stretches are copied from; a context manager, so that all are closed."""

    def __init__(self) -> None:
        self._open: dict[str, int] = {}

    def descriptor(self, scan: Scan) -> int:
        """The descriptor of a scanned file, opened once and checked to be the file that was scanned."""
        if scan.path not in self._open:
            scan.check_unchanged()
            self._open[scan.path] = os.open(scan.path, os.O_RDONLY)
        return self._open[scan.path]

    def __enter__(self) -> Sources:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()


class Sink:
    """Writes to an open binary file from its current end on; `position` counts the bytes of the whole file."""

    def __init__(self, file: BinaryIO) -> None:
        file.flush()
        self._fd = file.fileno()
        self._buffer = bytearray()
        self.position = os.fstat(self._fd).st_size

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes; large ones bypass the buffer."""
        self.position += len(data)
        if len(data) < _SMALL:
            self._buffer += data
            if len(self._buffer) >= _CHUNK:
                self.flush()
            return
        self.flush()
        _write_all(self._fd, memoryview(data))

    def copy(self, source: int, offset: int, count: int, path: str) -> None:
        """Append `count` bytes of the file open as `source`; `path` names it in errors.

        Raises: WeightsError when the source ends early.
        """
        if count < _SMALL:
            self.write(_read_exactly(source, offset, count, path))
            return
        self.flush()
        self.position += count
        for copy in (_copy_file_range, _sendfile):
            offset, count = copy(source, self._fd, offset, count)
        while count:
            part = _read_exactly(source, offset, min(count, _CHUNK), path)
            _write_all(self._fd, memoryview(part))
            offset, count = offset + len(part), count - len(part)

    def put(self, blob: Payload, sources: Sources) -> None:
        """Append a blob's values as little-endian float32, copied or from memory."""
        if isinstance(blob, Stretch):
            fd = sources.descriptor(blob.scan)
            self.copy(fd, blob.blob.offset, blob.blob.nbytes, blob.scan.path)
        elif payload_bytes(blob):
            self.write(float_bytes(blob))

    def flush(self) -> None:
        """Hand what is buffered to the system."""
        _write_all(self._fd, memoryview(self._buffer))
        self._buffer = bytearray()


def float_bytes(blob: NDArray[Any] | Deferred) -> memoryview:
    """The values in C order as little-endian float32, without a copy where they are that already."""
    import numpy as np

    values = blob.load() if isinstance(blob, Deferred) else blob
    return np.ascontiguousarray(values, "<f4").reshape(-1).view(np.uint8).data


def _copy_file_range(source: int, target: int, offset: int, count: int) -> tuple[int, int]:
    """Copy inside the kernel; what is left when this system or pair of files cannot."""
    if not hasattr(os, "copy_file_range"):
        return offset, count
    while count:
        try:
            done = os.copy_file_range(source, target, count, offset)
        except OSError as error:
            if error.errno in _NOT_HERE:
                return offset, count
            raise
        if done == 0:
            return offset, count  # the end, or a file system that answers so: reading tells
        offset, count = offset + done, count - done
    return offset, count


def _sendfile(source: int, target: int, offset: int, count: int) -> tuple[int, int]:
    if not hasattr(os, "sendfile"):
        return offset, count
    while count:
        try:
            done = os.sendfile(target, source, offset, count)
        except OSError as error:
            if error.errno in _NOT_HERE or error.errno == errno.ENOTSOCK:
                return offset, count
            raise
        if done == 0:
            return offset, count
        offset, count = offset + done, count - done
    return offset, count


def _read_exactly(source: int, offset: int, count: int, path: str) -> bytes:
    parts = []
    while count:
        part = os.pread(source, count, offset)
        if not part:
            raise WeightsError(f"byte {offset}: the file became shorter while it was copied", place=path)
        parts.append(part)
        offset, count = offset + len(part), count - len(part)
    return b"".join(parts)


def _write_all(fd: int, data: memoryview) -> None:
    while data:
        data = data[os.write(fd, data) :]
