"""`WindowData`: windows cut out of images and warped to one size, foreground and background in a fixed proportion.

Source: BVLC Caffe's window_data_layer.cpp (the R-CNN data layer), whose arithmetic in float32 is followed step by step.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fusion.data.cv_resize import resize_bilinear
from fusion.data.decode_image import UndecodableError, decode_image
from fusion.data.decoded_cache import BUDGET, Fetch, Pixels, Store
from fusion.data.file_stamp import stamp_files
from fusion.data.source import ImageSource
from fusion.data.source_config import SourceConfig
from fusion.data.transforms import draw_crops_and_flips, mirrored_records, read_transform
from fusion.data.window_files import WindowBox, WindowList, read_windows
from fusion.errors import DataError

if TYPE_CHECKING:
    from prototxt.schema.messages import WindowDataParameter

_FLOAT = np.float32


@dataclass(frozen=True)
class WindowOrder:
    """Random windows for each batch: background first, then `fg_fraction` of it foreground."""

    records: int
    batch_size: int
    background: NDArray[np.int64]
    foreground: NDArray[np.int64]
    foreground_count: int
    seed: int

    def batch(self, number: int) -> NDArray[np.int64]:
        """Return the window numbers int64 [batch_size] of batch `number`."""
        rng = np.random.default_rng((self.seed, 2, number))
        parts = ((self.background, self.batch_size - self.foreground_count), (self.foreground, self.foreground_count))
        return np.concatenate([windows[rng.integers(len(windows), size=count)] for windows, count in parts if count])

    def batches(self, start: int = 0) -> Iterator[NDArray[np.int64]]:
        """Yield batch after batch from number `start` on, without end."""
        while True:
            yield self.batch(start)
            start += 1


@dataclass(frozen=True, eq=False)
class WindowTransform:
    """Mean, scale and flip of warped windows; the part outside the image stays 0.

    A record is uint8 [V, 4, crop, crop] (V 2 with `mirror`: the window, and the flipped one): blue, green, red, and 1
    inside the image.

    mean  float32 [3, crop, crop] or [3, 1, 1]
    """

    crop: int
    mean: NDArray[np.float32]
    scale: np.float32
    mirror: bool

    def deterministic(self, shape: tuple[int, ...]) -> bool:
        """Return whether a window always gets the same values."""
        return not self.mirror

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape (C, H, W) of a transformed window."""
        return 3, self.crop, self.crop

    def check(self, shape: tuple[int, ...], place: str) -> None:
        """Accept any shape: all windows fit."""

    def apply(self, pixels: NDArray[np.generic], rng: np.random.Generator | None = None) -> NDArray[np.float32]:
        """Transform records uint8 [N, V, 4, crop, crop] to float32 [N, 3, crop, crop]; `rng` draws flips."""
        variant = (
            mirrored_records(draw_crops_and_flips(rng, len(pixels))).astype(np.int64)
            if rng is not None and self.mirror
            else 0
        )
        chosen = pixels[np.arange(len(pixels)), variant]
        values: NDArray[np.float32] = (chosen[:, :3].astype(_FLOAT) - self.mean) * self.scale
        values *= chosen[:, 3:].astype(_FLOAT)
        return values


def open_window_data(config: SourceConfig, *, budget: int = BUDGET) -> ImageSource:
    """Open the source of a `WindowData` layer.

    Raises: DataError for settings that do not fit, and a window file that cannot be read or holds no window of a kind.
    """
    layer, param = config.layer, config.layer.window_data_param
    name = f"layer '{layer.name}'"
    _check(param, layer.transform_param.crop_size, name)
    windows = read_windows(param.source, fg_threshold=param.fg_threshold, bg_threshold=param.bg_threshold)
    folder = param.root_folder if config.root is None else os.path.join(config.root, "")
    transform = _transform(config, name)
    fetch = _cutter(windows, folder, param, transform)
    background, foreground = windows.labels == 0, windows.labels != 0
    # Caffe truncates a float32 product: 128 * 0.3 is 38.
    foreground_count = int(_FLOAT(param.batch_size) * _FLOAT(param.fg_fraction))
    settings = config.layer.SerializeToString(deterministic=True) + config.phase.encode()
    return ImageSource(
        tops=tuple(layer.top),
        store=Store(fetch, len(windows.boxes), budget=budget, skip=config.skips),
        transform=transform,
        sequence=WindowOrder(
            len(windows.boxes),
            param.batch_size,
            np.flatnonzero(background),
            np.flatnonzero(foreground),
            foreground_count,
            config.seed,
        ),
        keys=[f"{windows.images[box.image]}:{box.x1},{box.y1},{box.x2},{box.y2}" for box in windows.boxes],
        read_labels=lambda: windows.labels,
        where=windows.place,
        hash=lambda: stamp_files(settings + _described(windows), windows.images, folder),
        config=config,
        seed=config.seed,
    )


def _check(param: WindowDataParameter, crop: int, name: str) -> None:
    if not param.batch_size:
        raise DataError("batch_size must be at least 1", place=name, hint="give window_data_param.batch_size")
    if not crop:
        raise DataError("crop_size must be given", place=name, hint="windows are warped to transform_param.crop_size")
    if param.crop_mode not in ("warp", "square"):
        raise DataError(f"unknown crop_mode '{param.crop_mode}'", place=name, hint="give warp or square")
    if 2 * param.context_pad >= crop:
        text = f"context_pad {param.context_pad} on both sides leaves nothing of crop_size {crop}"
        raise DataError(text, place=name, hint="lower context_pad")


def _transform(config: SourceConfig, name: str) -> WindowTransform:
    param, crop = config.layer.transform_param, config.layer.transform_param.crop_size
    plain = read_transform(param, config.phase, name)
    mean = np.zeros((3, 1, 1), _FLOAT)
    if plain.mean is not None:
        if plain.mean.shape[0] not in (1, 3):
            raise DataError(f"{plain.mean.shape[0]} mean values for 3 channels", place=name, hint="give one or three")
        mean = np.broadcast_to(plain.mean, (3, *plain.mean.shape[1:]))
        if param.HasField("mean_file"):
            _, height, width = mean.shape
            start = (width - crop) // 2
            if start < 0 or start + crop > height:
                raise DataError(f"the mean file is {height}x{width}, smaller than crop_size {crop}", place=name)
            mean = mean[:, start : start + crop, start : start + crop]
    # As in Caffe, the scale is that of window_data_param: transform_param.scale has no effect.
    return WindowTransform(crop, mean, _FLOAT(config.layer.window_data_param.scale), param.mirror)


def _cutter(windows: WindowList, folder: str, param: WindowDataParameter, transform: WindowTransform) -> Fetch:
    """Return the function that cuts and warps window `index`."""

    def read(image: int) -> bytes:
        with open(folder + windows.images[image], "rb") as file:
            return file.read()

    if param.cache_images:
        read = lru_cache(maxsize=None)(read)

    @lru_cache(maxsize=2)
    def whole_image(image: int) -> NDArray[np.uint8]:
        return np.ascontiguousarray(decode_image(read(image), color=True).transpose(1, 2, 0))

    def fetch(index: int) -> Pixels:
        box, place = windows.boxes[index], windows.place(index)
        path = folder + windows.images[box.image]
        try:
            pixels = whole_image(box.image)
        except OSError as error:
            hint = "paths are root_folder followed by the name in the window file, relative to the working directory"
            raise DataError(f"cannot read the image {path!r}: {error.strerror}", place=place, hint=hint) from error
        except UndecodableError as error:
            raise DataError(f"cannot decode the image {path!r}: {error}", place=place) from error
        flips = (False, True) if transform.mirror else (False,)
        record = np.zeros((len(flips), 4, transform.crop, transform.crop), np.uint8)
        for target, flip in zip(record, flips, strict=True):
            _warp(pixels, box, target, param, flip, place)
        return record

    return fetch


def _warp(
    image: NDArray[np.uint8],
    box: WindowBox,
    target: NDArray[np.uint8],
    param: WindowDataParameter,
    flip: bool,
    place: str,
) -> None:
    """Cut a box out of an image uint8 [H, W, 3] and warp it into a record uint8 [4, crop, crop]."""
    crop = target.shape[-1]
    height, width = image.shape[:2]
    x1, y1, x2, y2 = box.x1, box.y1, box.x2, box.y2
    size, pad_top, pad_left = (crop, crop), 0, 0
    if param.context_pad or param.crop_mode == "square":
        x1, y1, x2, y2 = _widened(box, crop, param.context_pad, square=param.crop_mode == "square")
        (x1, x2, columns, pad_left) = _clipped(x1, x2, width, crop, flip=flip)
        (y1, y2, rows, pad_top) = _clipped(y1, y2, height, crop, flip=False)
        size = (rows, columns)
    if not (0 <= x1 <= x2 < width and 0 <= y1 <= y2 < height) or min(size) < 1:
        text = f"the window {box.x1},{box.y1},{box.x2},{box.y2} does not lie in the image of {width}x{height}"
        raise DataError(text, place=place, hint="coordinates count from 0, and the last ones are part of the window")
    warped = resize_bilinear(np.ascontiguousarray(image[y1 : y2 + 1, x1 : x2 + 1]), *size).transpose(2, 0, 1)
    rows, columns = size
    window = target[:, pad_top : pad_top + rows, pad_left : pad_left + columns]
    window[:3] = warped[:, :, ::-1] if flip else warped
    window[3] = 1


def _widened(box: WindowBox, crop: int, context_pad: int, *, square: bool) -> tuple[int, int, int, int]:
    """Return the box enlarged so that, warped to `crop`, it has `context_pad` pixels around it."""
    grown = _FLOAT(crop) / _FLOAT(crop - 2 * context_pad)
    half_height = _FLOAT((box.y2 - box.y1 + 1) / 2)
    half_width = _FLOAT((box.x2 - box.x1 + 1) / 2)
    center_x, center_y = _FLOAT(box.x1) + half_width, _FLOAT(box.y1) + half_height
    if square:
        half_height = half_width = max(half_height, half_width)
    return (
        _round(center_x - half_width * grown),
        _round(center_y - half_height * grown),
        _round(center_x + half_width * grown),
        _round(center_y + half_height * grown),
    )


def _clipped(first: int, last: int, limit: int, crop: int, *, flip: bool) -> tuple[int, int, int, int]:
    """Return for one axis the part inside the image (first, last), its warped size, and the padding before it."""
    scale = _FLOAT(crop) / _FLOAT(last - first + 1)
    before, after = max(0, -first), max(0, last - limit + 1)
    first, last = first + before, last - after
    size = _round(_FLOAT(last - first + 1) * scale)
    pad = _round(_FLOAT(after if flip else before) * scale)
    return first, last, min(size, crop - pad), pad


def _round(value: np.float32) -> int:
    """Round halves away from zero, as C does; Python rounds them to even."""
    return int(math.copysign(math.floor(abs(float(value)) + 0.5), value))


def _described(windows: WindowList) -> bytes:
    return repr((windows.boxes, windows.labels.tolist())).encode()
