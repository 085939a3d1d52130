"""Statistics of the values of a blob, read a megabyte at a time: memory does not grow with the file."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from prototxt.formats.index import BlobSpan, Scan
from prototxt.formats.mmap_reader import Array, as_float32

_CHUNK = 1 << 18  # values: 1 MiB of float32
_WIDTHS = {"<f4": 4, "<f8": 8, "<f2": 2, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class Statistics:
    """Minimum, maximum, mean and standard deviation of the finite values (None without any), and counts."""

    count: int
    minimum: float | None
    maximum: float | None
    mean: float | None
    std: float | None
    zeros: int
    nans: int
    infs: int


def blob_statistics(scan: Scan, blob: BlobSpan) -> Statistics:
    """Compute the statistics of one blob of a scanned file.

    Raises: WeightsError if the file changed, or is damaged.
    """
    return of_chunks(_chunks(scan, blob))


def of_chunks(chunks: Iterator[Array]) -> Statistics:
    """Compute statistics of values in pieces; means and squares are summed in float64 and merged (Chan et al.)."""
    total = finite = zeros = nans = 0
    mean = squares = 0.0
    low, high = math.inf, -math.inf
    for chunk in chunks:
        total += chunk.size
        zeros += chunk.size - int(np.count_nonzero(chunk))
        good = chunk[np.isfinite(chunk)]
        nans += int(np.isnan(chunk).sum()) if good.size < chunk.size else 0
        if good.size:
            low, high = min(low, float(good.min())), max(high, float(good.max()))
            own = good.astype(np.float64)
            own_mean = float(own.mean())
            gap = own_mean - mean
            joined = finite + good.size
            squares += float(((own - own_mean) ** 2).sum()) + gap * gap * finite * good.size / joined
            mean += gap * good.size / joined
            finite = joined
    if not finite:
        return Statistics(total, None, None, None, None, zeros, nans, total - nans)
    return Statistics(total, low, high, mean, math.sqrt(squares / finite), zeros, nans, total - finite - nans)


def array_statistics(values: Array) -> Statistics:
    """Compute the statistics of an array."""
    flat = values.reshape(-1)
    return of_chunks(flat[start : start + _CHUNK] for start in range(0, flat.size, _CHUNK))


def _chunks(scan: Scan, blob: BlobSpan) -> Iterator[Array]:
    """Yield the values in pieces, read and not mapped: touched pages would count as memory of this process."""
    if not blob.packed or blob.dtype not in _WIDTHS:
        yield from _whole(scan, blob)
        return
    scan.check_unchanged()
    width, done = _WIDTHS[blob.dtype], 0
    fd = os.open(scan.path, os.O_RDONLY)
    try:
        while done < blob.nbytes:
            data = os.pread(fd, min(_CHUNK * width, blob.nbytes - done), blob.offset + done)
            data = data[: len(data) - len(data) % width]
            if not data:
                scan.check_unchanged()
                return
            yield as_float32(data, blob.dtype)
            done += len(data)
    finally:
        os.close(fd)


def _whole(scan: Scan, blob: BlobSpan) -> Iterator[Array]:
    from prototxt.formats import hdf5
    from prototxt.formats.mmap_reader import MmapReader

    reader = hdf5.HDF5Reader(scan) if scan.format == "hdf5" else MmapReader(scan)
    flat = reader.array(blob).reshape(-1)
    for start in range(0, flat.size, _CHUNK):
        yield flat[start : start + _CHUNK]
