"""What a weights file holds, as places in the file: layers, and for each blob where its bytes lie. No value is read.

Every format is scanned into the same `Scan`, so that merging and converting copy bytes and need not know the format.
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
    """One blob: its shape, and where its values lie.

    shape     legacy blobs keep the four dims of the file (1, 1, 1, N), as in Caffe, or the five of C3D
    dtype     NumPy's name of the stored type: "<f4", "<f8", "<f2" or "bfloat16"
    offset    bytes from the start of the file
    nbytes    length of the values
    packed    whether the values lie there as one run; else `offset` and `nbytes` enclose the whole blob message, or
              (HDF5 that is chunked or compressed) say nothing
    legacy    whether the shape was given as num, channels, height, width: then (1, 1, 1, N) means (N,)
    """

    shape: Shape
    dtype: str
    offset: int
    nbytes: int
    packed: bool = True
    legacy: bool = False

    @property
    def count(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def copyable(self) -> bool:
        """Whether the bytes in the file are the float32 values themselves, so that they may be copied as they are."""
        return self.packed and self.dtype == "<f4"


@dataclass(frozen=True, slots=True)
class LayerEntry:
    """One layer of a weights file. `type` is Caffe's modern name, or "" where the format or the file does not say."""

    name: str
    type: str = ""
    blobs: tuple[BlobSpan, ...] = ()
    bottoms: tuple[str, ...] = ()
    tops: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FileStamp:
    """What tells one state of a file from the next: inode, bytes, and time of the last change in nanoseconds."""

    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: str | os.PathLike[str] | int) -> FileStamp:
        """The stamp of the file as it is now."""
        status = os.stat(path)
        return cls(status.st_ino, status.st_size, status.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class Scan:
    """A scanned weights file: its layers in file order, all of them, also those without blobs."""

    path: str
    format: str
    name: str
    entries: tuple[LayerEntry, ...]
    stamp: FileStamp
    notes: tuple[str, ...] = field(default=())

    def with_blobs(self) -> dict[str, LayerEntry]:
        """The layers that hold blobs, by name; of several with one name the last, as Caffe's loading leaves it."""
        return {entry.name: entry for entry in self.entries if entry.blobs}

    def check_unchanged(self) -> None:
        """Raises: WeightsError when the file was replaced or rewritten since it was scanned."""
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
    """Whether a stored shape is the wanted one; None in `want` fits any size.

    With `legacy`, four stored dims (in C3D five) are compared as Caffe compares old blobs: aligned at the end, the
    missing leading dims being 1, so that (1, 1, 1, N) fits (N,) and (1, 1, M, N) fits (M, N).
    """
    if legacy and len(have) in (4, 5) and len(want) < 4:
        want = (1,) * (len(have) - len(want)) + tuple(want)
    return len(have) == len(want) and all(w is None or h == w for h, w in zip(have, want, strict=True))


def resolve_shape(have: Sequence[int], want: Sequence[int | None], *, legacy: bool = True) -> Shape:
    """The shape that `have`, which fits `want`, takes in the net: as long as `want`, unknown sizes from `have`."""
    tail = tuple(have)[len(have) - len(want) :] if legacy and len(want) else tuple(have)[: len(want)]
    return tuple(h if w is None else w for h, w in zip(tail, want, strict=True))
