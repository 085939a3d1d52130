"""Shapes of the layers that work element by element and keep the shape of their bottom."""

from __future__ import annotations

from prototxt.errors import ShapeError
from prototxt.schema.messages import LayerParameter
from prototxt.shapes.dimensions import Shape, canonical_axis, text
from prototxt.shapes.registry import shape_function


@shape_function(
    "BNLL", "Clip", "Dropout", "ELU", "Exp", "Log", "Power", "ReLU", "Sigmoid", "Swish", "TanH", "Threshold",
    bottoms=1, tops=1, unknown_rank="own",
)  # fmt: skip
def elementwise(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Keep the bottom's shape."""
    return [bottoms[0]], []


@shape_function("AbsVal", bottoms=1, tops=1, in_place=False, unknown_rank="own")
def _abs_val(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Keep the bottom's shape; Caffe refuses it in place, because the gradient needs the sign."""
    return [bottoms[0]], []


@shape_function("PReLU", bottoms=1, tops=1)
def _prelu(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Keep the bottom's shape; one slope per channel, or a scalar with channel_shared."""
    (bottom,) = bottoms
    if len(bottom) < 2:
        raise ShapeError(f"the bottom must have at least 2 axes, not {text(bottom)}")
    return [bottom], [() if layer.prelu_param.channel_shared else (bottom[1],)]


@shape_function("Softmax", bottoms=1, tops=1)
def _softmax(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Keep the bottom's shape."""
    canonical_axis(bottoms[0], layer.softmax_param.axis)
    return [bottoms[0]], []
