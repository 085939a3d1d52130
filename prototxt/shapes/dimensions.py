"""Arithmetic on dimensions, some of which are unknown.

A shape is a tuple with one entry per axis; None stands for a dimension that the net's description does not tell, such
as the height of pictures that are not there. `UNKNOWN` stands for a blob of which not even the number of axes is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from prototxt.errors import ShapeError

Dim: TypeAlias = "int | None"
Shape: TypeAlias = "tuple[int | None, ...]"

LARGEST_COUNT = 2**31 - 1
"""Caffe counts the elements of a blob in an int."""

MOST_AXES = 32
"""Caffe's kMaxBlobAxes."""

if TYPE_CHECKING:
    _Base = tuple[int | None, ...]
else:
    _Base = tuple


class UnknownShape(_Base):
    """The shape of a blob of unknown rank: all its axes have unknown sizes."""

    __slots__ = ()

    def __getitem__(self, index: Any) -> Any:
        return self if isinstance(index, slice) else None

    def __eq__(self, other: object) -> bool:
        return self is other

    def __ne__(self, other: object) -> bool:
        return self is not other

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return "UNKNOWN"

    def __reduce__(self) -> str:
        return "UNKNOWN"

    def __copy__(self) -> UnknownShape:
        return self

    def __deepcopy__(self, memo: object) -> UnknownShape:
        return self


UNKNOWN = UnknownShape()


def is_known(shape: Shape) -> bool:
    """Return whether all axes and sizes are known."""
    return shape is not UNKNOWN and None not in shape


def product(dims: Iterable[Dim]) -> Dim:
    """Return the product, None if a factor is unknown."""
    result = 1
    for dim in dims:
        if dim is None:
            return None
        result *= dim
    return result


def count(shape: Shape, start: int = 0, end: int | None = None) -> Dim:
    """Return the number of elements over the axes [start, end), as Caffe's Blob::count."""
    return None if shape is UNKNOWN else product(shape[start:end])


def canonical_axis(shape: Shape, axis: int) -> int:
    """Return the axis counted from 0, as Caffe's CanonicalAxisIndex.

    Raises: ShapeError when the blob has no such axis.
    """
    if not -len(shape) <= axis < len(shape):
        raise ShapeError(
            f"axis {axis} is out of range for a blob of {len(shape)} axes ({text(shape)})",
            hint=f"use an axis from {-len(shape)} to {len(shape) - 1}" if shape else None,
        )
    return axis % len(shape)


def agree(first: Dim, second: Dim) -> bool:
    """Return whether two sizes may be equal."""
    return first is None or second is None or first == second


def shapes_agree(first: Shape, second: Shape) -> bool:
    """Return whether two shapes may be equal."""
    if first is UNKNOWN or second is UNKNOWN:
        return True
    return len(first) == len(second) and all(map(agree, first, second))


def known_of(first: Dim, second: Dim) -> Dim:
    """Return whichever of two agreeing sizes is known."""
    return second if first is None else first


def merge_shapes(shapes: Sequence[Shape]) -> Shape:
    """Return the union of what agreeing shapes specify."""
    merged = shapes[0]
    for shape in shapes[1:]:
        if merged is UNKNOWN:
            merged = shape
        elif shape is not UNKNOWN:
            merged = tuple(map(known_of, merged, shape))
    return merged


def count_text(count: int, noun: str) -> str:
    """Return the count with its noun: 1 top, 2 tops."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def text(shape: Shape) -> str:
    """Format a shape as 64x3x224x?, that of a single number as 'scalar'."""
    if shape is UNKNOWN:
        return "unknown shape"
    return "x".join("?" if dim is None else str(dim) for dim in shape) or "scalar"
