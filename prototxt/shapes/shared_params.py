"""Caffe's checks on parameters that several layers share by `param { name }`."""

from __future__ import annotations

from dataclasses import dataclass

from prototxt.errors import ShapeError
from prototxt.schema.messages import LayerParameter, NetParameter, ParamSpec
from prototxt.shapes.dimensions import Shape, agree, count, shapes_agree, text
from prototxt.text.source_places import place_of


@dataclass
class _Owner:
    layer: LayerParameter
    shape: Shape
    lr_mult: float | None = None
    decay_mult: float | None = None


def check_shared_params(net: NetParameter, params: list[list[Shape]]) -> list[ShapeError]:
    """Return errors of shared parameters: unequal shape (or count, if PERMISSIVE), lr_mult or decay_mult.

    params  shapes of each layer's parameters
    """
    owners: dict[str, _Owner] = {}
    errors: list[ShapeError] = []
    for layer, shapes in zip(net.layer, params, strict=True):
        for spec, shape in zip(layer.param, shapes, strict=False):
            if not spec.name:
                continue
            owner = owners.setdefault(spec.name, _Owner(layer, shape))
            problems = [*_shape_problem(spec, shape, owner), *_rate_problems(spec, owner)]
            who = f"layer {layer.name!r} ({layer.type})"
            errors += [
                ShapeError(f"{who}: shared parameter {spec.name!r} {problem}", place=place_of(layer), hint=hint)
                for problem, hint in problems
            ]
    return errors


def _shape_problem(spec: ParamSpec, shape: Shape, owner: _Owner) -> list[tuple[str, str]]:
    owned = f"{text(owner.shape)} in layer {owner.layer.name!r}"
    if spec.share_mode == ParamSpec.PERMISSIVE:
        if not agree(count(shape), count(owner.shape)):
            return [
                (
                    f"has {count(shape)} elements here ({text(shape)}), but is {owned}",
                    "share only blobs of one size",
                )
            ]
    elif not shapes_agree(shape, owner.shape):
        return [
            (
                f"is {text(shape)} here, but {owned}",
                "share_mode: PERMISSIVE requires the same number of elements only",
            )
        ]
    return []


def _rate_problems(spec: ParamSpec, owner: _Owner) -> list[tuple[str, str]]:
    problems = []
    for name in ("lr_mult", "decay_mult"):
        if not spec.HasField(name):
            continue
        value, owned = getattr(spec, name), getattr(owner, name)
        if owned is None:
            setattr(owner, name, value)
        elif owned != value:
            problems.append((f"has {name} {value:g} here, but {owned:g} elsewhere", f"state {name} once, or equally"))
    return problems
