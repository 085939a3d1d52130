"""The text of the fused net's data layers: those of a source, with other lists, names, order or preparation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from fusion.composition.pieces import PHASES, Layer, Net, excerpt, layer_text, quoted, reparse
from fusion.composition.preparation import input_shape
from fusion.composition.sources import Part
from fusion.errors import ComposeError

_PICTURE = 4  # axes of a blob of pictures
_PARAMS: Final = {"ImageData": "image_data_param", "Data": "data_param", "HDF5Data": "hdf5_data_param"}


@dataclass(frozen=True)
class Lists:
    """Lists (or databases) and batch sizes that replace those of the data layers; None leaves them."""

    train_list: str | None = None
    val_list: str | None = None
    train_batch: int | None = None
    test_batch: int | None = None

    def of(self, phase: str) -> tuple[str | None, int | None]:
        """List and batch size of a phase."""
        return (self.train_list, self.train_batch) if phase == "TRAIN" else (self.val_list, self.test_batch)


@dataclass(frozen=True)
class Change:
    """What becomes of a source's data layer.

    lists   its list and batch size
    step    records must come in the order of the list, because another layer reads the same one
    name    its new name, None to keep it
    blobs   new names of its tops
    """

    lists: Lists
    step: bool
    name: str | None = None
    blobs: Mapping[str, str] = field(default_factory=dict)


def adapted(net: Net, layer: Layer, change: Change) -> list[str]:
    """A data layer's text after the change, or one for each phase. Raises: ComposeError if it takes no list."""
    return [_adapted(net, layer, phases, change) for phases in _split(layer, change.lists)]


def _split(layer: Layer, lists: Lists) -> list[tuple[str, ...]]:
    """The phases of each copy of a data layer: one copy, or one per phase where the phases have different lists."""
    if len(layer.phases) == 2 and lists.of("TRAIN") != lists.of("TEST"):
        return [(phase,) for phase in layer.phases]
    return [layer.phases] if layer.phases else []


def _adapted(net: Net, layer: Layer, phases: tuple[str, ...], change: Change) -> str:
    from prototxt.editing import Edits

    document = reparse(excerpt(net, layer), net.document.name)
    found = document.root.messages("layer")[0]
    edits = Edits(document)
    param = _PARAMS.get(layer.type)
    wanted, batch = change.lists.of(phases[0])
    if wanted is not None or batch is not None or change.step:
        if param is None or found.get(param) is None:
            raise ComposeError(
                f"layer '{layer.name}' of type '{layer.type}' takes no list and no batch size from outside",
                place=net.place(layer),
                hint=f"give the data as one of {', '.join(_PARAMS)}",
            )
        block = found.messages(param)[-1]
        if wanted is not None:
            edits.set(block, "source", quoted(wanted))
        if batch is not None:
            edits.set(block, "batch_size", str(batch))
        for switch in ("shuffle", "rand_skip"):
            if change.step and block.get(switch) is not None:
                edits.set(block, switch, "false" if switch == "shuffle" else "0")
    if phases != layer.phases:
        edits.append_field(found, f"include {{ phase: {phases[0]} }}")
    for scalar in found.scalars("top"):
        if scalar.value in change.blobs:
            edits.replace(scalar, quoted(change.blobs[scalar.value]))
    if change.name is not None and found.get("name") is not None:
        edits.set(found, "name", quoted(change.name))
    return str(edits.apply())


def second_layers(part: Part, main: Part, lists: Lists, feed: Mapping[str, str], notes: list[str]) -> list[str]:
    """The data layers of a branch that prepares its pictures in its own way, over the main source's lists."""
    text = []
    silent: dict[str, None] = {}
    for layer in part.data_layers:
        if not set(layer.tops) & set(part.branch.inputs):
            continue
        silent.update(dict.fromkeys(f"{part.prefix}/{top}" for top in layer.tops if top not in feed))
        names = {top: feed.get(top, f"{part.prefix}/{top}") for top in layer.tops}
        name = f"{part.prefix}/{layer.name.removeprefix(part.prefix + '/')}"
        change = Change(_lists_of(part, layer, main, lists), step=True, name=name, blobs=names)
        text += adapted(part.raw, layer, change)
    text += _silenced(f"{part.prefix}/labels", silent)
    notes.append(f"data: source '{part.prefix}' prepares its pictures in its own way and gets its own data layer")
    return text


def pixel_layers(part: Part, main: Part, lists: Lists, labels: Sequence[str], notes: list[str]) -> list[str]:
    """The main source's data layers again, giving pixels as they are, in the size that the source takes."""
    from prototxt.editing import Edits

    text: list[str] = []
    silent: dict[str, None] = {}
    shape = input_shape(part)
    for layer in main.data_layers:
        picture = next((top for top in layer.tops if top not in labels), None)
        if picture is None:
            continue
        names = {top: f"{part.prefix}/{'data' if top == picture else top}" for top in layer.tops}
        silent.update(dict.fromkeys(name for top, name in names.items() if top != picture))
        change = Change(lists, step=True, name=f"{part.prefix}/data", blobs=names)
        for copy in adapted(main.raw, layer, change):
            document = reparse(copy, main.raw.document.name)
            edits = Edits(document)
            found = document.root.messages("layer")[0]
            for block in found.all("transform_param"):
                edits.remove(block)
            if layer.type == "ImageData" and shape is not None and len(shape) == _PICTURE:
                pictures = found.messages("image_data_param")[-1]
                for name, value in (("new_height", shape[2]), ("new_width", shape[3])):
                    edits.set(pictures, name, str(value))
                edits.set(pictures, "is_color", "true" if shape[1] > 1 else "false")
            text.append(str(edits.apply()))
    text += _silenced(f"{part.prefix}/labels", silent)
    notes.append(
        f"data: source '{part.prefix}' takes pixels as they are ({part.source.pixels}), from its own data layer"
    )
    return text


def _lists_of(part: Part, layer: Layer, main: Part, lists: Lists) -> Lists:
    """The lists and batch sizes that the main source's data layers have in the end. Raises: ComposeError."""
    found: dict[str, tuple[str | None, int | None]] = {}
    for phase in layer.phases:
        other = next((item for item in main.data_layers if phase in item.phases), None)
        if other is None or other.type != layer.type:
            raise ComposeError(
                f"source '{part.prefix}' prepares its pictures in its own way, but its {phase} data is "
                f"'{layer.type}' and that of '{main.prefix}' is {repr(other.type) if other else 'missing'}",
                place=part.raw.place(layer),
                hint="give both sources data layers of one type, so that both can read the same list",
            )
        (source, batch), (wanted, size) = list_and_batch(other), lists.of(phase)
        found[phase] = (wanted or source, size or batch)
    (train, train_batch), (test, test_batch) = (found.get(phase, (None, None)) for phase in PHASES)
    return Lists(train, test, train_batch, test_batch)


def list_and_batch(layer: Layer) -> tuple[str | None, int | None]:
    """What a data layer reads, and how many records at a time; None where it does not say."""
    block = layer.message.messages(_PARAMS.get(layer.type, ""))
    if not block:
        return None, None
    batch = block[-1].string("batch_size")
    return block[-1].string("source"), int(batch) if batch else None


def image_lists(lists: Lists, top: str, size: tuple[int, ...] | None) -> list[str]:
    """ImageData layers for both phases; but for the first blob, `data`, the labels come to nothing."""
    body = []
    if size is not None:
        body = [f"  new_height: {size[1]}", f"  new_width: {size[2]}", *(["  is_color: false"] if size[0] == 1 else [])]
    label = "label" if top == "data" else f"{top}_label"
    text = []
    for phase in ("TRAIN", "TEST"):
        source, batch = lists.of(phase)
        block = [f"  source: {quoted(source or '')}", f"  batch_size: {batch or 50}", *body]
        inner = "\n".join([f"include {{ phase: {phase} }}", "image_data_param {", *block, "}"])
        text.append(layer_text(top, "ImageData", [], [top, label], inner))
    return text if top == "data" else text + _silenced(f"{label}s", [label])


def _silenced(name: str, blobs: Iterable[str]) -> list[str]:
    bottoms = list(blobs)
    return [layer_text(name, "Silence", bottoms, [], comment="The same labels again.")] if bottoms else []
