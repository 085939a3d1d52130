"""Records to choose on that are not those reported: a share of the training records kept back, or a list of its own."""

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

from fusion.data.wrapped import Wrapped
from fusion.errors import TrainingError
from fusion.solver.feeds import DATA_TYPES

if TYPE_CHECKING:
    from torch import Tensor

    from fusion.errors import DataError
    from prototxt.messages import LayerParameter, NetParameter

Share = float | str | os.PathLike[str]  # a share of the training records, or the path of a list
_LISTED = ("image_data_param", "data_param", "hdf5_data_param", "window_data_param")


def held_back(count: int, select_on: Share, seed: int) -> NDArray[np.int64]:
    """The training records kept back, in ascending order; none where a list is given. Raises: TrainingError."""
    if not isinstance(select_on, float):
        return np.empty(0, np.int64)
    number = round(select_on * count)
    if not 0 < number < count:
        raise TrainingError(f"a share of {select_on:g} of {count} training records to choose on", hint="e.g. 0.1")
    return np.sort(np.random.default_rng((seed, 0x5E1)).choice(count, number, replace=False))


def only(batches: Iterable[NDArray[np.int64]], chosen: NDArray[np.bool_], size: int) -> Iterator[NDArray[np.int64]]:
    """The records of an order that are chosen, in batches of one size."""
    waiting = np.empty(0, np.int64)
    for indices in batches:
        waiting = np.concatenate([waiting, indices[chosen[indices]]])
        while len(waiting) >= size:
            yield waiting[:size]
            waiting = waiting[size:]


def listed(net: NetParameter, path: str | os.PathLike[str]) -> NetParameter:
    """The net, reading another list (or database) as it reads its own. Raises: TrainingError where it reads none."""
    message = type(net)()
    message.CopyFrom(net)
    blocks = [getattr(layer, name) for layer in message.layer for name in _LISTED if layer.HasField(name)]
    if not blocks:
        raise TrainingError(f"net '{net.name}' reads no list, so none can be given to choose on", hint="give a share")
    for block in blocks:
        block.source = os.fspath(path)
    return message


def reading_alike(net: NetParameter, train: NetParameter) -> NetParameter:
    """A test net that reads the training net's records as listed, and transforms and groups them as it does its own.

    Raises: TrainingError unless each net has one data layer.
    """
    message = type(net)()
    message.CopyFrom(net)
    own, theirs = _data_layer(message), _data_layer(train)
    kept = type(own)()
    kept.CopyFrom(own)
    own.CopyFrom(theirs)
    for name in ("name", "top", "include", "transform_param"):
        own.ClearField(name)
    own.MergeFrom(type(own)(name=kept.name, top=kept.top, include=kept.include))
    if kept.HasField("transform_param"):
        own.transform_param.CopyFrom(kept.transform_param)
    own.image_data_param.ClearField("shuffle")
    for block in ("image_data_param", "data_param"):
        getattr(own, block).ClearField("rand_skip")
    for block in (*_LISTED, "memory_data_param"):
        if not theirs.HasField(block):
            own.ClearField(block)
        elif kept.HasField(block) and block in _LISTED:
            getattr(own, block).batch_size = getattr(kept, block).batch_size
    return message


def _data_layer(net: NetParameter) -> LayerParameter:
    found = [layer for layer in net.layer if layer.type in DATA_TYPES and layer.top and not layer.bottom]
    if len(found) != 1:
        raise TrainingError(
            f"keeping back a share of the training records needs one data layer, net '{net.name}' has {len(found)}",
            hint="give a list to choose on instead of a share",
        )
    return found[0]


@dataclass(frozen=True, eq=False)
class Chosen(Wrapped):
    """Some records of a source, in the order in which the source visits them.

    records  their numbers in the source, ascending, int64 [N]
    """

    records: NDArray[np.int64]

    @cached_property
    def _number(self) -> NDArray[np.int64]:
        """The number of each of the source's records among the chosen ones, -1 for others."""
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
        found = only(self.source.order(), self._number >= 0, self.batch_size)
        for number, records in enumerate(found):
            if number >= start:
                yield self._number[records]

    def place(self, index: int) -> str:
        return self.source.place(int(self.records[index]))

    def fingerprint(self) -> str:
        return hashlib.sha256(self.source.fingerprint().encode() + self.records.tobytes()).hexdigest()
