"""Distances between new and reference logits, one number per sample; accurate also for small differences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fusion.errors import TrainingError
from fusion.pct.aligned_logits import AlignedLogits

_SMALL = 0.25


def kl(pair: AlignedLogits, temperature: float) -> Tensor:
    """Return T^2 * KL(softmax(old / T) || softmax(new / T)) in nats, float [N].

    With p the reference's probabilities and d = (new - old) / T less its mean under p, the divergence is
    log1p(sum p (e^d - 1 - d)).
    """
    # No term of this sum is negative, so nothing cancels, while log p - log q loses all digits at T = 100. The sum is
    # computed as a logarithm, so that no e^d overflows and no small p is lost beside a large one.
    log_p = torch.log_softmax(pair.old / temperature, 1)
    divergence: Tensor = _Divergence.apply(log_p, (pair.new - pair.old) / temperature)
    return divergence * temperature**2


class _Divergence(torch.autograd.Function):
    """KL(p || q) for q proportional to p e^d, float [N], from log p and d; log p gets no gradient.

    With d less its mean under p and v the divergence, the gradient q - p is p (e^(d - v) - 1), which loses no digits
    and takes a tenth of the operations of differentiating `forward`.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(log_p: Tensor, d: Tensor) -> Tensor:
        p = log_p.exp()
        d = d - (p * d).sum(1, keepdim=True)
        values = functional.softplus(torch.logsumexp(log_p + log_excess(d), 1))
        return torch.where((d == 0).all(1), 0.0, values)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs, output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        log_p, d, values = ctx.saved_tensors
        p = log_p.exp()
        x = d - (p * d).sum(1, keepdim=True) - values[:, None]
        difference = torch.where(x > 1, torch.exp(log_p + x) - p, p * torch.expm1(x.clamp_max(1)))
        return None, gradient[:, None] * difference


def log_excess(d: Tensor) -> Tensor:
    """Return log(e^d - 1 - d) without cancellation: a series near 0 and, above 1, with e^d factored out."""
    small, large = d.abs() < _SMALL, d > 1
    x = torch.where(small, d, 0.0)
    one = x.new_ones(())
    # The series has as many terms as the type has digits. Each branch sees harmless values where another one applies:
    # a NaN or infinity there would reach the gradient through torch.where.
    terms = 10 if d.dtype == torch.float64 else 7
    tail = 1 + x / terms
    for n in range(terms - 1, 2, -1):
        tail = torch.addcmul(one, x, tail, value=1 / n)
    series = x * x / 2 * tail
    middle = torch.where(small | large, 1.0, d)
    floor = torch.finfo(d.dtype).tiny
    below = torch.where(small, series, torch.expm1(middle) - middle).clamp_min(floor).log()
    high = torch.where(large, d, 2.0)
    return torch.where(large, high + torch.log1p(-(1 + high) * torch.exp(-high)), below)


def kl_gradient(new: Tensor, old: Tensor, temperature: float | Tensor) -> Tensor:
    """Return the gradient of `kl` with respect to `new`, float [..., K]; `old` broadcasts to it."""
    return temperature * (torch.softmax(new / temperature, -1) - torch.softmax(old / temperature, -1))


def squared(pair: AlignedLogits) -> Tensor:
    """Return half the mean squared difference of logits, float [N]: the limit of `kl` for centred logits as T grows."""
    return (pair.new - pair.old).square().mean(1) / 2


def squared_gradient(new: Tensor, old: Tensor) -> Tensor:
    """Return the gradient of `squared` with respect to `new`, float [..., K]; `old` broadcasts to it."""
    return (new - old) / new.shape[-1]


@dataclass(frozen=True)
class LogitDifference:
    """The distance of `losses.ldi`: the mean over classes of max(|D| - margin, 0)^p, D = new - old, float [N].

    topk               only the k classes with the highest new (or, topk_by_reference, reference) logits, per sample
    exclude_gt         the true class counts 0
    one_sided          max(D - margin, 0)^p: only increases count
    relative           |D| over the reference's highest logit (a sample whose highest is not above 0 counts 0)
    p_norm             (sum over classes)^(1/p) instead of the mean
    Raises: TrainingError for settings that are out of range.
    """

    margin: float | Tensor = 0.5
    p: float = 2.0
    topk: int | None = None
    topk_by_reference: bool = False
    exclude_gt: bool = False
    one_sided: bool = False
    relative: bool = False
    p_norm: bool = False

    def __post_init__(self) -> None:
        below = isinstance(self.margin, (int, float)) and self.margin < 0
        if self.p < 1 or below or (self.topk is not None and self.topk < 1):
            message = f"ldi with p {self.p}, margin {self.margin}, topk {self.topk}"
            raise TrainingError(message, hint="p >= 1, margin >= 0, topk >= 1")

    def __call__(self, pair: AlignedLogits) -> Tensor:
        """Return the distances, float [N]."""
        d = pair.new - pair.old
        if self.relative:
            scale = pair.old.amax(1, keepdim=True)
            d = torch.where(scale > 0, d / torch.where(scale > 0, scale, 1.0), 0.0)
        over = ((d if self.one_sided else d.abs()) - self.margin).clamp_min(0)
        terms = over if self.p == 1 else over**self.p
        if self.exclude_gt:
            terms = terms.masked_fill(functional.one_hot(pair.position, terms.shape[1]).bool(), 0.0)
        if self.topk is not None:
            scores = (pair.old if self.topk_by_reference else pair.new).detach()
            terms = terms.gather(1, scores.topk(min(self.topk, terms.shape[1]), dim=1).indices)
        if not self.p_norm:
            return terms.mean(1)
        total = terms.sum(1)  # the root has an infinite derivative at 0
        return torch.where(total > 0, torch.where(total > 0, total, 1.0) ** (1 / self.p), 0.0)

    def gradient(self, new: Tensor, old: Tensor, position: Tensor) -> Tensor:
        """Return the gradient with respect to `new`, float [..., K]; a margin may be float [..., 1].

        old       float [..., K]  broadcasts to `new`
        position  int64 [..., 1]  column of the label
        """
        scale = old.amax(-1, keepdim=True) if self.relative else new.new_ones(())
        known = scale > 0
        d = (new - old) * torch.where(known, 1 / torch.where(known, scale, 1.0), 0.0)
        over = (d if self.one_sided else d.abs()) - self.margin
        counted = over > 0  # clamp_min has no gradient at the margin itself
        if self.exclude_gt:
            counted = counted & (torch.arange(new.shape[-1], device=new.device) != position)
        count = new.shape[-1]
        if self.topk is not None:
            count = min(self.topk, count)
            chosen = (old.expand_as(new) if self.topk_by_reference else new).topk(count, dim=-1).indices
            counted = counted & torch.zeros_like(counted).scatter(-1, chosen, True)
        over = torch.where(counted, over, 0.0)
        slope = over ** (self.p - 1) * counted * (self.p if self.one_sided else self.p * torch.sign(d))
        slope = slope * torch.where(known, 1 / torch.where(known, scale, 1.0), 0.0)
        if not self.p_norm:
            return slope / count
        total = (over**self.p).sum(-1, keepdim=True)
        return slope * torch.where(total > 0, torch.where(total > 0, total, 1.0) ** (1 / self.p - 1), 0.0) / self.p
