"""The fused net's data layers: copies of the sources' own with other lists, names, order or preparation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from fusion.composition.lists import DataLists, ListChoice
from fusion.composition.net_text import PHASES, LayerText, NetText, excerpt, format_layer, quoted, reparse
from fusion.composition.pixels import affine_layers
from fusion.composition.prepared_source import PreparedSource
from fusion.composition.preprocessing import (
    PARAMS,
    Affine,
    Stream,
    crops_at_random,
    describe_stream,
    list_and_batch,
    uses_random_numbers,
)
from fusion.errors import ComposeError
from prototxt.formats.class_folders import is_image_folder
from prototxt.text.edits import Edits
from prototxt.text.tree import Message

_IMAGE_AXES = 4


@dataclass(frozen=True)
class DataLayerChange:
    """The changes to a source's data layer.

    lists    its list and batch size
    follows  records come in the order of another layer's, so that its own shuffling and flipping are turned off
    step     per phase the blob of the layer that it follows, where that uses random numbers
    name     its new name, None to keep it
    blobs    new names of its tops
    added    further tops, which HDF5Data takes from the same files
    dropped  tops that nobody reads, which HDF5Data can do without
    raw      output raw pixels, in the shape [N, C, H, W] if that is known
    shuffle  shuffle the records in phase TRAIN
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
    shuffle: bool = False


def data_layer_texts(net: NetText, layer: LayerText, change: DataLayerChange) -> list[str]:
    """Return a data layer's text after the change, or one per phase if the lists of the phases differ.

    Raises: ComposeError if it takes no list.
    """
    groups = [layer.phases] if layer.phases else []
    differ = change.lists.for_phase("TRAIN") != change.lists.for_phase("TEST")
    differ = differ or change.lists.split or change.shuffle
    if len(layer.phases) == 2 and differ:
        groups = [(phase,) for phase in layer.phases]
    return [_changed_text(net, layer, phases, change) for phases in groups]


def _changed_text(net: NetText, layer: LayerText, phases: tuple[str, ...], change: DataLayerChange) -> str:
    document = reparse(excerpt(net, layer), net.file)
    found = document.root.messages("layer")[0]
    edits = Edits(document)
    # Edits of the same text, applied at once below; the order of fields in the file stays.
    _set_records(edits, net, layer, found, phases, change)
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
    own = found.get("in_step_with")  # of a source whose own layers are in step
    if blob is not None and own is None:
        edits.insert_field(found, f"in_step_with: {quoted(blob)}", after=found.all("top")[-1])
    elif blob is not None:
        edits.set(found, "in_step_with", quoted(blob))
    elif own is not None and change.follows:
        edits.remove(own)
    if change.raw:
        _remove_transform(edits, layer, found, change.shape)
    return str(edits.apply())


def _set_records(
    edits: Edits, net: NetText, layer: LayerText, found: Message, phases: Sequence[str], change: DataLayerChange
) -> None:
    """Give the layer its list, its batch size and its order. Raises: ComposeError."""
    path, batch = change.lists.for_phase(phases[0])
    if path is None and batch is None and not (change.follows or change.shuffle):
        return
    param = PARAMS.get(layer.type)
    if param is None or found.get(param) is None:
        message = f"layer '{layer.name}' of type '{layer.type}' takes no list and no batch size from outside"
        raise ComposeError(message, place=net.place(layer), hint=f"give the data as one of {', '.join(PARAMS)}")
    block = found.messages(param)[-1]
    if path is not None:
        edits.set(block, "source", quoted(path))
        if is_image_folder(path) and (root := block.get("root_folder")) is not None:
            edits.remove(root)  # it is for the names in a list
    if change.shuffle and not change.follows and phases[0] == "TRAIN":
        edits.set(block, "shuffle", "true")
    if batch is not None:
        edits.set(block, "batch_size", str(batch))
    for switch in ("shuffle", "rand_skip"):  # the layer that is followed has drawn these already
        if change.follows and block.get(switch) is not None:
            edits.set(block, switch, "false" if switch == "shuffle" else "0")
    for transform in found.messages("transform_param") if change.follows and not change.raw else ():
        if transform.get("mirror") is not None:
            edits.set(transform, "mirror", "false")


def _remove_transform(edits: Edits, layer: LayerText, found: Message, shape: Sequence[int] | None) -> None:
    """Remove the transform, and resize images to the shape [N, C, H, W] if it is known."""
    for transform in found.all("transform_param"):
        edits.remove(transform)
    if layer.type == "ImageData" and shape is not None and len(shape) == _IMAGE_AXES:
        block = found.messages("image_data_param")[-1]
        for name, value in (("new_height", shape[2]), ("new_width", shape[3])):
            edits.set(block, name, str(value))
        edits.set(block, "is_color", "true" if shape[1] > 1 else "false")


def image_data_layers(
    lists: DataLists, top: str, size: Sequence[int | None] | None, step: Mapping[str, str]
) -> list[str]:
    """Return ImageData layers for both phases; labels are silenced except for those of the first blob, `data`.

    size  channels, height and width, as far as they are known
    step  per phase the blob of the layer that they follow; a layer that trains on a folder and follows none shuffles
    """
    body = []
    if size is not None:
        sides = zip(("new_height", "new_width"), size[1:], strict=True)
        body = [f"  {name}: {side}" for name, side in sides if side] + ["  is_color: false"] * (size[0] == 1)
    label = "label" if top == "data" else f"{top}_label"
    text = []
    for phase in ("TRAIN", "TEST"):
        source, batch = lists.for_phase(phase)
        block = [f"  source: {quoted(source or '')}", f"  batch_size: {batch or 50}", *body]  # 50 as in the tutorial
        follows = [f"in_step_with: {quoted(step[phase])}"] if phase in step else []
        if phase == "TRAIN" and not follows and is_image_folder(source or ""):
            block.append("  shuffle: true")
        inner = "\n".join([*follows, f"include {{ phase: {phase} }}", "image_data_param {", *block, "}"])
        text.append(format_layer(top, "ImageData", [], [top, label], inner))
    return text if top == "data" else text + silence_layer(f"{label}s", [label])


def silence_layer(name: str, blobs: Iterable[str]) -> list[str]:
    """Return a Silence layer for labels that no layer reads, which would be outputs of the net for Caffe."""
    bottoms = list(blobs)
    return [format_layer(name, "Silence", bottoms, [], comment="The same labels again.")] if bottoms else []


@dataclass
class DataLayerCopy:
    """A data layer of a source and its changes for the fused net."""

    source: PreparedSource
    layer: LayerText
    change: DataLayerChange = field(default_factory=DataLayerChange)


@dataclass
class DataLayout:
    """The fused net's data layers while they are being decided.

    streams  the content of the fused net's data blobs in each phase
    further  the text of layers beside the copies
    listed   sources without data layers that get image layers over lists of their own
    unseen   prefixes and phases whose labels could not all be compared here: training and testing compare them
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

    def note(self, text: str) -> None:
        """Add a note about the data."""
        self.notes.append(f"data: {text}")

    def step(self, source: PreparedSource | None = None, layer: LayerText | None = None) -> dict[str, str]:
        """Return per phase the main source's blob that another layer follows, where either uses random numbers.

        Without random numbers layers are in step by themselves, in Caffe too; but if their labels could not be
        compared here, `in_step_with` has them compared when they are read.
        """
        found: dict[str, str] = {}
        for phase in PHASES:
            path = self.choice.path(source, layer, phase) if source is not None and layer is not None else None
            leader = self._leader(phase, path)
            crops = layer is not None and phase in layer.phases and crops_at_random(layer, phase)
            unseen = source is not None and (source.prefix, phase) in self.unseen
            if leader is not None and (self._is_random(leader, phase) or crops or unseen):
                found[phase] = leader.tops[0]
        return found

    def _leader(self, phase: str, path: str | None = None) -> LayerText | None:
        """Return the main source's layer that others follow: that which reads `path`, else that of its first input."""
        leaders = [other for other in self.main.data_layers if phase in other.phases]
        same = [other for other in leaders if self.choice.path(self.main, other, phase) == path]
        first = [other for other in leaders if self.main.branch.inputs[0] in other.tops]
        leader = next(iter([*same, *first]), None)
        # A leader may itself follow another layer, which then leads both.
        followed = leader.message.string("in_step_with") if leader is not None else None
        return next((other for other in leaders if followed in other.tops), leader)

    def _is_random(self, layer: LayerText, phase: str) -> bool:
        """Return whether a layer of the main source uses random numbers in the fused net."""
        return uses_random_numbers(layer, phase) or self.choice.needs_shuffle(self.main, layer, phase)

    def follows_shuffled(self, layer: LayerText) -> bool:
        """Return whether a further data layer of the main source is beside one that trains on a shuffled folder."""
        leader = self._leader("TRAIN")
        if leader is None or leader is layer or "TRAIN" not in layer.phases:
            return False
        return self.choice.needs_shuffle(self.main, leader, "TRAIN")

    def batch(self, phase: str) -> int | None:
        """Return the batch size of all data layers of a phase: as requested, or that of the main source."""
        requested = self.choice.lists.for_phase(phase)[1]
        own = [list_and_batch(layer)[1] for layer in self.main.data_layers if phase in layer.phases]
        return requested or next((batch for batch in own if batch is not None), None)


def phase_streams(source: PreparedSource, layer: LayerText, top: str, choice: ListChoice) -> dict[str, Stream]:
    """Return the content of a top of a source's data layer, in each phase of the layer."""
    return {phase: describe_stream(layer, top, choice.path(source, layer, phase)) for phase in layer.phases}


def map_blob(source: PreparedSource, blob: str, given: str, affine: Affine, layout: DataLayout, comment: str) -> str:
    """Add layers at the start of a branch that map the pixel values of the fused net's blob `given`.

    Returns the blob that they make, or `given` itself if nothing changes.
    """
    if affine.identity:
        return given
    used = {name for layer in source.net.layers for name in (*layer.tops, layer.name)} | set(layout.streams)
    top = f"{source.prefix}/{blob.removeprefix(source.prefix + '/')}_prepared"
    while top in used:  # the source may have a blob of this name
        top += "_"
    layout.front.setdefault(source.prefix, []).extend(affine_layers(top, given, affine, comment))
    layout.origins[top] = given
    return top
