"""Images stored as arrays, written as records of a database or as class folders."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fusion.data.array_images import ArrayImages, read_array_images
from fusion.data.decode_image import decode_image
from fusion.data.encode_image import encode_image
from fusion.data.image_options import ImageOptions, WriteResult, record_order
from fusion.data.new_folder import new_folder
from fusion.errors import DataError
from prototxt.formats.datum import Datum, write_datum


def array_records(arrays: ArrayImages, images: ImageOptions) -> Iterator[tuple[bytes, bytes]]:
    """Yield keys and records as Caffe's convert_mnist_data writes them, the images prepared."""
    for number, index in enumerate(record_order(len(arrays.labels), images.shuffle)):
        pixels, label = _prepared(arrays.pixels[index], images), int(arrays.labels[index])
        if images.encoded:
            datum = Datum(label=label, encoded=True, data=encode_image(pixels, images.encode_type or "png"))
        else:
            channels, height, width = pixels.shape
            datum = Datum(channels, height, width, label, data=pixels.tobytes())
        yield f"{number:08d}".encode(), write_datum(datum)


def write_class_folders(
    source: str | os.PathLike[str], target: str | os.PathLike[str], images: ImageOptions
) -> WriteResult:
    """Write images stored as arrays into a new folder of class folders, as PNG files or those of `encode_type`.

    The files of a class have the numbers of their records in the source as names.

    Raises: DataError for a source of another kind, and where `target` exists; OSError.
    """
    arrays = read_array_images(os.fspath(source))
    if arrays is None:
        hint = "give idx files of MNIST or batches of CIFAR; fusion-convert list writes lists of image files"
        raise DataError("this holds no images as arrays", place=os.fspath(source), hint=hint)
    kind = images.encode_type or "png"
    with new_folder(target) as folder:
        for name in arrays.folders:
            os.mkdir(os.path.join(folder, name))
        for index, label in enumerate(arrays.labels.tolist()):
            path = os.path.join(folder, arrays.folders[label], f"{index:05d}.{kind}")
            with open(path, "wb") as file:
                file.write(encode_image(_prepared(arrays.pixels[index], images), kind))
    return WriteResult(len(arrays.labels))


def _prepared(pixels: NDArray[np.uint8], images: ImageOptions) -> NDArray[np.uint8]:
    """Return an image [C, H, W] in the wanted size, and gray if its colours are not wanted."""
    if images.size is None and (len(pixels) == 1 or not images.gray):
        return pixels
    # The steps of an image file, so that both give the same pixels.
    return decode_image(encode_image(pixels, "png"), color=len(pixels) > 1 and not images.gray, size=images.size)
