"""Decoded records in memory: a small data set is decoded once, a large one as it is needed."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from fusion.errors import DataError, raise_first

Pixels = NDArray[np.generic]  # uint8 or float32 [C, H, W]
Fetch = Callable[[int], Pixels]  # decodes one record; raises DataError
Check = Callable[[int, Pixels, "Pixels | None"], None]  # number, record, first record; raises DataError if unfit
Progress = Callable[[int, int], None]  # records done, records in all

BUDGET = 4 << 30  # bytes of decoded records kept by default
_CHUNK = 256
SMALL = 64 << 10  # bytes of a record below which decoding with threads is slower


class Store:
    """Records by number, each decoded by `fetch` on first use and kept while the budget allows.

    skip     the next good record stands in for one that cannot be decoded or does not pass `check`; else it is an error
    first    the first good record
    bad      the errors of the records that were read and skipped
    threads  number of threads that decode large records: decoders release the interpreter lock; for small records it
             changes hands so often that one thread is twice as fast
    """

    def __init__(
        self, fetch: Fetch, count: int, *, budget: int = BUDGET, skip: bool = False, check: Check | None = None
    ) -> None:
        self.bad: dict[int, DataError] = {}
        self.threads = min(16, (os.cpu_count() or 1) + 1)
        self._fetch = fetch
        self._count = count
        self._skip = skip
        self._checks = [] if check is None else [check]
        self._shared = False
        self._recent: tuple[NDArray[np.int64], Pixels | list[Pixels], NDArray[np.int64]] | None = None
        self._first: Pixels | None = None
        self.first = self._find_first()
        self._first = self.first
        self._pixels: Pixels | None = None
        self._known = np.zeros(count, bool)
        self._known_all = False
        self._ragged: dict[int, Pixels] = {}
        if count * self.first.nbytes <= budget:
            self._pixels = np.empty((count, *self.first.shape), self.first.dtype)
        self._pool: ThreadPoolExecutor | None = None

    @property
    def keeps(self) -> bool:
        """Return whether records are kept once decoded."""
        return self._pixels is not None

    def load(self, progress: Progress | None = None) -> None:
        """Decode all records that are kept and not decoded yet, and report all that cannot be decoded.

        Raises: DataError
        """
        missing = self.missing
        for at in range(0, len(missing), 20 * _CHUNK):
            self._decode(missing[at : at + 20 * _CHUNK])
            if progress is not None:
                progress(min(at + 20 * _CHUNK, len(missing)), len(missing))
        self._known_all = True

    def share(self, check: Check) -> None:
        """Serve one more layer, which has its own check for unfit records."""
        self._shared = True
        self._checks.append(check)

    @property
    def missing(self) -> NDArray[np.int64]:
        """Return the numbers of the records that will be kept and are not decoded yet."""
        return np.flatnonzero(~self._known) if self.keeps else np.empty(0, np.int64)

    def fit(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], Pixels]:
        """Return the sound records of the first one's shape: their numbers and pixels [N, C, H, W]; never raise."""
        numbered = [(index, self._try(index)) for index in indices.tolist()]
        good = [(index, found) for index, found in numbered if not isinstance(found, DataError) and self._fits(found)]
        pixels = np.stack([found for _, found in good]) if good else self.first[None][:0]
        return np.array([index for index, _ in good], np.int64), pixels

    def accept(self, indices: NDArray[np.int64], pixels: Pixels) -> None:
        """Keep records that `fit` of a store like this one returned."""
        assert self._pixels is not None
        self._pixels[indices] = pixels
        self._known[indices] = True

    def get(self, indices: NDArray[np.int64]) -> tuple[Pixels | list[Pixels], NDArray[np.int64]]:
        """Return records [N, C, H, W], or a list of [C, H, W] where their sizes differ; and their numbers."""
        if self._pixels is None:
            return self._get_unkept(indices)
        indices = self._read_good(indices, self._decode_missing)
        # Records of other shapes than the first one's are kept apart; a batch with one of them is a list.
        if self._ragged and any(index in self._ragged for index in indices.tolist()):
            return [self._ragged[i] if i in self._ragged else self._pixels[i] for i in indices.tolist()], indices
        first, last = int(indices[0]), int(indices[-1])  # consecutive records need no copy: a slice is a view
        if last - first == len(indices) - 1 and (indices[1:] > indices[:-1]).all():
            return self._pixels[first : last + 1], indices
        return self._pixels[indices], indices

    def _get_unkept(self, requested: NDArray[np.int64]) -> tuple[Pixels | list[Pixels], NDArray[np.int64]]:
        if self._recent is not None and np.array_equal(self._recent[0], requested):
            return self._recent[1:]
        found: dict[int, Pixels] = {}

        def read(indices: NDArray[np.int64]) -> None:
            unread = [
                index for index in dict.fromkeys(indices.tolist()) if index not in found and index not in self.bad
            ]
            found.update(self._good(unread))

        indices = self._read_good(requested, read)
        parts = [found[index] for index in indices.tolist()]
        pixels = np.stack(parts) if len({part.shape for part in parts}) == 1 else parts
        if self._shared:  # the next layer asks for the same records
            self._recent = (requested, pixels, indices)
        return pixels, indices

    def _find_first(self) -> Pixels:
        for index in range(self._count):
            found = self._try(index)
            if not isinstance(found, DataError):
                return found
            self.bad[index] = found
            if not self._skip:
                raise found
        worst = self.bad[0]
        raise DataError(f"none of {self._count} records can be read: {worst.message}", place=worst.place)

    def _try(self, index: int) -> Pixels | DataError:
        try:
            found = self._fetch(index)
            for check in self._checks if self._skip else ():
                check(index, found, self._first)
        except DataError as error:
            return error
        return found

    def _read_good(self, indices: NDArray[np.int64], read: Callable[[NDArray[np.int64]], None]) -> NDArray[np.int64]:
        """Read records until all of them are good; the next good record replaces a bad one."""
        while True:
            read(indices)
            if not self.bad:
                return indices
            replaced = np.array([self._next(index) for index in indices.tolist()], np.int64)
            if (replaced == indices).all():
                return indices
            indices = replaced

    def _next(self, index: int) -> int:
        while index in self.bad:
            index = (index + 1) % self._count
        return index

    def _decode_missing(self, indices: NDArray[np.int64]) -> None:
        if not self._known_all and not self._known[indices].all():
            self._decode(np.unique(indices[~self._known[indices]]))

    def _decode(self, indices: NDArray[np.int64]) -> None:
        assert self._pixels is not None
        for index, pixels in self._good(indices.tolist()):
            if self._fits(pixels):
                self._pixels[index] = pixels
            else:
                self._ragged[index] = pixels
        self._known[indices] = True

    def _fits(self, pixels: Pixels) -> bool:
        return pixels.shape == self.first.shape and pixels.dtype == self.first.dtype

    def _good(self, indices: list[int]) -> list[tuple[int, Pixels]]:
        """Return the records that can be read; note the others in `bad` or raise their errors."""
        good: list[tuple[int, Pixels]] = []
        errors: list[DataError] = []
        for index, found in zip(indices, self._try_many(indices), strict=True):
            if not isinstance(found, DataError):
                good.append((index, found))
            elif self._skip:
                self.bad[index] = found
            else:
                errors.append(found)
        raise_first(errors, "more records like these")
        return good

    def _try_many(self, indices: list[int]) -> Iterable[Pixels | DataError]:
        # The pool starts on first use: small records never need it.
        if len(indices) < 2 or self.first.nbytes < SMALL or self.threads < 2:
            return map(self._try, indices)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="decode")
        return self._pool.map(self._try, indices)


Stores = dict[Hashable, Store]


def shared_store(stores: Stores | None, key: Hashable, check: Check, make: Callable[[], Store]) -> Store:
    """Return the store for `key`, one for all layers that decode the same records in the same way.

    stores  those of the layers that were opened before; None: each layer has its own
    check   whether a record is fit for the layer; `make` returns a new store with this check
    """
    if stores is None:
        return make()
    if key in stores:
        stores[key].share(check)
    else:
        stores[key] = make()
    return stores[key]
