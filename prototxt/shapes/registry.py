"""The registry of shape functions by layer type, with the number of bottoms and tops of each type.

    @shape_function("Twice", bottoms=1, tops=1)
    def twice(layer, bottoms):
        return [bottoms[0]], []

A shape function gets the layer's message and the shapes of its bottoms, and returns the shapes of its tops and of its
parameters in Caffe's order. It raises ShapeError without a place; `infer` adds the layer and its place. Packages
provide shape functions by the entry point group `caffe_fusion.shapes`, whose entries are modules to import or
functions to call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal, TypeAlias

from prototxt.errors import ShapeError, did_you_mean
from prototxt.schema.messages import LayerParameter
from prototxt.shapes.dimensions import Shape

ShapeFunction: TypeAlias = "Callable[[LayerParameter, list[Shape]], tuple[list[Shape], list[Shape]]]"
Count: TypeAlias = "int | tuple[int, int | None]"


@dataclass(frozen=True, slots=True)
class ShapeRule:
    """A layer type's shape function and Caffe's checks on its bottoms and tops.

    bottoms, tops    least and greatest number (None: no limit)
    paired           as many tops as bottoms
    in_place         whether a top may have the name of its bottom
    loss             the first top has loss weight 1 unless `loss_weight` is set, and exists even unnamed
    unknown_rank     treatment of a bottom of unknown rank: "image" assumes 4 axes; "any" does so for the parameters
                     only and leaves the tops unknown; "own" passes it to the function
    source           the layer makes data, so that the caller may give the shapes of its tops
    """

    name: str
    function: ShapeFunction
    bottoms: tuple[int, int | None]
    tops: tuple[int, int | None]
    paired: bool
    in_place: bool
    loss: bool
    unknown_rank: Literal["any", "image", "own"]
    source: bool


ENTRY_POINTS = "caffe_fusion.shapes"
LAYER_TYPES: dict[str, ShapeRule] = {}


def shape_function(
    *names: str,
    bottoms: Count = (0, None),
    tops: Count = (0, None),
    paired: bool = False,
    in_place: bool = True,
    loss: bool = False,
    unknown_rank: Literal["any", "image", "own"] = "any",
    source: bool = False,
) -> Callable[[ShapeFunction], ShapeFunction]:
    """Register the decorated function for the layer types `names`; the options are those of ShapeRule.

    Raises: ValueError if a type has a function already.
    """

    def register(function: ShapeFunction) -> ShapeFunction:
        for name in names:
            if name in LAYER_TYPES:
                raise ValueError(f"layer type {name!r} has a shape function already: {LAYER_TYPES[name].function}")
            LAYER_TYPES[name] = ShapeRule(
                name, function, _limits(bottoms), _limits(tops), paired, in_place, loss, unknown_rank, source
            )
        return function

    return register


def layer_type(name: str) -> ShapeRule:
    """Return the rule of a type, also from installed packages.

    Raises: ShapeError with the most similar name if there is none.
    """
    if name not in LAYER_TYPES:
        _load_entry_points()
    try:
        return LAYER_TYPES[name]
    except KeyError:
        advice = "register the type's shapes with prototxt.shapes.shape_function, or look for a misspelling"
        raise ShapeError(f"unknown type {name!r}", hint=did_you_mean(name, LAYER_TYPES, advice)) from None


@cache
def _load_entry_points() -> None:
    from importlib import metadata  # a tenth of the whole start-up, and rarely needed

    for entry in metadata.entry_points(group=ENTRY_POINTS):
        found = entry.load()
        if callable(found):
            found()


def _limits(count: Count) -> tuple[int, int | None]:
    return (count, count) if isinstance(count, int) else count
