"""Matching of layers and blobs of two nets, and the errors that prevent a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from fusion.errors import DataError, FusionError, WeightsMismatch, raise_all
from fusion.nets.build import params
from fusion.nets.graph import Call, Net
from fusion.verification.nets import Side, computed_values

Pairs = list[tuple[Call, Call]]


def paired(source: Net, fused: Net, prefix: str) -> Pairs:
    """Return the pairs of matching layers of both nets, in the source's order."""
    calls: dict[str, Call] = {}
    for call in fused.plan.calls:
        calls.setdefault(call.name, call)
    pairs = []
    for call in source.plan.calls:
        names = (f"{prefix}/{call.name}", call.name) if prefix else (call.name,)
        found = next((calls[name] for name in names if name in calls), None)
        if found is not None and call.name and (not prefix or found.name.startswith(f"{prefix}/")):
            pairs.append((call, found))
    return pairs


def blobs_of_equal_names(one: Side, other: Side) -> list[tuple[str, str]]:
    """Return pairs of the final values of blobs that both nets compute, in the order of the first."""
    theirs = {blob: value for blob, value in other.net.plan.blobs if value in computed_values(other)}
    names = {value: blob for blob, value in one.net.plan.blobs if value in computed_values(one)}
    values = [top for call in one.net.plan.calls for top in call.tops if top in names]
    return [(value, theirs[names[value]]) for value in values if names[value] in theirs]


def handed_over(name: str, pairs: Pairs, source: Net, branch: Net, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the source's inputs by the branch's keys, matched by the layers that read them. Raises: DataError."""
    mine = {value: key for key, value in source.plan.inputs}
    theirs = {value: key for key, value in branch.plan.inputs}
    handed: dict[str, Tensor] = {}
    for ours, others in pairs:
        for here, there in zip(ours.bottoms, others.bottoms, strict=False):
            if mine.get(here) in inputs and there in theirs:
                handed[theirs[there]] = inputs[mine[here]]
    # Without matching layers (two unrelated nets) inputs of one name, or the only input, must do.
    if not pairs:
        handed = {key: inputs[key] for key in theirs.values() if key in inputs}
    if not handed and len(inputs) == len(theirs) == 1:
        handed = dict(zip(theirs.values(), inputs.values(), strict=True))
    missing = [key for key in theirs.values() if key not in handed]
    if missing:
        hint = "the branch must have the inputs of its source; compare their first layers"
        raise DataError(f"'{name}': the branch also reads {', '.join(map(repr, missing))}", hint=hint)
    return handed


def made_at_the_front(pairs: Pairs, source: Net, fused: Net) -> tuple[str, ...]:
    """Return the fused net's values for the source's inputs that it computes itself, from another input's pixels."""
    outside = {value for _, value in source.plan.inputs}
    makers = {top for call in fused.plan.calls for top in call.tops}
    found = [there for ours, others in pairs for here, there in zip(ours.bottoms, others.bottoms, strict=False)
             if here in outside and there in makers]  # fmt: skip
    return tuple(dict.fromkeys(found))


def check_weights(name: str, pairs: Pairs, source: Side, fused: Side) -> None:
    """Check both sides' weights. Raises: WeightsMismatch naming layers without weights or with different shapes."""
    mine, theirs = params(source.net), params(fused.net)
    names = [{call.name for call in calls} for calls in zip(*pairs, strict=True)]
    check_missing(
        name,
        [(side, tuple(lost for lost in side.missing if lost in mine))
         for side, mine in zip((source, fused), names, strict=True)],
    )  # fmt: skip
    errors: list[FusionError] = []
    for ours, other in pairs:
        shapes = [[tuple(tensor.shape) for tensor in side.get(key, [])]
                  for side, key in ((mine, ours.name), (theirs, other.name))]  # fmt: skip
        if shapes[0] != shapes[1]:
            message = f"'{name}': layer '{other.name}' has parameters of shape {shapes[1]}, its source {shapes[0]}"
            errors.append(WeightsMismatch(message, hint="the two prototxts describe different layers"))
    raise_all(errors)


def check_missing(name: str, sides: Sequence[tuple[Side, Sequence[str]]]) -> None:
    """Check that no weights are missing. Raises: WeightsMismatch naming the layers without weights."""
    raise_all(
        [
            WeightsMismatch(f"'{name}': {side.label} has no weights for layer '{layer}'", hint="merge again")
            for side, missing in sides
            for layer in missing
        ]
    )


def nothing_in_common(name: str, source: Side, fused: Side) -> FusionError:
    """Return the error for two nets that share no layer."""
    mine = ", ".join(call.name for call in source.net.plan.calls[:4])
    theirs = ", ".join(call.name for call in fused.net.plan.calls[:4])
    hint = f"the first has {mine}, ...; the second {theirs}, ...; is the prefix right?"
    return FusionError(f"'{name}': {source.label} and {fused.label} have no layer in common", hint=hint)


def differing_preparation(pairs: Pairs, source: Side, fused: Side) -> tuple[str, ...]:
    """Return notes on inputs that the two nets' data layers prepare differently: only later layers are compared."""
    makers = [{top: layer for layer in side.message.layer if not layer.bottom for top in layer.top}
              for side in (source, fused)]  # fmt: skip
    notes: dict[str, None] = {}
    for ours, others in pairs:
        for here, there in zip(ours.bottoms, others.bottoms, strict=False):
            one, other = makers[0].get(here), makers[1].get(there)
            if one is None or other is None or "Input" in (one.type, other.type):
                continue
            if one.transform_param != other.transform_param:
                notes[f"note: the data layers prepare '{here}' and '{there}' differently (transform_param)"] = None
    return tuple(notes)
