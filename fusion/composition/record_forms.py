"""Data layers that get a list in the form that another layer type reads: a database's layer a list, and the reverse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from fusion.composition.net_text import LayerText, excerpt, format_value, quoted, read_net, reparse
from fusion.composition.options import ComposeOptions
from fusion.composition.prepared_source import PreparedSource
from fusion.composition.preprocessing import PARAMS
from fusion.data.record_forms import GivenShape, as_database_layer, as_image_layer, reading_layer
from fusion.errors import ComposeError
from prototxt.text.edits import Edits

if TYPE_CHECKING:
    from prototxt.schema.messages import LayerParameter

_FORMS = ("ImageData", "Data")


def with_record_forms(
    sources: Sequence[PreparedSource], options: ComposeOptions, notes: list[str]
) -> list[PreparedSource]:
    """Return the sources, with data layers of the type that reads the lists given to them; adds notes.

    Raises: DataError where the size or the colours of the images are not known, or do not fit; ComposeError for a size
    that no layer needs.
    """
    found = [_with_forms(source, options, notes) for source in sources]
    if options.resize is not None and not notes:
        message = "--resize is the size of images that replace a database, and none is replaced"
        raise ComposeError(message, hint="omit it")
    return found


def _with_forms(source: PreparedSource, options: ComposeOptions, notes: list[str]) -> PreparedSource:
    edits = Edits(source.raw.document)
    given = GivenShape(options.resize, options.input_shape)
    messages = {layer.number: _message(source, layer) for layer in source.data_layers if layer.type in _FORMS}
    for layer in source.data_layers:
        paths = [path for phase in layer.phases if (path := _given_list(source, layer, phase, options))]
        wanted = {reading_layer(path) for path in paths}
        # A layer of both phases changes with both of its lists; one that needs no label has no ImageData form.
        if layer.type not in _FORMS or wanted != {_FORMS[layer.type == "ImageData"]}:
            continue
        if len(paths) < len(layer.phases) or len(layer.tops) < 2:
            continue
        own = messages[layer.number]
        if layer.type == "Data":
            beside = [one for number, one in messages.items() if number != layer.number and one.top == own.top]
            changed, note = as_image_layer(own, given, beside)
        else:
            changed, note = as_database_layer(own, paths[0])
            for path in paths[1:]:
                as_database_layer(own, path)
        _replace(edits, layer, changed)
        notes.append(f"data: layer '{layer.name}' of {source} reads {note}")
    return replace(source, raw=read_net(edits.apply())) if len(edits) else source


def _given_list(source: PreparedSource, layer: LayerText, phase: str, options: ComposeOptions) -> str | None:
    """Return the list that the user gives a layer: by its name, for its source, or for all."""
    train = phase == "TRAIN"
    own = source.spec.train_list if train else source.spec.val_list
    if isinstance(own, Mapping):
        own = next((path for name, path in own.items() if name in (layer.name, *layer.tops)), None)
    return own or (options.train_list if train else options.val_list)


def _message(source: PreparedSource, layer: LayerText) -> LayerParameter:
    from prototxt.schema.load import load_net

    return load_net(reparse(excerpt(source.raw, layer), source.raw.file), strict=False).layer[0]


def _replace(edits: Edits, layer: LayerText, changed: LayerParameter) -> None:
    """Replace a layer's type and the block of its type; its other fields stay as they are in the file."""
    edits.set(layer.message, "type", quoted(changed.type))
    block = getattr(changed, PARAMS[changed.type])
    fields = " ".join(f"{field.name}: {_literal(field, value)}" for field, value in block.ListFields())
    first, *others = layer.message.all(PARAMS[layer.type])
    edits.replace(first, f"{PARAMS[changed.type]} {{ {fields} }}")
    for other in others:
        edits.remove(other)
    for transform in layer.message.messages("transform_param") if changed.type == "ImageData" else ():
        for name in ("force_color", "force_gray"):
            for field in transform.all(name):
                edits.remove(field)


def _literal(field: object, value: object) -> str:
    enum = getattr(field, "enum_type", None)
    if enum is not None:
        return str(enum.values_by_number[value].name)
    return quoted(value) if isinstance(value, str) else format_value(value)
