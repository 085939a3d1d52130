"""Base of sources around another one: a share of its batches, some of its records, or additional blobs."""

# ruff: noqa: D102 - DataSource documents the members
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fusion.data.decoded_cache import Progress
from fusion.data.source import DataSource
from fusion.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class SourceWrapper:
    """A source that passes on the members of another one; subclasses override some."""

    source: DataSource

    @property
    def tops(self) -> tuple[str, ...]:
        return self.source.tops

    @property
    def batch_size(self) -> int:
        return self.source.batch_size

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return self.source.shapes

    @property
    def keys(self) -> Sequence[str]:
        return self.source.keys

    @property
    def labels(self) -> NDArray[np.int64] | None:
        return self.source.labels

    @property
    def label_tops(self) -> tuple[str, ...]:
        return self.source.label_tops

    @property
    def deterministic(self) -> bool:
        return self.source.deterministic

    @property
    def in_memory(self) -> bool:
        return self.source.in_memory

    @property
    def bad(self) -> Mapping[int, DataError]:
        return self.source.bad

    def __len__(self) -> int:
        return len(self.source)

    def load(self, progress: Progress | None = None) -> None:
        self.source.load(progress)

    def batch(self, indices: NDArray[np.int64], draw: int = 0) -> dict[str, Tensor]:
        return self.source.batch(indices, draw)

    def order(self, start: int = 0) -> Iterator[NDArray[np.int64]]:
        return self.source.order(start)

    def place(self, index: int) -> str:
        return self.source.place(index)

    def fingerprint(self) -> str:
        return self.source.fingerprint()
