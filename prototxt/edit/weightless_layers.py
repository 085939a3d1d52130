"""Layers that may be taken to hold no weights although their description does not tell how many blobs they have.

Python layers and types of forks that no schema knows can make blobs, which Caffe would then train. Freezing asks here
which of them hold none in practice, with the reason, so that a note says so; what remains could learn and is refused.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from prototxt.edit.layer_view import TextLayer
from prototxt.schema.layer_types import WEIGHTLESS_PYTHON, WEIGHTLESS_TYPES
from prototxt.schema.params import param_count

_MEASURES = re.compile(r"Accuracy|Evaluat|Precision|Recall", re.IGNORECASE)  # these types have no backward pass


def stated_count(layer: TextLayer) -> int:
    """How many `param {}` blocks (in old syntax `blobs_lr`) the layer states."""
    return len(layer.body.messages("param")) if layer.version == 2 else len(layer.body.scalars("blobs_lr"))


def weightless_reason(layer: TextLayer, used: Collection[int]) -> str | None:
    """Why a layer of unknown count is taken to hold no weights, None where it may hold some.

    used  `id(layer)` of the layers whose outputs reach one that holds weights, see `used_by_weights`
    """
    if layer.type == "Python":
        block = next(iter(layer.body.messages("python_param")), None)
        name = block.string("layer") if block is not None else None
        if name in WEIGHTLESS_PYTHON:
            return "Python layers known to hold no weights"
        if has_loss_weight(layer):
            return "Python losses, taken to hold no weights"
        return None if id(layer) in used else "Python layers at the net's end, taken to hold no weights"
    if layer.type in WEIGHTLESS_TYPES:
        return f"{layer.type} holds no weights in the forks that have it"
    return "measures, which learn nothing" if _MEASURES.search(layer.type) else None


def has_loss_weight(layer: TextLayer) -> bool:
    """Whether the layer states a `loss_weight` other than 0."""
    return any(re.fullmatch(r"[-+0.eEfF]*", scalar.value) is None for scalar in layer.body.scalars("loss_weight"))


def used_by_weights(
    layers: Sequence[TextLayer], counts: Mapping[str, int] | None, outputs: Collection[str] = ()
) -> set[int]:
    """`id(layer)` of the layers from which a path leads to a layer that holds weights, or to one of `outputs`."""
    wanted = set(outputs)
    used = set[int]()
    for layer in reversed(layers):
        if any(top.value in wanted for top in layer.tops):
            used.add(id(layer))
        count = param_count(layer.type, layer.body)
        if count is None:
            count = (counts or {}).get(layer.name, 0) or stated_count(layer)
        if count or id(layer) in used:
            wanted.update(bottom.value for bottom in layer.bottoms)
    return used
