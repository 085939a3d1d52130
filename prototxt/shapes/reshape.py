"""Shapes of the layers that only move elements: Reshape, Flatten, Concat, Slice, Split, Crop, Tile, ..."""

from __future__ import annotations

from itertools import pairwise

from prototxt.errors import ShapeError
from prototxt.schema.messages import LayerParameter
from prototxt.shapes.dimensions import (
    UNKNOWN,
    Dim,
    Shape,
    agree,
    canonical_axis,
    count,
    count_text,
    is_known,
    known_of,
    product,
    shapes_agree,
    text,
)
from prototxt.shapes.registry import shape_function


@shape_function("Reshape", bottoms=1, tops=1, in_place=False, unknown_rank="own")
def _reshape(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Replace `num_axes` axes from `axis`: 0 copies a size, one -1 is inferred from the rest."""
    param, (bottom,) = layer.reshape_param, bottoms
    dims = [int(dim) for dim in param.shape.dim]
    if dims.count(-1) > 1:
        raise ShapeError("the new shape has -1 more than once", hint="only one dimension can be inferred")
    if any(dim < -1 for dim in dims):
        raise ShapeError(f"the new shape has a dimension below -1: {dims}")
    if param.num_axes < -1:
        raise ShapeError(f"num_axes must be -1 or more, not {param.num_axes}")
    if bottom is UNKNOWN:  # only a reshape of all axes determines the rank of the top
        whole = param.axis == 0 and param.num_axes == -1
        return [tuple(dim if dim > 0 else None for dim in dims) if whole else UNKNOWN], []
    start, end = _replaced_axes(bottom, param.axis, param.num_axes)
    middle = [_copied(bottom, start + i) if dim == 0 else dim for i, dim in enumerate(dims)]
    top = (*bottom[:start], *middle, *bottom[end:])
    if -1 in dims:
        position = start + dims.index(-1)
        top = (*top[:position], _inferred(bottom, top, position), *top[position + 1 :])
    if not agree(count(top), count(bottom)):
        raise ShapeError(
            f"the new shape {text(top)} has {count(top)} elements, the bottom {text(bottom)} has {count(bottom)}",
            hint="let one dimension be -1",
        )
    return [top], []


def _replaced_axes(bottom: Shape, axis: int, num_axes: int) -> tuple[int, int]:
    # A negative axis counts from after the last one (-1: append), unlike in Caffe's other layers.
    start = axis if axis >= 0 else len(bottom) + axis + 1
    if not 0 <= start <= len(bottom):
        raise ShapeError(f"axis {axis} is out of range for a blob of {len(bottom)} axes ({text(bottom)})")
    end = len(bottom) if num_axes == -1 else start + num_axes
    if end > len(bottom):
        raise ShapeError(f"axis {start} and {num_axes} axes more go beyond the bottom {text(bottom)}")
    return start, end


def _copied(bottom: Shape, axis: int) -> Dim:
    if axis >= len(bottom):
        raise ShapeError(f"a dimension 0 copies axis {axis}, which the bottom {text(bottom)} does not have")
    return bottom[axis]


def _inferred(bottom: Shape, top: Shape, position: int) -> Dim:
    """Infer the size of -1; axes copied from an unknown size cancel out."""
    rest = [*top[:position], *top[position + 1 :]]
    total = list(bottom)
    for dim in list(rest):
        if dim is None and None in total:
            rest.remove(None)
            total.remove(None)
    whole, part = product(total), product(rest)
    if whole is None or part is None:
        return None
    if part == 0 or whole % part:
        raise ShapeError(
            f"the bottom {text(bottom)} does not divide into {text((*top[:position], None, *top[position + 1 :]))}",
            hint="the product of the given dimensions must divide the bottom's count",
        )
    return whole // part


@shape_function("Flatten", bottoms=1, tops=1, in_place=False)
def _flatten(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Merge the axes from `axis` to `end_axis`, inclusive, into one."""
    param, (bottom,) = layer.flatten_param, bottoms
    start, end = canonical_axis(bottom, param.axis), canonical_axis(bottom, param.end_axis)
    if end < start:
        raise ShapeError(f"end_axis {end} comes before axis {start}")
    return [(*bottom[:start], count(bottom, start, end + 1), *bottom[end + 1 :])], []


@shape_function("Concat", bottoms=(1, None), tops=1, unknown_rank="own")
def _concat(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Add up the sizes along `axis`; the other axes must agree."""
    param = layer.concat_param
    if param.HasField("axis") and param.HasField("concat_dim"):
        raise ShapeError("axis and concat_dim are both given", hint="drop concat_dim, the old name")
    ranked = [bottom for bottom in bottoms if bottom is not UNKNOWN]
    if not ranked:
        return [UNKNOWN], []
    first = ranked[0]
    axis = canonical_axis(first, param.concat_dim if param.HasField("concat_dim") else param.axis)
    top: list[Dim] = list(first)
    for bottom in ranked[1:]:
        if not shapes_agree((*top[:axis], None, *top[axis + 1 :]), bottom):
            raise ShapeError(f"bottoms {text(tuple(first))} and {text(bottom)} differ outside axis {axis}")
        top = [known_of(a, b) for a, b in zip(top, bottom, strict=True)]
    sizes = [bottom[axis] for bottom in bottoms]
    top[axis] = None if None in sizes else sum(size for size in sizes if size is not None)
    return [tuple(top)], []


@shape_function("Slice", bottoms=1, tops=(1, None), unknown_rank="any")
def _slice(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Cut `axis` at the slice points, or evenly."""
    param, (bottom,), tops = layer.slice_param, bottoms, len(layer.top)
    if param.HasField("axis") and param.HasField("slice_dim"):
        raise ShapeError("axis and slice_dim are both given", hint="drop slice_dim, the old name")
    axis = canonical_axis(bottom, param.slice_dim if param.HasField("slice_dim") else param.axis)
    size, points = bottom[axis], [int(point) for point in param.slice_point]
    if points:
        sizes = _cut(size, points, tops)
    elif size is None:
        sizes = [None] * tops
    elif size % tops:
        raise ShapeError(
            f"axis {axis} of size {size} does not divide into {count_text(tops, 'top')}", hint="give slice_point"
        )
    else:
        sizes = [size // tops] * tops
    return [(*bottom[:axis], part, *bottom[axis + 1 :]) for part in sizes], []


def _cut(size: Dim, points: list[int], tops: int) -> list[Dim]:
    if len(points) != tops - 1:
        raise ShapeError(f"{count_text(len(points), 'slice point')} make {len(points) + 1} tops, but there are {tops}")
    if any(b <= a for a, b in pairwise((0, *points))) or (size is not None and points[-1] >= size):
        raise ShapeError(
            f"the slice points {points} must rise, between 0 and the axis' size {'?' if size is None else size}"
        )
    edges = (0, *points)
    return [*(b - a for a, b in pairwise(edges)), None if size is None else size - points[-1]]


@shape_function("Split", bottoms=1, tops=(1, None), unknown_rank="own")
def _split(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Return the bottom's shape for every top."""
    return [bottoms[0]] * len(layer.top), []


@shape_function("Silence", bottoms=(1, None), tops=0, unknown_rank="own")
def _silence(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Return no tops: the layer consumes blobs that would else be outputs."""
    return [], []


@shape_function("Crop", bottoms=2, tops=1)
def _crop(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Crop bottom 0 to the sizes of bottom 1, from `axis`."""
    param, (bottom, reference) = layer.crop_param, bottoms
    start, offsets = canonical_axis(bottom, param.axis), [int(offset) for offset in param.offset]
    if len(offsets) > 1 and len(offsets) + start != len(bottom):
        raise ShapeError(
            f"{len(offsets)} offsets for {len(bottom) - start} cropped axes", hint="give one, or one per axis"
        )
    if len(reference) != len(bottom):
        raise ShapeError(f"bottoms must have as many axes as each other, not {text(bottom)} and {text(reference)}")
    top = list(bottom)
    for axis in range(start, len(bottom)):
        offset = 0 if not offsets else offsets[axis - start] if len(offsets) > 1 else offsets[0]
        whole, part = bottom[axis], reference[axis]
        if whole is not None and part is not None and whole - offset < part:
            raise ShapeError(f"axis {axis}: {part} elements from {offset} on go beyond the bottom's {whole}")
        top[axis] = part
    return [tuple(top)], []


@shape_function("Tile", bottoms=1, tops=1)
def _tile(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Repeat `axis`."""
    param, (bottom,) = layer.tile_param, bottoms
    if param.tiles <= 0:
        raise ShapeError(f"tiles must be at least 1, not {param.tiles}")
    axis = canonical_axis(bottom, param.axis)
    return [(*bottom[:axis], product((bottom[axis], param.tiles)), *bottom[axis + 1 :])], []


@shape_function("BatchReindex", bottoms=2, tops=1)
def _batch_reindex(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Return one row of bottom 0 for each index in bottom 1."""
    bottom, index = bottoms
    if len(index) != 1 and is_known(index):
        raise ShapeError(f"the indices must have 1 axis, not {text(index)}")
    canonical_axis(bottom, 0)
    return [(index[0], *bottom[1:])], []


@shape_function("Filter", bottoms=(2, None), tops=(1, None))
def _filter(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Keep the rows selected by the last bottom; their number is unknown until the net runs."""
    *values, selector = bottoms
    if len(layer.top) != len(values):
        raise ShapeError(f"{len(values)} bottoms before the selector need as many tops, not {len(layer.top)}")
    if not agree(count(selector, 1), 1):
        raise ShapeError(f"the selector must hold one number per row, not {text(selector)}")
    rows = selector[canonical_axis(selector, 0)]
    for value in values:
        if not agree(value[canonical_axis(value, 0)], rows):
            raise ShapeError(f"bottoms must have as many rows as the selector: {text(value)} and {text(selector)}")
    return [(None, *value[1:]) for value in values], []
