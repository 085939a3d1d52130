"""Where the fused net's data comes from: one source's data layers, or given lists, and a copy per differing transform.

Branches whose data layers prepare their pictures alike share one data layer. A branch that was trained at another
size, colour order, mean or scale gets its own data layer over the same list, in step with the first; such lists may not
be shuffled by the layers, because each would shuffle by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from fusion.composition.branches import label_of
from fusion.composition.pieces import PHASES, Layer, Net, excerpt, layer_text, quoted, reparse
from fusion.composition.preparation import differs, input_shape, stated_size
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
class Inputs:
    """The fused net's data layers.

    text   the layers
    feeds  per prefix: the source's input blob -> the fused net's blob
    label  the blob with the labels
    """

    text: str
    feeds: Mapping[str, Mapping[str, str]]
    label: str
    notes: tuple[str, ...] = field(default=())


def plan_inputs(parts: Sequence[Part], data_from: str | None, lists: Lists) -> Inputs:
    """Choose the data layers and say which blob feeds which branch. Raises: ComposeError."""
    main = _main(parts, data_from)
    if main is None:
        return _own_layers(parts, lists)
    label = label_of(main.raw) or _second_top(main)
    if label is None:
        raise ComposeError(
            f"the data layers of source '{main.prefix}' give no labels",
            place=main.raw.place(main.data_layers[0]),
            hint="take the data from another source (data_from), or add a second top with the labels",
        )
    notes = [f"data: the layers of source '{main.prefix}', blobs {', '.join(_tops(main.data_layers))}"]
    feeds: dict[str, dict[str, str]] = {}
    separate = [part for part in parts if part is not main and differs(part, main)]
    raw = [part for part in parts if part is not main and part.source.pixels and not part.data_layers]
    _check_phases(main, label)
    text = [
        _adapted(main.raw, layer, phases, _Change(lists, step=bool(separate or raw)))
        for layer in main.data_layers
        for phases in _split(layer, lists)
    ]
    for part in parts:
        if part in raw:
            feeds[part.prefix] = {part.branch.inputs[0]: f"{part.prefix}/data"}
            text += _pixel_data(part, main, lists, label, notes)
        elif part in separate:
            feeds[part.prefix] = {blob: f"{part.prefix}/{blob}" for blob in part.branch.inputs}
            text += _second_data(part, main, lists, feeds[part.prefix], notes)
        else:
            _check_size(part, main)
            feeds[part.prefix] = _feed(part, main, label)
    if separate or raw:
        notes.append("data: shuffling inside the data layers is switched off, or their records would no longer match")
    if lists.train_list is None:
        notes += _doubtful(parts, main)
    return Inputs("\n".join(text), feeds, label, tuple(notes))


def _main(parts: Sequence[Part], data_from: str | None) -> Part | None:
    """The source whose data layers are used: the named one, else the first that has any."""
    if data_from is not None:
        chosen = [part for part in parts if part.prefix == data_from]
        if not chosen:
            names = ", ".join(part.prefix for part in parts)
            raise ComposeError(f"data_from names no source: '{data_from}'", hint=f"one of {names}")
        if not chosen[0].data_layers:
            raise ComposeError(f"source '{data_from}' has no data layer", place=chosen[0].raw.document.name)
        return chosen[0]
    return next((part for part in parts if part.data_layers), None)


def _second_top(part: Part) -> str | None:
    return next((layer.tops[1] for layer in part.data_layers if len(layer.tops) > 1), None)


def _tops(layers: Sequence[Layer]) -> list[str]:
    return list(dict.fromkeys(top for layer in layers for top in layer.tops))


def _feed(part: Part, main: Part, label: str) -> dict[str, str]:
    """The main source's blobs for a branch's inputs: by name, or the one picture blob for the one input."""
    tops = [top for top in _tops(main.data_layers) if top != label]
    inputs = part.branch.inputs
    if all(blob in tops for blob in inputs):
        return {blob: blob for blob in inputs}
    if len(inputs) == 1 and len(tops) == 1:
        return {inputs[0]: tops[0]}
    raise ComposeError(
        f"source '{part.prefix}' reads {', '.join(inputs)}, but the data layers of '{main.prefix}' give "
        f"{', '.join(tops) or 'nothing but labels'}",
        place=main.raw.document.name,
        hint="give the blobs the same names in both files, or take the data from the other source (data_from)",
    )


def _check_size(part: Part, main: Part) -> None:
    """Raises: ComposeError if a source without data layers takes pictures of another shape than the data gives."""
    shape = input_shape(part)
    if part.data_layers or shape is None or len(shape) != 4:
        return
    for layer in main.data_layers:
        given = stated_size(layer)
        if any(wanted != known for wanted, known in zip(shape[1:], given, strict=True) if known is not None):
            raise ComposeError(
                f"source '{part.prefix}' takes pictures of {'x'.join(map(str, shape[1:]))}, but the data of "
                f"'{main.prefix}' has {'x'.join('?' if dim is None else str(dim) for dim in given)}",
                place=main.raw.place(layer),
                hint=f"give the train_val prototxt of '{part.prefix}', whose data layer says how to prepare them",
            )


def _check_phases(main: Part, label: str) -> None:
    """Raises: ComposeError if pictures or labels are missing in a phase."""
    for phase in PHASES:
        tops = {top for layer in main.data_layers if phase in layer.phases for top in layer.tops}
        missing = [blob for blob in (*main.branch.inputs, label) if blob not in tops]
        if missing:
            raise ComposeError(
                f"source '{main.prefix}' has no data layer that gives '{missing[0]}' in phase {phase}",
                place=main.raw.document.name,
                hint="take the data from a source with layers for both phases (data_from), or add one to this file",
            )


def _split(layer: Layer, lists: Lists) -> list[tuple[str, ...]]:
    """The phases of each copy of a data layer: one copy, or one per phase where the phases have different lists."""
    if len(layer.phases) == 2 and lists.of("TRAIN") != lists.of("TEST"):
        return [(phase,) for phase in layer.phases]
    return [layer.phases] if layer.phases else []


@dataclass(frozen=True)
class _Change:
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


def _adapted(net: Net, layer: Layer, phases: tuple[str, ...], change: _Change) -> str:
    """A data layer's text after the change, for these of its phases. Raises: ComposeError if it takes no list."""
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


def _second_data(part: Part, main: Part, lists: Lists, feed: Mapping[str, str], notes: list[str]) -> list[str]:
    """The data layers of a branch that prepares its pictures in its own way, over the main source's lists."""
    text = []
    silent: dict[str, None] = {}
    for layer in part.data_layers:
        if not set(layer.tops) & set(part.branch.inputs):
            continue
        silent.update(dict.fromkeys(f"{part.prefix}/{top}" for top in layer.tops if top not in feed))
        names = {top: feed.get(top, f"{part.prefix}/{top}") for top in layer.tops}
        name = f"{part.prefix}/{layer.name.removeprefix(part.prefix + '/')}"
        change = _Change(_lists_of(part, layer, main, lists), step=True, name=name, blobs=names)
        text += [_adapted(part.raw, layer, phases, change) for phases in _split(layer, change.lists)]
    if silent:
        text.append(layer_text(f"{part.prefix}/labels", "Silence", list(silent), [], comment="The same labels again."))
    notes.append(f"data: source '{part.prefix}' prepares its pictures in its own way and gets its own data layer")
    return text


def _pixel_data(part: Part, main: Part, lists: Lists, label: str, notes: list[str]) -> list[str]:
    """The main source's data layers again, giving pixels as they are, in the size that the source takes."""
    from prototxt.editing import Edits

    text: list[str] = []
    silent: dict[str, None] = {}
    shape = input_shape(part)
    for layer in main.data_layers:
        picture = next((top for top in layer.tops if top != label), None)
        if picture is None:
            continue
        names = {top: f"{part.prefix}/{'data' if top == picture else top}" for top in layer.tops}
        silent.update(dict.fromkeys(name for top, name in names.items() if top != picture))
        change = _Change(lists, step=True, name=f"{part.prefix}/data", blobs=names)
        for phases in _split(layer, lists):
            document = reparse(_adapted(main.raw, layer, phases, change), main.raw.document.name)
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
    if silent:
        text.append(layer_text(f"{part.prefix}/labels", "Silence", list(silent), [], comment="The same labels again."))
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
        (source, batch), (wanted, size) = _order_of(other), lists.of(phase)
        found[phase] = (wanted or source, size or batch)
    (train, train_batch), (test, test_batch) = (found.get(phase, (None, None)) for phase in PHASES)
    return Lists(train, test, train_batch, test_batch)


def _order_of(layer: Layer) -> tuple[str | None, int | None]:
    block = layer.message.messages(_PARAMS.get(layer.type, ""))
    if not block:
        return None, None
    batch = block[-1].string("batch_size")
    return block[-1].string("source"), int(batch) if batch else None


def _doubtful(parts: Sequence[Part], main: Part) -> list[str]:
    """A note if the sources were trained on other lists than the one that is now used for all."""
    own = {_order_of(layer)[0] for layer in main.data_layers}
    others = {_order_of(layer)[0] for part in parts for layer in part.data_layers} - own - {None}
    if not others:
        return []
    return [
        f"data: the lists are those of source '{main.prefix}'; other sources had "
        f"{', '.join(sorted(map(str, others)))}. Give lists with all classes (--train-list, --val-list)"
    ]


def _own_layers(parts: Sequence[Part], lists: Lists) -> Inputs:
    """Data layers of our own for sources that have none, such as deploy files: one per picture shape.

    Raises: ComposeError without lists, or for a source with several inputs.
    """
    if lists.train_list is None or lists.val_list is None:
        raise ComposeError(
            "no source has a data layer",
            place=parts[0].raw.document.name,
            hint="give image lists (--train-list, --val-list), or a train_val prototxt as a source",
        )
    tops: dict[tuple[int, ...] | None, str] = {}
    feeds: dict[str, dict[str, str]] = {}
    text = []
    for part in parts:
        if len(part.branch.inputs) > 1:
            what = f"source '{part.prefix}' has several inputs and no data layer"
            raise ComposeError(what, place=part.raw.document.name, hint="give its train_val prototxt")
        shape = input_shape(part)
        size = shape[1:] if shape is not None and len(shape) == 4 else None
        if size not in tops:
            tops[size] = f"{part.prefix}/data" if tops else "data"
            text += _image_lists(lists, tops[size], size)
        feeds[part.prefix] = {part.branch.inputs[0]: tops[size]}
    notes = []
    if not all(part.source.pixels for part in parts):
        notes = ["data: image lists without any transform; add transform_param if the sources had a mean or a scale"]
    if len(tops) > 1:
        notes.append(f"data: the sources take pictures of {len(tops)} shapes, each gets its own data layer")
    return Inputs("\n".join(text), feeds, "label", tuple(notes))


def _image_lists(lists: Lists, top: str, size: tuple[int, ...] | None) -> list[str]:
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
    if top != "data":
        text.append(layer_text(f"{label}s", "Silence", [label], [], comment="The same labels again."))
    return text
