"""Rows of arrays as a source: the data of HDF5Data, MemoryData and Input layers."""

# ruff: noqa: D102 - DataSource documents the members
from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fusion.data.decoded_cache import Progress
from fusion.data.sampler import Order
from fusion.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class ArraySource:
    """Rows of arrays held in memory or read from files: float32 [N, ...] for each top, all of one length."""

    tops: tuple[str, ...]
    arrays: Sequence[Any]
    sequence: Order
    name: str
    hash: str = ""
    starts: tuple[tuple[int, str], ...] = ((0, ""),)

    @property
    def batch_size(self) -> int:
        return self.sequence.batch_size

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        shapes = [(self.batch_size, *array.shape[1:]) for array in self.arrays]
        return dict(zip(self.tops, shapes, strict=True))

    @property
    def keys(self) -> Sequence[str]:
        return [self.place(index) for index in range(len(self))]

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """Return the second top's values, where they are one whole number per row."""
        if len(self.arrays) < 2 or int(np.prod(self.arrays[1].shape[1:])) != 1:
            return None
        values = np.asarray(self.arrays[1][:], np.float32).reshape(-1)
        whole = values.astype(np.int64)  # others are regression targets
        return whole if (whole == values).all() else None

    @property
    def label_tops(self) -> tuple[str, ...]:
        return self.tops[1:]

    @property
    def deterministic(self) -> bool:
        return True

    @property
    def in_memory(self) -> bool:
        return all(isinstance(array, np.ndarray) for array in self.arrays)

    @property
    def bad(self) -> Mapping[int, DataError]:
        return {}

    def __len__(self) -> int:
        return self.sequence.records

    def load(self, progress: Progress | None = None) -> None:
        """Do nothing: arrays need no reading."""

    def batch(self, indices: NDArray[np.int64], draw: int = 0) -> dict[str, Tensor]:
        import torch

        return {
            top: torch.from_numpy(np.ascontiguousarray(_rows(array, indices), np.float32))
            for top, array in zip(self.tops, self.arrays, strict=True)
        }

    def order(self, start: int = 0) -> Iterator[NDArray[np.int64]]:
        return self.sequence.batches(start)

    def place(self, index: int) -> str:
        # the last file that starts at or before the row
        first, name = [start for start in self.starts if start[0] <= index][-1]
        return f"{name or self.name}:{index - first}"

    def fingerprint(self) -> str:
        if self.hash:
            return self.hash
        digest = hashlib.sha256(self.name.encode())
        for array in self.arrays:
            digest.update(np.ascontiguousarray(array[:]).tobytes())
        return digest.hexdigest()


def _rows(array: Any, indices: NDArray[np.int64]) -> NDArray[Any]:
    """Return rows in the order of `indices`."""
    if isinstance(array, np.ndarray):
        return array[indices]
    unique, inverse = np.unique(indices, return_inverse=True)  # h5py takes row numbers that ascend and differ
    rows: NDArray[Any] = array[unique][inverse.reshape(-1)]
    return rows
