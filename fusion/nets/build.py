"""Building a net from its description, and queries of a built net: its blobs, parameters and loss."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

import fusion.layers  # noqa: F401 - registers every type that comes with the package
from fusion.errors import FusionError, OnnxError, UnknownSizeError, raise_all
from fusion.layers import pct, python
from fusion.layers.axes import full
from fusion.layers.forks.added_fields import vary
from fusion.layers.registry import Context, Phase, RegisteredLayer, find_layer_type, unknown_type
from fusion.nets.check_references import check_references
from fusion.nets.graph import Call, Net as Net, NetPlan, Param, run, submodule_paths, with_outputs
from fusion.nets.shared_memory import SHARED_MEMORY, SharedMemory
from fusion.nets.shared_params import Owner, resolve_rates, share_params, tensor_by_path
from prototxt.errors import did_you_mean
from prototxt.schema import messages
from prototxt.schema.filter import filter_whole
from prototxt.schema.load import load_net
from prototxt.schema.shared_memory import OverwrittenBlob, find_overwritten, layer_ends
from prototxt.shapes import infer
from prototxt.shapes.registry import layer_type
from prototxt.text.source_places import place_of

if TYPE_CHECKING:
    from prototxt.schema.messages import LayerParameter, NetParameter
    from prototxt.shapes import NetShapes
    from prototxt.text.tree import Document


def build(
    net: NetParameter | Document | str | os.PathLike[str],
    phase: Phase = "TEST",
    shapes: Mapping[str, Sequence[int]] | None = None,
    seed: int | None = None,
    allow_python: bool | None = None,
) -> Net:
    """Build the net of one phase, its parameters filled by the layers' fillers.

    net     a decoded net, or a prototxt: text tree or path
    shapes  shapes of inputs that the description leaves open, or that replace its own
    seed    of the fillers; None draws new numbers each time
    allow_python  whether Python layers may run their code; None: as FUSION_ALLOW_PYTHON says. Where they may not, those
                  without bottoms are data layers
    The tops of data layers are the keys of the net's inputs. Under `with torch.device("meta")` nothing is allocated.

    Raises: BuildError, naming every layer that cannot be built; prototxt's errors for the description itself.
    """
    message = _filtered(net, phase)
    with python.python_layers(python.allowed(allow_python), phase):
        return _build(message, phase, shapes, seed)


def _build(message: NetParameter, phase: Phase, shapes: Mapping[str, Sequence[int]] | None, seed: int | None) -> Net:
    types = _types(message)
    inferred = infer(message, inputs=shapes)
    parts = _Parts(_Values(message))
    names = [(layer.name, layer.type) for layer, kind in zip(message.layer, types, strict=True) if kind is not None]
    memory_names = [("", SHARED_MEMORY) for changed in parts.values.overwritten.values() for _ in changed]
    # One call names all submodules, since a path depends on those before it; layers come first and keep their names.
    whole = submodule_paths([*names, *memory_names])
    paths, memory_paths = iter(whole[: len(names)]), iter(whole[len(names) :])
    for index, (layer, kind) in enumerate(zip(message.layer, types, strict=True)):
        if kind is None:
            parts.values.add_inputs(index, layer)
        else:
            context = _context(layer, inferred, index, phase, seed)
            _add_layer(parts, index, layer, kind, next(paths), context, message.force_backward)
            _add_changes(parts, index, layer, memory_paths)
    errors = parts.errors
    if any(isinstance(error, OnnxError) for error in errors):  # whose shapes are then unknown
        errors = [error for error in errors if not isinstance(error, UnknownSizeError)]
    raise_all([*errors, *(pct.check_classifiers(message) if phase == "TRAIN" else [])])
    if phase == "TRAIN":
        learning = {
            param.path for param in resolve_rates(parts.params, parts.modules, parts.owners) if param.lr_mult != 0
        }
        raise_all(check_references(message, parts.calls, learning))
    return Net(parts.modules, _plan(parts, message.name, phase))


@dataclass
class _Parts:
    """The submodules, calls and parameters of the layers so far."""

    values: _Values
    modules: dict[str, nn.Module] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    params: list[Param] = field(default_factory=list)
    owners: dict[str, Owner] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    errors: list[FusionError] = field(default_factory=list)


def _add_layer(
    parts: _Parts,
    index: int,
    layer: LayerParameter,
    kind: RegisteredLayer,
    path: str,
    context: Context,
    force_backward: bool,
) -> None:
    bottoms, tops = parts.values.add_call(index, layer)
    try:
        parts.modules[path], own = share_params(
            vary(layer, context, kind.build(layer, context)), layer, path, parts.owners
        )
    except FusionError as error:
        error.place = error.place or place_of(layer)
        parts.errors.append(error)
        return
    parts.params += own
    portable = kind.keeps_samples_apart(layer, context)
    # propagate_down: false stops the gradient, unless the net has force_backward
    blocked = () if force_backward else tuple(i for i, propagates in enumerate(layer.propagate_down) if not propagates)
    parts.calls.append(Call(layer.name, layer.type, path, bottoms, tops, blocked, portable))
    parts.weights.update(_loss_weights(layer, tops))


def _add_changes(parts: _Parts, index: int, layer: LayerParameter, paths: Iterator[str]) -> None:
    """Add the calls that give the blobs sharing memory with an in-place layer's top their changed values."""
    for found in parts.values.overwritten.get(index, ()):
        bottoms, top = parts.values.add_change(index, layer, found)
        count = sum(call.type == SHARED_MEMORY and call.tops[0].partition("@")[0] == found.blob for call in parts.calls)
        name = f"{found.blob} (shared memory{f' {count + 1}' if count else ''})"
        path = next(paths)
        parts.modules[path] = SharedMemory()
        parts.calls.append(Call(name, SHARED_MEMORY, path, bottoms, (top,), blocked=(0,)))


def _plan(parts: _Parts, name: str, phase: Phase) -> NetPlan:
    params = resolve_rates(parts.params, parts.modules, parts.owners)
    learning = {param.path for param in params if param.lr_mult != 0}
    return NetPlan(
        name=name,
        phase=phase,
        calls=tuple(replace(call, portable=False) if call.path in learning else call for call in parts.calls),
        inputs=tuple(parts.values.inputs.items()),
        outputs=_outputs(parts.calls, parts.weights),
        blobs=tuple(parts.values.current.items()),
        loss_weights=tuple(parts.weights.items()),
        params=tuple(params),
    )


def build_again(layer: LayerParameter, shapes: NetShapes, index: int, phase: Phase) -> nn.Module:
    """Build the module of layer `index`, which has no blobs, for other shapes of the net."""
    kind = find_layer_type(layer.type)
    assert kind is not None, "the net has been built"
    context = _context(layer, shapes, index, phase, None)
    return vary(layer, context, kind.build(layer, context))


def blobs(net: Net, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Compute every blob by Caffe's name, in its final version; gradients flow. Unneeded inputs may be left out."""
    values = run(net, inputs)
    return {blob: values[value] for blob, value in net.plan.blobs if value in values}


def params(net: Net) -> dict[str, list[Tensor]]:
    """Return the parameters and statistics of the layers, in Caffe's order; a shared one with each of its layers.

    A second layer of the same name appears as `name (2)`.
    """
    found: dict[str, list[Tensor]] = {}
    keys: dict[str, str] = {}
    for param in net.plan.params:
        if param.path not in keys:
            count = sum(key == param.layer or key.startswith(f"{param.layer} (") for key in found) + 1
            keys[param.path] = param.layer if count == 1 else f"{param.layer} ({count})"
        found.setdefault(keys[param.path], []).append(tensor_by_path(net, param.attribute))
    return found


@dataclass(frozen=True)
class Learnable:
    """A blob with the settings by which Caffe's solver updates it.

    tensor      the parameter, or a statistic that the solver never changes (lr_mult 0)
    layer       the layer that owns it, and `index` its place among the layer's blobs
    """

    tensor: Tensor
    layer: str
    index: int
    lr_mult: float
    decay_mult: float


def learnable(net: Net) -> list[Learnable]:
    """Return every blob once, in the order of Caffe's solver history, which includes BatchNorm's statistics."""
    return [
        Learnable(tensor_by_path(net, param.attribute), param.layer, param.index, param.lr_mult, param.decay_mult)
        for param in net.plan.params
        if not param.shared
    ]


def frozen_layers(net: Net) -> list[str]:
    """Return the names of the layers that training does not change: all their parameters have lr_mult 0."""
    norms = {call.name for call in net.plan.calls if call.type == "BatchNorm"}  # statistics have lr_mult 0 in any net
    rates: dict[str, float] = {}
    for param in net.plan.params:
        if param.layer in norms and param.index < 3:
            continue
        rates[param.layer] = max(rates.get(param.layer, 0.0), param.lr_mult)
    return [layer for layer, rate in rates.items() if rate == 0]


def loss_weights(net: Net) -> dict[str, float]:
    """Return the loss weight of every output that is part of the loss."""
    weights = dict(net.plan.loss_weights)
    return {key: weights[value] for key, value in net.plan.outputs if value in weights}


def total_loss(net: Net, out: Mapping[str, Tensor]) -> Tensor:
    """Return the loss that Caffe minimises: the weighted sum of the net's loss outputs, a scalar.

    Raises: FusionError when the net has no loss.
    """
    weights = loss_weights(net)
    if not weights:
        raise FusionError(f"net '{net.plan.name}' has no loss", hint="add a loss layer, or a loss_weight to a top")
    losses = {key: full(out[key]) for key in weights}
    # the sum of a scalar would take a tenth of the time of a small net's loss and its gradient
    sums = {key: loss.sum() if loss.dim() else loss for key, loss in losses.items()}
    terms = [sums[key] if weight == 1 else sums[key] * weight for key, weight in weights.items()]
    return functools.reduce(torch.add, terms)


def restrict_to_blobs(net: Net, blobs: Iterable[str]) -> Net:
    """Return a net of the same submodules whose outputs are these blobs, with only the calls they need.

    Raises: FusionError for a blob that the net does not have.
    """
    finals = dict(net.plan.blobs)
    missing = [blob for blob in blobs if blob not in finals]
    if missing:
        hint = did_you_mean(missing[0], finals) or None
        raise FusionError(f"net '{net.plan.name}' has no blob {', '.join(map(repr, missing))}", hint=hint)
    return with_outputs(net, {blob: finals[blob] for blob in blobs})


def _filtered(net: NetParameter | Document | str | os.PathLike[str], phase: Phase) -> NetParameter:
    message = net if isinstance(net, messages.NetParameter) else load_net(net)
    return filter_whole(message, phase=phase, level=message.state.level, stages=tuple(message.state.stage))


def _types(net: NetParameter) -> list[RegisteredLayer | None]:
    """Return the builder of every layer, None for a data layer. Raises: BuildError for all unknown types."""
    types = [None if python.brings_data(layer) else find_layer_type(layer.type) for layer in net.layer]
    errors = [
        unknown_type(layer.type, layer.name, place_of(layer))
        for layer, kind in zip(net.layer, types, strict=True)
        if kind is None and layer.bottom
    ]
    raise_all(errors)
    return types


def _context(layer: LayerParameter, shapes: NetShapes, index: int, phase: Phase, seed: int | None) -> Context:
    return Context(shapes.bottoms[index], shapes.tops[index], shapes.params[index], phase, seed, layer.name)


def _loss_weights(layer: LayerParameter, tops: Sequence[str]) -> dict[str, float]:
    """Return weights by value; the default is 1 for a loss layer's first top."""
    weights = list(layer.loss_weight)
    if not weights and layer_type(layer.type).loss:
        weights = [1.0]
    return {top: weight for top, weight in zip(tops, weights, strict=False) if weight != 0}


def _outputs(calls: Sequence[Call], weights: Mapping[str, float]) -> tuple[tuple[str, str], ...]:
    """Return the unread tops, and those that count in the loss: Caffe's Split makes an unread copy of them."""
    read = {value for call in calls if call.type != SHARED_MEMORY for value in call.bottoms}
    for call in calls:
        if call.type == SHARED_MEMORY:  # no layer of the prototxt: its result is read if the blob before it was
            before = call.bottoms[1]
            read |= {before, *(call.tops if before in read else ())}
    tops = [value for call in calls for value in call.tops]
    return tuple((value, value) for value in tops if value not in read or value in weights)


class _Values:
    """Names for the versions of blobs while the layers are added in order.

    inputs   blob -> value, for the tops of data layers
    current  blob -> its latest value
    overwritten  index of an in-place layer -> the blobs that it changes although they are none of its tops
    """

    def __init__(self, net: NetParameter) -> None:
        self.inputs: dict[str, str] = {}
        self.current: dict[str, str] = {}
        self.overwritten: dict[int, list[OverwrittenBlob]] = {}
        self._last = {top: index for index, layer in enumerate(net.layer) for top in layer.top}
        for found in find_overwritten([layer_ends(layer) for layer in net.layer]):
            self.overwritten.setdefault(found.layer, []).append(found)
            self._last[found.blob] = max(self._last[found.blob], found.layer)

    def add_inputs(self, index: int, layer: LayerParameter) -> None:
        """Add the layer's tops as inputs of the net."""
        for top in layer.top:
            self.current[top] = self.inputs[top] = self._value(index, layer, top)

    def add_call(self, index: int, layer: LayerParameter) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the values of the layer's bottoms and tops; a loss layer without a top gets an automatic one."""
        bottoms = tuple(self.current[bottom] for bottom in layer.bottom)
        for top in layer.top:
            self.current[top] = self._value(index, layer, top)
        tops = tuple(self.current[top] for top in layer.top)
        if not tops and layer_type(layer.type).loss:
            tops = (f"{layer.name} (automatic)",)
        return bottoms, tops

    def add_change(self, index: int, layer: LayerParameter, found: OverwrittenBlob) -> tuple[tuple[str, str], str]:
        """Return the changed value, the old value of the blob that shares its memory, and that blob's new value."""
        bottoms = self.current[found.through], self.current[found.blob]
        self.current[found.blob] = self._value(index, layer, found.blob)
        return bottoms, self.current[found.blob]

    def _value(self, index: int, layer: LayerParameter, top: str) -> str:
        return top if self._last[top] == index else f"{top}@{layer.name or index}"  # only the last has the plain name
