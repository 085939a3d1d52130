"""How nets outside Caffe want their pictures, as plain Caffe layers in front of a branch: data layers give blue first.

A branch with such layers takes pixels as they are, 0 to 255, whatever the other sources' data layers make of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from fusion.composition.pieces import layer_text
from fusion.errors import ComposeError

_COLORS = 3


@dataclass(frozen=True)
class Pixels:
    """What is done to a pixel of each channel, red first: value * scale + shift.

    said  in words
    """

    said: str
    scale: tuple[float, float, float] = (1.0, 1.0, 1.0)
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)


_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as torchvision's weights are trained with
PIXELS: Final[Mapping[str, Pixels]] = {
    "rgb": Pixels("red first"),
    "unit": Pixels("red first, 0 to 1", (1 / 255,) * 3),
    "centered": Pixels("red first, -1 to 1", (1 / 127.5,) * 3, (-1.0,) * 3),
    "torchvision": Pixels(
        "red first, 0 to 1, less ImageNet's mean, by its deviation",
        (1 / 255 / _STD[0], 1 / 255 / _STD[1], 1 / 255 / _STD[2]),
        (-_MEAN[0] / _STD[0], -_MEAN[1] / _STD[1], -_MEAN[2] / _STD[2]),
    ),
}


def pixel_layers(kind: str, prefix: str, blob: str, channels: int | None) -> tuple[list[str], str]:
    """The layers that prepare a blob of pixels, and the blob that they make.

    prefix  of the source, for errors
    Raises: ComposeError for a kind that is none, or channels that it does not suit.
    """
    known = PIXELS.get(kind)
    if known is None:
        raise ComposeError(f"source '{prefix}': there are no pixels '{kind}'", hint=f"one of {', '.join(PIXELS)}")
    if channels == 1:
        if len(set(known.scale)) > 1 or len(set(known.shift)) > 1:
            what = f"source '{prefix}': pixels '{kind}' are of three colours, and its input has one channel"
            raise ComposeError(what, hint="use unit or centered")
        return [_power("pixels", blob, "pixels", known.scale[0], known.shift[0])], "pixels"
    if channels != _COLORS:
        shown = "?" if channels is None else channels
        raise ComposeError(f"source '{prefix}': pixels '{kind}' have 3 channels, its input {shown}")
    return _colored(known, blob), "pixels"


def _colored(known: Pixels, blob: str) -> list[str]:
    blue_first = ["blue", "green", "red"]
    text = [layer_text("colors", "Slice", [blob], blue_first, "slice_param { axis: 1 slice_point: 1 slice_point: 2 }",
                       comment=f"From blue first, 0 to 255, to {known.said}.")]  # fmt: skip
    red_first: Sequence[str] = blue_first[::-1]
    if known.scale != (1.0,) * 3 or known.shift != (0.0,) * 3:
        for name, scale, shift in zip(red_first, known.scale, known.shift, strict=True):
            text.append(_power(f"{name}_scaled", name, f"{name}_scaled", scale, shift))
        red_first = [f"{name}_scaled" for name in red_first]
    return [*text, layer_text("pixels", "Concat", red_first, ["pixels"], "concat_param { axis: 1 }")]


def _power(name: str, bottom: str, top: str, scale: float, shift: float) -> str:
    return layer_text(name, "Power", [bottom], [top], f"power_param {{ scale: {scale:.9g} shift: {shift:.9g} }}")
