"""Decoded records in memory, so that a small data set is decoded once and a large one as it is needed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from fusion.errors import DataError, raise_all

Pixels = NDArray[np.generic]  # uint8 or float32 [C, H, W]
Fetch = Callable[[int], Pixels]  # decodes one record; raises DataError
Progress = Callable[[int, int], None]  # records done, records in all

BUDGET = 4 << 30  # bytes of decoded records kept by default
_SHOWN = 20
_CHUNK = 256
_SMALL = 64 << 10


class Store:
    """Records by number, each decoded by `fetch` when first asked for and kept while the budget allows.

    Decoders release the interpreter lock, so large records are decoded by several threads; for small ones the lock
    changes hands so often that one thread is twice as fast.
    """

    def __init__(self, fetch: Fetch, count: int, *, budget: int = BUDGET) -> None:
        self._fetch = fetch
        self._count = count
        self.first = fetch(0)
        self._pixels: Pixels | None = None
        self._known = np.zeros(count, bool)
        self._known_all = False
        self._ragged: dict[int, Pixels] = {}
        if count * self.first.nbytes <= budget:
            self._pixels = np.empty((count, *self.first.shape), self.first.dtype)
        self._pool: ThreadPoolExecutor | None = None

    @property
    def keeps(self) -> bool:
        """Whether records are kept once decoded."""
        return self._pixels is not None

    def load(self, progress: Progress | None = None) -> None:
        """Decode all records that are kept and not decoded yet, and report all that cannot be.

        Raises: DataError
        """
        if self._pixels is None:
            return
        missing = np.flatnonzero(~self._known)
        for at in range(0, len(missing), 20 * _CHUNK):
            self._decode(missing[at : at + 20 * _CHUNK])
            if progress is not None:
                progress(min(at + 20 * _CHUNK, len(missing)), len(missing))
        self._known_all = True

    def get(self, indices: NDArray[np.int64]) -> Pixels | list[Pixels]:
        """Records [N, C, H, W], or a list of [C, H, W] where their sizes differ."""
        if self._pixels is None:
            parts = self._fetch_many(indices)
            return np.stack(parts) if len({part.shape for part in parts}) == 1 else parts
        if not self._known_all and not self._known[indices].all():
            self._decode(indices[~self._known[indices]])
        if self._ragged and any(int(i) in self._ragged for i in indices):
            return [self._ragged[i] if i in self._ragged else self._pixels[i] for i in indices.tolist()]
        first, last = int(indices[0]), int(indices[-1])
        if last - first == len(indices) - 1 and (np.diff(indices) == 1).all():
            return self._pixels[first : last + 1]
        return self._pixels[indices]

    def _decode(self, indices: NDArray[np.int64]) -> None:
        assert self._pixels is not None
        for index, pixels in zip(indices.tolist(), self._fetch_many(indices), strict=True):
            if pixels.shape == self.first.shape and pixels.dtype == self.first.dtype:
                self._pixels[index] = pixels
            else:
                self._ragged[index] = pixels
            self._known[index] = True

    def _fetch_many(self, indices: NDArray[np.int64]) -> list[Pixels]:
        if len(indices) == 1:
            return [self._fetch(int(indices[0]))]
        if self.first.nbytes < _SMALL:
            return _all_or_raise([self._fetch_chunk(indices.tolist())])
        if self._pool is None:
            self._pool = ThreadPoolExecutor(min(16, (os.cpu_count() or 1) + 1), thread_name_prefix="decode")
        step = max(1, min(_CHUNK, len(indices) // 4))
        chunks = [indices[at : at + step].tolist() for at in range(0, len(indices), step)]
        return _all_or_raise(self._pool.map(self._fetch_chunk, chunks))

    def _fetch_chunk(self, indices: list[int]) -> tuple[list[Pixels], list[DataError]]:
        found: list[Pixels] = []
        errors: list[DataError] = []
        for index in indices:
            try:
                found.append(self._fetch(index))
            except DataError as error:
                errors.append(error)
        return found, errors


def _all_or_raise(chunks: Iterable[tuple[list[Pixels], list[DataError]]]) -> list[Pixels]:
    found: list[Pixels] = []
    errors: list[DataError] = []
    for pixels, failed in chunks:
        found += pixels
        errors += failed
    if len(errors) > _SHOWN:
        errors = [*errors[:_SHOWN], DataError(f"{len(errors) - _SHOWN} more records like these")]
    raise_all(errors)
    return found
