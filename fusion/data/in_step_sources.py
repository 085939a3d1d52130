"""Data layers in step: record N of one belongs to record N of the others, so that together they are one source."""

# ruff: noqa: D102 - DataSource documents the members
from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fusion.data.decoded_cache import Progress
from fusion.data.dummy_data import DummySource
from fusion.data.source import DataSource, ImageSource
from fusion.data.source_wrapper import SourceWrapper
from fusion.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from prototxt.schema.messages import LayerParameter

_FLIPPING = ("Data", "ImageData", "WindowData")
_SWITCHES = ("shuffle", "rand_skip")
_BLOCKS = ("image_data_param", "data_param", "hdf5_data_param")


class UnpairedData(UserWarning):
    """Two data layers of equal length draw order, flips or crops independently, as in Caffe."""


@dataclass(frozen=True, eq=False)
class InStep:
    """Several data layers as one source: all read the records in the first one's order.

    members  the layers' sources; they draw from one seed
    """

    members: tuple[DataSource, ...]

    @property
    def tops(self) -> tuple[str, ...]:
        return tuple(top for member in self.members for top in member.tops)

    @property
    def batch_size(self) -> int:
        return self.members[0].batch_size

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {top: shape for member in self.members for top, shape in member.shapes.items()}

    @property
    def keys(self) -> Sequence[str]:
        return self.members[0].keys

    @cached_property
    def _labelled(self) -> DataSource | None:
        return next((member for member in self.members if member.labels is not None), None)

    @property
    def labels(self) -> NDArray[np.int64] | None:
        return None if self._labelled is None else self._labelled.labels

    @property
    def label_tops(self) -> tuple[str, ...]:
        # stable: the labelled member first, the others in the order of the net
        ordered = sorted(self.members, key=lambda member: member is not self._labelled)
        return tuple(top for member in ordered for top in member.label_tops)

    @property
    def deterministic(self) -> bool:
        return all(member.deterministic for member in self.members)

    @property
    def in_memory(self) -> bool:
        return all(member.in_memory for member in self.members)

    @property
    def bad(self) -> Mapping[int, DataError]:
        return {index: error for member in reversed(self.members) for index, error in member.bad.items()}

    def __len__(self) -> int:
        return len(self.members[0])

    def load(self, progress: Progress | None = None) -> None:
        for member in self.members:
            member.load(progress)

    def batch(self, indices: NDArray[np.int64], draw: int = 0) -> dict[str, Tensor]:
        images = [member for member in self.members if isinstance(member, ImageSource)]
        values, indices = read_values(images, indices, draw)
        by_member = {id(member): member.finish(found, indices) for member, found in zip(images, values, strict=True)}
        blobs: dict[str, Tensor] = {}
        for member in self.members:
            blobs.update(by_member[id(member)] if id(member) in by_member else member.batch(indices, draw))
        return blobs

    def order(self, start: int = 0) -> Iterator[NDArray[np.int64]]:
        return self.members[0].order(start)

    def place(self, index: int) -> str:
        return self.members[0].place(index)

    def fingerprint(self) -> str:
        return hashlib.sha256(" ".join(member.fingerprint() for member in self.members).encode()).hexdigest()


def read_values(
    members: Sequence[ImageSource], indices: NDArray[np.int64], draw: int
) -> tuple[list[NDArray[np.float32]], NDArray[np.int64]]:
    """Return each layer's pixels for these records, and the records' numbers: a record bad in one is skipped in all.

    Raises: DataError.
    """
    for _ in range(1 + sum(map(len, members))):
        values, current = [], indices
        for member in members:
            pixels, current = member.values(current, draw)
            values.append(pixels)
        if (current == indices).all():
            return values, indices
        indices = current  # a member skipped a record: read its replacement in all of them
    raise DataError("no record is good in all data layers that are in step", place=members[0].place(0))


def leader_of(layer: LayerParameter, layers: Sequence[LayerParameter]) -> LayerParameter | None:
    """Return the data layer that `in_step_with` names. Raises: DataError if there is none or it follows another."""
    if not layer.HasField("in_step_with"):
        return None
    found = next((other for other in layers if layer.in_step_with in other.top), None)
    if found is None or found is layer:
        tops = ", ".join(top for other in layers if other is not layer for top in other.top)
        raise _wrong(
            layer, f"in_step_with: no other data layer has the blob '{layer.in_step_with}'", f"there are {tops}"
        )
    if found.HasField("in_step_with"):
        text = f"in_step_with: the layer of '{layer.in_step_with}' is in step with '{found.in_step_with}' itself"
        raise _wrong(layer, text, f'write in_step_with: "{found.in_step_with}"')
    return found


def as_follower(layer: LayerParameter, leader: LayerParameter) -> LayerParameter:
    """Return a copy of the layer that flips as its leader does. Raises: DataError for settings the leader lacks."""
    copy = deepcopy(layer)
    own, leading = _random_settings(layer), _random_settings(leader)
    for name in sorted(own - leading):
        text = f"{name} is set here, but not in layer '{leader.name}', which this one is in step with"
        raise _wrong(layer, text, f"set {name} in '{leader.name}', or leave it out here")
    if "mirror" in leading:
        if layer.type not in _FLIPPING:
            text = f"layer '{leader.name}' is mirrored at random, and {layer.type} cannot be"
            raise _wrong(layer, text, f"leave mirror out of '{leader.name}', or give this data as ImageData or Data")
        copy.transform_param.mirror = True
    return copy


def join_followers(leader: DataSource, followers: Sequence[tuple[LayerParameter, DataSource]]) -> DataSource:
    """Return one source for a layer and those in step with it. Raises: DataError where they do not fit."""
    for layer, source in followers:
        reason = _mismatch(leader, source)
        if reason is not None:
            text = f"in step with '{layer.in_step_with}', but {reason}"
            raise _wrong(layer, text, "give lists of the same records in the same order, or leave in_step_with out")
    return InStep((leader, *(source for _, source in followers))) if followers else leader


def combine_in_step(sources: Sequence[tuple[LayerParameter, DataSource]]) -> list[DataSource]:
    """Return these layers' sources, one for those that are in step in Caffe too, because they draw nothing at random.

    Warns: UnpairedData for layers that would be in step if they drew nothing.
    """
    # Constant blobs fit any layer, so a DummyData layer cannot say which order the others must have.
    lead = next((pair for pair in sources if not isinstance(pair[1], DummySource)), None)
    if lead is None:
        return [source for _, source in sources]
    joined, separate = list[DataSource](), list[DataSource]()
    for layer, source in sources:
        if source is not lead[1] and _mismatch(lead[1], source) is not None:
            separate.append(source)
        elif source is lead[1] or isinstance(source, DummySource) or not (_draws(*lead) or _draws(layer, source)):
            joined += source.members if isinstance(source, InStep) else [source]
        else:
            separate.append(source)
            _warn(lead[0], layer, len(source))
    first = lead[1].members if isinstance(lead[1], InStep) else (lead[1],)
    members = (*first, *(member for member in joined if all(member is not one for one in first)))
    return [InStep(members) if len(members) > 1 else lead[1], *separate]


def members_of(source: DataSource) -> tuple[DataSource, ...]:
    """Return the sources of the data layers in a combined source; else the source itself."""
    inner = source
    while isinstance(inner, SourceWrapper):
        inner = inner.source
    return inner.members if isinstance(inner, InStep) else (source,)


def single_source(sources: Sequence[DataSource], purpose: str) -> DataSource:
    """Return the one source, which `purpose` ("mixup needs") takes. Raises: DataError for none or several."""
    if len(sources) == 1:
        return sources[0]
    if not sources:
        raise DataError(f"{purpose} a data layer, and this net has none")
    first, other = sources[0], sources[1]
    shown = "; ".join(
        f"'{source.tops[0]}' gives {len(source)} records in batches of {source.batch_size}" for source in sources
    )
    raise DataError(
        f"{purpose} data layers whose records belong together, and those of this net do not: {shown}",
        place=other.place(0),
        hint=f"""if record N of one belongs to record N of the other, say so in the layer of '{other.tops[0]}': """
        f"""in_step_with: "{first.tops[0]}" (docs/data.md)""",
    )


def _mismatch(leader: DataSource, other: DataSource) -> str | None:
    """Return why records N of the two cannot belong together; None if they can."""
    if leader.batch_size != other.batch_size:
        return f"its batches hold {other.batch_size} records, and those of '{leader.tops[0]}' {leader.batch_size}"
    if isinstance(other, DummySource):
        return None if other.deterministic else "it is filled at random"
    if len(leader) != len(other):
        return f"it has {len(other)} records, and '{leader.tops[0]}' {len(leader)}"
    return None if list(leader.keys) == list(other.keys) else label_difference(leader, other)


def label_difference(leader: DataSource, other: DataSource) -> str | None:
    """Return where the labels of two sources of equal length differ; None if they do not, or there are none."""
    mine, theirs = leader.labels, other.labels
    if mine is None or theirs is None:
        return None
    wrong = np.flatnonzero(mine != theirs)
    if not len(wrong):
        return None
    at = int(wrong[0])
    return (
        f"its labels differ in {len(wrong)} of {len(other)} records, first at {other.place(at)} "
        f"({theirs[at]}, and {mine[at]} at {leader.place(at)})"
    )


def _random_settings(layer: LayerParameter) -> set[str]:
    """Return the settings of a layer that draw order or flips."""
    blocks = [getattr(layer, block) for block in _BLOCKS if layer.HasField(block)]
    found = {name for block in blocks for name in _SWITCHES if getattr(block, name, None)}
    return found | ({"mirror"} if layer.transform_param.mirror else set())


def _draws(layer: LayerParameter, source: DataSource) -> bool:
    return bool(_random_settings(layer)) or layer.type == "WindowData" or not source.deterministic


def _warn(leader: LayerParameter, layer: LayerParameter, records: int) -> None:
    text = (
        f"data layers '{leader.name}' and '{layer.name}' hold {records} records each, and each draws its own order, "
        f"flips or crops, as in Caffe: their records do not belong together"
    )
    hint = f"""if they should, give '{layer.name}' in_step_with: "{leader.top[0]}" (docs/data.md)"""
    warnings.warn(f"{text}; {hint}", UnpairedData, stacklevel=2)


def _wrong(layer: LayerParameter, text: str, hint: str) -> DataError:
    return DataError(text, place=f"layer '{layer.name}'", hint=hint)


def layer_seed(seed: int, number: int) -> int:
    """Return the seed of data layer `number`, so that independent layers draw different numbers."""
    return seed if not number else int(np.random.default_rng((seed, 0xDA7A, number)).integers(1 << 31))
