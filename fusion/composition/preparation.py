"""How a source prepares its pictures, as far as its text tells: shapes, and whether two sources do it alike."""

from __future__ import annotations

from typing import Final

from fusion.composition.pieces import Layer
from fusion.composition.sources import Part
from prototxt.tree import Message, Scalar

# What says where the records come from and in which batches, not how one record is prepared.
_ORDER: Final = frozenset(
    ("source", "batch_size", "shuffle", "rand_skip", "prefetch", "backend", "root_folder", "cache")
)


def differs(part: Part, main: Part) -> bool:
    """Whether the two sources prepare their pictures differently."""
    if not part.data_layers:
        return False
    mine, others = _preparation(part), _preparation(main)
    return any(mine.get(phase, others.get(phase)) != others.get(phase, mine.get(phase)) for phase in ("TRAIN", "TEST"))


def _preparation(part: Part) -> dict[str, object]:
    found: dict[str, object] = {}
    for layer in part.data_layers:
        if set(layer.tops) & set(part.branch.inputs):
            content = _content(layer.message, top=True)
            found.update(dict.fromkeys(layer.phases, (layer.type, content)))
    return found


def _content(message: Message, *, top: bool = False) -> tuple[object, ...]:
    """The fields that say how a record is prepared, in an order and spelling that can be compared."""
    skipped = ("name", "type", "top", "include", "exclude") if top else _ORDER
    found: list[tuple[str, object]] = []
    for item in message.fields:
        if item.name not in skipped:
            found += [(item.name, _plain(value)) for value in item.values]
    return tuple(sorted(((name, value) for name, value in found if value != ()), key=repr))


def _plain(value: Scalar | Message) -> object:
    if isinstance(value, Message):
        return _content(value)
    try:
        return float(value.value) if value.kind == "number" else value.value
    except ValueError:
        return value.value


def input_shape(part: Part) -> tuple[int, ...] | None:
    """The shape that the source's own Input layer, or its `input_dim`, gives its first input; None if it has none."""
    for layer in part.raw.layers:
        if layer.type == "Input" and part.branch.inputs[0] in layer.tops:
            shapes = [shape for param in layer.message.messages("input_param") for shape in param.messages("shape")]
            index = min(layer.tops.index(part.branch.inputs[0]), len(shapes) - 1)
            return tuple(int(dim.value) for dim in shapes[index].scalars("dim")) if shapes else None
    root = part.raw.document.root
    if part.raw.inputs:
        index = part.raw.inputs.index(part.branch.inputs[0])
        shapes = root.messages("input_shape")
        if len(shapes) > index:
            return tuple(int(dim.value) for dim in shapes[index].scalars("dim"))
        dims = [int(dim.value) for dim in root.scalars("input_dim")]
        return tuple(dims[4 * index : 4 * index + 4]) or None
    return None


def stated_size(layer: Layer) -> tuple[int | None, int | None, int | None]:
    """Channels, height and width as far as the data layer states them."""
    number = {"crop_size": 0, "new_height": 0, "new_width": 0}
    colour = None
    for block in layer.message.messages("transform_param") + layer.message.messages("image_data_param"):
        number.update({name: int(value) for name in number if (value := block.string(name))})
        colour = block.string("is_color") or colour
    channels = None if layer.type != "ImageData" else 1 if colour in ("false", "0") else 3
    crop = number["crop_size"]
    return channels, crop or number["new_height"] or None, crop or number["new_width"] or None
