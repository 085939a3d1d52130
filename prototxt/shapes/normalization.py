"""Shapes of BatchNorm, LRN, MVN, Scale and Bias."""

from __future__ import annotations

from prototxt.errors import ShapeError
from prototxt.schema.messages import LayerParameter
from prototxt.schema.params import affine_batch_norm
from prototxt.shapes.dimensions import Shape, agree, canonical_axis, text
from prototxt.shapes.registry import shape_function


@shape_function("BatchNorm", bottoms=1, tops=1)
def _batch_norm(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Keep the bottom's shape; the blobs are sums of means [C] and variances [C], and their common divisor [1].

    NVCaffe's `scale_bias`, or a filler for one of them, adds scale [C] and bias [C], which are weights.
    """
    (bottom,) = bottoms
    channels = bottom[canonical_axis(bottom, 1)]
    if any(param.lr_mult != 0 for param in layer.param[:3]):
        raise ShapeError(
            "the statistics are not learned, so their lr_mult must be 0",
            hint="write `param { lr_mult: 0 }` three times, or none at all",
        )
    return [bottom], [(channels,), (channels,), (1,), *[(channels,)] * (2 * affine_batch_norm(layer))]


@shape_function("LRN", bottoms=1, tops=1, unknown_rank="image")
def _lrn(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Keep the bottom's shape."""
    if layer.lrn_param.local_size % 2 == 0:
        raise ShapeError(f"local_size must be odd, not {layer.lrn_param.local_size}")
    if len(bottoms[0]) != 4:
        raise ShapeError(f"the bottom must have 4 axes (num, channels, height, width), not {text(bottoms[0])}")
    return [bottoms[0]], []


@shape_function("MVN", bottoms=1, tops=1)
def _mvn(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Keep the bottom's shape, which Caffe addresses as num, channels, height and width."""
    if len(bottoms[0]) > 4:
        raise ShapeError(f"the bottom must have at most 4 axes, not {text(bottoms[0])}")
    return [bottoms[0]], []


@shape_function("Scale", bottoms=(1, 2), tops=1)
def _scale(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Keep the bottom's shape; the factors are bottom 1 or a parameter; bias_term adds a bias of their shape."""
    param = layer.scale_param
    factors = _operand(bottoms, param.axis, param.num_axes)
    params = [factors] * (len(bottoms) == 1) + [factors] * param.bias_term
    return [bottoms[0]], params


@shape_function("Bias", bottoms=(1, 2), tops=1)
def _bias(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Keep the bottom's shape; the bias is bottom 1 or a parameter."""
    param = layer.bias_param
    operand = _operand(bottoms, param.axis, param.num_axes)
    return [bottoms[0]], [operand] * (len(bottoms) == 1)


def _operand(bottoms: list[Shape], axis: int, num_axes: int) -> Shape:
    """Return the operand broadcast over bottom 0 from `axis`: bottom 1, or a parameter of `num_axes` (-1: all)."""
    bottom = bottoms[0]
    if len(bottoms) == 1:
        if num_axes < -1:
            raise ShapeError(f"num_axes must be -1 or more, not {num_axes}")
        start = canonical_axis(bottom, axis)
        end = len(bottom) if num_axes == -1 else start + num_axes
        if end > len(bottom):
            raise ShapeError(f"axis {start} and {num_axes} axes more go beyond the bottom {text(bottom)}")
        return bottom[start:end]
    operand = bottoms[1]
    start = canonical_axis(bottom, axis) if operand else 0
    if start + len(operand) > len(bottom) or not all(map(agree, bottom[start:], operand)):
        raise ShapeError(
            f"the second bottom {text(operand)} does not fit the first {text(bottom)} from axis {start} on",
            hint="its axes must equal the first bottom's, beginning at `axis`",
        )
    return operand
