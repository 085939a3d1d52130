"""Resize images as pycaffe did with the scikit-image of its time: the same numbers without that package.

Images of one or three channels were resized by `skimage.transform.resize(mode="constant")`, which has the centres of
pixels half a pixel inside the image, reads 0 beyond it (so that borders fade when an image grows) and averages nothing
when it shrinks. Others were resized by `scipy.ndimage.zoom`, which lays the centres of the corner pixels on each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusion.errors import DataError

Dims = Sequence[int] | NDArray[np.integer[Any]]  # height and width


def resize_image(im: NDArray[Any], new_dims: Dims, interp_order: int = 1) -> NDArray[np.float32]:
    """Resize an image.

    im            [H, W, K], any dtype
    new_dims      (height, width)
    interp_order  0 takes the nearest pixel, 1 interpolates linearly
    returns       float32 [height, width, K]

    Raises: DataError for the splines of higher orders.
    """
    if interp_order not in (0, 1):
        hint = "give 0 (nearest pixel) or 1 (linear), or use scipy.ndimage.zoom"
        raise DataError(f"interp_order {interp_order} is a spline, which is not available", hint=hint)
    height, width = int(new_dims[0]), int(new_dims[1])
    if im.shape[-1] not in (1, 3):
        zoomed = _zoom(im, (height, width), interp_order, to_corners=True)
        return (np.floor(zoomed + 0.5) if im.dtype.kind in "iu" else zoomed).astype(np.float32)
    low, high = im.min(), im.max()
    if not high > low:
        return np.full((height, width, im.shape[-1]), low, np.float32)
    scaled = _zoom((im - low) / (high - low), (height, width), interp_order, to_corners=False)
    return np.asarray(scaled * (high - low) + low, np.float32)


def _zoom(image: NDArray[Any], size: tuple[int, int], order: int, *, to_corners: bool) -> NDArray[np.float64]:
    """Resize the first two axes; `to_corners` is ndimage's rule, else skimage's holds and 0 is read outside."""
    for axis, new in enumerate(size):
        old = image.shape[axis]
        if to_corners:
            positions = np.arange(new) * ((old - 1) / (new - 1) if new > 1 else 0.0)
        else:
            positions = (np.arange(new) + 0.5) * (old / new) - 0.5
        image = _interpolate(image, axis, np.floor(positions + 0.5) if order == 0 else positions)
    return image


def _interpolate(image: NDArray[Any], axis: int, positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the values at positions of an axis, between two pixels the linear mixture, outside the image 0."""
    below = np.floor(positions).astype(int)
    above = positions - below
    mixture: Any = 0.0
    for index, share in ((below, 1 - above), (below + 1, above)):
        last = image.shape[axis] - 1
        share = np.where((index >= 0) & (index <= last), share, 0.0)
        shape = [-1 if number == axis else 1 for number in range(image.ndim)]
        mixture = mixture + image.take(index.clip(0, last), axis) * share.reshape(shape)
    return np.asarray(mixture, np.float64)
