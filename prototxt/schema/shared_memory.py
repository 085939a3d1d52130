"""Blobs that share memory in Caffe: writing one in place changes the others as well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prototxt.errors import PrototxtError
from prototxt.text.source_places import place_of

if TYPE_CHECKING:
    from prototxt.schema.messages import LayerParameter, NetParameter

LayerEnds = tuple[str, Sequence[str], Sequence[str]]
"""A layer's type, bottoms and tops."""
_SHARING = frozenset(("Flatten", "Reshape", "Split", "Concat", "Slice"))
"""Types whose tops share the memory of a single bottom (`ShareData`); Slice if it has one top."""


@dataclass(frozen=True)
class OverwrittenBlob:
    """A blob that an in-place layer changes through another one.

    layer     the index of the in-place layer
    through   the blob it works on
    blob      the blob that shares its memory
    seen      whether the change is visible: a later layer reads `blob`, or no layer does, so that it is an output
    """

    layer: int
    through: str
    blob: str
    seen: bool


def find_overwritten(layers: Sequence[LayerEnds]) -> list[OverwrittenBlob]:
    """Find the blobs that in-place layers of one phase's net change through others, in order of execution."""
    groups: dict[str, list[str]] = {}  # blob -> all blobs that share its memory, itself included
    found: list[OverwrittenBlob] = []
    for index, (kind, bottoms, tops) in enumerate(layers):
        for top in tops:
            if top in bottoms:
                shared = [blob for blob in groups.get(top, ()) if blob not in tops]
                found += [OverwrittenBlob(index, top, blob, _seen(layers, index, blob)) for blob in shared]
            elif top in groups:
                groups.pop(top).remove(top)  # a new blob of this name no longer shares the memory
        if kind in _SHARING and len(bottoms) == 1 and bottoms[0] not in tops and (kind != "Slice" or len(tops) == 1):
            group = groups.setdefault(bottoms[0], [bottoms[0]])
            group += tops
            groups.update(dict.fromkeys(tops, group))
    return found


def layer_ends(layer: LayerParameter) -> LayerEnds:
    """Return the layer's type, bottoms and tops."""
    return layer.type, layer.bottom, layer.top


def _seen(layers: Sequence[LayerEnds], index: int, blob: str) -> bool:
    """Return whether a later layer reads the blob before it is overwritten, or no layer reads it at all."""
    for _, bottoms, tops in layers[index + 1 :]:
        if blob in bottoms:
            return True
        if blob in tops:
            return False
    for _, bottoms, tops in reversed(layers[:index]):
        if blob in bottoms:
            return False
        if blob in tops:
            return True
    return False


def check_unshared(net: NetParameter, task: str) -> None:
    """Check that no blob is read after it was changed through another one.

    task  name of the task that works on single layers, and so would lose the change
    Raises: PrototxtError
    """
    for found in find_overwritten([layer_ends(layer) for layer in net.layer]):
        if found.seen:
            layer = net.layer[found.layer]
            raise PrototxtError(
                f"layer '{layer.name}' works in place on '{found.through}', which shares its memory with "
                f"'{found.blob}', so that '{found.blob}' changes as well: {task} cannot keep that",
                place=place_of(layer),
                hint=f"let the readers of '{found.blob}' read '{found.through}', or give '{layer.name}' a top of its "
                f"own, which leaves '{found.blob}' unchanged",
            )
