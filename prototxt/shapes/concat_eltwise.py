"""Shapes of Eltwise, Reduction and ArgMax, and of the learned sums WeightedSum and Gate."""

from __future__ import annotations

from prototxt.errors import ShapeError
from prototxt.schema.messages import EltwiseParameter, LayerParameter
from prototxt.shapes.dimensions import Shape, canonical_axis, count, count_text, merge_shapes, shapes_agree, text
from prototxt.shapes.registry import shape_function


def equal_bottoms(bottoms: list[Shape]) -> Shape:
    """Return the common shape of all bottoms.

    Raises: ShapeError if two differ.
    """
    for i, bottom in enumerate(bottoms[1:], 1):
        if not shapes_agree(bottoms[0], bottom):
            raise ShapeError(
                f"all bottoms must have one shape, but bottom 0 is {text(bottoms[0])} and bottom {i} is {text(bottom)}"
            )
    return merge_shapes(bottoms)


@shape_function("Eltwise", bottoms=(2, None), tops=1, unknown_rank="own")
def _eltwise(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Keep the common shape of the bottoms."""
    param = layer.eltwise_param
    if param.coeff and len(param.coeff) != len(bottoms):
        raise ShapeError(
            f"{count_text(len(param.coeff), 'coefficient')} for {count_text(len(bottoms), 'bottom')}",
            hint="give one coeff per bottom",
        )
    if param.coeff and param.operation == EltwiseParameter.PROD:
        raise ShapeError("a product takes no coefficients", hint="drop coeff, or use operation: SUM")
    return [equal_bottoms(bottoms)], []


@shape_function("Reduction", bottoms=1, tops=1)
def _reduction(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Drop `axis` and all later axes."""
    (bottom,) = bottoms
    if not bottom and layer.reduction_param.axis == 0:
        return [()], []
    return [bottom[: canonical_axis(bottom, layer.reduction_param.axis)]], []


@shape_function("ArgMax", bottoms=1, tops=1)
def _arg_max(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Return [N, 1 (2 with out_max_val), top_k, 1...], at least 3 axes; with `axis`, put top_k in its place."""
    param, (bottom,) = layer.argmax_param, bottoms
    if param.top_k < 1:
        raise ShapeError("top_k must be at least 1")
    if param.HasField("axis"):
        axis = canonical_axis(bottom, param.axis)
        choices = bottom[axis]
        top = (*bottom[:axis], param.top_k, *bottom[axis + 1 :])
    else:
        choices = count(bottom, 1)
        rest = (1,) * (max(len(bottom), 3) - 3)
        top = (bottom[canonical_axis(bottom, 0)], 2 if param.out_max_val else 1, param.top_k, *rest)
    if choices is not None and param.top_k > choices:
        raise ShapeError(f"top_k is {param.top_k}, but there are only {choices} values to choose from")
    return [top], []


@shape_function("WeightedSum", bottoms=(1, None), tops=1, unknown_rank="own")
def _weighted_sum(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Keep the common shape; one learned weight per bottom: [bottoms]."""
    return [equal_bottoms(bottoms)], [(len(bottoms),)]


@shape_function("Gate", bottoms=(1, None), tops=1, unknown_rank="own")
def _gate(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Keep the common shape; the parameters are weights [bottoms, features of all bottoms] and bias [bottoms]."""
    shape = equal_bottoms(bottoms)
    features = count(shape, 1)
    width = None if features is None else features * len(bottoms)
    weight: Shape = (len(bottoms), width)
    return [shape], [weight, (len(bottoms),)] if layer.gate_param.bias_term else [weight]
