"""Encoded images (JPEG, PNG, ...) to pixels as Caffe's OpenCV gives them: BGR planes, or one gray plane."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from fusion.data.cv_resize import resize_bilinear
from fusion.data.fast_gray_decode import gray_pixels
from prototxt.formats.image_files import FORMATS, PictureError, open_picture

_PNG_LUMA = (9797, 19234, 3737, 0, 15)  # OpenCV lets libpng convert colour PNGs to gray, and libpng truncates
_OPENCV_LUMA = (4899, 9617, 1868, 8192, 14)  # OpenCV converts other formats itself, and rounds
_DEEP = ("I;16", "I;16B", "I;16L", "I")


class UndecodableError(ValueError):
    """The bytes are not an image that can be decoded; the caller knows the file's name and makes it a DataError."""


def decode_image(data: bytes, *, color: bool | None, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Decode and resize one image.

    color    True: BGR, False: gray, None: as the image is
    size     (height, width) to resize to, or None
    returns  uint8 [3, H, W] in the order blue, green, red, or uint8 [1, H, W]
    Raises   UndecodableError
    """
    pixels = None if color else gray_pixels(data)
    if pixels is None:
        pixels = _by_pillow(data, color)
    if size is not None:
        pixels = resize_bilinear(pixels, *size)
    if pixels.ndim == 2:
        return np.ascontiguousarray(pixels)[None]
    return np.ascontiguousarray(pixels[:, :, ::-1].transpose(2, 0, 1))


def _by_pillow(data: bytes, color: bool | None) -> NDArray[np.uint8]:
    """Return RGB or gray pixels of any known format, turned as the Exif tag of a JPEG says, as OpenCV does."""
    try:
        with open_picture(io.BytesIO(data)) as opened:
            if color is False and opened.format == "JPEG":
                opened.draft("L", opened.size)  # the luma plane itself, as OpenCV takes it
            opened.load()
            image = ImageOps.exif_transpose(opened) if opened.format == "JPEG" else opened
            return _pixels(image, color)
    except UnidentifiedImageError as error:
        raise UndecodableError(f"it is in no known format ({', '.join(FORMATS)})") from error
    except (OSError, PictureError) as error:
        raise UndecodableError(str(error)) from error


def _pixels(image: Image.Image, color: bool | None) -> NDArray[np.uint8]:
    if image.mode in _DEEP:  # 16-bit gray: OpenCV keeps the upper byte
        deep = (np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)
        return np.repeat(deep[:, :, None], 3, axis=2) if color else deep
    gray = image.mode in ("L", "1", "LA")
    if color or (color is None and not gray):
        return np.asarray(image.convert("RGB"))
    if gray:
        return np.asarray(image.convert("L"))
    return _luma(np.asarray(image.convert("RGB")), _PNG_LUMA if image.format == "PNG" else _OPENCV_LUMA)


def _luma(rgb: NDArray[np.uint8], weights: tuple[int, int, int, int, int]) -> NDArray[np.uint8]:
    """Convert RGB to gray in fixed point; weights are (red, green, blue, rounding, shift).

    rgb  uint8 [H, W, 3]; returns uint8 [H, W]
    """
    red, green, blue, rounding, shift = weights
    rgb32 = rgb.astype(np.uint32)
    return ((rgb32[..., 0] * red + rgb32[..., 1] * green + rgb32[..., 2] * blue + rounding) >> shift).astype(np.uint8)
