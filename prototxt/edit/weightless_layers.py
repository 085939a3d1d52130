"""Layers assumed to have no weights although their description does not determine their number of blobs.

Python layers and unknown types of forks can make blobs, which Caffe would then train. Those listed here have none in
practice, which freezing reports in a note; it refuses all others.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from prototxt.edit.layer_view import TextLayer
from prototxt.schema.layer_types import WEIGHTLESS_PYTHON, WEIGHTLESS_TYPES
from prototxt.schema.params import param_count

_MEASURES = re.compile(r"Accuracy|Evaluat|Precision|Recall", re.IGNORECASE)  # these types have no backward pass


def stated_count(layer: TextLayer) -> int:
    """Return the number of `param {}` blocks (in old syntax `blobs_lr`) of the layer."""
    return len(layer.body.messages("param")) if layer.version == 2 else len(layer.body.scalars("blobs_lr"))


def weightless_reason(layer: TextLayer, used: Collection[int]) -> str | None:
    """Return why a layer of unknown blob count is assumed to have no weights, None if it may have some.

    used  `id(layer)` of the layers whose outputs reach one with weights, see `used_by_weights`
    """
    if layer.type == "Python":
        block = next(iter(layer.body.messages("python_param")), None)
        name = block.string("layer") if block is not None else None
        if name in WEIGHTLESS_PYTHON:
            return "Python layers known to hold no weights"
        if has_loss_weight(layer):
            return "Python losses, assumed to hold no weights"
        return None if id(layer) in used else "Python layers at the net's end, assumed to hold no weights"
    if layer.type in WEIGHTLESS_TYPES:
        return f"{layer.type} holds no weights in the forks that have it"
    return "measures, which learn nothing" if _MEASURES.search(layer.type) else None


def has_loss_weight(layer: TextLayer) -> bool:
    """Return whether the layer has a `loss_weight` other than 0."""
    return any(re.fullmatch(r"[-+0.eEfF]*", scalar.value) is None for scalar in layer.body.scalars("loss_weight"))


def used_by_weights(
    layers: Sequence[TextLayer], counts: Mapping[str, int] | None, outputs: Collection[str] = ()
) -> set[int]:
    """Return `id(layer)` of the layers with a path to a layer with weights, or to one of `outputs`."""
    reaching = set(outputs)  # blobs from which such a path begins
    used = set[int]()
    for layer in reversed(layers):
        if any(top.value in reaching for top in layer.tops):
            used.add(id(layer))
        count = param_count(layer.type, layer.body)
        if count is None:
            count = (counts or {}).get(layer.name, 0) or stated_count(layer)
        if count or id(layer) in used:
            reaching.update(bottom.value for bottom in layer.bottoms)
    return used
