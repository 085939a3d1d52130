"""Filter a net's layers: each layer's include and exclude rules against the phase, level and stages of the net."""

from __future__ import annotations

from collections.abc import Iterable

from prototxt.errors import DecodeError, did_you_mean, raise_all
from prototxt.schema.messages import TEST, TRAIN, LayerParameter, NetParameter, NetState, NetStateRule, Phase
from prototxt.text.source_places import place_of


def filter_net(net: NetParameter, phase: str = "TEST", level: int = 0, stages: Iterable[str] = ()) -> NetParameter:
    """Return the net with the layers of this state only, as Caffe filters it before building.

    phase   "TRAIN" or "TEST"
    level   compared with min_level and max_level of a rule
    stages  added to those of the net's own `state`

    The state is written into the result. Unknown layer types are not checked here.

    Raises: DecodeError with all layers that have both include and exclude rules, ValueError for an unknown phase.
    """
    if phase not in Phase.keys():  # noqa: SIM118 (an enum wrapper, not a dict)
        hint = did_you_mean(phase, Phase.keys(), "phases are TRAIN and TEST")
        raise ValueError(f"unknown phase {phase!r}: {hint}")
    result = NetParameter()
    result.CopyFrom(net)
    result.state.phase = TRAIN if phase == "TRAIN" else TEST
    result.state.level = level
    result.state.stage.extend(stage for stage in stages if stage not in net.state.stage)
    hint = "Caffe takes one kind: state the rules as include only"
    raise_all(
        [
            DecodeError(f"layer {layer.name!r} has both include and exclude rules", place=place_of(layer), hint=hint)
            for layer in net.layer
            if layer.include and layer.exclude
        ]
    )
    del result.layer[:]
    result.layer.extend(layer for layer in net.layer if is_included(layer, result.state))
    return result


def is_included(layer: LayerParameter, state: NetState) -> bool:
    """Return whether a net in this state has the layer: one include rule matches or, without any, no exclude rule."""
    if layer.include:
        return any(rule_matches(rule, state) for rule in layer.include)
    return not any(rule_matches(rule, state) for rule in layer.exclude)


def rule_matches(rule: NetStateRule, state: NetState) -> bool:
    """Return whether all conditions of the rule match the state."""
    if rule.HasField("phase") and rule.phase != state.phase:
        return False
    if rule.HasField("min_level") and state.level < rule.min_level:
        return False
    if rule.HasField("max_level") and state.level > rule.max_level:
        return False
    return set(rule.stage) <= set(state.stage) and not set(rule.not_stage) & set(state.stage)


def filter_whole(net: NetParameter, phase: str = "TEST", level: int = 0, stages: Iterable[str] = ()) -> NetParameter:
    """Return the filtered net, checked to be complete enough to run.

    Raises: as filter_net; also DecodeError if a layer reads a blob that only layers of other stages make.
    """
    kept = filter_net(net, phase, level, stages)
    error = unmet_stages(net, kept)
    if error is not None:
        raise error
    return kept


def stages_of(net: NetParameter) -> tuple[str, ...]:
    """Return the stages that the net's rules name, in the order of the file."""
    rules = [rule for layer in net.layer for rule in (*layer.include, *layer.exclude)]
    return tuple(dict.fromkeys(stage for rule in rules for stage in (*rule.stage, *rule.not_stage)))


def unmet_stages(net: NetParameter, kept: NetParameter) -> DecodeError | None:
    """Return the error of a filtered net that reads a blob which only layers of other stages make, or None.

    net   the net with all layers
    kept  the net filtered by `filter_net`
    """
    ruled = [
        layer for layer in net.layer if any(rule.stage or rule.not_stage for rule in (*layer.include, *layer.exclude))
    ]
    absent = [layer for layer in ruled if not is_included(layer, kept.state)]
    available = set(net.input)
    for layer in kept.layer:
        for bottom in layer.bottom:
            if bottom not in available and any(bottom in other.top for other in absent):
                phase = Phase.Name(kept.state.phase)
                message = (
                    f"layer {layer.name!r} reads {bottom!r}, which in phase {phase} only layers of other stages make"
                )
                named = ", ".join(stages_of(net))
                hint = f"set the stages (--stage, or train_state and test_state of a solver): {named}"
                return DecodeError(message, place=place_of(layer), hint=hint)
        available.update(layer.top)
    return None
