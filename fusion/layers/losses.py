"""Losses against labels, and their normalization."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from google.protobuf.message import DecodeError
from torch import Tensor, nn
from torch.nn import functional as F

from fusion.distributed import process_group
from fusion.errors import BuildError
from fusion.layers.axes import full, positive_axis
from fusion.layers.registry import Context, layer

if TYPE_CHECKING:
    from prototxt.schema.messages import LayerParameter, LossParameter

Normalization = Literal["FULL", "VALID", "BATCH_SIZE", "NONE"]
LARGEST = -math.log(torch.finfo(torch.float32).tiny)
"""The loss of a probability of FLT_MIN, the floor in softmax_loss_layer.cpp."""
FLOOR = math.log(1e-20)
"""The logarithm of kLOG_THRESHOLD, the floor in the other losses."""


def normalization(param: LossParameter, default: Normalization) -> Normalization:
    """Return the normalization mode; the deprecated `normalize` counts where the new field is absent."""
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
    """Return the label that is not counted, if there is one."""
    return param.ignore_label if param.HasField("ignore_label") else None


def divide(total: Tensor, mode: Normalization, batch: int, every: int, valid: Tensor | None) -> Tensor:
    """Return the summed loss divided as the mode says, by 1 at least.

    batch, every  number of samples, and of positions that have a label
    valid         number of positions that count; None: all
    """
    # Where several processes share a batch, the divisors make the mean of their losses that of the whole batch.
    world = process_group.current_group()
    if mode == "VALID" and valid is not None:
        if world is not None:
            return total / world.mean(valid.to(total.dtype)).clamp(min=1 / world.size)
        return total / valid.clamp(min=1)
    if mode == "NONE" and world is not None:
        return total * world.size
    return total / max({"VALID": every, "FULL": every, "BATCH_SIZE": batch, "NONE": 1}[mode], 1)


_NO_LABEL = torch.iinfo(torch.int64).min  # torch would ignore -100 by default; it is an error as all labels outside are


class SoftmaxWithLoss(nn.Module):
    """The mean of -log softmax(x)[label], with probabilities of at least FLT_MIN, a floor that the gradient ignores.

    probabilities  whether a second top gives the softmax, without gradient
    smoothing      share of each target that is spread evenly over all classes (label smoothing); Caffe has none
    """

    smoothing = 0.0

    def __init__(self, axis: int, ignore_label: int | None, mode: Normalization, probabilities: bool) -> None:
        super().__init__()
        self.axis, self.ignore_label, self.mode, self.probabilities = axis, ignore_label, mode, probabilities

    def forward(self, x: Tensor, label: Tensor, weight: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Map scores [*outer, C, *inner], labels [outer * inner] of any dtype and optional weights [C] to a scalar."""
        x = full(x)
        axis = positive_axis(self.axis, x.dim())
        rows = log_probability = x.log_softmax(axis)
        if x.dim() > 2 or axis != 1:
            rows = rows.reshape(math.prod(x.shape[:axis]), x.shape[axis], -1)
        target = label.reshape(rows.shape[0], *rows.shape[2:]).long()
        absent = _NO_LABEL if self.ignore_label is None else self.ignore_label
        # As in softmax_loss_layer.cpp the value stops at -log(FLT_MIN), while the gradient stays that of the softmax.
        above = F.softshrink(F.nll_loss(rows.detach(), target, ignore_index=absent, reduction="none"), LARGEST)
        if rows.dim() == 2 and not self.smoothing and weight is None:  # fewer nodes for autograd: 1 % of a LeNet's step
            total = F.nll_loss(rows, target, ignore_index=absent, reduction="sum") - above.sum()
        else:
            each = F.nll_loss(rows, target, ignore_index=absent, reduction="none") - above
            if self.smoothing:
                evenly = -rows.mean(1)
                each = each + self.smoothing * torch.where(target == absent, 0.0, evenly - each)
            if weight is not None:
                each = each * weight[target.clamp(0, len(weight) - 1)]
            total = each.sum()
        valid = None if self.ignore_label is None else (target != self.ignore_label).sum()
        loss = divide(total, self.mode, rows.shape[0], target.numel(), valid)
        return (loss, log_probability.detach().exp()) if self.probabilities else loss


@layer("SoftmaxWithLoss")
def _softmax_with_loss(layer: LayerParameter, context: Context) -> nn.Module:
    param = layer.loss_param
    mode = normalization(param, "VALID")
    return SoftmaxWithLoss(layer.softmax_param.axis, ignored(param), mode, probabilities=len(layer.top) > 1)


class InfogainLoss(nn.Module):
    """The mean of -sum over classes of H[label, class] * log softmax(x)[class].

    Probabilities are at least 1e-20, a floor that the gradient ignores (infogain_loss_layer.cpp).

    matrix         H [C, C], or None where it is the third bottom
    probabilities  whether a second top gives the softmax, without gradient
    """

    matrix: Tensor | None

    def __init__(
        self, axis: int, ignore_label: int | None, mode: Normalization, probabilities: bool, matrix: Tensor | None
    ) -> None:
        super().__init__()
        self.axis, self.ignore_label, self.mode, self.probabilities = axis, ignore_label, mode, probabilities
        self.register_buffer("matrix", matrix, persistent=False)

    def forward(self, x: Tensor, label: Tensor, given: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Map scores [*outer, C, *inner] and labels [outer * inner], of any dtype, to a scalar."""
        x = full(x)
        axis = positive_axis(self.axis, x.dim())
        matrix = self.matrix if given is None else given
        assert matrix is not None
        log_probability = x.log_softmax(axis)
        rows = log_probability.reshape(math.prod(x.shape[:axis]), x.shape[axis], -1)
        floored = rows + (rows.clamp(min=FLOOR) - rows).detach()
        target = label.reshape(rows.shape[0], rows.shape[2]).long()
        counts = torch.ones_like(target, dtype=torch.bool) if self.ignore_label is None else target != self.ignore_label
        gains = matrix.reshape(x.shape[axis], x.shape[axis])[torch.where(counts, target, 0)]
        each = -(gains * floored.transpose(1, 2)).sum(-1) * counts
        valid = None if self.ignore_label is None else counts.sum()
        loss = divide(each.sum(), self.mode, rows.shape[0], target.numel(), valid)
        return (loss, log_probability.detach().exp()) if self.probabilities else loss


@layer("InfogainLoss")
def _infogain_loss(layer: LayerParameter, context: Context) -> nn.Module:
    param = layer.loss_param
    matrix = None if len(layer.bottom) > 2 else _matrix(layer.infogain_loss_param.source)
    mode = normalization(param, "VALID")
    return InfogainLoss(layer.infogain_loss_param.axis, ignored(param), mode, len(layer.top) > 1, matrix)


def _matrix(path: str) -> Tensor:
    """Return the blob of a binary BlobProto file, as Caffe writes it."""
    from prototxt.schema.messages import BlobProto

    try:
        blob = BlobProto.FromString(Path(path).read_bytes())
    except (OSError, DecodeError) as error:
        hint = "infogain_loss_param { source } must be a BlobProto of C x C gains, or give H as the third bottom"
        raise BuildError(f"the infogain matrix cannot be read: {error}", place=path, hint=hint) from None
    return torch.tensor(blob.data or blob.double_data, dtype=torch.float32)


@layer("MultinomialLogisticLoss")
class MultinomialLogisticLoss(nn.Module):
    """The mean of -log(probability of the label); the floor of 1e-20 applies to the gradient too."""

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """Map probabilities [N, C, ...] and labels [N], of any dtype, to a scalar."""
        rows = full(x).flatten(1)
        chosen = rows.gather(1, label.reshape(-1, 1).long())
        floored = chosen + (chosen.clamp(min=1e-20) - chosen).detach()
        return -floored.log().sum() / rows.shape[0]


class SigmoidCrossEntropyLoss(nn.Module):
    """The summed cross entropy of sigmoid(x) and targets in [0, 1]; no gradient to the targets."""

    def __init__(self, ignore_label: int | None, mode: Normalization) -> None:
        super().__init__()
        self.ignore_label, self.mode = ignore_label, mode

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """Map scores [N, ...] and as many targets to a scalar."""
        x = full(x)
        target = target.detach().reshape(x.shape).to(x.dtype)
        each = F.binary_cross_entropy_with_logits(x, target, reduction="none")
        valid = None
        if self.ignore_label is not None:
            # sigmoid_cross_entropy_loss_layer.cpp casts the target to int before it compares.
            counts = target.trunc() != self.ignore_label
            each, valid = torch.where(counts, each, 0), counts.sum()
        return divide(each.sum(), self.mode, x.shape[0], x.numel(), valid)


@layer("SigmoidCrossEntropyLoss")
def _sigmoid_cross_entropy_loss(layer: LayerParameter, context: Context) -> nn.Module:
    param = layer.loss_param
    return SigmoidCrossEntropyLoss(ignored(param), normalization(param, "BATCH_SIZE"))
