"""Caffe's data transformer: crop, subtract the mean, scale, mirror; float32 arithmetic in Caffe's order."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fusion.errors import DataError
from prototxt.errors import WeightsError

if TYPE_CHECKING:
    from prototxt.schema.messages import TransformationParameter


@dataclass(frozen=True, eq=False)
class Transform:
    """The transform of a record's pixels.

    mean         float32 [C, H, W] (a mean file), [C, 1, 1] (values), or None
    crop         side of the square window, 0: none
    random_crop  the crop is random (TRAIN) or central (TEST)
    mirror       flip left to right with probability one half, in TEST too, as Caffe does
    """

    scale: np.float32 = np.float32(1.0)  # noqa: RUF009 - a NumPy scalar is immutable
    mean: NDArray[np.float32] | None = None
    crop: int = 0
    random_crop: bool = False
    mirror: bool = False

    def deterministic(self, shape: tuple[int, ...]) -> bool:
        """Return whether records of shape (C, H, W) always get the same values."""
        drawn = self.random_crop and self.crop and shape[1:] != (self.crop, self.crop)
        return not (self.mirror or drawn)

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape (C, H, W) of a transformed record."""
        return (shape[0], self.crop, self.crop) if self.crop else shape

    def check(self, shape: tuple[int, ...], place: str) -> None:
        """Check that a record of this shape (C, H, W) can be transformed. Raises: DataError if it cannot."""
        if self.crop and self.crop > min(shape[1:]):
            text = f"the image is {shape[1]}x{shape[2]}, smaller than crop_size {self.crop}"
            raise DataError(text, place=place, hint="lower crop_size, or resize the images (new_height, new_width)")
        if self.mean is None:
            return
        if self.mean.shape[1:] == (1, 1):
            if self.mean.shape[0] not in (1, shape[0]):
                text = f"{self.mean.shape[0]} mean values for {shape[0]} channels"
                raise DataError(text, place=place, hint="give one mean_value, or one per channel")
        elif self.mean.shape != shape:
            text = f"the mean file has shape {self.mean.shape}, the image {shape}"
            raise DataError(text, place=place, hint="use the mean of images of this size (before the crop)")

    def apply(self, pixels: NDArray[np.generic], rng: np.random.Generator | None = None) -> NDArray[np.float32]:
        """Transform records of one size.

        pixels   uint8 or float32 [N, C, H, W]
        rng      draws crops and flips (`draw_crops_and_flips`); needed only if the transform is random
        returns  float32 [N, C, h, w]
        """
        height, width = pixels.shape[2:]
        drawn = None if rng is None else draw_crops_and_flips(rng, len(pixels))
        if not self.crop:
            out = self._values(pixels, slice(None), slice(None))
        elif self.random_crop and (height, width) != (self.crop, self.crop):
            assert drawn is not None
            out = self._random_windows(pixels, drawn)
        else:
            top, left = (height - self.crop) // 2, (width - self.crop) // 2
            out = self._values(pixels, slice(top, top + self.crop), slice(left, left + self.crop))
        if self.mirror:
            assert drawn is not None
            flipped = mirrored_records(drawn)
            out[flipped] = out[flipped, :, :, ::-1]
        return out

    def _values(self, pixels: NDArray[np.generic], rows: slice, columns: slice) -> NDArray[np.float32]:
        out = pixels[:, :, rows, columns].astype(np.float32)  # (pixel - mean) * scale, each step rounded, as in Caffe
        if self.mean is not None:
            whole = self.mean.shape[1:] == (1, 1)
            out -= self.mean if whole else self.mean[:, rows, columns]
        if self.scale != 1.0:
            out *= self.scale
        return out

    def _random_windows(self, pixels: NDArray[np.generic], drawn: NDArray[np.float64]) -> NDArray[np.float32]:
        room = np.array(pixels.shape[2:]) - self.crop + 1
        # The same drawn fraction gives the same place in layers in step, also where their sizes differ.
        tops, lefts = (drawn[:, :2] * room).astype(np.int64).T
        windows = [
            self._values(pixels[i : i + 1], slice(top, top + self.crop), slice(left, left + self.crop))
            for i, (top, left) in enumerate(zip(tops.tolist(), lefts.tolist(), strict=True))
        ]
        return np.concatenate(windows)


def draw_crops_and_flips(rng: np.random.Generator, records: int) -> NDArray[np.float64]:
    """Draw random numbers for records, float64 [N, 3] in [0, 1): the crop's place down and across, and the flip.

    Each record takes three numbers whatever its size and transform, so that layers in step, which draw from one seed,
    flip alike and crop at the same place, or in proportion where their sizes differ.
    """
    return rng.random((records, 3))


def mirrored_records(drawn: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return the mask bool [N] of the flipped records, from the numbers of `draw_crops_and_flips`."""
    flipped: NDArray[np.bool_] = drawn[:, 2] < 0.5
    return flipped


def read_transform(param: TransformationParameter, phase: str, place: str) -> Transform:
    """Return the transform that a `transform_param` describes.

    Raises: DataError when mean_file and mean_value are both given, or the mean file cannot be read.
    """
    if param.HasField("mean_file") and param.mean_value:
        raise DataError("mean_file and mean_value are both given", place=place, hint="keep one of the two")
    mean = None
    if param.HasField("mean_file"):
        mean = read_mean_image(param.mean_file)
    elif param.mean_value:
        mean = np.array(param.mean_value, np.float32).reshape(-1, 1, 1)
    return Transform(  # mirror does not depend on the phase: Caffe flips in TEST too
        scale=np.float32(param.scale),
        mean=mean,
        crop=param.crop_size,
        random_crop=phase == "TRAIN",
        mirror=param.mirror,
    )


def read_mean_image(path: str | os.PathLike[str]) -> NDArray[np.float32]:
    """Read a mean image float32 [C, H, W] from a `.binaryproto` file.

    Raises: DataError when the file is missing or no BlobProto.
    """
    from prototxt.formats import datum

    hint = "mean_file is relative to the working directory and holds a BlobProto (compute_image_mean)"
    try:
        mean = datum.read_mean(path)
    except OSError as error:
        raise DataError(f"cannot read the mean file: {error.strerror}", place=os.fspath(path), hint=hint) from error
    except WeightsError as error:
        raise DataError(f"this is no mean file: {error.message}", place=os.fspath(path), hint=hint) from error
    if mean.ndim != 3:
        raise DataError(f"this is the mean of clips, not of images: {mean.shape}", place=os.fspath(path), hint=hint)
    return mean
