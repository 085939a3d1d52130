"""Upgrade old nets and solvers to the current form, as Caffe does when it reads a file.

V0 (2013)      layers { layer { name, type: "conv", ... } bottom, top }, padding as layers of their own
V1 (2014)      layers { name, type: CONVOLUTION, blobs_lr, convolution_param { ... } }, transforms inside data_param
V2             layer { name, type: "Convolution", param { lr_mult }, transform_param, convolution_param { ... } }
inputs         input, input_dim, input_shape of the net became a layer of type Input
BatchNorm      three params, which must not learn
solver         solver_type: ADAM became type: "Adam"
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from prototxt.errors import Place, UpgradeError, did_you_mean, raise_all
from prototxt.schema import forks
from prototxt.schema.legacy import FORK_V1_TYPES, PADDING, SOLVER_TYPES, V0_FIELDS, V0_TYPES, V1_TYPES
from prototxt.schema.messages import (
    BlobShape,
    LayerParameter,
    NetParameter,
    ParamSpec,
    SolverParameter,
    V1LayerParameter,
)
from prototxt.schema.scalars import is_repeated

TRANSFORMED = {"DATA": "data_param", "IMAGE_DATA": "image_data_param", "WINDOW_DATA": "window_data_param"}
TRANSFORMS = ("scale", "mean_file", "crop_size", "mirror")


class UpgradeWarning(UserWarning):
    """A part of an old file has no equivalent in the current form and was omitted, as Caffe does."""


@dataclass
class _Report:
    """The errors and omissions of an upgrade, with the places of the old layers."""

    places: Sequence[Place | None]
    errors: list[UpgradeError] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)

    def place(self, index: int) -> Place | None:
        return self.places[index] if index < len(self.places) else None

    def error(self, index: int, message: str, hint: str | None = None) -> None:
        self.errors.append(UpgradeError(message, place=self.place(index), hint=hint))

    def drop(self, index: int, part: str) -> None:
        place = self.place(index)
        self.dropped.append(f"{place}: {part}" if place else part)


def upgrade_net(net: NetParameter) -> NetParameter:
    """Return a copy of the net upgraded to V2, equal to the result of Caffe's upgrade.

    Raises: UpgradeError with everything that Caffe refuses. Warns: UpgradeWarning, once, for omitted parts.
    """
    return upgrade_with_origins(net)[0]


def upgrade_with_origins(
    net: NetParameter, places: Sequence[Place | None] = ()
) -> tuple[NetParameter, list[int | None]]:
    """Return the upgraded copy, and for each of its layers the index of the old one in `layers` (or else `layer`).

    places  places of the old layers, for errors; an Input layer made from the net's inputs has no origin
    """
    report = _Report(places)
    result = NetParameter()
    result.CopyFrom(net)
    origins: list[int | None] = list(range(len(net.layers) or len(net.layer)))
    if net.layers:
        if net.layer:
            report.drop(len(places), f"{len(net.layer)} blocks 'layer', ignored because there are blocks 'layers'")
        kept = _without_padding(net, report)
        del result.layers[:], result.layer[:]
        result.layer.extend(_v2_layer(_v1_layer(old, index, report)) for index, old in kept.items())
        origins = list(kept)
    if net.input:
        origins = _upgrade_inputs(result, report) + origins
    for layer in result.layer:
        _upgrade_batch_norm(layer)
    raise_all(report.errors)
    if report.dropped:
        message = "omitted in the upgrade, as in Caffe:\n  " + "\n  ".join(report.dropped)
        warnings.warn(UpgradeWarning(message), stacklevel=3)
    return result, origins


def upgrade_solver(solver: SolverParameter) -> SolverParameter:
    """Return a copy with `type` instead of `solver_type` and its inline nets upgraded.

    Raises: UpgradeError if both are given.
    """
    result = SolverParameter()
    result.CopyFrom(solver)
    if solver.HasField("solver_type"):
        if solver.HasField("type"):
            raise UpgradeError("both solver_type and type are given", hint="remove solver_type, the old form of type")
        result.type = SOLVER_TYPES[SolverParameter.SolverType.Name(solver.solver_type)]
        result.ClearField("solver_type")
    for name in ("net_param", "train_net_param"):
        if solver.HasField(name):
            getattr(result, name).CopyFrom(upgrade_net(getattr(solver, name)))
    for old, new in zip(solver.test_net_param, result.test_net_param, strict=True):
        new.CopyFrom(upgrade_net(old))
    return result


def _without_padding(net: NetParameter, report: _Report) -> dict[int, V1LayerParameter]:
    """Return the old layers by index without V0's padding layers, whose pad moves into the layer that follows."""
    kept: dict[int, V1LayerParameter] = {}
    producer: dict[str, V1LayerParameter] = {}
    for index, layer in enumerate(net.layers):
        if layer.layer.type != PADDING:
            copy = V1LayerParameter()
            copy.CopyFrom(layer)
            _absorb_padding(copy, producer, index, report)
            kept[index] = copy
        for top in layer.top:
            producer[top] = layer
    return kept


def _absorb_padding(
    layer: V1LayerParameter, producer: dict[str, V1LayerParameter], index: int, report: _Report
) -> None:
    """Copy the pad of the padding layer that feeds this one."""
    for position, bottom in enumerate(layer.bottom):
        source = producer.get(bottom)
        if source is None or source.layer.type != PADDING:
            continue
        if layer.layer.type not in ("conv", "pool") or len(layer.bottom) != 1 or len(source.bottom) != 1:
            message = f"layer {layer.layer.name!r} takes its input from padding layer {source.layer.name!r}"
            report.error(index, message, "only a convolution or a pooling with one bottom can")
            continue
        layer.layer.pad = source.layer.pad
        layer.bottom[position] = source.bottom[0]


def _v1_layer(old: V1LayerParameter, index: int, report: _Report) -> V1LayerParameter:
    """Return a V0 layer as V1, or a V1 layer with its transforms moved out of the data parameters."""
    if old.HasField("layer"):
        return _from_v0(old, index, report)
    name = TRANSFORMED.get(V1LayerParameter.LayerType.Name(old.type))
    if name is not None and old.HasField(name):
        param = getattr(old, name)
        for transform in TRANSFORMS:
            if param.HasField(transform):
                setattr(old.transform_param, transform, getattr(param, transform))
                param.ClearField(transform)
    return old


def _from_v0(old: V1LayerParameter, index: int, report: _Report) -> V1LayerParameter:
    kind = old.layer.type
    new = V1LayerParameter(bottom=old.bottom, top=old.top, type=V0_TYPES.get(kind))
    for descriptor, _ in old.ListFields():
        if descriptor.name not in ("layer", "bottom", "top"):
            report.drop(index, f"{descriptor.name!r} beside the V0 block of layer {old.layer.name!r}")
    if kind not in V0_TYPES and old.layer.HasField("type"):
        message = f"layer {old.layer.name!r}: unknown V0 type {kind!r}"
        report.error(index, message, did_you_mean(kind, V0_TYPES, 'V0 types are written like "conv"'))
    for descriptor, value in old.layer.ListFields():
        if descriptor.name == "type":
            continue
        homes = V0_FIELDS.get(descriptor.name, {})
        path = homes.get(kind) or homes.get("")
        if path is None:
            report.drop(index, f"{descriptor.name!r} of layer {old.layer.name!r}, which type {kind!r} does not have")
        else:
            _put(new, path, value)
    return new


def _put(message: Any, path: str, value: Any) -> None:
    """Set the field at a dotted path; a repeated one is extended."""
    *blocks, name = path.split(".")
    for block in blocks:
        message = getattr(message, block)
    target = message.DESCRIPTOR.fields_by_name[name]
    if is_repeated(target):
        getattr(message, name).extend(value if hasattr(value, "__len__") else [value])
    elif target.message_type:
        getattr(message, name).CopyFrom(value)
    else:
        setattr(message, name, value)


def _v2_layer(old: V1LayerParameter) -> LayerParameter:
    new = LayerParameter()
    known = LayerParameter.DESCRIPTOR.fields_by_name
    for descriptor, value in old.ListFields():
        target = known.get(descriptor.name)
        if descriptor.is_extension or descriptor.name in ("type", "param") or target is None:
            continue
        if is_repeated(target):
            getattr(new, target.name).extend(value)
        elif target.message_type:
            getattr(new, target.name).CopyFrom(value)
        else:
            setattr(new, target.name, value)
    if old.HasField("type"):
        new.type = V1_TYPES[V1LayerParameter.LayerType.Name(old.type)]
    _upgrade_params(old, new)
    _upgrade_fork_fields(old, new)
    return new


def _upgrade_params(old: V1LayerParameter, new: LayerParameter) -> None:
    """Turn V1's four parallel lists about parameters into one list of `param` blocks."""
    modes = [V1LayerParameter.DimCheckMode.Name(mode) for mode in old.blob_share_mode]
    columns: dict[str, list[Any]] = {
        "name": list(old.param),
        "share_mode": [ParamSpec.DimCheckMode.Value(mode) for mode in modes],
        "lr_mult": list(old.blobs_lr),
        "decay_mult": list(old.weight_decay),
    }
    for name, values in columns.items():
        for index, value in enumerate(values):
            while len(new.param) <= index:
                new.param.add()
            setattr(new.param[index], name, value)


def _upgrade_fork_fields(old: V1LayerParameter, new: LayerParameter) -> None:
    if forks.has_fields(old):
        fork = forks.fields(new)
        for descriptor, value in forks.fields(old).ListFields():
            if descriptor.name == "type":
                new.type = FORK_V1_TYPES[type(forks.fields(old)).LayerType.Name(value)]
            else:
                getattr(fork, descriptor.name).CopyFrom(value)
    for name, text in forks.unknown(old):
        if name == "type":  # a value that no enum has; V2 types are free text
            new.type = text.lstrip(": ")
        else:
            forks.keep_unknown(new, name, text)


def _upgrade_inputs(net: NetParameter, report: _Report) -> list[int | None]:
    """Turn the net's inputs into a first layer of type Input; without shapes they are dropped, as in Caffe."""
    names, shapes, dims = list(net.input), list(net.input_shape), list(net.input_dim)
    if not shapes and dims:  # the oldest form: four input_dim for each input
        shapes = [BlobShape(dim=dims[start : start + 4]) for start in range(0, len(dims), 4)]
    origins_added: list[int | None] = []
    if shapes:
        if len(shapes) < len(names) or (not net.input_shape and len(dims) < 4 * len(names)):
            given = f"{len(shapes)} input_shape" if net.input_shape else f"{len(dims)} input_dim"
            hint = "give one input_shape or four input_dim for each input"
            report.errors.append(UpgradeError(f"{len(names)} input, but {given}", hint=hint))
        layer = LayerParameter(name="input", type="Input", top=names)
        layer.input_param.shape.extend(shapes[: len(names)])
        rest = list(net.layer)
        del net.layer[:]
        net.layer.extend([layer, *rest])
        origins_added.append(None)
    for name in ("input", "input_shape", "input_dim"):
        net.ClearField(name)
    return origins_added


def _upgrade_batch_norm(layer: LayerParameter) -> None:
    """Set the learning rates of a BatchNorm's three statistics, which old files state, to zero."""
    if layer.type == "BatchNorm" and len(layer.param) == 3:
        for param in layer.param:
            param.lr_mult = 0
            param.decay_mult = 0
