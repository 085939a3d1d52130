"""Whether a blob holds class scores, as far as the losses and measures of its net say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusion.errors import FusionError
from prototxt.shapes.loss_kinds import LOSS_KINDS, non_class_loss

if TYPE_CHECKING:
    from prototxt.schema.messages import NetParameter

_HOLDS = {
    "target": "values to be near to targets",
    "yes-no": "a yes or no per output, several of which may be right",
    "pair": "features of pairs",
}


def check_class_scores(net: NetParameter, blob: str, place: str | None = None) -> None:
    """Raises: FusionError for a blob that the net's losses take for something else than class scores."""
    layer = non_class_loss(net, blob)
    if layer is not None:
        raise FusionError(
            f"blob '{blob}' holds no class scores, but {_HOLDS[LOSS_KINDS[layer.type].labels]}, as layer "
            f"'{layer.name}' ({layer.type}) says",
            place=place,
            hint="name a blob with class scores; what such a net answers is measured by its loss",
        )
