"""Dropout."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional as F

from fusion.layers.registry import Context, layer

if TYPE_CHECKING:
    from prototxt.schema.messages import LayerParameter


class Dropout(nn.Module):
    """Zeroes elements at random and scales the rest by 1 / (1 - ratio); train() and eval() have no effect."""

    def __init__(self, ratio: float) -> None:
        super().__init__()
        self.ratio = ratio

    def forward(self, x: Tensor) -> Tensor:
        """Map any shape to the same shape."""
        # Always active: the phase is fixed when the net is built, as in Caffe, and not by nn.Module.training.
        return F.dropout(x, self.ratio, training=True)


def _is_identity(layer: LayerParameter, context: Context) -> bool:
    return context.phase == "TEST" or layer.dropout_param.dropout_ratio == 0


@layer("Dropout", per_sample=_is_identity)
def _dropout(layer: LayerParameter, context: Context) -> nn.Module:
    return nn.Identity() if _is_identity(layer, context) else Dropout(layer.dropout_param.dropout_ratio)
