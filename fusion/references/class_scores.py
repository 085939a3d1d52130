"""Check that a blob holds class scores, by the losses and measures of its net."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusion.errors import FusionError
from prototxt.shapes.loss_kinds import LOSS_KINDS, non_class_loss

if TYPE_CHECKING:
    from prototxt.schema.messages import NetParameter

_HOLDS = {
    "target": "values compared with targets",
    "yes-no": "a yes or no per output, several of which may be right",
    "pair": "features of pairs",
}


def check_class_scores(net: NetParameter, blob: str, place: str | None = None) -> None:
    """Check that the net's losses do not use the blob as other values. Raises: FusionError if they do."""
    layer = non_class_loss(net, blob)
    if layer is not None:
        raise FusionError(
            f"blob '{blob}' does not hold class scores but {_HOLDS[LOSS_KINDS[layer.type].labels]}, as layer "
            f"'{layer.name}' ({layer.type}) says",
            place=place,
            hint="name a blob with class scores; other outputs are measured by the net's loss",
        )
