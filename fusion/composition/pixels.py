"""The image preprocessing of nets from other frameworks, as plain Caffe layers before a branch.

A branch with such layers takes raw pixels, 0 to 255, blue first as Caffe's data layers give them. One data layer serves
branches with several means and scales, since each is an affine map of the pixels of the other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from fusion.composition.net_text import format_layer, quoted, read_net, reparse
from fusion.composition.preprocessing import Affine
from fusion.errors import ComposeError
from prototxt.text.edits import Edits
from prototxt.text.tree import Document

_COLORS = 3
_EXAMPLE = "mean:104,117,123,std:1,scale:1,order:bgr"


@dataclass(frozen=True)
class Pixels:
    """The map of a pixel of each channel, red first: value * scale + shift.

    description in words
    blue_first  the channels stay in the order of Caffe's data layers; scale and shift are red first all the same
    """

    description: str
    scale: tuple[float, ...] = (1.0, 1.0, 1.0)
    shift: tuple[float, ...] = (0.0, 0.0, 0.0)
    blue_first: bool = False


_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as torchvision's weights are trained with
PIXELS: Final[Mapping[str, Pixels]] = {
    "rgb": Pixels("red first"),
    "unit": Pixels("red first, 0 to 1", (1 / 255,) * 3),
    "centered": Pixels("red first, -1 to 1", (1 / 127.5,) * 3, (-1.0,) * 3),
    "torchvision": Pixels(
        "red first, 0 to 1, less ImageNet's mean, by its deviation",
        tuple(1 / 255 / std for std in _STD),
        tuple(-mean / std for mean, std in zip(_MEAN, _STD, strict=True)),
    ),
}


def pixels_of(text: str, owner: str) -> Pixels:
    """Return pixels by a name of PIXELS, or custom ones: `mean:0.5,0.5,0.5,std:0.25,scale:1/255,order:rgb`.

    A value becomes (value * scale - mean) / std; mean and std have one number, or one per channel as `order` says.
    owner  the net that they are for, in errors
    Raises: ComposeError for an invalid description.
    """
    if text in PIXELS:
        return PIXELS[text]
    found: dict[str, list[str]] = {}
    # A comma separates settings and the numbers of one: a part without a colon belongs to the setting before it.
    for item in text.split(","):
        key, colon, value = item.strip().rpartition(":")
        if colon and key in found:
            raise _error(text, owner, f"'{key}' is given twice")
        if colon:
            found[key] = [value]
        elif found:
            found[next(reversed(found))].append(value)
        else:
            hint = f"one of {', '.join(PIXELS)}, or {_EXAMPLE}"
            raise ComposeError(f"{owner}: there are no pixels '{text}'", hint=hint)
    if unknown := [key for key in found if key not in ("mean", "std", "scale", "order")]:
        raise _error(text, owner, f"'{unknown[0]}' is not a setting of pixels")
    order = ",".join(found.get("order", ["rgb"]))
    scale = _numbers(text, owner, "scale", found.get("scale", ["1"]))
    mean = _numbers(text, owner, "mean", found.get("mean", ["0"]))
    std = _numbers(text, owner, "std", found.get("std", ["1"]))
    if order not in ("rgb", "bgr") or len(set(scale)) > 1:
        raise _error(text, owner, "order is rgb or bgr, and scale one number")
    if not scale[0] or not all(std):
        raise _error(text, owner, "scale and std are not 0")
    # Such means with raw pixels are a common mistake, which would train without an error.
    if "scale" not in found and any(mean) and max(map(abs, mean)) <= 1:
        raise _error(text, owner, "means of at most 1 are of pixels from 0 to 1: add scale:1/255 (or scale:1)")
    factors = tuple(scale[0] / one for one in std)
    shifts = tuple(-center / one for center, one in zip(mean, std, strict=True))
    description = f"{'red' if order == 'rgb' else 'blue'} first, {text}"
    if order == "rgb":
        return Pixels(description, factors, shifts)
    return Pixels(description, factors[::-1], shifts[::-1], blue_first=True)


def _numbers(text: str, owner: str, key: str, given: Sequence[str]) -> tuple[float, ...]:
    """Return a number per channel; one stands for all, and each may be a fraction."""
    try:
        parts = [[float(number) for number in value.split("/")] for value in given]
        found = [part[0] / (part[1] if len(part) == 2 else 1.0) for part in parts if len(part) < 3]
    except (ValueError, ZeroDivisionError):
        found = []
    if len(found) not in (1, _COLORS) or not all(map(math.isfinite, found)):
        raise _error(text, owner, f"{key} is a number, or {_COLORS} of them")
    return tuple(found * _COLORS)[:_COLORS]


def _error(text: str, owner: str, why: str) -> ComposeError:
    return ComposeError(f"{owner}: pixels '{text}': {why}", hint=f"as in {_EXAMPLE}")


def preprocessing_layers(kind: str, prefix: str, blob: str, channels: int | None) -> tuple[list[str], str]:
    """Return the layers that prepare a blob of pixels, and the blob that they compute.

    prefix  of the source, for errors
    Raises: ComposeError for an unknown kind, or channels that do not fit it.
    """
    known = pixels_of(kind, f"source '{prefix}'")
    if channels == 1:
        if len(set(known.scale)) > 1 or len(set(known.shift)) > 1:
            message = f"source '{prefix}': pixels '{kind}' are for three channels, and its input has one"
            raise ComposeError(message, hint="use unit or centered")
        return [_power("pixels", blob, "pixels", known.scale[0], known.shift[0])], "pixels"
    if channels != _COLORS:
        shown = "?" if channels is None else channels
        raise ComposeError(f"source '{prefix}': pixels '{kind}' have 3 channels, its input {shown}")
    comment = f"From blue first, 0 to 255, to {known.description}."
    parts, affine = ["blue", "green", "red"], Affine(known.scale[::-1], known.shift[::-1])  # as Caffe's data layers
    return _by_channel("pixels", "colors", parts, blob, affine, comment, reverse=not known.blue_first), "pixels"


def with_pixels(document: Document, kind: str, prefix: str) -> Document:
    """Return a net of one Input layer with layers after it that prepare pixels as Caffe's data layers give them.

    prefix  of the source, for errors
    Raises: ComposeError for a net with other inputs, or pixels that do not fit.
    """
    net = read_net(document)
    entries = [layer for layer in net.layers if layer.is_data]
    if len(entries) != 1 or entries[0].type != "Input" or len(entries[0].tops) != 1 or net.inputs:
        hint = "leave them out: its data layer prepares the images" if entries else "write its input as an Input layer"
        message = f"source '{prefix}': pixels are for ONNX files and for nets with one Input layer"
        raise ComposeError(message, place=document.name, hint=hint)
    (blob,) = entries[0].tops
    shapes = [shape for param in entries[0].message.messages("input_param") for shape in param.messages("shape")]
    dims = [int(dim.value) for dim in shapes[0].scalars("dim")] if shapes else []
    layers, prepared = preprocessing_layers(kind, prefix, blob, dims[1] if len(dims) == 4 else None)
    added = read_net(reparse("".join(layers), document.name)).layers
    own, new = ({name for one in layers for name in (one.name, *one.tops)} for layers in (net.layers, added))
    if taken := own & new:
        message = f"source '{prefix}': '{min(taken)}' is the name of a layer or blob that prepares pixels, too"
        raise ComposeError(message, place=document.name, hint="rename it first")
    edits = Edits(document)
    for layer in net.layers:
        for scalar in layer.message.scalars("bottom") + (layer.message.scalars("top") if not layer.is_data else []):
            if scalar.value == blob:
                edits.replace(scalar, quoted(prepared))
    text = str(edits.apply())
    end = read_net(reparse(text, document.name)).layers[entries[0].number].end
    return reparse("\n".join([text[:end], *layers, text[end:]]), document.name)


def affine_layers(stem: str, blob: str, affine: Affine, comment: str) -> list[str]:
    """Return the layers that map the values of a blob of images to those of the blob `stem`."""
    if len(affine.scale) == 1:
        return [_power(stem, blob, stem, affine.scale[0], affine.shift[0], comment)]
    parts = [f"{stem}_{channel}" for channel in range(len(affine.scale))]
    return _by_channel(stem, f"{stem}_channels", parts, blob, affine, comment)


def _by_channel(
    top: str, slice_name: str, parts: list[str], blob: str, affine: Affine, comment: str, *, reverse: bool = False
) -> list[str]:
    """Return a Slice, a Power for each channel that changes, and a Concat in the same or reversed order."""
    points = " ".join(f"slice_point: {point}" for point in range(1, len(parts)))
    text = [format_layer(slice_name, "Slice", [blob], parts, f"slice_param {{ axis: 1 {points} }}", comment)]
    joined = list(parts)
    if not affine.identity:
        joined = [f"{name}_scaled" for name in parts]
        for part, name, factor, offset in zip(parts, joined, affine.scale, affine.shift, strict=True):
            text.append(_power(name, part, name, factor, offset))
    joined = joined[::-1] if reverse else joined
    return [*text, format_layer(top, "Concat", joined, [top], "concat_param { axis: 1 }")]


def _power(name: str, bottom: str, top: str, scale: float, shift: float, comment: str = "") -> str:
    body = f"power_param {{ scale: {scale:.9g} shift: {shift:.9g} }}"
    return format_layer(name, "Power", [bottom], [top], body, comment)
