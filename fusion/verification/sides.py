"""A net with its weights, and what it is fed to be compared with another."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from fusion.nets.build import build
from fusion.nets.graph import Net
from fusion.nets.inputs import image_preparation, input_shapes, known_input_shapes, noise
from fusion.nets.shared_memory import SHARED_MEMORY
from fusion.nets.weights import load_weights
from prototxt.schema.filter import filter_net, filter_whole
from prototxt.schema.load import load_net
from prototxt.schema.messages import NetParameter
from prototxt.shapes.dimensions import UNKNOWN, Shape
from prototxt.shapes.registry import layer_type

Path = str | os.PathLike[str]


@dataclass(frozen=True)
class Feed:
    """What both sides are given.

    pictures  files; without any, standard normal noise
    batch     samples of noise
    shapes    of inputs that a net does not tell
    stages    of the nets' state, as DIGITS writes them
    """

    pictures: Sequence[str] = ()
    batch: int = 2
    seed: int = 0
    shapes: Mapping[str, Sequence[int]] | None = None
    stages: Sequence[str] = ()

    @property
    def words(self) -> str:
        """What it is, for a message."""
        return f"{len(self.pictures)} pictures" if self.pictures else f"noise with seed {self.seed}"


NOISE = Feed()


@dataclass(frozen=True)
class Side:
    """A net with its weights, its description, what to call it, and its layers that the weights lack."""

    net: Net
    message: NetParameter
    shapes: Mapping[str, tuple[int, ...]]
    label: str
    missing: tuple[str, ...]


def opened(
    description: Path,
    weights: Path,
    feed: Feed,
    *,
    fallback: Mapping[str, Sequence[int]] | None = None,
    otherwise: Mapping[str, Shape] | None = None,
    prefix: str = "",
    source_of: str = "",
) -> Side:
    """A net in phase TEST with its weights, for batches as long as the feed's.

    fallback  shapes of the other net's inputs, for inputs of the same name, with the prefix or without
    otherwise  shapes of inputs that the net itself does not tell, its data not being here
    source_of  the prefix under which a fused net knows this one: its inputs are asked for by that
    """
    place = os.fspath(description)
    message = filter_whole(load_net(description), "TEST", stages=feed.stages)
    batch = len(feed.pictures) or feed.batch
    tops = {top for layer in message.layer if not layer.bottom for top in layer.top}
    given = _same_inputs(fallback or {}, message, tops, prefix)
    given.update({blob: (batch, *shape[1:]) for blob, shape in (feed.shapes or {}).items()})
    mine = {blob: shape for blob, shape in given.items() if blob in tops}
    shapes = input_shapes(message, batch=batch, given=mine, otherwise=otherwise, place=place, option_prefix=source_of)
    net = build(message, shapes=shapes, seed=0)
    missing = load_weights(net, weights).missing
    return Side(net, message, shapes, f"{place} with {os.fspath(weights)}", missing)


def _same_inputs(
    shapes: Mapping[str, Sequence[int]], message: NetParameter, tops: Collection[str], prefix: str
) -> dict[str, Sequence[int]]:
    """Shapes of the other net's inputs for those of this net that are the same: with the prefix, or else of one name.

    An input of one name is another one where this net gives it another shape, and gives the other net's to a third.
    """
    known = {blob: tuple(shape[1:]) for blob, shape in known_input_shapes(message).items() if shape is not UNKNOWN}
    found: dict[str, Sequence[int]] = {}
    for blob, shape in shapes.items():
        if f"{prefix}/{blob}" in tops:
            found[f"{prefix}/{blob}"] = shape
        elif known.get(blob, tuple(shape[1:])) == tuple(shape[1:]) or tuple(shape[1:]) not in known.values():
            found[blob] = shape
    return found


def source_feed(feed: Feed, fused: Path, source: Path, prefix: str) -> Feed:
    """The feed for a source: shapes are given by the fused net's names, where its `data` may be `PREFIX/data`.

    A shape of one name means another input where the source's own differs, and the fused net tells just that shape.
    """
    given = feed.shapes or {}
    theirs, mine = (_known(path, feed) for path in (fused, source)) if given else ({}, {})
    shapes = {
        blob: shape
        for blob, shape in given.items()
        if f"{prefix}/{blob}" not in theirs
        and not (theirs.get(blob) == tuple(shape[1:]) != mine.get(blob) and mine.get(blob) is not None)
    }
    start = f"{prefix}/"
    shapes.update({blob.removeprefix(start): shape for blob, shape in given.items() if blob.startswith(start)})
    return replace(feed, shapes=shapes)


def _known(path: Path, feed: Feed) -> dict[str, Shape | None]:
    """What a net tells of a sample of each of its inputs."""
    known = known_input_shapes(filter_whole(load_net(path), "TEST", stages=feed.stages))
    return {blob: None if shape is UNKNOWN else tuple(shape[1:]) for blob, shape in known.items()}


def branch_inputs(fused: Path, prefix: str) -> dict[str, Shape]:
    """What the fused net feeds a branch, by the source's names of the blobs, as far as its description tells."""
    inputs = known_input_shapes(filter_net(load_net(fused), phase="TEST"))
    shared = {blob: shape for blob, shape in inputs.items() if f"{prefix}/{blob}" not in inputs}
    own = {blob.removeprefix(f"{prefix}/"): shape for blob, shape in inputs.items() if blob.startswith(f"{prefix}/")}
    return {blob: shape for blob, shape in {**shared, **own}.items() if shape is not UNKNOWN}


def inputs_of(source: Side, net: Net, feed: Feed) -> dict[str, Tensor]:
    """What the inputs of a net are fed that computes values of this side's net."""
    made = {}
    for key, _ in net.plan.inputs:
        if feed.pictures:
            made[key] = image_preparation(source.message, key, source.shapes[key]).tensor(feed.pictures)
        else:
            made[key] = noise(key, source.shapes[key], feed.seed)
    return made


def computed_values(side: Side) -> set[str]:
    """Values that follow from pictures alone and are neither a loss nor a measure: labels are not at hand."""
    known = {value for key, value in side.net.plan.inputs if len(side.shapes[key]) > 1}
    for call in side.net.plan.calls:
        judges = call.type == "Accuracy" or (call.type != SHARED_MEMORY and layer_type(call.type).loss)
        if known.issuperset(call.bottoms) and not judges:
            known.update(call.tops)
    return known


def output_values(side: Side) -> list[str]:
    """The net's outputs, as far as they are `computed_values`."""
    computed = computed_values(side)
    return [value for _, value in side.net.plan.outputs if value in computed]
