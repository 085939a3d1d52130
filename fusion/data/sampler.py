"""The order in which records are visited: a pure function of seed and position, so that any run can be resumed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Permutation = Callable[[int], NDArray[np.int64]]  # epoch -> the order of all records in it


@dataclass(frozen=True)
class Order:
    """Caffe's order: batches in sequence, wrapping inside a batch at the end of the records.

    records      number of records
    batch_size   records per batch
    skip         records passed over at the start (rand_skip)
    permutation  the order within an epoch; None: as listed
    """

    records: int
    batch_size: int
    skip: int = 0
    permutation: Permutation | None = None

    def batch(self, number: int) -> NDArray[np.int64]:
        """Return the record numbers int64 [batch_size] of batch `number`, counted from 0 without end."""
        first = self.skip + number * self.batch_size
        offset = first % self.records
        # The common case, without modulo: a batch that does not wrap.
        if self.permutation is None and offset + self.batch_size <= self.records:
            return np.arange(offset, offset + self.batch_size)
        positions = np.arange(first, first + self.batch_size)
        inside = positions % self.records
        if self.permutation is None:
            return inside
        epochs = positions // self.records
        parts = [self.permutation(int(epoch))[inside[epochs == epoch]] for epoch in np.unique(epochs)]
        return np.concatenate(parts)

    def batches(self, start: int = 0) -> Iterator[NDArray[np.int64]]:
        """Yield batch after batch from number `start` on, without end."""
        while True:
            yield self.batch(start)
            start += 1


def shuffled(records: int, seed: int) -> Permutation:
    """Return a function that gives a new seeded permutation of all records for every epoch."""

    @lru_cache(maxsize=2)
    def permutation(epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng((seed, epoch)).permutation(records)

    return permutation


def random_skip(limit: int, seed: int) -> int:
    """Return the number of records to skip at the start: from 0 to `limit` - 1, by seed."""
    return int(np.random.default_rng((seed, 0x5C1B)).integers(limit)) if limit else 0
