"""What becomes of the batch's pictures before a reference sees them: it was made for other values than the student's.

The student's data layer says how its blob was made from pixels, (pixel - mean) * scale, blue first, which is undone.
The reference says what it takes instead: a Caffe net in its own data layer, others by the option `pixels`.
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
_PICTURES = ("ImageData", "Data", "MemoryData")
_HINT = (
    f"say so: pixels={AS_IT_IS} where it takes the net's blob as it is, else one of {', '.join(PIXELS)}, or its own: "
    "pixels=mean:104,117,123,std:1,order:bgr"
)


@dataclass(frozen=True, eq=False)
class Given:
    """The batch's pictures as the student sees them.

    shape   of the blob
    layer   that makes it; None: not known
    """

    shape: tuple[int, ...]
    layer: LayerParameter | None = None

    @property
    def pictures(self) -> bool:
        """Whether the blob looks like pictures, so that there is a question."""
        return len(self.shape) == 4 and self.shape[1] in (1, 3) and self.shape[2] * self.shape[3] > 1


def converter(name: str, pixels: str | None, own: LayerParameter | None, given: Given) -> Convert | None:
    """What makes the student's blob into the one that a reference was made for; None: the same.

    name    of the reference
    pixels  what was said of it
    own     the reference's own data layer, if it has one
    Raises: TrainingError where that cannot be known, or cannot be computed; ComposeError for pixels that are none.
    """
    whose = f"reference '{name}'"
    if pixels == AS_IT_IS:
        return None
    if pixels is not None:
        return _to_pixels(whose, pixels, given)
    theirs, ours = own if own is not None and own.type in _PICTURES else None, given.layer
    if theirs is None:
        alike = own is not None and ours is not None and own.type == ours.type
        if alike or not given.pictures:
            return None
        why = "it has no data layer that says"
        if own is not None and own.type != "Input":
            why = f"its {own.type} layer does not say"
        raise TrainingError(f"{whose}: for which pixels it was made is not known; {why}", hint=_HINT)
    wanted = _transform(theirs)
    if ours is None or ours.type not in _PICTURES:
        if not given.pictures:
            return None
        message = f"{whose} takes pixels by the transform of its data layer; how this net's blob was made is not known"
        raise TrainingError(message, hint=_HINT)
    made = _transform(ours)
    if _alike(made, wanted):
        return None
    undo = _undone(whose, ours, made, given)
    mean, scale = _field(whose, theirs, wanted, given), float(wanted.scale)
    return lambda blob: (undo(blob) - mean.to(blob.device)) * scale


def _to_pixels(whose: str, pixels: str, given: Given) -> Convert:
    known = pixels_of(pixels, whose)
    channels = given.shape[1] if len(given.shape) == 4 else 0
    if channels not in (1, 3) or (channels == 1 and len(set(zip(known.scale, known.shift, strict=True))) > 1):
        raise TrainingError(f"{whose}: pixels '{pixels}' do not suit a blob of shape {list(given.shape)}")
    if given.layer is None or given.layer.type not in _PICTURES:
        what = "an unknown layer" if given.layer is None else f"a {given.layer.type} layer"
        raise TrainingError(
            f"{whose}: pixels '{pixels}' cannot be made from this net's blob, which {what} gives",
            hint=f"only a data layer of pictures ({', '.join(_PICTURES)}) says how its blob was made from pixels",
        )
    undo = _undone(whose, given.layer, _transform(given.layer), given)
    # Blue first, as the blob is; both are red first in `known`.
    order = [0] if channels == 1 else [0, 1, 2] if known.blue_first else [2, 1, 0]
    scale, shift = (torch.tensor(values[::-1][:channels]).reshape(-1, 1, 1) for values in (known.scale, known.shift))

    def convert(blob: Tensor) -> Tensor:
        return (undo(blob) * scale.to(blob.device) + shift.to(blob.device))[:, order]

    return convert


def _undone(whose: str, layer: LayerParameter, made: Transform, given: Given) -> Convert:
    """What makes pixels, blue first and 0 to 255, of the student's blob again."""
    if not made.scale:
        raise TrainingError(f"{whose}: the scale of layer '{layer.name}' is 0, which leaves nothing of its pixels")
    mean, scale = _field(whose, layer, made, given), float(made.scale)
    return lambda blob: blob / scale + mean.to(blob.device)


def _field(whose: str, layer: LayerParameter, transform: Transform, given: Given) -> Tensor:
    """What a transform takes off each value of the blob, float32 [C or 1, 1, 1] or [C, H, W].

    Raises: TrainingError for a mean picture of which a batch shows windows or mirror images that are not known.
    """
    mean = transform.mean
    if mean is None:
        return torch.zeros(1, 1, 1)
    if (mean == mean[:, :1, :1]).all():
        return torch.tensor(np.ascontiguousarray(mean[:, :1, :1]))
    known = mean.shape == given.shape[1:] and not (transform.mirror and (mean != mean[:, :, ::-1]).any())
    if not known or (given.layer is not None and given.layer.transform_param.mirror):
        raise TrainingError(
            f"{whose}: the mean picture of layer '{layer.name}' differs from pixel to pixel, and which part of it the "
            f"blob shows is not known",
            hint="use mean_value, or neither crop_size nor mirror; or keep its logits: a predictions file as reference",
        )
    return torch.tensor(np.ascontiguousarray(mean))


def _transform(layer: LayerParameter) -> Transform:
    return read_transform(layer.transform_param, "TRAIN", f"layer '{layer.name}'")


def _alike(one: Transform, other: Transform) -> bool:
    first, second = (np.zeros((1, 1, 1), np.float32) if each.mean is None else each.mean for each in (one, other))
    fits = all(1 in sides or sides[0] == sides[1] for sides in zip(first.shape, second.shape, strict=True))
    return one.scale == other.scale and fits and bool((first == second).all())
