"""Losses against labels: SoftmaxWithLoss, and how losses are divided."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion.layers.axes import canonical, full
from fusion.registry import Context, layer

if TYPE_CHECKING:
    from prototxt.messages import LayerParameter, LossParameter

Normalization = Literal["FULL", "VALID", "BATCH_SIZE", "NONE"]
LARGEST = -math.log(torch.finfo(torch.float32).tiny)
"""The loss of a probability that Caffe raises to FLT_MIN."""


def normalization(param: LossParameter, default: Normalization) -> Normalization:
    """What a loss is divided by; the old `normalize` counts where the new field is absent."""
    if not param.HasField("normalization"):
        if param.HasField("normalize"):
            return "VALID" if param.normalize else "BATCH_SIZE"
        return default
    modes: dict[int, Normalization] = {
        param.FULL: "FULL",
        param.VALID: "VALID",
        param.BATCH_SIZE: "BATCH_SIZE",
        param.NONE: "NONE",
    }
    return modes[param.normalization]


def ignored(param: LossParameter) -> int | None:
    """The label that does not count, if there is one."""
    return param.ignore_label if param.HasField("ignore_label") else None


def divide(total: Tensor, mode: Normalization, batch: int, every: int, valid: Tensor | None) -> Tensor:
    """The summed loss over what the mode says, which is 1 at least.

    batch, every  number of samples, and of places that have a label
    valid         how many of these count; None: all
    """
    if mode == "VALID" and valid is not None:
        return total / valid.clamp(min=1)
    return total / max({"VALID": every, "FULL": every, "BATCH_SIZE": batch, "NONE": 1}[mode], 1)


class SoftmaxWithLoss(nn.Module):
    """The mean of -log softmax(x)[label], with a floor of FLT_MIN under the probability that the gradient ignores.

    probabilities  whether a second top gives the softmax
    """

    def __init__(self, axis: int, ignore_label: int | None, mode: Normalization, probabilities: bool) -> None:
        super().__init__()
        self.axis, self.ignore_label, self.mode, self.probabilities = axis, ignore_label, mode, probabilities

    def forward(self, x: Tensor, label: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Scores [*outer, C, *inner] and labels [outer * inner], of any dtype, to a scalar."""
        x = full(x)
        axis = canonical(self.axis, x.dim())
        log_probability = x.log_softmax(axis)
        rows = log_probability.reshape(math.prod(x.shape[:axis]), x.shape[axis], -1)
        target = label.reshape(rows.shape[0], rows.shape[2]).long()
        absent = -100 if self.ignore_label is None else self.ignore_label
        each = F.nll_loss(rows, target, ignore_index=absent, reduction="none")
        each = each + (each.clamp(max=LARGEST) - each).detach()
        valid = None if self.ignore_label is None else (target != self.ignore_label).sum()
        loss = divide(each.sum(), self.mode, rows.shape[0], target.numel(), valid)
        return (loss, log_probability.exp()) if self.probabilities else loss


@layer("SoftmaxWithLoss")
def softmax_with_loss(layer: LayerParameter, context: Context) -> nn.Module:
    """The multinomial logistic loss of a softmax."""
    param = layer.loss_param
    mode = normalization(param, "VALID")
    return SoftmaxWithLoss(layer.softmax_param.axis, ignored(param), mode, probabilities=len(layer.top) > 1)
