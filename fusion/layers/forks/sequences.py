"""Sequence layers of forks for text recognition: another LSTM, markers, the CTC loss.

Sources: junhyukoh/caffe-lstm (Lstm), yalecyu/crnn.caffe (ContinuationIndicator, CtcLoss, LabelsequenceAccuracy),
senlinuc/caffe_ocr and ChWick/caffe (WarpCTCLoss, CTCLoss), all after Graves et al. 2006 and baidu-research/warp-ctc.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion.errors import BuildError
from fusion.layers.axes import full
from fusion.layers.recurrent import lstm_step
from fusion.layers.registry import Context, layer
from prototxt.shapes.fork_layers import fork_param

if TYPE_CHECKING:
    from prototxt.schema.messages import LayerParameter


class Clipped(torch.autograd.Function):
    """The identity with a clipped gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bound: float) -> Tensor:
        """Map any shape to the same shape."""
        ctx.bound = bound
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Clip the gradient."""
        return gradient.clamp(-ctx.bound, ctx.bound), None


class Lstm(nn.Module):
    """An LSTM that starts from zeros at each call unless there are markers; gates: input, forget, output, new content.

    weight_x  [4 * D, inputs]
    weight_h  [4 * D, D]
    bias      [4 * D]
    clip      bound on the gradients of the gates; 0: none
    """

    caffe_params = ("weight_x", "weight_h", "bias")
    hidden: Tensor | None
    cell: Tensor | None

    def __init__(
        self, weight_x: nn.Parameter, weight_h: nn.Parameter, bias: nn.Parameter, batch: int, clip: float
    ) -> None:
        super().__init__()
        self.weight_x, self.weight_h, self.bias = weight_x, weight_h, bias
        self.batch, self.clip = batch, clip
        self.register_buffer("hidden", None, persistent=False)
        self.register_buffer("cell", None, persistent=False)

    def forward(self, x: Tensor, cont: Tensor | None = None) -> Tensor:
        """Map [T, N, ...] or [T * N, inputs], and perhaps markers [T, N], to [T, N, D]."""
        x = x.reshape(-1, self.batch, x.shape[1]) if x.dim() == 2 else x.flatten(2)
        gates = F.linear(x, self.weight_x, self.bias)
        hidden = cell = gates.new_zeros(gates.shape[1], self.weight_h.shape[1])
        if cont is None:
            markers = gates.new_ones(gates.shape[:2])
            markers[0] = 0
        else:
            markers = cont.detach().to(gates.dtype).reshape(gates.shape[:2])
            if self.hidden is not None and self.cell is not None and self.hidden.shape == hidden.shape:
                hidden, cell = self.hidden.to(hidden), self.cell.to(cell)
        outputs = []
        for step, marker in zip(gates.unbind(0), markers.unsqueeze(-1).unbind(0), strict=True):
            gate = step + F.linear(hidden * marker, self.weight_h)
            if self.clip:
                gate = Clipped.apply(gate, self.clip)
            cell, hidden = lstm_step(cell, gate, marker)
            outputs.append(hidden)
        if cont is not None:
            self.hidden, self.cell = hidden.detach(), cell.detach()
        return torch.stack(outputs)


@layer("Lstm")
def _lstm(layer: LayerParameter, context: Context) -> nn.Module:
    # Unlike BVLC's LSTM, the hidden weights come before the bias.
    param = fork_param(layer, "lstm_param")
    weights = [context.parameter(index, param.weight_filler) for index in (0, 1)]
    bias = context.parameter(2, param.bias_filler)
    return Lstm(weights[0], weights[1], bias, param.batch_size, param.clipping_threshold)


class ContinuationIndicator(nn.Module):
    """Markers: 0 at the start of every sequence, then 1."""

    markers: Tensor

    def __init__(self, markers: Tensor) -> None:
        super().__init__()
        self.register_buffer("markers", markers, persistent=False)

    def forward(self) -> Tensor:
        """Return the markers [T, N]."""
        return self.markers


@layer("ContinuationIndicator")
def _continuation_indicator(layer: LayerParameter, context: Context) -> nn.Module:
    markers = torch.ones(context.tops[0][0] or 1, context.tops[0][1] or 1)
    markers[0] = 0
    return ContinuationIndicator(markers)


class CTCLoss(nn.Module):
    """The negative log-likelihood of the labels under all alignments (CTC); labels that are too long count 0.

    blank    class of the blank; negative: counted from the last class
    per_sum  the loss is a mean over the batch but its gradient that of the sum, as warp-ctc returns it
    """

    def __init__(self, blank: int, per_sum: bool) -> None:
        super().__init__()
        self.blank, self.per_sum = blank, per_sum

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        """Map scores [T, N, C], and one of these, to a scalar.

        labels [N, L], padded with the blank; markers [T, N] and labels [L, N], padded with negative ones; or lengths of
        the outputs [N], of the labels [N], and labels [L, N].
        """
        scores = full(x).flatten(2)
        blank = self.blank % scores.shape[2]
        target, lengths, times = _targets(scores, [other.detach() for other in others], blank)
        each = F.ctc_loss(
            scores.log_softmax(2), target, times, lengths, blank=blank, reduction="none", zero_infinity=True
        )
        total = each.sum()
        mean = total / scores.shape[1]
        # The value of `mean` with the gradient of `total`.
        return mean + (total - total.detach()) - (mean - mean.detach()) if self.per_sum else mean


def _targets(scores: Tensor, others: list[Tensor], blank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the labels [N, L] packed to the left, their lengths [N], and the outputs' lengths [N]."""
    time, batch = scores.shape[:2]
    times = torch.full((batch,), time, device=scores.device)
    if len(others) == 1:
        labels = others[0].reshape(batch, -1).long()
        used = labels != blank
        return _packed(labels, used, labels.shape[1]).clamp(min=0), used.sum(1), times
    if len(others) == 2:
        markers, labels = others[0].reshape(time, batch), others[1].reshape(-1, batch).T
        starts = (markers[1:] < 0.5).long()
        times = torch.where(starts.any(0), starts.argmax(0) + 1, times)
        lengths = (labels >= 0).long().cumprod(1).sum(1)
        return labels.round().long().clamp(min=0), lengths, times
    labels = others[2].reshape(-1, batch).T.long()
    return labels, others[1].flatten().long(), others[0].flatten().long()


@layer("CtcLoss", "WarpCTCLoss", "WarpCtcLoss", "CTCLoss")
def _ctc_loss(layer: LayerParameter, context: Context) -> nn.Module:
    param = fork_param(layer, "ctc_loss_param")
    if not param.ctc_merge_repeated or param.preprocess_collapse_repeated or param.loss_calculation_t:
        raise BuildError(
            f"layer '{layer.name}': ctc_loss_param: repeated outputs are always merged, labels never, and the "
            "loss is the whole sequence's"
        )
    if len(layer.top) > 1 or param.output_delay:
        raise BuildError(f"layer '{layer.name}': a CTC loss has one top and no delay here")
    if layer.type == "CtcLoss":
        blank = param.blank_label
    else:
        blank = param.blank_index if param.HasField("blank_index") or layer.type == "CTCLoss" else 0
    return CTCLoss(blank, per_sum=layer.type != "CTCLoss")


class LabelsequenceAccuracy(nn.Module):
    """The share of samples whose best path equals all labels."""

    def __init__(self, blank: int) -> None:
        super().__init__()
        self.blank = blank

    @torch.no_grad()
    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """Map scores [N, T, C] and labels [N, L], padded with the blank, to a scalar."""
        best, target = x.flatten(2).argmax(2), label.reshape(x.shape[0], -1).long()
        # The best path: repeats merged, then blanks removed.
        new = torch.ones_like(best, dtype=torch.bool)
        new[:, 1:] = best[:, 1:] != best[:, :-1]
        width = max(best.shape[1], target.shape[1])
        decoded = _packed(best, new & (best != self.blank), width)
        return (decoded == _packed(target, target != self.blank, width)).all(1).to(full(x).dtype).mean()


def _packed(labels: Tensor, used: Tensor, width: int) -> Tensor:
    """Move the used labels [N, L] to the left and pad with -1: [N, width]."""
    order = (~used).long().argsort(dim=1, stable=True)
    packed = labels.gather(1, order).masked_fill(~used.gather(1, order), -1)
    return F.pad(packed, (0, width - labels.shape[1]), value=-1)


@layer("LabelsequenceAccuracy")
def _labelsequence_accuracy(layer: LayerParameter, context: Context) -> nn.Module:
    return LabelsequenceAccuracy(fork_param(layer, "labelsequence_accuracy_param").blank_label)
