"""Losses whose weight grows during training."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fusion.nets.graph import Net


class LossWarmup(nn.Module):
    """A loss times a factor: 0 before iteration `start`, then growing over `warmup` iterations to 1."""

    factor: Tensor

    def __init__(self, loss: nn.Module, start: int, warmup: int) -> None:
        super().__init__()
        self.loss = loss
        self.start, self.warmup = start, warmup
        # Changed in place, so that captured and compiled steps see it.
        self.register_buffer("factor", torch.ones(1), persistent=False)

    def forward(self, *bottoms: Tensor) -> Tensor:
        """Return the loss, float []."""
        value: Tensor = self.loss(*bottoms)
        return (value * self.factor).sum()

    def at(self, iteration: int) -> float:
        """Return the factor at an iteration."""
        done = iteration - self.start
        if done < 0:
            return 0.0
        return min(1.0, (done + 1) / self.warmup) if self.warmup else 1.0

    def set(self, iteration: int) -> None:
        """Set the factor for an iteration."""
        self.factor.fill_(self.at(iteration))


def warmup_layers(net: Net, schedules: Mapping[str, tuple[int, int]]) -> list[LossWarmup]:
    """Wrap the named loss layers in LossWarmup, with start and iterations to the full weight, and return these."""
    warmups = []
    for call in net.plan.calls:
        if call.name in schedules:
            warmup = LossWarmup(net.get_submodule(call.path), *schedules[call.name])
            net.set_submodule(call.path, warmup)
            warmups.append(warmup)
    return warmups
