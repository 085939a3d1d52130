"""Validation records, which are not those reported: a share of the training records kept back, or another list."""

# ruff: noqa: D102 - the members of a source are described in fusion.data.Source
from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fusion.data.list_files import class_share
from fusion.data.replaced_list import LISTED_PARAMS
from fusion.data.source_wrapper import SourceWrapper
from fusion.errors import TrainingError
from fusion.solver.batches import data_layers

if TYPE_CHECKING:
    from torch import Tensor

    from fusion.data import DataSource
    from fusion.errors import DataError
    from prototxt.schema.messages import LayerParameter, NetParameter

Share = float | str | os.PathLike[str]  # a share of the training records, or the path of a list


def validation_records(source: DataSource, select_on: Share, seed: int) -> NDArray[np.int64]:
    """Return the training records kept back, in ascending order; none where a list is given.

    Each class gives the same share of its records, rounded up or down. Raises: TrainingError.
    """
    if not isinstance(select_on, float):
        return np.empty(0, np.int64)
    count = len(source)
    number = round(select_on * count) if 0 < select_on < 1 else 0
    if not 0 < number < count:
        raise TrainingError(f"a share of {select_on:g} of {count} training records for validation", hint="e.g. 0.1")
    return class_share(source.labels, count, number, seed)


def filter_batches(
    batches: Iterable[NDArray[np.int64]], selected: NDArray[np.bool_], size: int
) -> Iterator[NDArray[np.int64]]:
    """Yield the selected records of an order, in batches of one size."""
    waiting = np.empty(0, np.int64)
    for indices in batches:
        waiting = np.concatenate([waiting, indices[selected[indices]]])
        while len(waiting) >= size:
            yield waiting[:size]
            waiting = waiting[size:]


def with_training_data(net: NetParameter, train: NetParameter) -> NetParameter:
    """Return the test net, reading the training net's records in their order, but transformed and batched as its own.

    Raises: TrainingError where the data layers of the two do not give the same blobs.
    """
    message = type(net)()
    message.CopyFrom(net)
    own, theirs = data_layers(message), data_layers(train)
    matching = {layer.top[0]: layer for layer in theirs}
    if len(own) == len(theirs) == 1:
        matching = {own[0].top[0]: theirs[0]}
    if not own or len(own) != len(theirs) or matching.keys() != {layer.top[0] for layer in own}:
        shown = [", ".join(layer.top[0] for layer in layers) or "none" for layers in (theirs, own)]
        raise TrainingError(
            "keeping back a share of the training records needs data layers that give the same blobs in training and "
            f"test; those of net '{net.name}' give {shown[0]} in training and {shown[1]} in the test",
            hint="give a validation list instead of a share",
        )
    for layer in own:
        _read_alike(layer, matching[layer.top[0]])
    return message


def _read_alike(own: LayerParameter, theirs: LayerParameter) -> None:
    before = type(own)()
    before.CopyFrom(own)
    own.CopyFrom(theirs)
    for name in ("name", "top", "include", "transform_param"):
        own.ClearField(name)
    own.MergeFrom(type(own)(name=before.name, top=before.top, include=before.include))
    if before.HasField("transform_param"):
        own.transform_param.CopyFrom(before.transform_param)
    own.image_data_param.ClearField("shuffle")  # each test must see the same records
    own.hdf5_data_param.ClearField("shuffle")
    for block in ("image_data_param", "data_param"):
        getattr(own, block).ClearField("rand_skip")
    for block in (*LISTED_PARAMS, "memory_data_param"):
        if not theirs.HasField(block):
            own.ClearField(block)
        elif before.HasField(block) and block in LISTED_PARAMS:
            getattr(own, block).batch_size = getattr(before, block).batch_size


@dataclass(frozen=True, eq=False)
class SourceSubset(SourceWrapper):
    """A part of a source's records, in the order in which the source visits them.

    records  their numbers in the source, ascending, int64 [N]
    """

    records: NDArray[np.int64]

    @cached_property
    def _number(self) -> NDArray[np.int64]:
        """Return the number of each of the source's records among the selected ones, -1 for others."""
        numbers = np.full(len(self.source), -1, np.int64)
        numbers[self.records] = np.arange(len(self.records))
        return numbers

    @cached_property
    def keys(self) -> Sequence[str]:
        keys = self.source.keys
        return [keys[record] for record in self.records.tolist()]

    @property
    def labels(self) -> NDArray[np.int64] | None:
        labels = self.source.labels
        return None if labels is None else labels[self.records]

    @property
    def bad(self) -> Mapping[int, DataError]:
        numbers = self._number
        return {int(numbers[record]): error for record, error in self.source.bad.items() if numbers[record] >= 0}

    def __len__(self) -> int:
        return len(self.records)

    def batch(self, indices: NDArray[np.int64], draw: int = 0) -> dict[str, Tensor]:
        return self.source.batch(self.records[indices], draw)

    def order(self, start: int = 0) -> Iterator[NDArray[np.int64]]:
        found = filter_batches(self.source.order(), self._number >= 0, self.batch_size)
        for number, records in enumerate(found):
            if number >= start:
                yield self._number[records]

    def place(self, index: int) -> str:
        return self.source.place(int(self.records[index]))

    def fingerprint(self) -> str:
        return hashlib.sha256(self.source.fingerprint().encode() + self.records.tobytes()).hexdigest()
