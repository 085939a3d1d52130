"""`ImageData`: images named by a list file, or in class folders."""

from __future__ import annotations

import os
from copy import deepcopy
from typing import TYPE_CHECKING

from fusion.data.decode_image import UndecodableError, decode_image
from fusion.data.decoded_cache import BUDGET, Fetch, Pixels, Store, Stores, shared_store
from fusion.data.file_stamp import stamp_files
from fusion.data.image_list import ImageList, read_list
from fusion.data.sampler import Order, random_skip, shuffled
from fusion.data.source import ImageSource, record_check
from fusion.data.source_config import SourceConfig
from fusion.data.transforms import read_transform
from fusion.errors import DataError
from prototxt.formats.class_folders import is_image_folder

if TYPE_CHECKING:
    from prototxt.schema.messages import ImageDataParameter, LayerParameter


def open_image_data(config: SourceConfig, *, budget: int = BUDGET, stores: Stores | None = None) -> ImageSource:
    """Open the source of an `ImageData` layer; `stores` are those of layers opened before. Raises: DataError."""
    layer, phase, root, seed = config.layer, config.phase, config.root, config.seed
    param = layer.image_data_param
    name = f"layer '{layer.name}'"
    if not param.batch_size:
        raise DataError("batch_size must be at least 1", place=name)
    if bool(param.new_height) != bool(param.new_width):
        raise DataError("new_height and new_width must be given together", place=name, hint="give both, or neither")
    images = read_list(param.source)
    folder = param.root_folder if root is None else os.path.join(root, "")
    if folder and is_image_folder(param.source):
        hint = "remove root_folder: the images are found by source alone"
        raise DataError(f"source {param.source} is a folder, and root_folder is for lists", place=name, hint=hint)
    transform = read_transform(layer.transform_param, phase, name)
    check = record_check(transform, images.place, alone=param.batch_size == 1)
    store = shared_store(
        stores,
        ("ImageData", param.source, folder, param.new_height, param.new_width, param.is_color),
        check,
        lambda: Store(_reader(images, folder, param), len(images.names), budget=budget, skip=config.skips, check=check),
    )
    transform.check(store.first.shape, images.place(0))
    order = Order(
        len(images.names),
        param.batch_size,
        skip=random_skip(param.rand_skip, seed),
        permutation=shuffled(len(images.names), seed) if param.shuffle else None,
    )
    # The phase chooses random or central crops; without it a cache serves both phases where they are the same.
    settings = _settings(layer) + (b"" if transform.deterministic(store.first.shape) else phase.encode())
    return ImageSource(
        tops=tuple(layer.top),
        store=store,
        transform=transform,
        sequence=order,
        keys=images.names,
        read_labels=lambda: images.labels,
        where=images.place,
        hash=lambda: stamp_files(settings + images.labels.tobytes(), images.names, folder),
        config=config,
        seed=seed,
    )


def _reader(images: ImageList, folder: str, param: ImageDataParameter) -> Fetch:
    size = (param.new_height, param.new_width) if param.new_height else None
    color = param.is_color

    def fetch(index: int) -> Pixels:
        path = folder + images.names[index]
        try:
            with open(path, "rb", buffering=0) as file:
                data = file.read()
        except OSError as error:
            text = f"cannot read the image {path!r}: {error.strerror}"
            hint = "paths are root_folder followed by the name in the list, relative to the working directory"
            raise DataError(text, place=images.place(index), hint=hint) from error
        try:
            return decode_image(data, color=color, size=size)
        except UndecodableError as error:
            text = f"cannot decode the image {path!r}: {error}"
            hint = "replace the file, remove the line from the list, or skip bad records"
            raise DataError(text, place=images.place(index), hint=hint) from error

    return fetch


def _settings(layer: LayerParameter) -> bytes:
    """Return the settings that decide how one record is decoded, without those about its batch or its list."""
    param = deepcopy(layer.image_data_param)
    for name in ("source", "batch_size", "shuffle", "rand_skip", "root_folder"):
        param.ClearField(name)
    settings: bytes = param.SerializeToString(deterministic=True)
    return settings + layer.transform_param.SerializeToString(deterministic=True)
