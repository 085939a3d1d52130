"""BatchNorm where several processes share a batch: statistics over all of it, or over each process's own share."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from fusion.distributed.process_group import ProcessGroup
from fusion.layers.forks.normalization import BN
from fusion.layers.normalization import BatchNorm
from fusion.nets.graph import Net


def trained_norms(net: Net) -> list[tuple[str, BatchNorm]]:
    """Return the layers that take statistics of the batch, with their paths."""
    found = []
    for call in net.plan.calls:
        module = net.get_submodule(call.path)
        if isinstance(module, BatchNorm) and not module.use_global:
            found.append((call.path, module))
    return found


class SyncBatchNorm(BatchNorm):
    """BatchNorm with the mean and variance over the shares of all processes, which are of equal size."""

    def __init__(self, local: BatchNorm, group: ProcessGroup) -> None:
        super().__init__(len(local.mean), local.use_global, local.fraction, local.eps)
        self.mean, self.variance, self.factor = local.mean, local.variance, local.factor
        self.scale, self.bias = getattr(local, "scale", None), getattr(local, "bias", None)  # of NVCaffe's
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        """Return x [N, C, ...] normalised."""
        if x.dim() == 1:
            return self.forward(x[:, None]).squeeze(1)  # a blob [N] counts as one channel
        axes = [axis for axis in range(x.dim()) if axis != 1]
        shape = [1, -1, *[1] * (x.dim() - 2)]
        mean = _Mean.apply(x.mean(axes), self.group)
        centred = x - mean.reshape(shape)
        variance = _Mean.apply(centred.square().mean(axes), self.group)
        count = x.numel() // x.shape[1] * self.group.size
        self._add(mean.detach(), variance.detach() * (count / max(count - 1, 1)))  # Caffe stores the unbiased variance
        y = centred * (variance + self.eps).rsqrt().reshape(shape)
        if self.scale is not None and self.bias is not None:
            y = y * self.scale.reshape(shape) + self.bias.reshape(shape)
        return cast("Tensor", y)


class _Mean(torch.autograd.Function):
    """The mean over all processes; the gradient is the mean of theirs, since each adds its own loss."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, group: ProcessGroup) -> Tensor:
        """Return the mean of a tensor of the same shape on all processes."""
        ctx.group = group
        return group.mean(value.clone())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Return the mean of the processes' gradients."""
        return ctx.group.mean(gradients[0].clone()), None


def synchronize(net: Net, group: ProcessGroup) -> None:
    """Replace all layers that take statistics of the batch by ones that take them over all processes."""
    for path, module in trained_norms(net):
        net.set_submodule(path, SyncBatchNorm(module, group))


@torch.no_grad()
def average_statistics(net: Net, group: ProcessGroup) -> None:
    """Replace the statistics of each process's own share by their mean over all processes."""
    for call in net.plan.calls:
        module = net.get_submodule(call.path)
        own = isinstance(module, BatchNorm) and not module.use_global and not isinstance(module, SyncBatchNorm)
        if own or (isinstance(module, BN) and module.source == "batch"):
            for statistic in (module.mean, module.variance):
                if isinstance(statistic, Tensor):
                    group.mean(statistic)
