"""Where the fused net's data comes from: one source's data layers, or given lists, and a copy per differing transform.

Branches whose data layers prepare their pictures alike share one data layer. A branch that was trained at another
size, colour order, mean or scale gets its own data layer over the same list, in step with the first; such lists may not
be shuffled by the layers, because each would shuffle by itself.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fusion.composition.data_layers import (
    Change,
    Lists,
    adapted,
    image_lists,
    list_and_batch,
    pixel_layers,
    second_layers,
)
from fusion.composition.pieces import PHASES, Layer
from fusion.composition.preparation import differs, input_shape, stated_size
from fusion.composition.sources import Part
from fusion.errors import ComposeError


@dataclass(frozen=True)
class Inputs:
    """The fused net's data layers.

    text   the layers
    feeds  per prefix: the source's input blob -> the fused net's blob
    labels the blobs with labels, and others that the losses alone read
    """

    text: str
    feeds: Mapping[str, Mapping[str, str]]
    labels: tuple[str, ...]
    notes: tuple[str, ...] = field(default=())


def plan_inputs(parts: Sequence[Part], data_from: str | None, lists: Lists, labels: Sequence[str] = ()) -> Inputs:
    """Choose the data layers and say which blob feeds which branch.

    labels  the blobs that the losses read beside the scores; none: the only blob of the data that no branch reads
    Raises: ComposeError.
    """
    main = main_source(parts, data_from)
    if main is None:
        return _own_layers(parts, lists, labels)
    labels = tuple(dict.fromkeys(labels)) or (_only_label(main),)
    notes = [f"data: the layers of source '{main.prefix}', blobs {', '.join(_tops(main.data_layers))}"]
    feeds: dict[str, dict[str, str]] = {}
    separate = [part for part in parts if part is not main and differs(part, main)]
    raw = [part for part in parts if part is not main and part.source.pixels and not part.data_layers]
    _check_phases(main, labels)
    change = Change(lists, step=bool(separate or raw))
    text = [copy for layer in main.data_layers for copy in adapted(main.raw, layer, change)]
    for part in parts:
        if part in raw:
            feeds[part.prefix] = {part.branch.inputs[0]: f"{part.prefix}/data"}
            text += pixel_layers(part, main, lists, labels, notes)
        elif part in separate:
            feeds[part.prefix] = {blob: f"{part.prefix}/{blob}" for blob in part.branch.inputs}
            text += second_layers(part, main, lists, feeds[part.prefix], notes)
        else:
            _check_size(part, main)
            feeds[part.prefix] = _feed(part, main, labels)
            notes += _fed_alike(part, main)
    if separate or raw:
        notes.append("data: shuffling inside the data layers is switched off, or their records would no longer match")
    if lists.train_list is None:
        notes += _doubtful(parts, main)
    notes += _absent(lists)
    return Inputs("\n".join(text), feeds, labels, tuple(notes))


def main_source(parts: Sequence[Part], data_from: str | None) -> Part | None:
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


def _only_label(main: Part) -> str:
    """The blob of the data that the branch does not read. Raises: ComposeError unless it is one."""
    free = [top for top in _tops(main.data_layers) if top not in main.branch.inputs]
    if len(free) == 1:
        return free[0]
    place = main.raw.place(main.data_layers[0])
    if not free:
        raise ComposeError(
            f"the data layers of source '{main.prefix}' give no labels",
            place=place,
            hint="take the data from another source (data_from), or add a second top with the labels",
        )
    raise ComposeError(
        f"which blob of source '{main.prefix}' holds the labels is not known: {', '.join(free)}",
        place=place,
        hint=f"name it: --loss SoftmaxWithLoss,label={free[0]}",
    )


def _tops(layers: Sequence[Layer]) -> list[str]:
    return list(dict.fromkeys(top for layer in layers for top in layer.tops))


def _feed(part: Part, main: Part, labels: Sequence[str]) -> dict[str, str]:
    """The main source's blobs for a branch's inputs: by name, or the one picture blob for the one input."""
    tops = [top for top in _tops(main.data_layers) if top not in labels]
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


def _fed_alike(part: Part, main: Part) -> list[str]:
    """A note where nothing tells how a source's pictures are to be prepared."""
    if part.data_layers:
        return []
    told = f"data: source '{part.prefix}' has no data layer and is fed what '{main.prefix}' is, mean and scale included"
    return [
        f"{told}; if it was trained on other values, say so: --pixels {part.prefix}=unit" if _is_onnx(part) else told
    ]


def _is_onnx(part: Part) -> bool:
    return str(part.source.prototxt).lower().endswith(".onnx")


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
                hint=f"say what its pixels are, which gives it a data layer of its own: --pixels {part.prefix}=unit"
                if _is_onnx(part)
                else f"give the train_val prototxt of '{part.prefix}', whose data layer says how to prepare them",
            )


def _check_phases(main: Part, labels: Sequence[str]) -> None:
    """Raises: ComposeError if pictures or labels are missing in a phase."""
    for phase in PHASES:
        tops = {top for layer in main.data_layers if phase in layer.phases for top in layer.tops}
        missing = [blob for blob in (*main.branch.inputs, *labels) if blob not in tops]
        if missing:
            raise ComposeError(
                f"source '{main.prefix}' has no data layer that gives '{missing[0]}' in phase {phase}",
                place=main.raw.document.name,
                hint="take the data from a source with layers for both phases (data_from), or add one to this file",
            )


def _doubtful(parts: Sequence[Part], main: Part) -> list[str]:
    """A note if the sources were trained on other lists than the one that is now used for all."""
    own = {list_and_batch(layer)[0] for layer in main.data_layers}
    others = {list_and_batch(layer)[0] for part in parts for layer in part.data_layers} - own - {None}
    if not others:
        return []
    return [
        f"data: the lists are those of source '{main.prefix}'; other sources had "
        f"{', '.join(sorted(map(str, others)))}. Give lists with all classes (--train-list, --val-list)"
    ]


def _own_layers(parts: Sequence[Part], lists: Lists, labels: Sequence[str]) -> Inputs:
    """Data layers of our own for sources that have none, such as deploy files: one per picture shape.

    Raises: ComposeError without lists, or for a source with several inputs.
    """
    if lists.train_list is None or lists.val_list is None:
        raise ComposeError(
            "no source has a data layer",
            place=parts[0].raw.document.name,
            hint="give image lists (--train-list, --val-list), or a train_val prototxt as a source",
        )
    if set(labels) - {"label"}:
        what = f"no source has a data layer that gives {', '.join(labels)}; image lists give 'label' alone"
        raise ComposeError(what, hint="give a source's train_val prototxt with such a data layer")
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
            text += image_lists(lists, tops[size], size)
        feeds[part.prefix] = {part.branch.inputs[0]: tops[size]}
    notes = []
    if not all(part.source.pixels for part in parts):
        notes = ["data: image lists without any transform; add transform_param if the sources had a mean or a scale"]
    if len(tops) > 1:
        notes.append(f"data: the sources take pictures of {len(tops)} shapes, each gets its own data layer")
    return Inputs("\n".join(text), feeds, ("label",), (*notes, *_absent(lists)))


def _absent(lists: Lists) -> list[str]:
    """A note for lists that were given and are not there, which a slip of the pen may be the reason for."""
    given = (lists.train_list, lists.val_list)
    return [f"data: there is no {path} here yet" for path in dict.fromkeys(given) if path and not os.path.exists(path)]
