"""Layers of several branches that differ in their weights only, grouped in an order that keeps the net's values."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass

from fusion.errors import FusionError
from prototxt.schema.messages import LayerParameter

_PLACES = ("name", "bottom", "top")


@dataclass(frozen=True)
class LayerGroup:
    """Layers that can become one: one of each branch, or a single one.

    members  their indices in the net, in the order of the branches
    """

    members: tuple[int, ...]


def group_layers(layers: Sequence[LayerParameter], prefixes: Sequence[str]) -> list[LayerGroup]:
    """Group the layers that are alike in all branches; return all groups in an order that keeps the net's values.

    Raises: FusionError when a prefix has no layer, or no two branches have a layer in common.
    """
    groups = _siblings(layers, prefixes)
    grouped = {index for group in groups for index in group}
    singles = [(index,) for index in range(len(layers)) if index not in grouped]
    return _ordered(layers, [*groups, *singles])


def _siblings(layers: Sequence[LayerParameter], prefixes: Sequence[str]) -> list[tuple[int, ...]]:
    branches: list[Mapping[str, list[int]]] = []
    for prefix in prefixes:
        found: dict[str, list[int]] = {}
        for index, layer in enumerate(layers):
            if layer.name.startswith(f"{prefix}/") and layer.bottom:
                found.setdefault(layer.name.removeprefix(f"{prefix}/"), []).append(index)
        if not found:
            known = dict.fromkeys(layer.name.partition("/")[0] for layer in layers if "/" in layer.name)
            hint = f"the prefixes are {', '.join(known) or 'none'}"
            raise FusionError(f"no layer's name begins with '{prefix}/'", hint=hint)
        branches.append(found)
    groups = []
    for name, indices in branches[0].items():
        others = [found.get(name, []) for found in branches]
        if all(len(other) == 1 for other in (indices, *others)):
            group = tuple(other[0] for other in others)
            if all(_alike(layers[group[0]], layers[index]) for index in group[1:]):
                groups.append(group)
    if not groups:
        names = ", ".join(prefixes)
        hint = "branches of one architecture have layers of one name and with one setting"
        raise FusionError(f"the branches {names} have no layer in common", hint=hint)
    return groups


def _alike(one: LayerParameter, other: LayerParameter) -> bool:
    """Return whether two layers are the same but for their weights and blobs."""
    if len(one.bottom) != len(other.bottom) or len(one.top) != len(other.top):
        return False
    # Both must work in place, or neither: the position in the bottoms of each top, or -1.
    if [list(one.bottom).index(top) if top in one.bottom else -1 for top in one.top] != [
        list(other.bottom).index(top) if top in other.bottom else -1 for top in other.top
    ]:
        return False
    plain = []
    for layer in (one, other):
        copy = deepcopy(layer)
        for name in _PLACES:
            copy.ClearField(name)
        plain.append(copy)
    return bool(plain[0] == plain[1])


def _ordered(layers: Sequence[LayerParameter], groups: Sequence[tuple[int, ...]]) -> list[LayerGroup]:
    """Return the groups so that each comes after all that it needs, and otherwise in the net's order."""
    # A layer needs the writers of its bottoms and, since in-place layers overwrite blobs, earlier users of its tops.
    home = {index: number for number, group in enumerate(groups) for index in group}
    needs: list[set[int]] = [set() for _ in groups]
    writers: dict[str, list[int]] = {}
    readers: dict[str, list[int]] = {}
    for index, layer in enumerate(layers):
        before = [i for blob in layer.bottom for i in writers.get(blob, ())]
        before += [i for blob in layer.top for i in (*writers.get(blob, ()), *readers.get(blob, ()))]
        needs[home[index]].update(home[i] for i in before)
        for blob in layer.bottom:
            readers.setdefault(blob, []).append(index)
        for blob in layer.top:
            writers.setdefault(blob, []).append(index)
    for number, needed in enumerate(needs):
        needed.discard(number)
    # A heap by the first member's index: among the groups that are ready, the net's order prevails.
    ready = [(min(groups[number]), number) for number, needed in enumerate(needs) if not needed]
    heapq.heapify(ready)
    done: list[LayerGroup] = []
    while ready:
        _, number = heapq.heappop(ready)
        done.append(LayerGroup(groups[number]))
        for other, needed in enumerate(needs):
            if number in needed:
                needed.discard(number)
                if not needed:
                    heapq.heappush(ready, (min(groups[other]), other))
    if len(done) < len(groups):
        hint = "one of the branches reads a blob of another one: they are not parallel"
        raise FusionError("the branches depend on each other", hint=hint)
    return done
