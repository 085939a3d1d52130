"""A net that reads another list than its own, as a layer of the type that reads such."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fusion.data.record_forms import as_database_layer, as_image_layer, reading_layer
from fusion.errors import TrainingError
from prototxt.formats.class_folders import is_image_folder

if TYPE_CHECKING:
    from prototxt.schema.messages import LayerParameter, NetParameter

LISTED_PARAMS = ("image_data_param", "data_param", "hdf5_data_param", "window_data_param")


def with_list(net: NetParameter, path: str | os.PathLike[str]) -> NetParameter:
    """Return the net, reading another list (or folder of class folders, or database) as it reads its own.

    path    one list for all data layers, which must have one already; or one for each, as `data=A.txt,depth=B.txt`
            a layer that reads lists reads a database by the layer type for those, and the reverse, if that is certain
    Raises  TrainingError where the net reads none, or where one list is given instead of several; DataError where it is
            not certain that the images would be the same
    """
    message = type(net)()
    message.CopyFrom(net)
    blocks = {
        layer.top[0]: getattr(layer, name)
        for layer in message.layer
        for name in LISTED_PARAMS
        if layer.HasField(name) and layer.top
    }
    if not blocks:
        raise TrainingError(
            f"net '{net.name}' reads no list, so none can replace it", hint="give its net a data layer with a list"
        )
    given = _by_blob(os.fspath(path), blocks)
    if given.keys() != blocks.keys():
        reads = ", ".join(f"'{blob}' from {block.source}" for blob, block in blocks.items())
        raise TrainingError(
            f"net '{net.name}' reads {reads}, and {path} cannot replace all of them",
            hint=f"give a list for each: {','.join(f'{blob}=LIST' for blob in blocks)}",
        )
    for layer in message.layer:
        if layer.top and layer.top[0] in given:
            _set_list(layer, given[layer.top[0]])
    return message


def _set_list(layer: LayerParameter, path: str) -> None:
    """Let a data layer read another list, as a layer of the type that reads such. Raises: DataError."""
    form = reading_layer(path)
    if layer.type == "Data" and form == "ImageData":
        layer.CopyFrom(as_image_layer(layer)[0])
    elif layer.type == "ImageData" and form == "Data":
        layer.CopyFrom(as_database_layer(layer, path)[0])
    for name in LISTED_PARAMS:
        if layer.HasField(name):
            getattr(layer, name).source = path
    if is_image_folder(path) and layer.type == "ImageData":
        layer.image_data_param.ClearField("root_folder")  # which is for the names in a list


def _by_blob(path: str, blocks: Mapping[str, Any]) -> dict[str, str]:
    """Return the list of each data layer by its first blob; empty where one is given for several that differ."""
    pairs = [part.partition("=") for part in path.split(",")]
    if all(blob in blocks and source for blob, _, source in pairs):
        return {blob: source for blob, _, source in pairs}
    alike = len({block.source for block in blocks.values()}) == 1
    return dict.fromkeys(blocks, path) if alike else {}
