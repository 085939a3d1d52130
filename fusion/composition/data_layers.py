"""The fused net's data layers: copies of the sources' own with other lists, names, order or preparation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from fusion.composition.lists import DataLists, ListChoice
from fusion.composition.net_text import PHASES, LayerText, NetText, excerpt, format_layer, quoted, reparse
from fusion.composition.pixels import affine_layers
from fusion.composition.prepared_source import PreparedSource
from fusion.composition.preprocessing import PARAMS, Affine, Stream, describe_stream, draws, draws_crops, list_and_batch
from fusion.errors import ComposeError
from prototxt.text.edits import Edits
from prototxt.text.tree import Message

_PICTURE = 4  # axes of a blob of pictures


@dataclass(frozen=True)
class DataLayerChange:
    """What becomes of a source's data layer.

    lists    its list and batch size
    follows  records come in the order of another layer's, so that shuffling by itself and flipping are taken away
    step     per phase the blob of the layer that it follows, where that draws anything at random
    name     its new name, None to keep it
    blobs    new names of its tops
    added    further tops, which HDF5Data takes from the same files
    dropped  tops that nobody reads, which HDF5Data can do without
    raw      give pixels as they are, in the shape [N, C, H, W] if that is known
    """

    lists: DataLists = field(default_factory=DataLists)
    follows: bool = False
    step: Mapping[str, str] = field(default_factory=dict)
    name: str | None = None
    blobs: Mapping[str, str] = field(default_factory=dict)
    added: Sequence[str] = ()
    dropped: Sequence[str] = ()
    raw: bool = False
    shape: Sequence[int] | None = None


def data_layer_texts(net: NetText, layer: LayerText, change: DataLayerChange) -> list[str]:
    """A data layer's text after the change, or one for each phase. Raises: ComposeError if it takes no list."""
    return [_adapted(net, layer, phases, change) for phases in _split(layer, change.lists)]


def _split(layer: LayerText, lists: DataLists) -> list[tuple[str, ...]]:
    """The phases of each copy of a data layer: one copy, or one per phase where the phases have different lists."""
    if len(layer.phases) == 2 and lists.of("TRAIN") != lists.of("TEST"):
        return [(phase,) for phase in layer.phases]
    return [layer.phases] if layer.phases else []


def _adapted(net: NetText, layer: LayerText, phases: tuple[str, ...], change: DataLayerChange) -> str:
    document = reparse(excerpt(net, layer), net.document.name)
    found = document.root.messages("layer")[0]
    edits = Edits(document)
    _set_reading(edits, net, layer, found, phases, change)
    if phases != layer.phases:
        edits.append_field(found, f"include {{ phase: {phases[0]} }}")
    for item in found.all("top"):
        for scalar in item.values:
            if isinstance(scalar, Message):
                continue
            if scalar.value in change.dropped:
                edits.remove(item)
            elif scalar.value in change.blobs:
                edits.replace(scalar, quoted(change.blobs[scalar.value]))
    for top in change.added:
        edits.insert_field(found, f"top: {quoted(top)}", after=found.all("top")[-1])
    if change.name is not None and found.get("name") is not None:
        edits.set(found, "name", quoted(change.name))
    blob = next((change.step[phase] for phase in phases if phase in change.step), None)
    said = found.get("in_step_with")  # of a source whose own layers are in step
    if blob is not None and said is None:
        edits.insert_field(found, f"in_step_with: {quoted(blob)}", after=found.all("top")[-1])
    elif blob is not None:
        edits.set(found, "in_step_with", quoted(blob))
    elif said is not None and change.follows:
        edits.remove(said)
    if change.raw:
        _give_pixels(edits, layer, found, change.shape)
    return str(edits.apply())


def _set_reading(
    edits: Edits, net: NetText, layer: LayerText, found: Message, phases: Sequence[str], change: DataLayerChange
) -> None:
    """Give the layer its list, its batch size and its order. Raises: ComposeError."""
    wanted, batch = change.lists.of(phases[0])
    if wanted is None and batch is None and not change.follows:
        return
    param = PARAMS.get(layer.type)
    if param is None or found.get(param) is None:
        raise ComposeError(
            f"layer '{layer.name}' of type '{layer.type}' takes no list and no batch size from outside",
            place=net.place(layer),
            hint=f"give the data as one of {', '.join(PARAMS)}",
        )
    block = found.messages(param)[-1]
    if wanted is not None:
        edits.set(block, "source", quoted(wanted))
    if batch is not None:
        edits.set(block, "batch_size", str(batch))
    for switch in ("shuffle", "rand_skip"):
        if change.follows and block.get(switch) is not None:
            edits.set(block, switch, "false" if switch == "shuffle" else "0")
    for transform in found.messages("transform_param") if change.follows and not change.raw else ():
        if transform.get("mirror") is not None:
            edits.set(transform, "mirror", "false")


def _give_pixels(edits: Edits, layer: LayerText, found: Message, shape: Sequence[int] | None) -> None:
    """Take the transform away, and have pictures resized to the shape [N, C, H, W] if it is known."""
    for block in found.all("transform_param"):
        edits.remove(block)
    if layer.type == "ImageData" and shape is not None and len(shape) == _PICTURE:
        pictures = found.messages("image_data_param")[-1]
        for name, value in (("new_height", shape[2]), ("new_width", shape[3])):
            edits.set(pictures, name, str(value))
        edits.set(pictures, "is_color", "true" if shape[1] > 1 else "false")


def image_data_layers(
    lists: DataLists, top: str, size: tuple[int, ...] | None, step: Mapping[str, str] | None = None
) -> list[str]:
    """ImageData layers for both phases; but for the first blob, `data`, the labels come to nothing."""
    body = []
    if size is not None:
        body = [f"  new_height: {size[1]}", f"  new_width: {size[2]}", *(["  is_color: false"] if size[0] == 1 else [])]
    label = "label" if top == "data" else f"{top}_label"
    text = []
    for phase in ("TRAIN", "TEST"):
        source, batch = lists.of(phase)
        block = [f"  source: {quoted(source or '')}", f"  batch_size: {batch or 50}", *body]
        follows = [f"in_step_with: {quoted(step[phase])}"] if step and phase in step else []
        inner = "\n".join([*follows, f"include {{ phase: {phase} }}", "image_data_param {", *block, "}"])
        text.append(format_layer(top, "ImageData", [], [top, label], inner))
    return text if top == "data" else text + silence_layer(f"{label}s", [label])


def silence_layer(name: str, blobs: Iterable[str]) -> list[str]:
    """A layer that takes labels which nobody reads, so that Caffe does not take them for outputs."""
    bottoms = list(blobs)
    return [format_layer(name, "Silence", bottoms, [], comment="The same labels again.")] if bottoms else []


@dataclass
class DataLayerCopy:
    """A data layer of a source on its way into the fused net."""

    source: PreparedSource
    layer: LayerText
    change: DataLayerChange = field(default_factory=DataLayerChange)


@dataclass
class DataLayout:
    """What is settled so far.

    streams  what the fused net's data blobs hold in each phase
    further  the text of layers beside the copies
    listed   sources without data layers that read lists of their own
    unseen   prefixes and phases whose labels were not all compared here, so that whoever reads the records has to
    """

    main: PreparedSource
    labels: Sequence[str]
    choice: ListChoice
    copies: list[DataLayerCopy] = field(default_factory=list)
    streams: dict[str, dict[str, Stream]] = field(default_factory=dict)
    further: list[str] = field(default_factory=list)
    listed: list[tuple[PreparedSource, DataLists]] = field(default_factory=list)
    unseen: set[tuple[str, str]] = field(default_factory=set)
    front: dict[str, list[str]] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def in_step(self) -> bool:
        """Whether other data layers stand beside those of the main source."""
        return len(self.copies) > len(self.main.data_layers) or bool(self.listed)

    def step(self, source: PreparedSource | None = None, layer: LayerText | None = None) -> dict[str, str]:
        """Per phase the main source's blob that another source's layer is in step with, where either draws at random.

        Where nothing is drawn, layers are in step by themselves, in Caffe too; but if their labels were not compared
        here, `in_step_with` has them compared when they are read.
        """
        found: dict[str, str] = {}
        for phase in PHASES:
            path = self.choice.path(source, layer, phase) if source is not None and layer is not None else None
            leaders = [other for other in self.main.data_layers if phase in other.phases]
            same = [other for other in leaders if self.choice.path(self.main, other, phase) == path]
            first = [other for other in leaders if self.main.branch.inputs[0] in other.tops]
            leader = next(iter([*same, *first]), None)
            followed = leader.message.string("in_step_with") if leader is not None else None
            leader = next((other for other in leaders if followed in other.tops), leader)
            crops = layer is not None and phase in layer.phases and draws_crops(layer, phase)
            unseen = source is not None and (source.prefix, phase) in self.unseen
            if leader is not None and (draws(leader, phase) or crops or unseen):
                found[phase] = leader.tops[0]
        return found

    def batch(self, phase: str) -> int | None:
        """The batch size of all data layers of a phase: the wished one, or that of the main source."""
        wished = self.choice.lists.of(phase)[1]
        own = [list_and_batch(layer)[1] for layer in self.main.data_layers if phase in layer.phases]
        return wished or next((batch for batch in own if batch is not None), None)


def phase_streams(source: PreparedSource, layer: LayerText, top: str, choice: ListChoice) -> dict[str, Stream]:
    """What a top of a source's data layer holds, in each phase that the layer is there."""
    return {phase: describe_stream(layer, top, choice.path(source, layer, phase)) for phase in layer.phases}


def add_conversion(
    source: PreparedSource, blob: str, given: str, affine: Affine, layout: DataLayout, comment: str
) -> str:
    """Put layers at the front of a branch that map the pixel values of the fused net's blob `given`.

    Returns the blob that they make, or `given` itself where nothing changes.
    """
    if affine.identity:
        return given
    taken = {name for layer in source.net.layers for name in (*layer.tops, layer.name)} | set(layout.streams)
    made = f"{source.prefix}/{blob.removeprefix(source.prefix + '/')}_prepared"
    while made in taken:
        made += "_"
    layout.front.setdefault(source.prefix, []).extend(affine_layers(made, given, affine, comment))
    layout.origins[made] = given
    return made
