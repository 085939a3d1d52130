"""Arrays of any length in batches of a net's size, the last one padded with zeros."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]


def padded_batches(arrays: Arrays, size: int) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield batches of `size` rows of each array; all have the same number of rows."""
    for start in range(0, count_rows(arrays), size):
        yield {name: _padded(rows[start : start + size], size) for name, rows in arrays.items()}


def count_rows(arrays: Arrays) -> int:
    """Return the number of rows of each array, 0 where there are none. Raises: ValueError where the numbers differ."""
    counts = {name: len(rows) for name, rows in arrays.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(f"the arrays have different numbers of rows: {counts}")
    return next(iter(counts.values()), 0)


def append_batch(parts: dict[str, list[NDArray[Any]]], batch: Arrays) -> None:
    """Append a copy of each array of a batch to the others of its name."""
    for name, rows in batch.items():
        parts.setdefault(name, []).append(rows.copy())


def join_batches(parts: Mapping[str, Sequence[NDArray[Any]]], padding: int) -> dict[str, NDArray[Any]]:
    """Return the batches of each blob as one array without the last `padding` rows; scalars one per batch."""
    return {name: _joined(batches, padding) for name, batches in parts.items()}


def _joined(batches: Sequence[NDArray[Any]], padding: int) -> NDArray[Any]:
    if not batches or batches[0].ndim == 0:
        return np.asarray(batches)
    whole = np.concatenate(batches)
    return whole[: len(whole) - padding]


def _padded(rows: NDArray[Any], size: int) -> NDArray[Any]:
    if len(rows) == size:
        return rows
    return np.concatenate([rows, np.zeros((size - len(rows), *rows.shape[1:]), rows.dtype)])
