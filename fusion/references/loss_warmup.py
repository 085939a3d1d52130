"""Losses whose weight grows while training runs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fusion.nets.graph import Net


class LossWarmup(nn.Module):
    """A loss times a factor: 0 before iteration `start`, then growing over `warmup` iterations to 1.

    The factor is a tensor that is changed in place, so that a traced step sees it.
    """

    factor: Tensor

    def __init__(self, loss: nn.Module, start: int, warmup: int) -> None:
        super().__init__()
        self.loss = loss
        self.start, self.warmup = start, warmup
        self.register_buffer("factor", torch.ones(1), persistent=False)

    def forward(self, *bottoms: Tensor) -> Tensor:
        """The loss, float []."""
        value: Tensor = self.loss(*bottoms)
        return (value * self.factor).sum()

    def at(self, iteration: int) -> float:
        """The factor in an iteration."""
        done = iteration - self.start
        if done < 0:
            return 0.0
        return min(1.0, (done + 1) / self.warmup) if self.warmup else 1.0

    def set(self, iteration: int) -> None:
        """Go to an iteration."""
        self.factor.fill_(self.at(iteration))


def warmup_layers(net: Net, schedules: Mapping[str, tuple[int, int]]) -> list[LossWarmup]:
    """Give the loss layers of these names a factor that grows: start, and iterations to the full weight."""
    found = []
    for call in net.plan.calls:
        if call.name in schedules:
            ramp = LossWarmup(net.get_submodule(call.path), *schedules[call.name])
            parent, _, last = call.path.rpartition(".")
            setattr(net.get_submodule(parent), last, ramp)
            found.append(ramp)
    return found
