"""The share of one process in a data layer that several processes read."""

# ruff: noqa: D102 - DataSource documents the members
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fusion.data.source import DataSource
from fusion.data.source_wrapper import SourceWrapper
from fusion.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ShardSpec:
    """The part of the batches that one process gets.

    rank, size  of `size` processes this is number `rank`
    whole       whether a batch goes to one process whole; otherwise each gets a piece of every batch
    """

    rank: int = 0
    size: int = 1
    whole: bool = False

    def of(self, batches: Iterator[NDArray[np.int64]]) -> Iterator[NDArray[np.int64]]:
        """Yield this process's part of `batches`, which begin at a common batch; see `first`."""
        if self.whole:
            return islice(batches, self.rank, None, self.size)  # process r has batches r, r + size, ...
        return (np.array_split(batch, self.size)[self.rank] for batch in batches)

    def first(self, start: int) -> int:
        """Return the number of the source's batch that common batch `start` begins with."""
        return start * self.size if self.whole else start

    def draw(self, number: int) -> int:
        """Return the seed of the random crops and flips in this process's share of a common batch."""
        return number * self.size + self.rank


@dataclass(frozen=True, eq=False)
class Shard(SourceWrapper):
    """A source as one of several processes reads it: all records, but only its part of every common batch."""

    part: ShardSpec

    @property
    def batch_size(self) -> int:
        return self.source.batch_size // (1 if self.part.whole else self.part.size)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {top: (self.batch_size, *shape[1:]) for top, shape in self.source.shapes.items()}

    def batch(self, indices: NDArray[np.int64], draw: int = 0) -> dict[str, Tensor]:
        blobs = self.source.batch(indices, self.part.draw(draw))
        # a layer with random fillers makes a whole batch, whatever the indices
        return {top: tensor[: len(indices)] for top, tensor in blobs.items()}

    def order(self, start: int = 0) -> Iterator[NDArray[np.int64]]:
        return self.part.of(self.source.order(self.part.first(start)))


def shard(source: DataSource, part: ShardSpec) -> Shard:
    """Return the process's share. Raises: DataError when the batches cannot be divided."""
    uneven = {top: shape for top, shape in source.shapes.items() if not shape or shape[0] != source.batch_size}
    if uneven:
        top, shape = next(iter(uneven.items()))
        message = (
            f"'{top}' is {list(shape)} for batches of {source.batch_size}: it has no row for each record to divide"
        )
        raise DataError(message, place=source.place(0), hint="train this net with one process")
    if not part.whole and source.batch_size % part.size:
        fitting = max(1, round(source.batch_size / part.size)) * part.size
        text = f"batches of {source.batch_size} cannot be divided among {part.size} processes"
        hint = f"set batch_size to {fitting}, or take --auto-scale, which gives each process a whole batch"
        raise DataError(text, place=source.place(0), hint=hint)
    return Shard(source, part)
