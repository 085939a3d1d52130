"""The text of the fused net's data layers: those of a source, with other lists, names, order or preparation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from fusion.composition.lists import Lists
from fusion.composition.net_text import Layer, Net, excerpt, layer_text, quoted, reparse
from fusion.composition.preprocessing import PARAMS
from fusion.errors import ComposeError
from prototxt.text.edits import Edits
from prototxt.text.tree import Message

_PICTURE = 4  # axes of a blob of pictures


@dataclass(frozen=True)
class Change:
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

    lists: Lists = field(default_factory=Lists)
    follows: bool = False
    step: Mapping[str, str] = field(default_factory=dict)
    name: str | None = None
    blobs: Mapping[str, str] = field(default_factory=dict)
    added: Sequence[str] = ()
    dropped: Sequence[str] = ()
    raw: bool = False
    shape: Sequence[int] | None = None


def adapted(net: Net, layer: Layer, change: Change) -> list[str]:
    """A data layer's text after the change, or one for each phase. Raises: ComposeError if it takes no list."""
    return [_adapted(net, layer, phases, change) for phases in _split(layer, change.lists)]


def _split(layer: Layer, lists: Lists) -> list[tuple[str, ...]]:
    """The phases of each copy of a data layer: one copy, or one per phase where the phases have different lists."""
    if len(layer.phases) == 2 and lists.of("TRAIN") != lists.of("TEST"):
        return [(phase,) for phase in layer.phases]
    return [layer.phases] if layer.phases else []


def _adapted(net: Net, layer: Layer, phases: tuple[str, ...], change: Change) -> str:
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


def _set_reading(edits: Edits, net: Net, layer: Layer, found: Message, phases: Sequence[str], change: Change) -> None:
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


def _give_pixels(edits: Edits, layer: Layer, found: Message, shape: Sequence[int] | None) -> None:
    """Take the transform away, and have pictures resized to the shape [N, C, H, W] if it is known."""
    for block in found.all("transform_param"):
        edits.remove(block)
    if layer.type == "ImageData" and shape is not None and len(shape) == _PICTURE:
        pictures = found.messages("image_data_param")[-1]
        for name, value in (("new_height", shape[2]), ("new_width", shape[3])):
            edits.set(pictures, name, str(value))
        edits.set(pictures, "is_color", "true" if shape[1] > 1 else "false")


def image_lists(
    lists: Lists, top: str, size: tuple[int, ...] | None, step: Mapping[str, str] | None = None
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
        text.append(layer_text(top, "ImageData", [], [top, label], inner))
    return text if top == "data" else text + silenced(f"{label}s", [label])


def silenced(name: str, blobs: Iterable[str]) -> list[str]:
    """A layer that takes labels which nobody reads, so that Caffe does not take them for outputs."""
    bottoms = list(blobs)
    return [layer_text(name, "Silence", bottoms, [], comment="The same labels again.")] if bottoms else []
