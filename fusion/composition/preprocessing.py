"""Describe the records and the preprocessing of data layers: two blobs have the same content if these are equal."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from fusion.composition.net_text import LayerText
from prototxt.formats.class_folders import is_image_folder
from prototxt.text.tree import Message, Scalar

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor, FieldDescriptor

PARAMS: Final = {
    "ImageData": "image_data_param",
    "Data": "data_param",
    "HDF5Data": "hdf5_data_param",
    "WindowData": "window_data_param",
}
# Fields about the origin, order and batches of the records, not about the preparation of one record.
_ORDER: Final = frozenset(
    ("source", "batch_size", "shuffle", "rand_skip", "prefetch", "backend", "root_folder", "cache", "cache_images")
)
_LAYER: Final = frozenset(("name", "type", "top", "include", "exclude", "phase", "in_step_with"))
_VALUES: Final = frozenset(("mean_value", "mean_file", "scale"))
_CAFFE_TRANSFORM: Final = _VALUES | {"mirror", "crop_size", "force_color", "force_gray"}


@dataclass(frozen=True)
class MeanScale:
    """The transform of a pixel: (pixel - mean) * scale.

    mean  one number, one per channel, or the name of a mean file
    """

    mean: tuple[float, ...] | str = (0.0,)
    scale: float = 1.0


@dataclass(frozen=True)
class Stream:
    """A top of a data layer in one phase.

    records   equal tuples are the same records in the same order
    top       the part of a record: the name of an HDF5 dataset, else the index among the layer's tops
    prepared  the preprocessing of a record except `values`
    values    None where pixels are not mapped independently of each other
    """

    records: tuple[object, ...]
    top: int | str
    prepared: tuple[object, ...] = ()
    values: MeanScale | None = None


@dataclass(frozen=True)
class Affine:
    """A map of pixel values: value * scale + shift, one of each, or one per channel."""

    scale: tuple[float, ...]
    shift: tuple[float, ...]

    @property
    def identity(self) -> bool:
        """Return whether it changes nothing."""
        return set(self.scale) == {1.0} and set(self.shift) == {0.0}


def describe_stream(layer: LayerText, top: str, source: str | None) -> Stream:
    """Return the content of a top of a data layer that reads `source`, which may be another than its own."""
    index, message = layer.tops.index(top), layer.message
    param = PARAMS.get(layer.type)
    if param is None:
        # Of other types, such as Python layers, all settings may affect the records.
        return Stream((layer.type, *_content(message, _descriptor(), _LAYER, frozenset())), index)
    block = _last(message, param)
    folder = source is not None and is_image_folder(source)
    # The images of a folder are found without a root_folder, and "train" is the same folder as "train/".
    place = (_text(block, "backend"), None if folder else _text(block, "root_folder"))
    records = (layer.type, os.path.join(source, "") if source is not None and folder else source, *place)
    if layer.type == "HDF5Data":
        return Stream(records, top)  # a top is named after its dataset, and has no transform
    if index:
        return Stream(records, index)  # labels: no transform
    known = all(item.name in _CAFFE_TRANSFORM for item in _fields(message, "transform_param"))
    affine = layer.type != "WindowData" and known  # WindowData pads with zeros after it has subtracted the mean
    inner = _ORDER | (_VALUES if affine else frozenset())
    prepared = _content(message, _descriptor(), _LAYER, inner)
    return Stream(records, index, prepared, _values(message) if affine else None)


def parameters(layer: LayerText) -> tuple[object, ...]:
    """Return a layer's settings except name, blobs and phases, in a form that can be compared."""
    return _content(layer.message, _descriptor(), _LAYER | {"bottom"}, frozenset())


def stream_affine(given: Stream, target: Stream) -> Affine | None:
    """Return the map from the values of one stream to those of another, None if there is none."""
    if given == target:
        return Affine((1.0,), (0.0,))
    alike = (given.records, given.top, given.prepared) == (target.records, target.top, target.prepared)
    if not alike or given.values is None or target.values is None:
        return None
    return affine_between(given.values, target.values)


def affine_between(given: MeanScale, target: MeanScale) -> Affine | None:
    """Return the map from pixels with one mean and scale to another, None if it is not one number per channel."""
    if given.scale == 0:
        return None
    # value = (pixel - mean) * scale, solved for the pixel of one stream and applied to the other.
    ratio = target.scale / given.scale
    if given.mean == target.mean:
        return Affine((ratio,), (0.0,))
    if isinstance(given.mean, str) or isinstance(target.mean, str):
        return None
    channels = max(len(given.mean), len(target.mean))
    if {len(given.mean), len(target.mean)} - {1, channels}:
        return None
    means = [mean * channels if len(mean) == 1 else mean for mean in (given.mean, target.mean)]
    shifts = tuple((old - new) * target.scale for old, new in zip(*means, strict=True))
    return Affine((ratio,) * len(shifts), shifts) if len(set(shifts)) > 1 else Affine((ratio,), shifts[:1])


def list_and_batch(layer: LayerText) -> tuple[str | None, int | None]:
    """Return a data layer's list or database, and its batch size; None where it has none."""
    block = _last(layer.message, PARAMS.get(layer.type, ""))
    batch = block.string("batch_size") if block is not None else None
    return (block.string("source") if block is not None else None), int(batch) if batch else None


def uses_random_numbers(layer: LayerText, phase: str) -> bool:
    """Return whether a data layer uses random numbers: for the order of its records, flips, or places of crops."""
    return bool(_enabled_fields(layer) & {"shuffle", "rand_skip", "mirror"}) or crops_at_random(layer, phase)


def crops_at_random(layer: LayerText, phase: str) -> bool:
    """Return whether a data layer crops at random places, as Caffe does in phase TRAIN."""
    return phase == "TRAIN" and "crop_size" in _enabled_fields(layer)


def mirrors(layer: LayerText) -> bool:
    """Return whether a data layer flips images at random."""
    return "mirror" in _enabled_fields(layer)


def _enabled_fields(layer: LayerText) -> set[str]:
    block = _last(layer.message, PARAMS.get(layer.type, ""))
    blocks = [*([block] if block is not None else []), *layer.message.messages("transform_param")]
    fields = [(block, item.name) for block in blocks for item in block.fields]
    return {name for block, name in fields if block.string(name) not in ("false", "0", None)}


def _last(message: Message, name: str) -> Message | None:
    blocks = message.messages(name) if name else []
    return blocks[-1] if blocks else None


def _fields(message: Message, name: str) -> list[Any]:
    return [item for block in message.messages(name) for item in block.fields]


def _values(message: Message) -> MeanScale:
    scale, mean, file = 1.0, [], None
    for block in message.messages("transform_param"):
        scale = float(block.string("scale") or scale)
        mean += [float(item.value) for item in block.scalars("mean_value")]
        file = block.string("mean_file") or file
    return MeanScale(file if file is not None else tuple(mean) if any(mean) else (0.0,), scale)


def _text(block: Message | None, name: str) -> object:
    """Return a field of a data layer's block; None if it is not written or has its default."""
    found = block.string(name) if block is not None else None
    return None if found in (None, "", "LEVELDB", "0") else {"1": "LMDB"}.get(str(found), found)


def _descriptor() -> Descriptor:
    from prototxt.schema.messages import LayerParameter

    return cast("Descriptor", LayerParameter.DESCRIPTOR)


def _content(
    message: Message, known: Descriptor | None, skipped: frozenset[str], inner: frozenset[str]
) -> tuple[object, ...]:
    """Return the fields in an order and spelling that can be compared, without those at their defaults.

    skipped  names of fields that are left out; `inner` the same in nested messages
    """
    fields: Mapping[str, FieldDescriptor] = known.fields_by_name if known is not None else {}
    found: list[tuple[str, object]] = []
    for item in message.fields:
        about = fields.get(item.name)
        if item.name not in skipped:  # () is a message with only defaults
            values = [_comparable(value, about, inner) for value in item.values]
            found += [(item.name, value) for value in values if value != () and value != _default(about)]
    return tuple(sorted(found, key=repr))


def _comparable(value: Scalar | Message, about: FieldDescriptor | None, inner: frozenset[str]) -> object:
    if isinstance(value, Message):
        return _content(value, about.message_type if about is not None else None, inner, inner)
    if about is not None and about.enum_type is not None and value.value.isdigit():
        return about.enum_type.values_by_number[int(value.value)].name
    if about is not None and about.type == about.TYPE_BOOL:
        return value.value in ("true", "True", "t", "1")
    try:
        return float(value.value) if value.kind == "number" else value.value
    except ValueError:
        return value.value


def _default(about: FieldDescriptor | None) -> object:
    """Return a field's default; None for a repeated field and a message."""
    if about is None or about.message_type is not None or isinstance(about.default_value, (list, tuple)):
        return None
    if about.enum_type is not None:
        return about.enum_type.values_by_number[about.default_value].name
    plain = isinstance(about.default_value, (bool, str, bytes))
    return about.default_value if plain else float(about.default_value)  # as _comparable reads numbers


def stated_size(layer: LayerText) -> tuple[int | None, int | None, int | None]:
    """Return channels, height and width as far as the data layer states them."""
    number = {"crop_size": 0, "new_height": 0, "new_width": 0}
    colour = None
    for block in layer.message.messages("transform_param") + layer.message.messages("image_data_param"):
        number.update({name: int(value) for name in number if (value := block.string(name))})
        colour = block.string("is_color") or colour
    # Only ImageData decodes to a known number of channels; records of a database have their own.
    channels = None if layer.type != "ImageData" else 1 if colour in ("false", "0") else 3
    crop = number["crop_size"]
    return channels, crop or number["new_height"] or None, crop or number["new_width"] or None
