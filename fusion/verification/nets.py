"""The two sides of a comparison: nets with their weights, and their inputs."""

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
from prototxt.shapes.net import infer_partly
from prototxt.shapes.registry import layer_type

Path = str | os.PathLike[str]


@dataclass(frozen=True)
class Feed:
    """The inputs of both sides.

    pictures  image files; standard normal noise if empty
    batch     samples of noise
    shapes    of inputs that a net does not define
    stages    of the nets' state, as DIGITS writes them
    """

    pictures: Sequence[str] = ()
    batch: int = 2
    seed: int = 0
    shapes: Mapping[str, Sequence[int]] | None = None
    stages: Sequence[str] = ()

    @property
    def words(self) -> str:
        """Return a description for a message."""
        return f"{len(self.pictures)} pictures" if self.pictures else f"noise with seed {self.seed}"


NOISE = Feed()


@dataclass(frozen=True)
class Side:
    """A net with its weights, its description, a label for messages, and the layers without weights."""

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
    """Build a net in phase TEST with its weights, for batches as long as the feed's.

    fallback   shapes of the other net's inputs, for inputs of the same name, with the prefix or without
    otherwise  shapes of inputs that the net itself does not define because its data is not available
    source_of  the prefix of this net in a fused net: errors name its inputs with that prefix
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
    """Return the shapes of the other net's inputs for matching inputs of this net: with the prefix, or of one name.

    Inputs of one name do not match if this net gives its own another shape, and the other net's shape to a third.
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
    """Return the feed for a source: shapes use the fused net's names, where the source's `data` may be `PREFIX/data`.

    A shape of the same name belongs to another input if the fused net has exactly that shape and the source differs.
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
    """Return the shape per sample of each of a net's inputs, as far as it is known."""
    known = known_input_shapes(filter_whole(load_net(path), "TEST", stages=feed.stages))
    return {blob: None if shape is UNKNOWN else tuple(shape[1:]) for blob, shape in known.items()}


def branch_inputs(fused: Path, prefix: str) -> dict[str, Shape]:
    """Return the shapes of a branch's inputs by the source's blob names, as far as the fused net defines them."""
    inputs = known_input_shapes(filter_net(load_net(fused), phase="TEST"))
    shared = {blob: shape for blob, shape in inputs.items() if f"{prefix}/{blob}" not in inputs}
    own = {blob.removeprefix(f"{prefix}/"): shape for blob, shape in inputs.items() if blob.startswith(f"{prefix}/")}
    return {blob: shape for blob, shape in {**shared, **own}.items() if shape is not UNKNOWN}


def computed_inputs(fused: Path, source: Path, prefix: str) -> dict[str, Shape]:
    """Return the known shapes of the source's inputs that the fused net computes, such as the cut of another branch.

    They are found by the layers that read them.
    """
    whole, own = (filter_net(load_net(path), phase="TEST") for path in (fused, source))
    shapes = infer_partly(whole)[0].blobs
    made = {top for layer in whole.layer if layer.bottom for top in layer.top if not top.startswith(f"{prefix}/")}
    layers = {layer.name: layer for layer in whole.layer}
    found = {
        here: shapes.get(there, UNKNOWN)
        for layer in own.layer
        if f"{prefix}/{layer.name}" in layers
        for here, there in zip(layer.bottom, layers[f"{prefix}/{layer.name}"].bottom, strict=False)
        if there in made
    }
    return {blob: shape for blob, shape in found.items() if shape is not UNKNOWN}


def inputs_of(source: Side, net: Net, feed: Feed) -> dict[str, Tensor]:
    """Return the inputs, float32, of a net that computes values of this side's net."""
    inputs = {}
    for key, _ in net.plan.inputs:
        if feed.pictures:
            inputs[key] = image_preparation(source.message, key, source.shapes[key]).tensor(feed.pictures)
        else:
            inputs[key] = noise(key, source.shapes[key], feed.seed)
    return inputs


def computed_values(side: Side) -> set[str]:
    """Return the values that depend on images alone and are neither a loss nor an accuracy: there are no labels."""
    known = {value for key, value in side.net.plan.inputs if len(side.shapes[key]) > 1}
    for call in side.net.plan.calls:
        judges = call.type == "Accuracy" or (call.type != SHARED_MEMORY and layer_type(call.type).loss)
        if known.issuperset(call.bottoms) and not judges:
            known.update(call.tops)
    return known


def output_values(side: Side) -> list[str]:
    """Return the net's outputs that are in `computed_values`."""
    computed = computed_values(side)
    return [value for _, value in side.net.plan.outputs if value in computed]
