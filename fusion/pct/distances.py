"""How far new logits are from reference logits, one number per sample; exact where the difference is small."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fusion.pct.aligned_logits import AlignedLogits

SMALL = 0.25


def kl(pair: AlignedLogits, temperature: float) -> Tensor:
    """T^2 * KL(softmax(old / T) || softmax(new / T)) in nats, float [N].

    With p the reference's probabilities and d = (new - old) / T less its mean under p, the divergence is
    log1p(sum p (e^d - 1 - d)). No term is negative, so nothing cancels, while log p - log q loses all digits at
    T = 100; the sum is kept as a logarithm, so that no e^d overflows and no small p is lost beside a large one.
    """
    log_p = torch.log_softmax(pair.old / temperature, 1)
    divergence: Tensor = _Divergence.apply(log_p, (pair.new - pair.old) / temperature)
    return divergence * temperature**2


class _Divergence(torch.autograd.Function):
    """KL(p || q) for q in proportion to p e^d, float [N], from log p and d; log p gets no gradient.

    With d less its mean under p and v the divergence, the gradient q - p is p (e^(d - v) - 1), which loses no digits;
    back through all operations of `forward` would be ten times as many.
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
    """log(e^d - 1 - d) without cancellation: a series near 0 as long as the type's digits, e^d factored out above 1."""
    small, large = d.abs() < SMALL, d > 1
    x = torch.where(small, d, 0.0)
    one = x.new_ones(())
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
    """Half the mean squared difference of logits, float [N]: the limit of `kl` for T to infinity and centred logits."""
    return (pair.new - pair.old).square().mean(1) / 2


def logit_difference(
    pair: AlignedLogits,
    *,
    margin: float,
    p: float,
    topk: int | None,
    topk_by_reference: bool,
    exclude_gt: bool,
    one_sided: bool,
    relative: bool,
    p_norm: bool,
) -> Tensor:
    """Mean over classes of max(|new - old| - margin, 0)^p, float [N]; the options as in `losses.ldi`."""
    d = pair.new - pair.old
    if relative:
        scale = pair.old.amax(1, keepdim=True)
        d = torch.where(scale > 0, d / torch.where(scale > 0, scale, 1.0), 0.0)
    over = ((d if one_sided else d.abs()) - margin).clamp_min(0)
    terms = over if p == 1 else over**p
    if exclude_gt:
        terms = terms.masked_fill(torch.nn.functional.one_hot(pair.position, terms.shape[1]).bool(), 0.0)
    if topk is not None:
        chosen = (pair.old if topk_by_reference else pair.new).detach().topk(min(topk, terms.shape[1]), dim=1).indices
        terms = terms.gather(1, chosen)
    if not p_norm:
        return terms.mean(1)
    total = terms.sum(1)
    return torch.where(total > 0, torch.where(total > 0, total, 1.0) ** (1 / p), 0.0)


def squared_gradient(new: Tensor, old: Tensor) -> Tensor:
    """Return the gradient of `squared` with respect to `new`, float [..., K]; `old` broadcasts to it."""
    return (new - old) / new.shape[-1]


def logit_difference_gradient(
    new: Tensor,
    old: Tensor,
    position: Tensor,
    *,
    margin: float | Tensor,
    p: float,
    topk: int | None,
    topk_by_reference: bool,
    exclude_gt: bool,
    one_sided: bool,
    relative: bool,
    p_norm: bool,
) -> Tensor:
    """Return the gradient of `logit_difference` with respect to `new`, float [..., K].

    old       float [..., K]  broadcasts to `new`
    position  int64 [..., 1]  column of the label
    margin    float or float [..., 1]
    """
    scale = old.amax(-1, keepdim=True) if relative else new.new_ones(())
    known = scale > 0
    d = (new - old) * torch.where(known, 1 / torch.where(known, scale, 1.0), 0.0)
    over = (d if one_sided else d.abs()) - margin
    counted = over >= 0  # at the margin itself autograd passes the gradient of clamp_min on
    if exclude_gt:
        counted = counted & (torch.arange(new.shape[-1], device=new.device) != position)
    count = new.shape[-1]
    if topk is not None:
        count = min(topk, count)
        chosen = (old.expand_as(new) if topk_by_reference else new).topk(count, dim=-1).indices
        counted = counted & torch.zeros_like(counted).scatter(-1, chosen, True)
    over = torch.where(counted, over, 0.0)
    slope = over ** (p - 1) * counted * (p if one_sided else p * torch.sign(d))
    slope = slope * torch.where(known, 1 / torch.where(known, scale, 1.0), 0.0)
    if not p_norm:
        return slope / count
    total = (over**p).sum(-1, keepdim=True)
    return slope * torch.where(total > 0, torch.where(total > 0, total, 1.0) ** (1 / p - 1), 0.0) / p
