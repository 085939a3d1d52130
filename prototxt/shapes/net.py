"""Shape inference over a whole net, with Caffe's checks on how layers connect; all errors are raised together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from prototxt.errors import ShapeError, did_you_mean, raise_all
from prototxt.schema.messages import LayerParameter, NetParameter
from prototxt.shapes.dimensions import (
    LARGEST_COUNT,
    MOST_AXES,
    UNKNOWN,
    Shape,
    count,
    count_text,
    merge_shapes,
    shapes_agree,
    text,
)
from prototxt.shapes.registry import ShapeRule, layer_type
from prototxt.shapes.shared_params import check_shared_params
from prototxt.text.source_places import place_of


@dataclass(frozen=True)
class NetShapes:
    """The shapes in a net; lists have one entry per layer, in the net's order.

    blobs    blob name -> shape (of its last writer; in-place layers keep shapes)
    bottoms  shapes of each layer's bottoms
    tops     shapes of each layer's tops; a loss without a top has one, as Caffe adds it
    params   shapes of each layer's parameters and statistics, in Caffe's order
    """

    blobs: dict[str, Shape]
    bottoms: list[list[Shape]]
    tops: list[list[Shape]]
    params: list[list[Shape]]


@dataclass
class _State:
    inputs: dict[str, Shape]
    unknown: Literal["error", "ignore"]
    shapes: NetShapes = field(default_factory=lambda: NetShapes({}, [], [], []))
    errors: list[ShapeError] = field(default_factory=list)
    unused: set[str] = field(default_factory=set)


def infer(
    net: NetParameter,
    inputs: Mapping[str, Sequence[int | None]] | None = None,
    *,
    unknown: Literal["error", "ignore"] = "error",
) -> NetShapes:
    """Infer the shapes of every blob and parameter of a net filtered for one phase (`prototxt.filter_net`).

    inputs   shapes of blobs of data layers, or of blobs of unknown shape; they take precedence
    unknown  "error": a layer type without a shape function is an error; "ignore": its tops are `UNKNOWN`

    Raises: ShapeError with everything that Caffe would refuse in the layers' parameters and connections, with places.
    """
    shapes, errors = infer_partly(net, inputs, unknown=unknown)
    raise_all(errors)
    return shapes


def infer_partly(
    net: NetParameter,
    inputs: Mapping[str, Sequence[int | None]] | None = None,
    *,
    unknown: Literal["error", "ignore"] = "ignore",
) -> tuple[NetShapes, list[ShapeError]]:
    """Infer as `infer` does, but return the errors with all shapes known despite them; the others are `UNKNOWN`."""
    state = _State({name: _as_shape(shape) for name, shape in (inputs or {}).items()}, unknown)
    state.unused = set(state.inputs)
    if net.layers or net.input:
        raise ShapeError("the net is in an old form", hint="load it with prototxt.load_net, which upgrades it")
    for layer in net.layer:
        _infer_layer(layer, state)
    if state.unused and not state.errors:
        known = ", ".join(sorted(state.shapes.blobs))[:300]
        names = ", ".join(repr(name) for name in sorted(state.unused))
        state.errors.append(
            ShapeError(f"shapes are given for {names}, which the net lacks", hint=f"its blobs are {known}")
        )
    state.errors += check_shared_params(net, state.shapes.params)
    return state.shapes, state.errors


def infer_shapes(net: NetParameter, inputs: Mapping[str, Sequence[int | None]] | None = None) -> dict[str, Shape]:
    """Return the shapes of a net's blobs by name, as found by `infer`; None is an unknown dimension."""
    return infer(net, inputs).blobs


def _as_shape(shape: Sequence[int | None]) -> Shape:
    return UNKNOWN if shape is UNKNOWN else tuple(shape)


def _infer_layer(layer: LayerParameter, state: _State) -> None:
    _check_rules(layer, state)
    bottoms = [_bottom(name, index, layer, state) for index, name in enumerate(layer.bottom)]
    tops: list[Shape] = [UNKNOWN] * len(layer.top)
    params: list[Shape] = []
    kind: ShapeRule | None = None
    try:
        kind = layer_type(layer.type)
    except ShapeError as error:
        if state.unknown == "error":
            state.errors.append(with_place(error, layer, with_type=False))
    try:
        if kind is not None:
            tops, params = _apply(kind, layer, bottoms, state)
            _check_params(layer, params)
    except ShapeError as error:
        state.errors.append(with_place(error, layer))
    _write_tops(layer, tops, kind, state)
    state.shapes.bottoms.append(bottoms)
    state.shapes.tops.append(tops)
    state.shapes.params.append(params)


def with_place(error: ShapeError, layer: LayerParameter, *, with_type: bool = True) -> ShapeError:
    """Return the error with the layer's name, type and place."""
    name = f"layer {layer.name!r}" if layer.name else "a layer without a name"
    kind = f" ({layer.type})" if with_type else ""
    placed = ShapeError(f"{name}{kind}: {error.message}", place=place_of(layer), hint=error.hint)
    placed.__cause__ = error.__cause__
    return placed


def _bottom(name: str, index: int, layer: LayerParameter, state: _State) -> Shape:
    if name not in state.shapes.blobs:
        elsewhere = "a layer before this one must have it as top, in the same phase and stage"
        hint = did_you_mean(name, state.shapes.blobs, elsewhere, cutoff=0.75)
        state.errors.append(with_place(ShapeError(f"unknown bottom blob {name!r} (bottom {index})", hint=hint), layer))
    return state.shapes.blobs.get(name, UNKNOWN)


def _check_rules(layer: LayerParameter, state: _State) -> None:
    problems = []
    if layer.include and layer.exclude:
        problems.append(ShapeError("include and exclude rules are both given", hint="keep one kind"))
    if layer.propagate_down and len(layer.propagate_down) != len(layer.bottom):
        problems.append(
            ShapeError(
                f"propagate_down is given {count_text(len(layer.propagate_down), 'time')} "
                f"for {count_text(len(layer.bottom), 'bottom')}",
                hint="give none, or one per bottom",
            )
        )
    state.errors += [with_place(problem, layer) for problem in problems]


def _apply(
    kind: ShapeRule, layer: LayerParameter, bottoms: list[Shape], state: _State
) -> tuple[list[Shape], list[Shape]]:
    if kind.source and layer.top and all(top in state.inputs for top in layer.top):
        return [UNKNOWN] * len(layer.top), []
    _check_counts(kind, layer)
    if kind.unknown_rank == "own" or UNKNOWN not in bottoms:
        tops, params = kind.function(layer, bottoms)
    else:
        tops, params = _guess(kind, layer, bottoms)
    _check_tops(kind, layer, tops)
    return tops, params


def _guess(kind: ShapeRule, layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Infer with bottoms of unknown rank taken as images; only for image layers this also gives the tops."""
    images: list[Shape] = [(None,) * 4 if bottom is UNKNOWN else bottom for bottom in bottoms]
    try:
        tops, params = kind.function(layer, images)
    except ShapeError:
        if kind.unknown_rank == "image":
            raise
        return [UNKNOWN] * len(layer.top), []
    return (tops if kind.unknown_rank == "image" else [UNKNOWN] * len(tops)), params


def _check_counts(kind: ShapeRule, layer: LayerParameter) -> None:
    # Caffe adds the missing top of a loss itself (AutoTopBlobs), so that it never counts as missing.
    tops = max(len(layer.top), kind.tops[0]) if kind.loss else len(layer.top)
    for noun, limits, given in (("bottom", kind.bottoms, len(layer.bottom)), ("top", kind.tops, tops)):
        least, most = limits
        if given < least or (most is not None and given > most):
            few = f"at least {least}" if most is None else f"{least} to {most}"
            takes = count_text(least, f"{noun} blob") if least == most else f"{few} {noun} blobs"
            raise ShapeError(f"takes {takes}, but has {given}")
    if kind.paired and len(layer.bottom) != len(layer.top):
        raise ShapeError(
            f"needs as many tops as bottoms, but has {count_text(len(layer.bottom), 'bottom')} "
            f"and {count_text(len(layer.top), 'top')}"
        )


def _check_tops(kind: ShapeRule, layer: LayerParameter, tops: list[Shape]) -> None:
    if layer.loss_weight and len(layer.loss_weight) != len(tops):
        raise ShapeError(
            f"loss_weight is given {count_text(len(layer.loss_weight), 'time')} for {count_text(len(tops), 'top')}",
            hint="give none, or one per top",
        )
    if not kind.in_place and set(layer.top) & set(layer.bottom):
        raise ShapeError("cannot work in place", hint="give the top a name of its own")
    for top in tops:
        if len(top) > MOST_AXES:
            raise ShapeError(f"a blob of {len(top)} axes is more than Caffe's {MOST_AXES}")
        if any(dim is not None and dim <= 0 for dim in top):
            raise ShapeError(f"the top would be empty: {text(top)}", hint="every dimension must be at least 1")
        elements = count(top)
        if elements is not None and elements > LARGEST_COUNT:
            raise ShapeError(f"a blob of {text(top)} has {elements} elements, more than Caffe's {LARGEST_COUNT}")


def _check_params(layer: LayerParameter, params: list[Shape]) -> None:
    if len(layer.param) > len(params) and layer.type != "Python":
        raise ShapeError(
            f"{len(layer.param)} param blocks for {len(params)} parameters",
            hint="remove the surplus param blocks",
        )


def _write_tops(layer: LayerParameter, tops: list[Shape], kind: ShapeRule | None, state: _State) -> None:
    blobs = state.shapes.blobs
    written: set[str] = set()
    for index, name in enumerate(layer.top):
        # Caffe takes a top as in place only if it has the name of the bottom at the same position.
        in_place = index < len(layer.bottom) and layer.bottom[index] == name
        if name in written or (name in blobs and not in_place):
            hint = "give one of them another name"
            if layer.include or layer.exclude:
                hint = "filter the net for one phase first (prototxt.filter_net), or " + hint
            state.errors.append(
                with_place(ShapeError(f"top blob {name!r} is also made by another layer", hint=hint), layer)
            )
        written.add(name)
        shape = tops[index] if index < len(tops) else UNKNOWN
        if name in state.inputs and not in_place:
            shape = _given(name, shape, kind, layer, state)
            if index < len(tops):
                tops[index] = shape
        blobs[name] = shape


def _given(name: str, shape: Shape, kind: ShapeRule | None, layer: LayerParameter, state: _State) -> Shape:
    """Return the caller's shape for the blob; it overrides that of data layers, and must agree with others."""
    given = state.inputs[name]
    state.unused.discard(name)
    if any(dim is not None and dim <= 0 for dim in given):
        state.errors.append(with_place(ShapeError(f"the shape given for blob {name!r} is empty: {text(given)}"), layer))
    if kind is None or kind.source:
        return given
    if not shapes_agree(shape, given):
        message = f"the shape given for blob {name!r} is {text(given)}, but it is {text(shape)}"
        state.errors.append(with_place(ShapeError(message, hint="give shapes for the net's inputs only"), layer))
        return shape
    return merge_shapes([shape, given])
