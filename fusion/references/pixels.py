"""Conversion of the batch's images to the pixel format of a reference, where that differs from the student's.

The transform of the student's data layer, (pixel - mean) * scale in BGR order, is inverted. The reference's format is
that of its own data layer (Caffe nets) or the option `pixels` (others).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fusion.composition.pixels import PIXELS, pixels_of
from fusion.data.transforms import Transform, read_transform
from fusion.errors import TrainingError

if TYPE_CHECKING:
    from prototxt.schema.messages import LayerParameter

Convert = Callable[[Tensor], Tensor]
AS_IT_IS = "blob"
_IMAGE_LAYERS = ("ImageData", "Data", "MemoryData")
_HINT = (
    f"set it: pixels={AS_IT_IS} where it takes the net's blob unchanged, else one of {', '.join(PIXELS)}, or a custom "
    "one: pixels=mean:104,117,123,std:1,order:bgr"
)


@dataclass(frozen=True, eq=False)
class StudentBlob:
    """An image blob of the net in training.

    shape   of the blob
    layer   data layer that computes it; None: not known
    """

    shape: tuple[int, ...]
    layer: LayerParameter | None = None

    @property
    def is_image(self) -> bool:
        """Return whether the blob has the shape of images."""
        return len(self.shape) == 4 and self.shape[1] in (1, 3) and self.shape[2] * self.shape[3] > 1


def pixel_converter(name: str, pixels: str | None, own: LayerParameter | None, student: StudentBlob) -> Convert | None:
    """Return the conversion from the student's blob to the reference's input; None: they are equal.

    name    of the reference
    pixels  its option `pixels`
    own     the reference's own data layer, if it has one
    Raises: TrainingError where it is not known or cannot be computed; ComposeError for invalid `pixels`.
    """
    label = f"reference '{name}'"
    if pixels == AS_IT_IS:
        return None
    if pixels is not None:
        return _to_pixels(label, pixels, student)
    theirs, ours = own if own is not None and own.type in _IMAGE_LAYERS else None, student.layer
    if theirs is None:
        alike = own is not None and ours is not None and own.type == ours.type
        if alike or not student.is_image:
            return None
        reason = "it has no data layer"
        if own is not None and own.type != "Input":
            reason = f"its {own.type} layer does not define it"
        raise TrainingError(f"{label}: its pixel format is not known; {reason}", hint=_HINT)
    target = _transform(theirs)
    if ours is None or ours.type not in _IMAGE_LAYERS:
        if not student.is_image:
            return None
        message = f"{label} uses the transform of its data layer; the transform of this net's blob is not known"
        raise TrainingError(message, hint=_HINT)
    source = _transform(ours)
    if _equivalent(source, target):
        return None
    undo = _to_raw_pixels(label, ours, source, student)
    mean, scale = _mean(label, theirs, target, student), float(target.scale)
    return lambda blob: (undo(blob) - mean.to(blob.device)) * scale


def _to_pixels(label: str, pixels: str, student: StudentBlob) -> Convert:
    known = pixels_of(pixels, label)
    channels = student.shape[1] if len(student.shape) == 4 else 0
    if channels not in (1, 3) or (channels == 1 and len(set(zip(known.scale, known.shift, strict=True))) > 1):
        raise TrainingError(f"{label}: pixels '{pixels}' do not suit a blob of shape {list(student.shape)}")
    if student.layer is None or student.layer.type not in _IMAGE_LAYERS:
        kind = "an unknown layer" if student.layer is None else f"a {student.layer.type} layer"
        raise TrainingError(
            f"{label}: pixels '{pixels}' cannot be computed from this net's blob, the top of {kind}",
            hint=f"only image data layers ({', '.join(_IMAGE_LAYERS)}) define their blob's transform from pixels",
        )
    undo = _to_raw_pixels(label, student.layer, _transform(student.layer), student)
    # The blob is BGR; scale and shift in `known` are RGB.
    order = [0] if channels == 1 else [0, 1, 2] if known.blue_first else [2, 1, 0]
    scale, shift = (torch.tensor(values[::-1][:channels]).reshape(-1, 1, 1) for values in (known.scale, known.shift))

    def convert(blob: Tensor) -> Tensor:
        return (undo(blob) * scale.to(blob.device) + shift.to(blob.device))[:, order]

    return convert


def _to_raw_pixels(label: str, layer: LayerParameter, transform: Transform, student: StudentBlob) -> Convert:
    """Return the conversion from the student's blob to pixels, BGR, 0 to 255."""
    if not transform.scale:
        raise TrainingError(f"{label}: the scale of layer '{layer.name}' is 0, so its pixels are lost")
    mean, scale = _mean(label, layer, transform, student), float(transform.scale)
    return lambda blob: blob / scale + mean.to(blob.device)


def _mean(label: str, layer: LayerParameter, transform: Transform, student: StudentBlob) -> Tensor:
    """Return the mean that a transform subtracts, float32 [C or 1, 1, 1] or [C, H, W].

    Raises: TrainingError for a mean image where crops or mirroring of the batch are not known.
    """
    mean = transform.mean
    if mean is None:
        return torch.zeros(1, 1, 1)
    if (mean == mean[:, :1, :1]).all():
        return torch.tensor(np.ascontiguousarray(mean[:, :1, :1]))
    known = mean.shape == student.shape[1:] and not (transform.mirror and (mean != mean[:, :, ::-1]).any())
    if not known or (student.layer is not None and student.layer.transform_param.mirror):
        raise TrainingError(
            f"{label}: the mean image of layer '{layer.name}' differs from pixel to pixel, and the blob's part of it "
            f"is not known",
            hint="use mean_value, or neither crop_size nor mirror; or give a predictions file as reference",
        )
    return torch.tensor(np.ascontiguousarray(mean))


def _transform(layer: LayerParameter) -> Transform:
    return read_transform(layer.transform_param, "TRAIN", f"layer '{layer.name}'")


def _equivalent(one: Transform, other: Transform) -> bool:
    first, second = (np.zeros((1, 1, 1), np.float32) if each.mean is None else each.mean for each in (one, other))
    fits = all(1 in sides or sides[0] == sides[1] for sides in zip(first.shape, second.shape, strict=True))
    return one.scale == other.scale and fits and bool((first == second).all())
