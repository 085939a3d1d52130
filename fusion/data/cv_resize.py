"""OpenCV's bilinear resize of 8-bit images, bit for bit: Caffe resizes with it, and nets learn its rounding.

Pillow's BILINEAR cannot replace this: when it shrinks it averages over the whole source area, and differs in 99 % of
the values; when it enlarges it rounds differently, in 23 %.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_WORTH = 0.75  # share of used rows below which copying them costs less than processing all rows
_UNIT = 2048  # coefficients are fixed-point numbers with 11 fractional bits


def resize_bilinear(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resize as `cv::resize(..., INTER_LINEAR)` does.

    image  uint8 [H, W] or [H, W, C]
    returns  uint8 [height, width] or [height, width, C]
    """
    rows, columns = image.shape[:2]
    if (rows, columns) == (height, width):
        return image
    if (rows, columns) == (2 * height, 2 * width):
        return _halve(image)
    left, right, near_left, near_right = _taps(columns, width, clamp=True)
    above, below, near_above, near_below = _taps(rows, height, clamp=False)
    used = np.union1d(above, below)
    if len(used) < _WORTH * rows:
        image, above, below = image[used], np.searchsorted(used, above), np.searchsorted(used, below)
    source = image.astype(np.int32)
    ends = (1,) * (image.ndim - 2)
    # OpenCV's fixed point: 8 + 11 bits, minus 4; times 11 bits, minus 16; the sum rounded off by 2 more.
    across = source[:, left] * near_left.reshape(1, -1, *ends) + source[:, right] * near_right.reshape(1, -1, *ends)
    across >>= 4
    upper = (across[above] * near_above.reshape(-1, 1, *ends)) >> 16
    lower = (across[below] * near_below.reshape(-1, 1, *ends)) >> 16
    return ((upper + lower + 2) >> 2).astype(np.uint8)


def _halve(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Average four pixels, as OpenCV does for exactly half the size."""
    wide = image.astype(np.int32)
    total = wide[0::2, 0::2] + wide[0::2, 1::2] + wide[1::2, 0::2] + wide[1::2, 1::2]
    return ((total + 2) >> 2).astype(np.uint8)


def _taps(
    old: int, new: int, *, clamp: bool
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.int32], NDArray[np.int32]]:
    """Return for each new position the two old ones and their fixed-point weights.

    Along rows OpenCV gives all weight to the border pixel beyond the border (clamp); along columns it repeats the
    border line and keeps both weights, which rounds differently.
    """
    scale = 1.0 / (new / old)
    position = ((np.arange(new) + 0.5) * scale - 0.5).astype(np.float32)  # float32 as in OpenCV: the ties depend on it
    first = np.floor(position).astype(np.intp)
    fraction = position - first.astype(np.float32)
    if clamp:
        fraction[(first < 0) | (first >= old - 1)] = 0.0
    one = np.float32(1.0)
    near = np.rint((one - fraction) * np.float32(_UNIT)).astype(np.int32)
    far = np.rint(fraction * np.float32(_UNIT)).astype(np.int32)
    return np.clip(first, 0, old - 1), np.clip(first + 1, 0, old - 1), near, far
