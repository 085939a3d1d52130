"""An `ImageData` layer for a `Data` layer and the reverse: other files of images, decoded to the same pixels.

Both decode to blue, green, red, and both resize with OpenCV's bilinear rounding, without keeping the aspect, when a
list is read (`ImageData`) or before, when a database was written (convert_imageset). So one replaces the other where
the size and the colours of the records are known.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final

from fusion.data.lmdb_leveldb import is_lmdb, open_database
from fusion.data.transforms import read_mean_image
from fusion.errors import DataError
from prototxt.errors import WeightsError
from prototxt.formats.class_folders import is_database, is_image_folder
from prototxt.formats.datum import read_datum
from prototxt.formats.image_files import open_picture

if TYPE_CHECKING:
    from prototxt.schema.messages import LayerParameter

_SEEN = 20  # records of a database that are looked at
_GRAY, _COLOR = 1, 3
_FORCED: Final = ("force_color", "force_gray")  # of records of a database, which ImageData ignores

_ASK: Final = "write a database of the images (fusion-convert images), or give to fusion-compose: "

Shape = tuple[int, int, int]  # channels, height, width


@dataclass(frozen=True)
class GivenShape:
    """The size (height, width) to resize images to, and the shape [C, H, W] that the net takes, where given."""

    resize: Sequence[int] | None = None
    input_shape: Sequence[int] | None = None


def reading_layer(path: str | os.PathLike[str]) -> str | None:
    """Return the type of the layer that reads images from here, "ImageData" or "Data"; None if there is nothing."""
    if is_image_folder(path):
        return "ImageData"
    if os.path.isdir(path):
        return "Data"
    try:
        with open(path, "rb") as file:  # an LMDB may be a file without a folder, and is binary
            return "Data" if b"\0" in file.read(64) else "ImageData"
    except OSError:
        return None


def as_image_layer(
    layer: LayerParameter, given: GivenShape = GivenShape(), beside: Sequence[LayerParameter] = ()
) -> tuple[LayerParameter, str]:
    """Return a `Data` layer as an `ImageData` layer that makes the same blobs of images, and a note on it.

    The size to resize to is that given, that of the database's first records (none if they differ), of the mean file,
    or, without a crop, of the net's input; the colours are those of the records, the mean, or the net's input.

    beside   the net's layers of other phases, whose databases may exist where the layer's own does not
    Raises   DataError where size or colours are not known, or the records are no images
    """
    shapes = next((found for one in (layer, *beside) if (found := _shapes_of_layer(one))), [])
    channels, size = _channels(layer, shapes, given), _size(layer, shapes, given)
    result = type(layer)()
    result.CopyFrom(layer)
    result.type = "ImageData"
    result.ClearField("data_param")
    for name in _FORCED:
        result.transform_param.ClearField(name)
    if not result.transform_param.ListFields():
        result.ClearField("transform_param")
    param, own = result.image_data_param, layer.data_param
    param.source, param.batch_size = own.source, own.batch_size
    if own.rand_skip:
        param.rand_skip = own.rand_skip
    if size is not None:
        param.new_height, param.new_width = size
    if channels == _GRAY:
        param.is_color = False
    resized = "in their own sizes" if size is None else f"resized to {size[0]}x{size[1]} without keeping the aspect"
    return result, f"images instead of a database: {resized}, {'gray' if channels == _GRAY else 'blue first'}"


def as_database_layer(layer: LayerParameter, path: str) -> tuple[LayerParameter, str]:
    """Return an `ImageData` layer as a `Data` layer over the database at `path`, and a note on it.

    Raises: DataError where the database cannot be read, or its records are not as the layer makes them.
    """
    own = layer.image_data_param
    lmdb = is_lmdb(path) or os.path.isfile(path)
    shapes = record_shapes(path, lmdb=lmdb)
    channels = _COLOR if own.is_color else _GRAY
    size = (own.new_height, own.new_width) if own.new_height else None
    wrong = next((one for one in shapes if one[0] != channels or (size is not None and one[1:] != size)), None)
    if wrong is not None:
        needed = "x".join(map(str, (channels, *(size or ("?", "?")))))
        options = f"{f' --resize {size[0]}x{size[1]}' if size else ''}{'' if own.is_color else ' --gray'}"
        raise DataError(
            f"the database holds images of {'x'.join(map(str, wrong))}, and layer '{layer.name}' makes them {needed}",
            place=path,
            hint=f"write one that fits: fusion-convert images LIST OUT --lmdb{options}",
        )
    result = type(layer)()
    result.CopyFrom(layer)
    result.type = "Data"
    result.ClearField("image_data_param")
    param = result.data_param
    param.source, param.batch_size, param.backend = path, own.batch_size, param.LMDB if lmdb else param.LEVELDB
    if own.rand_skip:
        param.rand_skip = own.rand_skip
    order = "; its order is that in which it was written, without shuffling" if own.shuffle else ""
    return result, f"a database instead of images, whose records have the same size and colours{order}"


def record_shapes(path: str, *, lmdb: bool, forced: int | None = None) -> list[Shape]:
    """Return the shapes [C, H, W] of a database's first records.

    forced  channels that encoded images are decoded to; None: their own
    Raises  DataError, also for records of floats
    """
    database = open_database(path, lmdb=lmdb)
    found = []
    for number, value in enumerate(islice(database.values(), _SEEN)):
        place = database.place(number)
        try:
            datum = read_datum(bytes(value), place)
            if datum.encoded:
                with open_picture(io.BytesIO(datum.data)) as picture:
                    channels = forced or (_GRAY if picture.mode == "L" else _COLOR)
                    found.append((channels, picture.height, picture.width))
                continue
        except (WeightsError, OSError, ValueError) as error:
            raise DataError(f"the record cannot be read: {error}", place=place) from error
        if datum.float_data is not None or datum.channels not in (_GRAY, _COLOR):
            shape = "x".join(map(str, (datum.channels, datum.height, datum.width)))
            kind = "values" if datum.float_data is not None else "channels"
            raise DataError(f"the record is no image: {kind} of {shape}", place=place)
        found.append((datum.channels, datum.height, datum.width))
    return found


def _shapes_of_layer(layer: LayerParameter) -> list[Shape]:
    """Return the shapes of the first records of a `Data` layer; none if its database does not exist."""
    param = layer.data_param
    if not is_database(param.source) and not os.path.isfile(param.source):
        return []
    return record_shapes(param.source, lmdb=param.backend == param.LMDB, forced=_forced(layer))


def _forced(layer: LayerParameter) -> int | None:
    """Return the channels that encoded records are decoded to, None if they keep their own."""
    transform = layer.transform_param
    if transform.force_color or layer.data_param.force_encoded_color:
        return _COLOR
    return _GRAY if transform.force_gray else None


def _channels(layer: LayerParameter, shapes: Sequence[Shape], given: GivenShape) -> int:
    known = {shape[0] for shape in shapes}
    if not known and (forced := _forced(layer)) is not None:
        known = {forced}
    if not known and (mean := _mean_shape(layer)) is not None:
        known = {mean[0]}
    if not known and len(layer.transform_param.mean_value) > 1:
        known = {len(layer.transform_param.mean_value)}
    if not known and given.input_shape:
        known = {given.input_shape[0]}
    if len(known) == 1 and known <= {_GRAY, _COLOR}:
        return known.pop()
    if known:
        message = f"its images have {' and '.join(map(str, sorted(known)))} channels"
        raise DataError(f"layer '{layer.name}': {message}", hint="set force_color or force_gray in its transform_param")
    message = f"layer '{layer.name}': the channels of its images are not known, as its database is not here"
    raise DataError(message, place=layer.data_param.source, hint=f"{_ASK}--input-shape C,H,W")


def _size(layer: LayerParameter, shapes: Sequence[Shape], given: GivenShape) -> tuple[int, int] | None:
    if given.resize is not None:
        return given.resize[0], given.resize[1]
    sizes = {shape[1:] for shape in shapes}
    if sizes:
        return sizes.pop() if len(sizes) == 1 else None
    if (mean := _mean_shape(layer)) is not None:
        return mean[1:]
    crop = layer.transform_param.crop_size
    if not crop and given.input_shape:
        return given.input_shape[1], given.input_shape[2]
    message = f"layer '{layer.name}': the size of its images is not known, as its database is not here"
    before = f" before the crop of {crop}x{crop}" if crop else ""
    hint = f"{_ASK}the size of its records{before}, such as --resize 256x256"
    raise DataError(message, place=layer.data_param.source, hint=hint)


def _mean_shape(layer: LayerParameter) -> Shape | None:
    path = layer.transform_param.mean_file
    if not path or not os.path.exists(path):
        return None
    channels, height, width = read_mean_image(path).shape
    return channels, height, width
