"""The inputs of a net: a batch of every data layer per iteration, read live or taken from cached rows."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from fusion.data import DataSource, ReadOptions, batches, check_label_range, open_layers
from fusion.data.decoded_cache import Progress
from fusion.data.in_step_sources import label_difference, members_of
from fusion.errors import DataError
from fusion.solver.prefetch import ahead
from prototxt.shapes.loss_kinds import compares_classes

if TYPE_CHECKING:
    from prototxt.schema.messages import LayerParameter, NetParameter

Blobs = dict[str, Tensor]
_PLANNED = 64  # batches whose records are looked up together


class Batches(Protocol):
    """An endless iterator over the batches of one net, on the net's device.

    position  the number of batches returned so far, which may be set; a snapshot needs nothing else
    """

    position: int

    def __iter__(self) -> Iterator[Blobs]: ...

    def __next__(self) -> Blobs: ...

    def close(self) -> None:
        """Stop reading ahead; the next batch starts it again."""


def open_sources(
    net: NetParameter,
    phase: str,
    *,
    seed: int,
    arrays: Mapping[str, ArrayLike] | None = None,
    reading: ReadOptions | None = None,
) -> list[DataSource]:
    """Return the sources of a net's data layers, in order, one for those in step. Raises: DataError."""
    how = reading or ReadOptions()
    for layer in net.layer:
        if layer.HasField("in_step_with") and not _reads(layer):
            raise DataError(
                f"in_step_with: a layer of type {layer.type} reads no records",
                place=f"layer '{layer.name}'",
                hint=f"it is for {', '.join(sorted(DATA_TYPES))}",
            )
    layers = data_layers(net)
    sources = open_layers(layers, phase, seed=seed, arrays=arrays, budget=how.budget, on_bad_record=how.on_bad_record)
    _check_silenced(net, sources)
    return sources


def _check_silenced(net: NetParameter, sources: Sequence[DataSource]) -> None:
    """Check that labels in step that no layer reads equal those that are read.

    Databases often number their records, so that equal keys do not show that the records are the same.

    Raises: DataError.
    """
    silenced = {blob for layer in net.layer if layer.type == "Silence" for blob in layer.bottom}
    silenced -= {blob for layer in net.layer if layer.type != "Silence" for blob in layer.bottom}
    following = {top for layer in net.layer if layer.HasField("in_step_with") for top in layer.top}
    for leader, *others in map(members_of, sources):
        for other in others:
            labels = other.label_tops[:1]
            if following.issuperset(other.tops) and silenced.issuperset(labels) and labels:
                reason = label_difference(leader, other)
                if reason is not None:
                    raise DataError(
                        f"in step with '{leader.tops[0]}', but {reason}",
                        place=f"blob '{labels[0]}'",
                        hint="give data of the same records in the same order",
                    )


def data_layers(net: NetParameter) -> list[LayerParameter]:
    """Return the net's layers that read records."""
    return [layer for layer in net.layer if _reads(layer)]


def _reads(layer: LayerParameter) -> bool:
    return bool(layer.top) and not layer.bottom and layer.type in DATA_TYPES


DATA_TYPES = frozenset({"Data", "DummyData", "HDF5Data", "ImageData", "Input", "MemoryData", "WindowData"})


def shapes_of(sources: Sequence[DataSource]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each top for one batch."""
    return {top: shape for source in sources for top, shape in source.shapes.items()}


def check_classes(net: NetParameter, sources: Sequence[DataSource], shapes: Mapping[str, Sequence[int | None]]) -> None:
    """Check labels against the number of classes wherever a layer judges a data layer's label.

    shapes  of the net's blobs
    Raises  DataError
    """
    for layer in net.layer:
        if not compares_classes(layer) or len(layer.bottom) < 2:
            continue
        for source in (member for whole in sources for member in members_of(whole)):
            if layer.bottom[1] in source.tops and source.tops.index(layer.bottom[1]) == 1:
                classes = _classes(layer, shapes.get(layer.bottom[0], ()))
                if classes is not None:
                    check_label_range(source, classes, ignore=_ignored(layer))


def _classes(layer: LayerParameter, shape: Sequence[int | None]) -> int | None:
    own = {"Accuracy": layer.accuracy_param.axis, "InfogainLoss": layer.infogain_loss_param.axis}
    axis = own.get(layer.type, layer.softmax_param.axis)
    return shape[axis] if -len(shape) <= axis < len(shape) else None


def _ignored(layer: LayerParameter) -> int | None:
    param = layer.accuracy_param if layer.type == "Accuracy" else layer.loss_param
    return param.ignore_label if param.HasField("ignore_label") else None


@dataclass(eq=False)
class LiveBatches:
    """Batches read from the sources, ahead of time where reading takes time.

    workers  processes for each source that does not fit into memory
    depth    number of batches that are read ahead of time
    """

    sources: Sequence[DataSource]
    device: torch.device
    position: int = 0
    workers: int = 0
    depth: int = 3
    _running: Iterator[Blobs] | None = None
    _expected: int = 0

    def __iter__(self) -> LiveBatches:
        return self

    def __next__(self) -> Blobs:
        if self._running is None or self._expected != self.position:  # the position was set from outside
            slow = any(not source.in_memory for source in self.sources)
            batches = self._batches(self.position)
            self._running = ahead(batches, self.depth) if slow or self.device.type == "cuda" else batches
            self._expected = self.position
        blobs = next(self._running)
        self.position += 1
        self._expected += 1
        if self.device.type == "cpu":
            return blobs
        return {top: tensor.to(self.device, non_blocking=True) for top, tensor in blobs.items()}

    def close(self) -> None:
        """Stop reading ahead."""
        self._running = None

    def _batches(self, number: int) -> Iterator[Blobs]:
        readers = [batches(source, number, workers=self.workers) for source in self.sources]
        while True:
            blobs: Blobs = {}
            for reader in readers:
                blobs.update(next(reader))
            if self.device.type == "cuda":
                # copies from pinned memory overlap with computation
                blobs = {top: tensor.pin_memory() for top, tensor in blobs.items()}
            yield blobs


class CachedBatches:
    """Batches of rows that were computed once: a view where records follow each other, a copy otherwise.

    rows       the head's inputs, one row per record
    in_memory  whether they are on the net's device, so that a view of them is a batch
    """

    in_memory = True

    def __init__(self, rows: Blobs, source: DataSource) -> None:
        self.rows = rows
        self.source = source
        self.position = 0
        self._planned: Iterator[int | NDArray[np.int64]] | None = None
        self._expected = 0

    def add(self, columns: Sequence[Tensor]) -> list[str]:
        """Keep more rows, and return their keys."""
        keys = [f"column {len(self.rows) + number}" for number in range(len(columns))]
        self.rows.update(zip(keys, columns, strict=True))
        return keys

    def keep(self, keys: Collection[str]) -> None:
        """Forget all other rows."""
        self.rows = {key: rows for key, rows in self.rows.items() if key in keys}

    def __iter__(self) -> CachedBatches:
        return self

    def __next__(self) -> Blobs:
        place = self.next_place()
        return self._view(place, self.source.batch_size) if isinstance(place, int) else self._copy(place)

    def next_place(self) -> int | NDArray[np.int64]:
        """Return the next batch's first record where its records follow each other, else their indices."""
        if self._planned is None or self._expected != self.position:
            self._planned = self._plan(self.position)
        self.position += 1
        self._expected = self.position
        return next(self._planned)

    def close(self) -> None:
        """Nothing is read ahead."""

    def next_many(self, count: int) -> Blobs:
        """Return the next `count` batches in one."""
        order = self.source.order(self.position)
        indices = np.concatenate([next(order) for _ in range(count)])
        self.position += count
        return self.pick(indices)

    def pick(self, indices: NDArray[np.int64]) -> Blobs:
        """Return the rows of these records."""
        if (np.diff(indices) == 1).all():
            return self._view(int(indices[0]), len(indices))
        return self._copy(indices)

    def _plan(self, number: int) -> Iterator[int | NDArray[np.int64]]:
        """Yield the place of each batch; places are computed for many batches at once."""
        order = self.source.order(number)
        while True:
            # NumPy calls per batch would cost as much as the step of a small head
            many = np.stack([next(order) for _ in range(_PLANNED)])
            follow = (np.diff(many, axis=1) == 1).all(axis=1).tolist()
            for start, straight, indices in zip(many[:, 0].tolist(), follow, many, strict=True):
                yield start if straight else indices

    def _view(self, start: int, count: int) -> Blobs:
        return {key: rows.narrow(0, start, count) for key, rows in self.rows.items()}

    def _copy(self, indices: NDArray[np.int64]) -> Blobs:
        chosen = torch.from_numpy(indices)
        return {key: rows.index_select(0, chosen.to(rows.device)) for key, rows in self.rows.items()}


def load_all(sources: Sequence[DataSource], progress: Progress | None = None) -> None:
    """Read the data that memory is to hold, which finds unreadable records before training starts."""
    for source in sources:
        source.load(progress)
