"""What feeds a source without data layers: the blob of another, lists of its own, or pixels as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fusion.composition.data_layers import Change, image_lists, silenced
from fusion.composition.data_layout import Copy, Layout, converted
from fusion.composition.lists import Lists
from fusion.composition.net_text import PHASES, Layer, excerpt, quoted, reparse
from fusion.composition.preprocessing import Affine, Stream, Values, input_shape, stated_size, values_between
from fusion.composition.source_text import is_onnx
from fusion.composition.sources import PreparedSource
from fusion.errors import ComposeError

Size = tuple[int | None, ...]


def from_lists(part: PreparedSource, lists: Lists, layout: Layout) -> dict[str, str]:
    """Image layers over the lists that were named for this source. Raises: ComposeError for several inputs."""
    blob, size = only_input(part), picture_size(part)
    top = f"{part.prefix}/{blob.removeprefix(part.prefix + '/')}"
    sized = Lists(lists.train_list, lists.val_list, *(layout.batch(phase) for phase in PHASES))
    layout.further += image_lists(sized, top, size, layout.step())
    layout.listed.append((part, lists))
    what = "pixels as they are" if part.source.pixels else "no transform; is that how it was trained?"
    layout.notes.append(f"data: source '{part.prefix}' gets data layers of its own over the given lists, with {what}")
    return {blob: top}


def only_input(part: PreparedSource) -> str:
    """The one input of a source without data layers. Raises: ComposeError if it has several."""
    if len(part.branch.inputs) > 1:
        what = f"source '{part.prefix}' has several inputs and no data layer"
        raise ComposeError(what, place=part.raw.document.name, hint="give its train_val prototxt")
    return part.branch.inputs[0]


def picture_size(part: PreparedSource) -> tuple[int, ...] | None:
    """Channels, height and width of the pictures that a source takes, None where its file does not tell."""
    shape = input_shape(part)
    return shape[1:] if shape is not None and len(shape) == 4 else None


def fed_alike(part: PreparedSource, blobs: Sequence[str], layout: Layout) -> dict[str, str]:
    """The main source's blobs for inputs that nothing describes: by name, or the one picture blob for the one input.

    Raises: ComposeError.
    """
    main = layout.main
    every = dict.fromkeys(top for layer in main.data_layers for top in layer.tops)
    tops = [top for top in every if top not in layout.labels]
    _check_size(part, main)
    if not all(blob in tops for blob in blobs) and (len(blobs), len(tops)) != (1, 1):
        raise ComposeError(
            f"source '{part.prefix}' reads {', '.join(blobs)}, but the data layers of '{main.prefix}' give "
            f"{', '.join(tops) or 'nothing but labels'}",
            place=main.raw.document.name,
            hint="give the blobs the same names in both files, take the data from the other source (--data-from), or "
            f"give it lists of its own (--train-list {part.prefix}=FILE --val-list {part.prefix}=FILE)",
        )
    if not part.data_layers:
        told = f"data: source '{part.prefix}' has no data layer and is fed what '{main.prefix}' is"
        hint = f"; if it was trained on other values, say so: --pixels {part.prefix}=unit" if _onnx(part) else ""
        layout.notes.append(f"{told}, mean and scale included{hint}")
    return {blob: blob if blob in tops else tops[0] for blob in blobs}


def _onnx(part: PreparedSource) -> bool:
    return is_onnx(str(part.source.prototxt))


def _check_size(part: PreparedSource, main: PreparedSource) -> None:
    """Raises: ComposeError if a source without data layers takes pictures of another shape than the data gives."""
    shape = picture_size(part)
    if part.data_layers or shape is None:
        return
    for layer in main.data_layers:
        given = stated_size(layer)
        if not _fits(shape, given):
            raise ComposeError(
                f"source '{part.prefix}' takes pictures of {'x'.join(map(str, shape))}, but the data of "
                f"'{main.prefix}' has {'x'.join('?' if dim is None else str(dim) for dim in given)}",
                place=main.raw.place(layer),
                hint=f"say what its pixels are, which gives it a data layer of its own: --pixels {part.prefix}=unit"
                if _onnx(part)
                else f"give the train_val prototxt of '{part.prefix}', whose data layer says how to prepare them",
            )


def _fits(wanted: Size, given: Size) -> bool:
    return all(one == other or other is None for one, other in zip(wanted, given, strict=True))


def pixels_from(part: PreparedSource, blob: str, layout: Layout) -> str:
    """A blob of pixels as they are, 0 to 255: made from the main source's, or from data layers of its own.

    Raises: ComposeError where the main source has several blobs of pictures.
    """
    main = layout.main
    tops = {top: layer for layer in main.data_layers for top in layer.tops[:1] if top not in layout.labels}
    if len(tops) != 1:
        raise ComposeError(
            f"source '{part.prefix}' takes pictures, and the data layers of '{main.prefix}' give "
            f"{', '.join(tops) or 'none'}",
            place=main.raw.document.name,
            hint=f"give it lists of its own: --train-list {part.prefix}=FILE --val-list {part.prefix}=FILE",
        )
    (given,) = tops
    layers = [layer for layer in main.data_layers if given in layer.tops]
    size = picture_size(part)
    affine = _to_pixels(layout.streams[given])
    if affine is not None and all(_same_size(size, layer, layout) for layer in layers):
        kind = part.source.pixels
        layout.notes.append(f"data: source '{part.prefix}' takes pixels as they are ({kind}), made from '{given}'")
        return converted(part, blob, given, affine, layout, f"Pixels as they are, 0 to 255, from '{given}'.")
    return _own_pixels(part, layers, given, layout)


def _to_pixels(known: Mapping[str, Stream]) -> Affine | None:
    """The map from a blob of pictures back to pixels, if it is one in both phases."""
    maps = {values_between(item.values, Values()) if item.values is not None else None for item in known.values()}
    return maps.pop() if len(maps) == 1 else None


def _same_size(size: Size | None, layer: Layer, layout: Layout) -> bool:
    """Whether a data layer is known to give pictures of this size; a net of no fixed size takes any."""
    if size is None or size == (given := stated_size(layer)):
        return True
    if not _fits(size, given):
        return False
    return layer.type != "ImageData" or size == _first_picture(layer, layout)


def _first_picture(layer: Layer, layout: Layout) -> Size | None:
    """The size that the first picture of a list comes out with, None where it is not here."""
    from prototxt.schema.load import load_net
    from prototxt.shapes import UNKNOWN
    from prototxt.shapes.net import infer_partly
    from prototxt.text.edits import Edits

    raw = layout.main.raw
    document = reparse(excerpt(raw, layer), raw.document.name)
    edits = Edits(document)
    source = layout.chosen.source(layout.main, layer, layer.phases[0])
    edits.set(document.root.messages("layer")[0].messages("image_data_param")[-1], "source", quoted(source or ""))
    shape = infer_partly(load_net(edits.apply(), strict=False))[0].blobs.get(layer.tops[0], UNKNOWN)
    return None if shape is UNKNOWN else tuple(shape[1:])


def _own_pixels(part: PreparedSource, layers: Sequence[Layer], given: str, layout: Layout) -> str:
    """The main source's data layers once more, without their transform and in the size that the source takes."""
    made = f"{part.prefix}/data"
    labels: dict[str, None] = {}
    for layer in layers:
        names = {top: made if top == given else f"{part.prefix}/{top}" for top in layer.tops}
        change = Change(name=made, blobs=names, raw=True, shape=input_shape(part))
        labels.update(dict.fromkeys(name for top, name in names.items() if top != given))
        layout.copies.append(Copy(layout.main, layer, change))
    layout.further += silenced(f"{part.prefix}/labels", labels)
    layout.notes.append(
        f"data: source '{part.prefix}' takes pixels as they are ({part.source.pixels}), from its own data layer"
    )
    return made
