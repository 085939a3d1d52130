"""Images, Caffe's binary messages and the preparation of a net's inputs, with the numbers of `caffe.io`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from fusion.errors import DataError
from fusion.pycaffe.image_resize import Dims as Dims, resize_image as resize_image
from fusion.pycaffe.proto import caffe_pb2
from prototxt.formats.image_files import FORMATS, PictureError, open_picture

_LUMA = (0.2125, 0.7154, 0.0721)  # scikit-image's shares of red, green and blue


def blobproto_to_array(blob: Any, return_diff: bool = False) -> NDArray[np.float64]:
    """Return the values of a BlobProto, or its gradients, float64 in its shape, of whichever form."""
    values = np.array(blob.diff if return_diff else blob.data, float)
    old = ("num", "channels", "height", "width")
    if any(blob.HasField(name) for name in old):
        return values.reshape([getattr(blob, name) for name in old])
    return values.reshape(tuple(blob.shape.dim))


def array_to_blobproto(arr: NDArray[Any], diff: NDArray[Any] | None = None) -> Any:
    """Return a BlobProto with these values, and gradients of the same shape."""
    blob = caffe_pb2.BlobProto()
    blob.shape.dim.extend(arr.shape)
    blob.data.extend(arr.astype(float).flat)
    if diff is not None:
        blob.diff.extend(diff.astype(float).flat)
    return blob


def arraylist_to_blobprotovector_str(arraylist: Iterable[NDArray[Any]]) -> bytes:
    """Return arrays as the bytes of a BlobProtoVector."""
    content: bytes = caffe_pb2.BlobProtoVector(blobs=map(array_to_blobproto, arraylist)).SerializeToString()
    return content


def blobprotovector_str_to_arraylist(str: bytes) -> list[NDArray[np.float64]]:
    """Return the arrays of the bytes of a BlobProtoVector."""
    return [blobproto_to_array(blob) for blob in caffe_pb2.BlobProtoVector.FromString(str).blobs]


def array_to_datum(arr: NDArray[Any], label: int | None = None) -> Any:
    """Return an array [C, H, W] as a Datum: uint8 as bytes, others as float values.

    Raises: ValueError for another number of axes.
    """
    if arr.ndim != 3:
        raise ValueError(f"Incorrect array shape: a Datum has three axes, not {arr.ndim}")
    channels, height, width = arr.shape
    datum = caffe_pb2.Datum(channels=channels, height=height, width=width, label=label)
    if arr.dtype == np.uint8:
        datum.data = arr.tobytes()
    else:
        datum.float_data.extend(arr.astype(float).flat)
    return datum


def datum_to_array(datum: Any) -> NDArray[Any]:
    """Return the values of a Datum, [C, H, W], uint8 or float64. Raises: DataError for an encoded image."""
    if datum.encoded:
        hint = "decode datum.data, for instance with PIL.Image.open(io.BytesIO(datum.data))"
        raise DataError("the Datum holds an encoded image", hint=hint)
    values = np.frombuffer(datum.data, np.uint8).copy() if datum.data else np.array(datum.float_data, float)
    return values.reshape(datum.channels, datum.height, datum.width)


def load_image(filename: str | os.PathLike[str] | BinaryIO, color: bool = True) -> NDArray[np.float32]:
    """Load an image; without `color` as the intensity of its pixels. Transparency is ignored.

    returns  float32 [H, W, 3] RGB or [H, W, 1], from 0 to 1

    Raises: DataError for damaged files and unknown formats, OSError.
    """
    place = os.fspath(filename) if isinstance(filename, str | os.PathLike) else None
    try:
        with open_picture(filename) as picture:
            pixels = _pixels(picture)
    except UnidentifiedImageError as error:
        raise DataError(f"it is in no known format ({', '.join(FORMATS)})", place=place) from error
    except PictureError as error:
        raise DataError(str(error), place=place) from error
    if pixels.ndim == 2:
        pixels = pixels[:, :, np.newaxis]
        return np.tile(pixels, (1, 1, 3)).astype(np.float32) if color else pixels.astype(np.float32)
    return (pixels[:, :, :3] if color else (pixels[:, :, :3] @ _LUMA)[:, :, np.newaxis]).astype(np.float32)


def _pixels(picture: Image.Image) -> NDArray[np.float64]:
    """Return gray or colour pixels from 0 to 1."""
    if picture.mode.startswith("I"):  # 16 bits, which some versions of Pillow hold in 32
        deep = np.asarray(picture, np.float64)
        if deep.max() > 65_535:
            raise PictureError("its pixels have more than 16 bits")
        return deep / 65_535
    if picture.mode == "F":
        return np.asarray(picture, np.float64)
    gray = picture.mode in ("1", "L") or (picture.mode == "P" and _is_gray(picture))
    return np.asarray(picture.convert("L" if gray else "RGB")) / 255.0


def _is_gray(picture: Image.Image) -> bool:
    """Return whether all colours of a palette are gray."""
    red, green, blue = np.reshape(picture.getpalette("RGB") or [], (-1, 3)).T
    return bool((red == green).all() and (green == blue).all())


def oversample(images: Sequence[NDArray[Any]] | NDArray[Any], crop_dims: Dims) -> NDArray[np.float32]:
    """Cut the four corners and the centre out of each image, then the same five mirrored.

    images     N images [H, W, K] of one size
    crop_dims  (height, width) of the crops
    returns    float32 [10 * N, height, width, K]
    """
    height, width = (int(size) for size in crop_dims)
    full_height, full_width, channels = images[0].shape
    down, right = full_height - height, full_width - width
    corners = [(0, 0), (0, right), (down, 0), (down, right), centre((full_height, full_width), (height, width))]
    crops = np.empty((len(images), 10, height, width, channels), np.float32)
    for image, ten in zip(images, crops, strict=True):
        for crop, (top, left) in zip(ten, corners, strict=False):
            crop[:] = image[top : top + height, left : left + width]
        ten[5:] = ten[:5, :, ::-1]
    return crops.reshape(-1, height, width, channels)


def centre(image_dims: Dims, crop_dims: Dims) -> tuple[int, int]:
    """Return the top and left of the crop in the middle, rounded down as pycaffe does."""
    top, left = (int(full / 2.0 - crop / 2.0) for full, crop in zip(image_dims, crop_dims, strict=True))
    return top, left


class Transformer:
    """Prepares images for the inputs of a net.

    inputs  name of an input -> its shape [N, K, H, W]
    """

    def __init__(self, inputs: Mapping[str, Sequence[int]]) -> None:
        self.inputs = inputs
        self.transpose: dict[str, Sequence[int]] = {}
        self.channel_swap: dict[str, Sequence[int]] = {}
        self.raw_scale: dict[str, float] = {}
        self.mean: dict[str, NDArray[Any]] = {}
        self.input_scale: dict[str, float] = {}

    def preprocess(self, in_: str, data: NDArray[Any]) -> NDArray[np.float32]:
        """Return an image as an input: resized, transposed, its channels swapped, scaled, without mean, scaled.

        data     [H', W', K]; left unchanged
        returns  float32, [K, H, W] with the usual transpose (2, 0, 1)
        """
        self._check_input(in_)
        size = tuple(self.inputs[in_][2:])
        image = data.astype(np.float32)
        if image.shape[:2] != size:
            image = resize_image(image, size)
        if in_ in self.transpose:
            image = image.transpose(self.transpose[in_])
        if in_ in self.channel_swap:
            image = image[list(self.channel_swap[in_])]
        if in_ in self.raw_scale:
            image *= self.raw_scale[in_]
        if in_ in self.mean:
            image -= self.mean[in_]
        if in_ in self.input_scale:
            image *= self.input_scale[in_]
        return image

    def deprocess(self, in_: str, data: NDArray[Any]) -> NDArray[Any]:
        """Return the image of an input, in the size of the input: the reverse of `preprocess`."""
        self._check_input(in_)
        image = data.copy().squeeze()
        if in_ in self.input_scale:
            image /= self.input_scale[in_]
        if in_ in self.mean:
            image += self.mean[in_]
        if in_ in self.raw_scale:
            image /= self.raw_scale[in_]
        if in_ in self.channel_swap:
            image = image[np.argsort(self.channel_swap[in_])]
        if in_ in self.transpose:
            image = image.transpose(np.argsort(self.transpose[in_]))
        return np.asarray(image)

    def set_transpose(self, in_: str, order: Sequence[int]) -> None:
        """Set the order of axes: (2, 0, 1) makes [K, H, W] of [H, W, K]."""
        self._check_input(in_)
        axes = len(self.inputs[in_]) - 1
        if len(order) != axes:
            raise ValueError(f"Transpose order needs the {axes} dimensions of the input, not {len(order)}")
        self.transpose[in_] = order

    def set_channel_swap(self, in_: str, order: Sequence[int]) -> None:
        """Set the order of channels, which are the first axis after the transpose: (2, 1, 0) makes BGR of RGB."""
        self._check_input(in_)
        channels = self.inputs[in_][1]
        if len(order) != channels:
            raise ValueError(f"Channel swap needs the {channels} channels of the input, not {len(order)}")
        self.channel_swap[in_] = order

    def set_raw_scale(self, in_: str, scale: float) -> None:
        """Set the factor before the mean is subtracted: 255 for nets of pixels from 0 to 255."""
        self._check_input(in_)
        self.raw_scale[in_] = scale

    def set_mean(self, in_: str, mean: NDArray[Any]) -> None:
        """Set the mean to subtract: [K], or an image [K, H, W] or [H, W], which is resized to the input."""
        self._check_input(in_)
        shape = tuple(self.inputs[in_][1:])
        if mean.ndim == 1:
            if len(mean) != shape[0]:
                raise ValueError(f"Mean channels incompatible with input: {len(mean)} instead of {shape[0]}")
            mean = mean[:, np.newaxis, np.newaxis]
        else:
            image = mean[np.newaxis] if mean.ndim == 2 else mean
            if image.ndim != 3:
                raise ValueError(f"Mean shape invalid: {mean.shape}")
            mean = image if image.shape == shape else _resized_mean(image, shape[1:])
        self.mean[in_] = mean

    def set_input_scale(self, in_: str, scale: float) -> None:
        """Set the factor after all else."""
        self._check_input(in_)
        self.input_scale[in_] = scale

    def _check_input(self, in_: str) -> None:
        if in_ not in self.inputs:
            raise ValueError(f"{in_} is not one of the net inputs: {', '.join(self.inputs)}")


def _resized_mean(mean: NDArray[Any], size: Sequence[int]) -> NDArray[Any]:
    """Resize [K, H, W] in the scale from 0 to 1, as pycaffe does."""
    low, high = mean.min(), mean.max()
    if not high > low:
        return np.full((len(mean), *size), low, np.float32)
    resized = resize_image(((mean - low) / (high - low)).transpose(1, 2, 0), size).transpose(2, 0, 1)
    return np.asarray(resized * (high - low) + low)
