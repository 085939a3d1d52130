"""Inputs of a net outside training: their shapes, seeded noise, and images prepared as by its data layer."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fusion.data.cv_resize import resize_bilinear
from fusion.data.decode_image import UndecodableError, decode_image
from fusion.data.transforms import Transform, read_transform
from fusion.errors import DataError, raise_all
from prototxt.formats.class_folders import IMAGE_SUFFIXES, images_below
from prototxt.schema.messages import LayerParameter, NetParameter
from prototxt.shapes.dimensions import UNKNOWN, Shape
from prototxt.shapes.net import infer_partly


def input_shapes(
    net: NetParameter,
    *,
    batch: int | None = None,
    given: Mapping[str, Sequence[int]] | None = None,
    otherwise: Mapping[str, Shape] | None = None,
    place: str | None = None,
    option_prefix: str = "",
) -> dict[str, tuple[int, ...]]:
    """Return the shape of every blob that the net's data and Input layers make.

    net    of one phase
    batch  replaces the first dimension of all that are not given
    given  shapes that replace the net's own or supply missing ones; names of other blobs are ignored
    otherwise  shapes of inputs for which neither has one
    option_prefix  of the input's name in the option --input-shape, for the error
    Raises: DataError naming every input whose shape is not known.
    """
    given = given or {}
    known = known_input_shapes(net)
    for blob, shape in (otherwise or {}).items():
        if blob in known and (known[blob] is UNKNOWN or None in known[blob][1:]):
            known[blob] = shape
    shapes: dict[str, tuple[int, ...]] = {}
    errors = []
    for blob in known:  # a batch of unknown size has 1 record; all other sizes must be known
        shape = tuple(given.get(blob, known[blob]))
        sized = (batch or (shape[0] if shape else None) or 1, *shape[1:]) if blob not in given else shape
        if known[blob] is UNKNOWN and blob not in given:
            errors.append(_unknown_shape(blob, (None, None, None, None), place, option_prefix))
        elif any(dim is None for dim in sized):
            errors.append(_unknown_shape(blob, sized, place, option_prefix))
        else:
            shapes[blob] = tuple(int(dim) for dim in sized if dim is not None)
    raise_all(errors)
    return shapes


def known_input_shapes(net: NetParameter) -> dict[str, Shape]:
    """Return the shapes of a net's inputs, of one phase, as far as its description and its data, if present, tell."""
    sources = NetParameter(state=net.state)
    sources.layer.extend(layer for layer in net.layer if not layer.bottom)
    shapes = infer_partly(sources)[0].blobs
    return {top: shapes.get(top, UNKNOWN) for layer in sources.layer for top in layer.top}


def _unknown_shape(blob: str, shape: Shape, place: str | None, option_prefix: str) -> DataError:
    example = ",".join("?" if dim is None else str(dim) for dim in shape)
    name = f"{option_prefix}/{blob}" if option_prefix else blob
    hint = f"its data is not here to read it from: give --input-shape {name}={example} with numbers for all"
    return DataError(f"the shape of the input '{blob}' is not known", place=place, hint=hint)


def noise(blob: str, shape: Sequence[int], seed: int) -> Tensor:
    """Return standard normal numbers, the same for the same blob, shape and seed; float32."""
    # crc32, since Python's hash of a string differs between processes
    random = np.random.default_rng([seed, crc32(blob.encode("utf-8", "surrogateescape"))])
    return torch.from_numpy(random.standard_normal(tuple(shape), np.float32))


def integer_noise(blob: str, shape: Sequence[int], seed: int, kind: np.dtype[Any]) -> Tensor:
    """Return integers from 0 to 255 that the type can hold, the same for the same blob, shape and seed; float32."""
    random = np.random.default_rng([seed, crc32(blob.encode("utf-8", "surrogateescape"))])
    most = 1 if kind == np.bool_ else min(255, np.iinfo(kind).max)
    return torch.from_numpy(random.integers(0, most, tuple(shape), endpoint=True).astype(np.float32))


@dataclass(frozen=True)
class ImagePreparation:
    """The steps from an image to one record of an input.

    color      BGR (True) or gray (False)
    size       (height, width) to resize to before the crop, or None
    rgb        whether red is the first channel
    transform  mean, scale and crop
    from_data_layer  whether a data layer gives the transform; else pixels stay 0 ... 255
    """

    color: bool
    size: tuple[int, int] | None
    transform: Transform
    rgb: bool = False
    from_data_layer: bool = False

    def tensor(self, images: Sequence[str | bytes]) -> Tensor:
        """Return prepared images, float32 [N, C, H, W].

        images  paths, or the content of image files
        Raises  DataError naming every image that cannot be read or does not fit
        """
        rows, errors = [], []
        for number, image in enumerate(images):
            try:
                rows.append(self._row(image, number))
            except DataError as error:
                errors.append(error)
        raise_all(errors)
        if len({row.shape for row in rows}) > 1:
            raise DataError("the images have different sizes", hint="give a size to resize them to")
        return torch.from_numpy(np.concatenate(rows))

    def _row(self, image: str | bytes, number: int) -> NDArray[np.float32]:
        place = image if isinstance(image, str) else f"image {number + 1}"
        try:
            pixels = decode_image(_content(image), color=self.color)
        except (OSError, UndecodableError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            hint = "give image files (JPEG, PNG, ...) or folders of them"
            raise DataError(f"this is no image that can be read: {reason}", place=place, hint=hint) from error
        if self.size is not None:
            planes = pixels.transpose(1, 2, 0)
            resized = resize_bilinear(np.ascontiguousarray(planes if self.color else planes[:, :, 0]), *self.size)
            pixels = np.ascontiguousarray(resized.transpose(2, 0, 1) if self.color else resized[None])
        if self.rgb:
            pixels = pixels[::-1]
        self.transform.check(pixels.shape, place)
        return self.transform.apply(np.ascontiguousarray(pixels)[None])


def _content(image: str | bytes) -> bytes:
    return image if isinstance(image, bytes) else Path(image).read_bytes()


def image_preparation(net: NetParameter, blob: str, shape: Sequence[int]) -> ImagePreparation:
    """Return the preparation by the net's data layer for an input blob of the shape [N, C, H, W].

    Without such a layer images are resized to H x W, gray where C is 1, and neither shifted nor scaled.
    Raises: DataError for an input that takes no images.
    """
    if len(shape) != 4 or shape[1] not in (1, 3):
        hint = "images have 1 or 3 channels; verify with noise, or give arrays to the library"
        raise DataError(f"the input '{blob}' of shape {'x'.join(map(str, shape))} takes no images", hint=hint)
    layer = next((item for item in net.layer if blob in item.top and not item.bottom), LayerParameter())
    has_transform = layer.type in ("ImageData", "Data", "MemoryData", "WindowData")
    transform = read_transform(layer.transform_param, "TEST", f"layer '{layer.name}'") if has_transform else Transform()
    size = (shape[2], shape[3])
    if layer.image_data_param.new_height:
        size = (layer.image_data_param.new_height, layer.image_data_param.new_width)
    elif transform.mean is not None and transform.mean.shape[1:] != (1, 1):  # a mean file has the size before the crop
        size = (transform.mean.shape[1], transform.mean.shape[2])
    without_flips = Transform(transform.scale, transform.mean, transform.crop)  # Caffe flips at random in TEST too
    return ImagePreparation(shape[1] == 3, size, without_flips, from_data_layer=has_transform)


def find_images(paths: Sequence[str | os.PathLike[str]]) -> list[str]:
    """Return the image files at the paths: files as given, and all below folders that are not hidden, sorted by name.

    Raises: DataError for a path that does not exist, and for a folder without images.
    """
    found: list[str] = []
    errors = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = images_below(path)
            if not inside:
                hint = f"looked for {', '.join(IMAGE_SUFFIXES)}"
                errors.append(DataError("this folder has no image", place=str(path), hint=hint))
            found += inside
        elif path.is_file():
            found.append(str(path))
        else:
            errors.append(DataError("there is no such file or folder", place=str(path), hint="check the path"))
    raise_all(errors)
    return found
