"""Data layers as sources: records that can be read by number, and the order in which training reads them."""

# ruff: noqa: D102 - DataSource documents the members
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from fusion.data.decoded_cache import Check, Pixels, Progress, Store
from fusion.data.parallel_decode import prefill_cache
from fusion.errors import SHOWN, DataError, raise_all

if TYPE_CHECKING:
    from torch import Tensor

    from fusion.data.source_config import SourceConfig

_QUICK = 1 << 20  # bytes per batch that are transformed in less than a millisecond


class DataSource(Protocol):
    """The records of one data layer.

    tops           the layer's blobs
    batch_size     records per batch
    shapes         the shape of each top for one batch
    keys           one name per record (the path in the list, a database's key)
    labels         int64 [N] where each record has one class, else None
    label_tops     the tops that hold labels and the like rather than pixels; those that give `labels` come first
    deterministic  a record has the same values each time (no random crop, flip or filler)
    in_memory      a batch takes almost no time, once loaded
    bad            the errors of the records that were skipped so far, by number
    """

    @property
    def tops(self) -> tuple[str, ...]: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def shapes(self) -> dict[str, tuple[int, ...]]: ...
    @property
    def keys(self) -> Sequence[str]: ...
    @property
    def labels(self) -> NDArray[np.int64] | None: ...
    @property
    def label_tops(self) -> tuple[str, ...]: ...
    @property
    def deterministic(self) -> bool: ...
    @property
    def in_memory(self) -> bool: ...
    @property
    def bad(self) -> Mapping[int, DataError]: ...
    def __len__(self) -> int: ...
    def load(self, progress: Progress | None = None) -> None:
        """Read the records that are kept in memory, so that unreadable ones are found before training starts."""

    def batch(self, indices: NDArray[np.int64], draw: int = 0) -> dict[str, Tensor]:
        """Return the tops for these records; `draw` numbers the batch and seeds its random crops and flips."""

    def order(self, start: int = 0) -> Iterator[NDArray[np.int64]]:
        """Yield record numbers int64 [batch_size], batch after batch from number `start`, without end."""

    def place(self, index: int) -> str:
        """Return the place of record `index` for messages."""

    def fingerprint(self) -> str:
        """Return a hash that changes when the records or their transform change."""


class RecordOrder(Protocol):
    """The order in which records are visited; see `Order`."""

    @property
    def records(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    def batches(self, start: int = 0) -> Iterator[NDArray[np.int64]]: ...


class RecordTransform(Protocol):
    """The transform of a record's pixels; see `Transform`."""

    def deterministic(self, shape: tuple[int, ...]) -> bool: ...
    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]: ...
    def check(self, shape: tuple[int, ...], place: str) -> None: ...
    def apply(self, pixels: NDArray[np.generic], rng: np.random.Generator | None = None) -> NDArray[np.float32]: ...


@dataclass(frozen=True, eq=False)
class ImageSource:
    """Images and labels from a list or a database, transformed by the layer's `transform_param`.

    config  opens the same source in another process
    """

    tops: tuple[str, ...]
    store: Store
    transform: RecordTransform
    sequence: RecordOrder
    keys: Sequence[str]
    read_labels: Callable[[], NDArray[np.int64]]
    where: Callable[[int], str]
    hash: Callable[[], str]
    config: SourceConfig
    seed: int = 0

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        return self.read_labels()

    @property
    def label_tops(self) -> tuple[str, ...]:
        return self.tops[1:]

    @property
    def batch_size(self) -> int:
        return self.sequence.batch_size

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        shapes = [(self.batch_size, *self.transform.shape(self.store.first.shape)), (self.batch_size,)]
        return dict(zip(self.tops, shapes, strict=False))

    @property
    def deterministic(self) -> bool:
        return self.transform.deterministic(self.store.first.shape)

    @property
    def in_memory(self) -> bool:
        return self.store.keeps and self.store.first.nbytes * self.batch_size < _QUICK

    def __len__(self) -> int:
        return self.sequence.records

    def load(self, progress: Progress | None = None) -> None:
        # Workers fill the cache where that is faster; the store reads the rest and reports errors.
        prefill_cache(self.store, self.config, progress)
        self.store.load(progress)

    @property
    def bad(self) -> dict[int, DataError]:
        return self.store.bad

    def batch(self, indices: NDArray[np.int64], draw: int = 0) -> dict[str, Tensor]:
        return self.finish(*self.values(indices, draw))

    def values(self, indices: NDArray[np.int64], draw: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the images float32 [N, C, H, W], and their records' numbers: others where records were skipped."""
        # (0, 0, 0) is no record's shape, so a random crop counts as random whatever the size of the records.
        rng = None if self.transform.deterministic((0, 0, 0)) else np.random.default_rng((self.seed, 1, draw))
        pixels, indices = self.store.get(indices)
        if isinstance(pixels, list):
            return self._from_sizes(pixels, indices, rng), indices
        if pixels.shape[1:] != self.store.first.shape:
            self.transform.check(pixels.shape[1:], self.where(int(indices[0])))
        return self.transform.apply(pixels, rng), indices

    def finish(self, values: NDArray[np.float32], indices: NDArray[np.int64]) -> dict[str, Tensor]:
        """Return the tops of a batch from the result of `values`."""
        import torch

        arrays = (values, self.labels[indices].astype(np.float32))
        return {top: torch.from_numpy(array) for top, array in zip(self.tops, arrays, strict=False)}

    def order(self, start: int = 0) -> Iterator[NDArray[np.int64]]:
        return self.sequence.batches(start)

    def place(self, index: int) -> str:
        return self.where(index)

    def fingerprint(self) -> str:
        return self.hash()

    def _from_sizes(
        self, images: list[NDArray[np.generic]], indices: NDArray[np.int64], rng: np.random.Generator | None
    ) -> NDArray[np.float32]:
        parts = []
        for index, pixels in zip(indices.tolist(), images, strict=True):
            self.transform.check(pixels.shape, self.where(index))
            parts.append(self.transform.apply(pixels[None], rng))
            if parts[-1].shape != parts[0].shape:
                text = f"this image is {_size(parts[-1])} and the batch's first one {_size(parts[0])}"
                hint = "give new_height and new_width (or crop_size), or batch_size 1"
                raise DataError(text, place=self.where(index), hint=hint)
        return np.concatenate(parts)


def _size(batch: NDArray[np.float32]) -> str:
    _, channels, height, width = batch.shape
    return f"{channels}x{height}x{width}"


def record_check(transform: RecordTransform, place: Callable[[int], str], *, alone: bool) -> Check:
    """Return the check by which unfit records are skipped.

    alone  batches hold one record, so that sizes may differ
    """

    def check(index: int, pixels: Pixels, first: Pixels | None) -> None:
        transform.check(pixels.shape, place(index))
        shape = transform.shape(pixels.shape)
        if first is not None and not alone and shape != transform.shape(first.shape):
            raise DataError(f"the record is {shape}, the first one {transform.shape(first.shape)}", place=place(index))

    return check


def check_label_range(source: DataSource, classes: int, *, ignore: int | None = None) -> None:
    """Check that every record's label is a class of the net.

    Raises: DataError naming the records whose label is not in 0 .. classes - 1.
    """
    if source.labels is None:
        return
    wrong = (source.labels < 0) | (source.labels >= classes)
    if ignore is not None:
        wrong &= source.labels != ignore
    found = np.flatnonzero(wrong)
    hint = f"labels count from 0, and the net has {classes} outputs: correct the list or num_output"
    errors = [
        DataError(f"label {source.labels[i]} is out of range 0..{classes - 1}", place=source.place(int(i)), hint=hint)
        for i in found[:SHOWN]
    ]
    if len(found) > SHOWN:
        errors.append(DataError(f"{len(found) - SHOWN} more labels are out of range"))
    raise_all(errors)
