"""Copies of the layers that references inside a net depend on, kept as they are while the originals learn.

A fused net has its sources' classifiers as references on the same branches that feed the head. Where such a branch is
thawed, its reference would change with it; the losses then read a frozen copy, which starts from the same weights.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Final

import torch

from fusion.errors import TrainingError
from fusion.nets.build import params
from fusion.nets.check_references import REFERENCE_LOSSES

if TYPE_CHECKING:
    from fusion.nets.graph import Net
    from prototxt.schema.messages import NetParameter

KEPT: Final = "kept/"


def keep_references(before: NetParameter, net: NetParameter, thawed: Collection[str]) -> NetParameter:
    """Return the net with a frozen copy of the layers that its references compute from thawed ones.

    before  the net in which these are frozen, with the same layers
    thawed  the names of the layers that learn now
    Raises: TrainingError where a layer has the name of a copy.
    """
    read, copied = _copied_layers(net, thawed)
    if not copied:
        return net
    clash = [layer.name for layer in net.layer if layer.name.startswith(KEPT)]
    if clash:
        hint = "rename it, or take the references from their files: --reference NET.prototxt:WEIGHTS"
        raise TrainingError(f"layer '{clash[0]}' has the name of a kept copy", hint=hint)
    result = type(net)()
    result.CopyFrom(net)
    del result.layer[:]
    for index, layer in enumerate(net.layer):
        # The copy stands before its original, which may change a blob in place that both read.
        for original in (before.layer[index], layer) if index in copied else (layer,):
            added = result.layer.add()
            added.CopyFrom(original)
            is_copy = original is not layer
            renamed = range(len(layer.bottom)) if is_copy else range(1, len(layer.bottom))
            if is_copy or layer.type in REFERENCE_LOSSES:
                for place in renamed:
                    if read[index].get(layer.bottom[place]) in copied:
                        added.bottom[place] = KEPT + layer.bottom[place]
            if is_copy:
                added.name = KEPT + layer.name
                added.top[:] = [KEPT + top for top in layer.top]
    return result


def _copied_layers(net: NetParameter, thawed: Collection[str]) -> tuple[list[dict[str, int]], set[int]]:
    """Return per layer which earlier layer wrote each bottom that it reads, and the numbers of the layers to copy."""
    writers: dict[str, int] = {}
    read: list[dict[str, int]] = []
    changing: set[int] = set()
    for index, layer in enumerate(net.layer):
        read.append({bottom: writers[bottom] for bottom in layer.bottom if bottom in writers})
        if layer.name in thawed or changing.intersection(read[index].values()):
            changing.add(index)
        writers.update(dict.fromkeys(layer.top, index))
    todo = [
        read[index][bottom]
        for index, layer in enumerate(net.layer)
        if layer.type in REFERENCE_LOSSES
        for bottom in layer.bottom[1:]
        if bottom in read[index]
    ]
    copied: set[int] = set()
    while todo:
        number = todo.pop()
        if number in changing and number not in copied:
            copied.add(number)
            todo += read[number].values()
    return read, copied


def lost_copies(net: NetParameter, unused: Sequence[str]) -> list[str]:
    """Return the copies that a file has and a net lacks, although its references depend on their originals.

    unused  the names of the file's layers that the net has not
    """
    originals = {name.removeprefix(KEPT) for name in unused if name.startswith(KEPT)}
    _, copied = _copied_layers(net, originals)
    return [KEPT + net.layer[index].name for index in sorted(copied) if net.layer[index].name in originals]


def with_kept_copies(net: NetParameter, stored: Sequence[str]) -> NetParameter:
    """Return the net with the copies of originals that a file has, so that its references read them.

    stored  the names of the file's layers
    """
    own = {layer.name for layer in net.layer}
    lost = lost_copies(net, [name for name in stored if name not in own])
    before = type(net)()
    before.CopyFrom(net)
    return keep_references(before, net, {name.removeprefix(KEPT) for name in lost}) if lost else net


def copy_kept(net: Net, missing: Sequence[str]) -> None:
    """Copy the originals' weights into the kept layers for which a file had none."""
    own = params(net)
    with torch.no_grad():
        for name in missing:
            original = own.get(name.removeprefix(KEPT), ()) if name.startswith(KEPT) else ()
            for tensor, value in zip(own[name], original, strict=False):
                tensor.copy_(value)
