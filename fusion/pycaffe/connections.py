"""The connections of a net's layers: the blobs that each reads and makes, and those whose gradients Caffe computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fusion.layers.registry import find_layer_type
from fusion.nets.shared_memory import SHARED_MEMORY

if TYPE_CHECKING:
    from fusion.nets.graph import Call, NetPlan
    from prototxt.schema.messages import LayerParameter, NetParameter


@dataclass(frozen=True)
class Ends:
    """The ends of one layer.

    call      how the net runs it; None for a data layer
    bottoms, tops  names of blobs
    reads, makes   the values that they are then: an in-place layer makes a new value of a blob
    weights   loss weight of each top, 0 where it is no loss
    needs     whether the gradient of each bottom is computed, where the layer takes part in the backward pass
    backward  whether it does
    copies    pairs of blobs: after this in-place layer the second shares the memory of the first in Caffe
    """

    layer: LayerParameter
    call: Call | None
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    reads: tuple[str, ...]
    makes: tuple[str, ...]
    weights: tuple[float, ...]
    needs: tuple[bool, ...]
    backward: bool
    copies: tuple[tuple[str, str], ...]


def connect(message: NetParameter, plan: NetPlan) -> list[Ends]:
    """Return the connections of every layer of a filtered description and the plan that was built from it."""
    calls = _calls_of_layers(message, plan)
    weights = dict(plan.loss_weights)
    losses = [tuple(weights.get(top, 0.0) for top in call.tops) if call else () for call, _ in calls]
    learns = {param.path for param in plan.params if param.lr_mult != 0}
    needs = _needs(message, losses, [call is not None and call.path in learns for call, _ in calls])
    return [
        Ends(
            layer=layer,
            call=call,
            bottoms=tuple(layer.bottom),
            tops=tuple(layer.top) or (call.tops if call else ()),
            reads=call.bottoms if call else (),
            makes=call.tops if call else tuple(layer.top),
            weights=loss,
            needs=need,
            backward=backward,
            copies=copies,
        )
        for layer, (call, copies), loss, (need, backward) in zip(message.layer, calls, losses, needs, strict=True)
    ]


def _calls_of_layers(message: NetParameter, plan: NetPlan) -> list[tuple[Call | None, tuple[tuple[str, str], ...]]]:
    """Return each layer's call, None for a data layer, and the pairs of blobs of the changes after it.

    Calls read the value before such a change, to which the gradient goes; the blob's memory has the changed one.
    """
    found: list[tuple[Call | None, tuple[tuple[str, str], ...]]] = []
    names = {value: blob for blob, value in plan.inputs}
    unchanged: dict[str, str] = {}
    calls = deque(plan.calls)
    for layer in message.layer:
        call = calls.popleft() if find_layer_type(layer.type) else None
        if call is not None:
            call = replace(call, bottoms=tuple(unchanged.get(value, value) for value in call.bottoms))
            names.update(zip(call.tops, layer.top, strict=False))
        copies = []
        while calls and calls[0].type == SHARED_MEMORY:
            change = calls.popleft()
            changed, before = change.bottoms
            copies.append((names[changed], names[before]))
            names[change.tops[0]] = names[before]
            unchanged[change.tops[0]] = unchanged.get(before, before)
        found.append((call, tuple(copies)))
    return found


def _needs(
    message: NetParameter, losses: Sequence[Sequence[float]], learns: Sequence[bool]
) -> list[tuple[tuple[bool, ...], bool]]:
    """Return for each layer the bottoms whose gradients are computed, and whether it takes part (Net::Init of net.cpp).

    With force_backward, and in a net without a loss, where Caffe computes nothing, that is all of them.
    """
    if message.force_backward or not any(any(weights) for weights in losses):
        return [((True,) * len(layer.bottom), True) for layer in message.layer]
    learned: dict[str, bool] = {}
    found = []
    for layer, learning in zip(message.layer, learns, strict=True):
        needs = [learned[name] for name in layer.bottom]
        if layer.propagate_down:
            needs = list(layer.propagate_down)
        takes_part = any(needs) or learning
        learned.update(dict.fromkeys(layer.top, takes_part))
        found.append((needs, takes_part))
    under_loss: set[str] = set()
    wanted: set[str] = set()  # by a layer further on that takes part
    for index in reversed(range(len(found))):
        layer, (needs, takes_part) = message.layer[index], found[index]
        is_loss = any(losses[index])
        if not is_loss and not under_loss.intersection(layer.top):
            found[index] = (needs, False)
            continue
        under_loss.update(layer.bottom)
        if not is_loss and not wanted.intersection(layer.top):
            found[index] = (needs, False)
            continue
        if takes_part:
            wanted.update(name for name, need in zip(layer.bottom, needs, strict=True) if need)
    return [(tuple(needs), takes_part) for needs, takes_part in found]
