"""Checks of the net around a loss towards references, made when the net is built for training.

The first bottom is the student's, and some layer below it must learn; no layer below a reference may, since a reference
that changes with the student is no constraint.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from fusion.errors import BuildError
from fusion.nets.shared_memory import SHARED_MEMORY
from prototxt.schema.messages import LayerParameter
from prototxt.text.source_places import place_of

if TYPE_CHECKING:
    from fusion.nets.graph import Call
    from prototxt.schema.messages import NetParameter

REFERENCE_LOSSES = frozenset((
    *("KDLoss", "FocalDistillationLoss", "LogitMatchingLoss", "LDILoss", "ELODILoss", "NaivePCTLoss"),
    *("CNALoss", "BCTLoss"),
))  # fmt: skip
_SHOWN = 5


def check_references(net: NetParameter, calls: Sequence[Call], learning: Collection[str]) -> list[BuildError]:
    """Return an error for every loss of a filtered net whose student does not learn, or whose references do.

    calls     of the net in their order
    learning  paths of the calls that have parameters which learn
    """
    if not any(call.type in REFERENCE_LOSSES for call in calls):
        return []
    layers: dict[tuple[str, str], list[LayerParameter]] = {}  # several may share a name
    for layer in net.layer:
        layers.setdefault((layer.name, layer.type), []).append(layer)
    # By value: the layers below that learn, and of these the ones that a gradient from the value would reach.
    below: dict[str, dict[str, None]] = {}
    reached: dict[str, dict[str, None]] = {}
    errors = []
    for call in calls:
        # Calls are in the order of the layers, so of several of one name and type the next one is meant.
        layer = LayerParameter() if call.type == SHARED_MEMORY else layers[call.name, call.type].pop(0)
        if call.type in REFERENCE_LOSSES:
            errors += _errors(call, layer, below, reached if learning else None)
        own = {call.name: None} if call.path in learning or _has_running_statistics(layer) else {}
        everything = _joined(below, call.bottoms)
        open_ones = [value for index, value in enumerate(call.bottoms) if index not in call.blocked]
        for top in call.tops:
            below[top] = {**everything, **own}
            reached[top] = {**_joined(reached, open_ones), **(own if call.path in learning else {})}
    return errors


def _errors(
    call: Call,
    layer: LayerParameter,
    below: Mapping[str, Mapping[str, None]],
    reached: Mapping[str, Mapping[str, None]] | None,
) -> list[BuildError]:
    student, *others = call.bottoms
    references = {
        blob: list(below[value]) for blob, value in zip(layer.bottom[1:], others, strict=True) if below.get(value)
    }
    if reached is not None and (not reached.get(student) or 0 in call.blocked):
        hint = "thaw layers below it (lr_mult above 0), or leave this loss out"
        if references:
            hint = f"the student's blob is the first bottom: put '{next(iter(references))}' there"
        message = f"no learnable parameter lies below '{layer.bottom[0]}', where the frozen part ends"
        return [BuildError(f"layer '{layer.name}': {message}", place=place_of(layer), hint=hint)]
    return [_changing_reference(layer, blob, names) for blob, names in references.items()]


def _changing_reference(layer: LayerParameter, blob: str, names: Sequence[str]) -> BuildError:
    shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
    return BuildError(
        f"layer '{layer.name}': its reference '{blob}' would change in training, since {shown} below it "
        f"{'learns' if len(names) == 1 else 'learn'}",
        place=place_of(layer),
        hint="freeze them (param { lr_mult: 0 }, --freeze REGEX), or leave this layer out and take the original from "
        "its files: --reference NET.prototxt:WEIGHTS@BLOB --pct KIND",
    )


def _has_running_statistics(layer: LayerParameter) -> bool:
    """Return whether training changes the layer's statistics, and its tops depend on the batch."""
    return layer.type == "BatchNorm" and not layer.batch_norm_param.use_global_stats


def _joined(sets: Mapping[str, Mapping[str, None]], values: Sequence[str]) -> dict[str, None]:
    return {name: None for value in values for name in sets.get(value, ())}
