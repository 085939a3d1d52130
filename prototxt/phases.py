"""Which layers a net takes: each layer's include and exclude rules against the net's phase, level and stages."""

from __future__ import annotations

from collections.abc import Iterable

from prototxt.errors import DecodeError, PrototxtError, raise_all
from prototxt.messages import TEST, TRAIN, LayerParameter, NetParameter, NetState, NetStateRule, Phase
from prototxt.places import place_of
from prototxt.scalars import did_you_mean


def filter_net(net: NetParameter, phase: str = "TEST", level: int = 0, stages: Iterable[str] = ()) -> NetParameter:
    """The net with only the layers that belong to this state, as Caffe makes it when it builds a net.

    phase   "TRAIN" or "TEST"
    level   what min_level and max_level of a rule are compared with
    stages  added to those that the net's own `state` names

    The state is written into the result. Unknown layer types are not judged here.

    Raises: DecodeError with all layers that have both include and exclude rules, ValueError for an unknown phase.
    """
    if phase not in Phase.keys():  # noqa: SIM118 (an enum wrapper, not a dict)
        hint = did_you_mean(phase, Phase.keys()) or "phases are TRAIN and TEST"
        raise ValueError(f"unknown phase {phase!r}: {hint}")
    result = NetParameter()
    result.CopyFrom(net)
    result.state.phase = TRAIN if phase == "TRAIN" else TEST
    result.state.level = level
    result.state.stage.extend(stage for stage in stages if stage not in net.state.stage)
    raise_all([_both(layer) for layer in net.layer if layer.include and layer.exclude])
    del result.layer[:]
    result.layer.extend(layer for layer in net.layer if included(layer, result.state))
    return result


def included(layer: LayerParameter, state: NetState) -> bool:
    """Whether a net in this state takes the layer: one include rule holds (or there is none), and no exclude rule."""
    if layer.include:
        return any(holds(rule, state) for rule in layer.include)
    return not any(holds(rule, state) for rule in layer.exclude)


def holds(rule: NetStateRule, state: NetState) -> bool:
    """Whether all that the rule states is true of the state."""
    if rule.HasField("phase") and rule.phase != state.phase:
        return False
    if rule.HasField("min_level") and state.level < rule.min_level:
        return False
    if rule.HasField("max_level") and state.level > rule.max_level:
        return False
    return set(rule.stage) <= set(state.stage) and not set(rule.not_stage) & set(state.stage)


def _both(layer: LayerParameter) -> PrototxtError:
    message = f"layer {layer.name!r} has both include and exclude rules"
    return DecodeError(message, place=place_of(layer), hint="Caffe takes one kind: state the rules as include only")
