"""Which shape function serves which layer type, and how many bottoms and tops the type takes.

    @shape_function("Twice", bottoms=1, tops=1)
    def twice(layer, bottoms):
        return [bottoms[0]], []

A shape function gets the layer's message and the shapes of its bottoms, and returns the shapes of its tops and of its
parameters in Caffe's order. It raises ShapeError without a place; `infer` adds the layer and its place. Packages
announce shape functions by the entry point group `caffe_fusion.shapes`, whose entries are modules to import or
functions to call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal, TypeAlias

from prototxt.errors import ShapeError
from prototxt.schema.messages import LayerParameter
from prototxt.shapes.dimensions import Shape

ShapeFunction: TypeAlias = "Callable[[LayerParameter, list[Shape]], tuple[list[Shape], list[Shape]]]"
Count: TypeAlias = "int | tuple[int, int | None]"


@dataclass(frozen=True, slots=True)
class ShapeRule:
    """A layer type's shape function and Caffe's checks on its surroundings.

    bottoms, tops    least and greatest number (None: no limit)
    paired           as many tops as bottoms
    in_place         whether a top may bear the name of its bottom
    loss             the first top counts 1 in the loss unless `loss_weight` says otherwise, and exists even unnamed
    unknown_rank     what happens to a bottom of unknown rank: "image" takes it for 4 axes; "any" does so for the
                     parameters only and leaves the tops unknown; "own" hands it to the function
    source           the layer makes data, so that the caller may say the shapes of its tops
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
    """Register the decorated function for the layer types `names`; the options are those of LayerType.

    Raises: ValueError when a type has a function already.
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
    """The registered type, from installed packages too.

    Raises: ShapeError with the nearest name when there is none.
    """
    if name not in LAYER_TYPES:
        _load_entry_points()
    try:
        return LAYER_TYPES[name]
    except KeyError:
        raise ShapeError(f"unknown type {name!r}", hint=_suggestion(name)) from None


@cache
def _load_entry_points() -> None:
    from importlib import metadata  # a tenth of the whole start-up, and rarely needed

    for entry in metadata.entry_points(group=ENTRY_POINTS):
        found = entry.load()
        if callable(found):
            found()


def _limits(count: Count) -> tuple[int, int | None]:
    return (count, count) if isinstance(count, int) else count


def _suggestion(name: str) -> str:
    from difflib import get_close_matches

    by_lower_case = {known.lower(): known for known in LAYER_TYPES}
    near = get_close_matches(name.lower(), by_lower_case, n=1)
    if near:
        return f"did you mean {by_lower_case[near[0]]!r}?"
    return "register the type's shapes with prototxt.shapes.shape_function, or look for a misspelling"
