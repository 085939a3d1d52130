"""Shapes of InnerProduct and Embed."""

from __future__ import annotations

from prototxt.errors import ShapeError
from prototxt.schema.messages import LayerParameter
from prototxt.shapes.dimensions import MOST_AXES, UNKNOWN, Shape, canonical_axis, count
from prototxt.shapes.registry import shape_function


@shape_function("InnerProduct", bottoms=1, tops=1, unknown_rank="own")
def _inner_product(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Replace `axis` and later ones by num_output; weights [num_output, inputs], swapped with `transpose`."""
    param, (bottom,) = layer.inner_product_param, bottoms
    if param.num_output <= 0:
        raise ShapeError("num_output must be at least 1", hint="set num_output to the number of outputs")
    if bottom is UNKNOWN:
        axis, inputs = param.axis, None
        top: Shape = (*(None,) * axis, param.num_output) if 0 <= axis < MOST_AXES else UNKNOWN
    else:
        axis = canonical_axis(bottom, param.axis)
        inputs = count(bottom, axis)
        top = (*bottom[:axis], param.num_output)
    weight: Shape = (inputs, param.num_output) if param.transpose else (param.num_output, inputs)
    return [top], [weight, (param.num_output,)] if param.bias_term else [weight]


@shape_function("Embed", bottoms=1, tops=1)
def _embed(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Append num_output to the bottom's shape: one row of the weights [input_dim, num_output] for each index."""
    param, (bottom,) = layer.embed_param, bottoms
    for name, value in (("num_output", param.num_output), ("input_dim", param.input_dim)):
        if value <= 0:
            raise ShapeError(f"{name} must be at least 1")
    weight: Shape = (param.input_dim, param.num_output)
    return [(*bottom, param.num_output)], [weight, (param.num_output,)] if param.bias_term else [weight]
