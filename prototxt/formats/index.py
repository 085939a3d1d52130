"""The index of a weights file: its layers, and the byte range of each blob. No values are read.

All formats are scanned to the same `Scan`, so that merging and converting copy bytes without knowing the format.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from prototxt.errors import WeightsError

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class BlobSpan:
    """One blob: its shape, and the place of its values.

    shape     legacy blobs have the four dims of the file (1, 1, 1, N), as in Caffe, or the five of C3D
    dtype     NumPy's name of the stored type: "<f4", "<f8", "<f2" or "bfloat16"
    offset    bytes from the start of the file
    nbytes    length of the values
    packed    whether the values are one run of bytes; else `offset` and `nbytes` enclose the whole blob message, or
              are 0 (chunked or compressed HDF5)
    legacy    whether the shape was stored as num, channels, height, width: then (1, 1, 1, N) means (N,)
    """

    shape: Shape
    dtype: str
    offset: int
    nbytes: int
    packed: bool = True
    legacy: bool = False

    @property
    def count(self) -> int:
        """Return the number of values."""
        return math.prod(self.shape)

    @property
    def copyable(self) -> bool:
        """Return whether the bytes in the file are float32 values, so that they can be copied unchanged."""
        return self.packed and self.dtype == "<f4"


@dataclass(frozen=True, slots=True)
class LayerEntry:
    """One layer of a weights file; `type` is Caffe's current name, or "" if the file does not have it."""

    name: str
    type: str = ""
    blobs: tuple[BlobSpan, ...] = ()
    bottoms: tuple[str, ...] = ()
    tops: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FileStamp:
    """The identity of a file's state: inode, size in bytes, and time of the last change in nanoseconds."""

    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: str | os.PathLike[str] | int) -> FileStamp:
        """Return the stamp of the file's current state."""
        status = os.stat(path)
        return cls(status.st_ino, status.st_size, status.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class Scan:
    """A scanned weights file: all its layers in file order, including those without blobs."""

    path: str
    format: str
    name: str
    entries: tuple[LayerEntry, ...]
    stamp: FileStamp
    notes: tuple[str, ...] = field(default=())

    def with_blobs(self) -> dict[str, LayerEntry]:
        """Return the layers with blobs by name; of several with the same name the last, as Caffe loads it."""
        return {entry.name: entry for entry in self.entries if entry.blobs}

    def check_unchanged(self) -> None:
        """Check that the file was not replaced or rewritten since it was scanned. Raises: WeightsError."""
        try:
            now = FileStamp.of(self.path)
        except FileNotFoundError:
            now = None
        if now != self.stamp:
            raise WeightsError(
                "the file has changed since it was read",
                place=self.path,
                hint="let the program that writes it finish, then start again",
            )


def shape_fits(have: Sequence[int], want: Sequence[int | None], *, legacy: bool = True) -> bool:
    """Return whether a stored shape matches `want`, in which None fits any size.

    With `legacy`, four stored dims (in C3D five) are compared as Caffe compares old blobs: aligned at the end, the
    missing leading dims being 1, so that (1, 1, 1, N) fits (N,) and (1, 1, M, N) fits (M, N).
    """
    if legacy and len(have) in (4, 5) and len(want) < 4:
        want = (1,) * (len(have) - len(want)) + tuple(want)
    return len(have) == len(want) and all(w is None or h == w for h, w in zip(have, want, strict=True))


def resolve_shape(have: Sequence[int], want: Sequence[int | None], *, legacy: bool = True) -> Shape:
    """Return the shape in the net of `have`, which fits `want`: as long as `want`, unknown sizes from `have`."""
    tail = tuple(have)[len(have) - len(want) :] if legacy and len(want) else tuple(have)[: len(want)]
    return tuple(h if w is None else w for h, w in zip(tail, want, strict=True))
