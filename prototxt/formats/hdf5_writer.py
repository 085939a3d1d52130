"""Write weights to HDF5 as Caffe reads them (/data/<layer>/<i>): h5py allocates the datasets, filled as plain bytes.

A layer name with a slash becomes nested groups, which Caffe itself neither writes nor reads: writing one warns.
"""

from __future__ import annotations

import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

from prototxt.errors import WeightsError
from prototxt.files import atomic_write, take_room, write_at
from prototxt.formats.copy import FileSlice, OpenFiles, Payload, float_bytes, payload_bytes
from prototxt.formats.hdf5 import h5py
from prototxt.formats.index import LayerEntry

_CHUNK = 1 << 20


class SlashWarning(UserWarning):
    """A file was written that this project can read and Caffe cannot."""


def write_hdf5(
    path: str, layers: Sequence[tuple[LayerEntry, Sequence[Payload]]], progress: Callable[[int], None] | None = None
) -> None:
    """Write all layers; the datasets are allocated first and then filled, with constant memory.

    Warns: SlashWarning if a layer's name has a slash. Raises: WeightsError if two names cannot both be groups.
    """
    with atomic_write(path) as file, OpenFiles() as sources:
        places = _lay_out(h5py(path), file, layers, path)
        take_room(file.fileno(), os.fstat(file.fileno()).st_size, path)
        for (_, blobs), offsets in zip(layers, places, strict=True):
            for blob, offset in zip(blobs, offsets, strict=True):
                if offset is not None:
                    _fill(file.fileno(), offset, blob, sources, path)
                if progress:
                    progress(payload_bytes(blob))
    slashed = [entry.name for entry, blobs in layers if "/" in entry.name and blobs]
    if slashed:
        name = os.path.basename(path)  # the folder may be the temporary one of a snapshot
        message = f"{name}: Caffe does not load layers with '/' in their name from HDF5 ({slashed[0]}, ...)"
        warnings.warn(f"{message}; for Caffe, write a .caffemodel", SlashWarning, stacklevel=4)


def _lay_out(
    module: Any, file: Any, layers: Sequence[tuple[LayerEntry, Sequence[Payload]]], path: str
) -> list[list[int | None]]:
    """Create all groups and datasets, allocated but not filled; return the offset of each dataset's bytes."""
    create = module.h5p.create(module.h5p.DATASET_CREATE)
    create.set_alloc_time(module.h5d.ALLOC_TIME_EARLY)
    create.set_fill_time(module.h5d.FILL_TIME_NEVER)
    create.set_obj_track_times(False)
    places: list[list[int | None]] = []
    with open_hdf5(module, file, path) as target:
        data = target.create_group("data")
        for entry, blobs in layers:
            try:
                group = data.require_group(entry.name) if entry.name else data.create_group("(unnamed)")
                sets = [_dataset(module, group, str(i), blob.shape, create) for i, blob in enumerate(blobs)]
            except (ValueError, TypeError) as error:
                hint = "one layer's name continues another's blob (a, a/0): write a .caffemodel"
                raise WeightsError(f"layer '{entry.name}' cannot be a group: {error}", place=path, hint=hint) from None
            places.append([dataset.get_offset() for dataset in sets])
    return places


def _dataset(module: Any, group: Any, name: str, shape: tuple[int, ...], create: Any) -> Any:
    space = module.h5s.create_simple(shape) if shape else module.h5s.create(module.h5s.SCALAR)
    return module.h5d.create(group.id, name.encode(), module.h5t.IEEE_F32LE, space, create)


@contextmanager
def open_hdf5(module: Any, file: IO[bytes], path: str, mode: str = "w") -> Iterator[Any]:
    """Open an h5py file inside an open file that is also readable; `path` is its name in errors.

    Raises: OSError if the disk is full
    """
    seekable = SeekableFile(file, path)
    with _signals_wait(), module.File(seekable, mode) as target:
        yield target
    if seekable.error is not None:
        raise seekable.error


@contextmanager
def _signals_wait() -> Iterator[None]:
    """Handle signals that have a Python handler after the block.

    A KeyboardInterrupt that is raised while HDF5 calls the file object becomes a SystemError or is lost.
    """
    came: list[int] = []
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():  # the only one in which Python runs handlers
        ends = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
        before = {number: signal.getsignal(number) for number in ends if callable(signal.getsignal(number))}
    for number in before:
        signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)


class SeekableFile:
    """The file object through which h5py writes.

    error  the first error of a write; raised inside HDF5's calls, it would become a SystemError or be lost
    """

    def __init__(self, file: IO[bytes], path: str) -> None:
        self.error: OSError | None = None
        self._fd = file.fileno()
        self._path = path
        self._at = 0

    def read(self, count: int = -1) -> bytes:
        """Read bytes from the current position; h5py requires this method of a file object."""
        data = os.pread(self._fd, count if count >= 0 else os.fstat(self._fd).st_size - self._at, self._at)
        self._at += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` from the current position."""
        count = os.preadv(self._fd, [buffer], self._at)
        self._at += count
        return count

    def write(self, data: Any) -> int:
        """Write at the current position."""
        view = memoryview(data).cast("B")
        with self._first_error():
            write_at(self._fd, view, self._at, self._path)
        self._at += len(view)
        return len(view)

    def seek(self, position: int, origin: int = os.SEEK_SET) -> int:
        """Move the current position."""
        base = (0, self._at, os.fstat(self._fd).st_size)[origin]
        self._at = base + position
        return self._at

    def tell(self) -> int:
        """Return the current position."""
        return self._at

    def truncate(self, size: int | None = None) -> int:
        """Set the file's length."""
        size = self._at if size is None else size
        with self._first_error():
            os.ftruncate(self._fd, size)
        return size

    def flush(self) -> None:
        """Do nothing: writes are not buffered."""

    @contextmanager
    def _first_error(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.error = self.error or OSError(error.errno, error.strerror, self._path)


def _fill(fd: int, offset: int, blob: Payload, sources: OpenFiles, path: str) -> None:
    if not isinstance(blob, FileSlice):
        write_at(fd, float_bytes(blob), offset, path)
        return
    source, start, left = sources.descriptor(blob.scan), blob.blob.offset, blob.blob.nbytes
    while left:
        part = os.pread(source, min(left, _CHUNK), start)
        if not part:
            raise WeightsError(f"byte {start}: the file became shorter while it was copied", place=blob.scan.path)
        write_at(fd, part, offset, path)
        start, offset, left = start + len(part), offset + len(part), left - len(part)
