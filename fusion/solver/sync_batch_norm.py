"""BatchNorm where several processes share a batch: statistics over all of it, or each process's own."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from fusion.distributed.process_group import ProcessGroup
from fusion.layers.forks.normalization import BN
from fusion.layers.normalization import BatchNorm
from fusion.nets.graph import Net


def trained_norms(net: Net) -> list[tuple[str, BatchNorm]]:
    """The layers that take statistics of the batch, by their path."""
    found = []
    for call in net.plan.calls:
        module = net.get_submodule(call.path)
        if isinstance(module, BatchNorm) and not module.use_global:
            found.append((call.path, module))
    return found


class SyncBatchNorm(BatchNorm):
    """As `BatchNorm`, with the mean and variance of all processes' shares, of equal size, together."""

    def __init__(self, local: BatchNorm, world: ProcessGroup) -> None:
        super().__init__(len(local.mean), local.use_global, local.fraction, local.eps)
        self.mean, self.variance, self.factor = local.mean, local.variance, local.factor
        self.scale, self.bias = getattr(local, "scale", None), getattr(local, "bias", None)  # of NVCaffe's
        self.world = world

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, ...] to the same."""
        if x.dim() == 1:
            return self.forward(x[:, None]).squeeze(1)
        axes = [axis for axis in range(x.dim()) if axis != 1]
        shape = [1, -1, *[1] * (x.dim() - 2)]
        mean = _Mean.apply(x.mean(axes), self.world)
        centred = x - mean.reshape(shape)
        variance = _Mean.apply(centred.square().mean(axes), self.world)
        count = x.numel() // x.shape[1] * self.world.size
        self._add(mean.detach(), variance.detach() * (count / max(count - 1, 1)))
        y = centred * (variance + self.eps).rsqrt().reshape(shape)
        if self.scale is not None and self.bias is not None:
            y = y * self.scale.reshape(shape) + self.bias.reshape(shape)
        return cast("Tensor", y)


class _Mean(torch.autograd.Function):
    """The mean over all processes; the gradient is the mean of theirs, since each adds its own loss."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, world: ProcessGroup) -> Tensor:
        """A tensor of the same shape on all processes."""
        ctx.world = world
        return world.mean(value.clone())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """The mean of what the processes send back."""
        return ctx.world.mean(gradients[0].clone()), None


def synchronize(net: Net, world: ProcessGroup) -> None:
    """Let all layers that take statistics of the batch take them over all processes."""
    for path, module in trained_norms(net):
        net.set_submodule(path, SyncBatchNorm(module, world))


@torch.no_grad()
def average_statistics(net: Net, world: ProcessGroup) -> None:
    """Give all processes the mean of the statistics that each has taken of its own share."""
    for call in net.plan.calls:
        module = net.get_submodule(call.path)
        own = isinstance(module, BatchNorm) and not module.use_global and not isinstance(module, SyncBatchNorm)
        if own or (isinstance(module, BN) and module.source == "batch"):
            for statistic in (module.mean, module.variance):
                if isinstance(statistic, Tensor):
                    world.mean(statistic)
