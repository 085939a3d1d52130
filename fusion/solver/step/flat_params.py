"""Where a net's learnable parameters lie for the update: small ones side by side in a few flat tensors.

Small parameters with one pair of rates share a flat tensor; each becomes a view of it, and so does its gradient, so
that an update is a handful of operations. The parameters stay the same objects, so that nets that hold them see every
update. Large parameters stay where they are, because adding up gradients in place would cost more than the operations
saved, and so do filters, which have a memory layout of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fusion.errors import TrainingError
from fusion.nets.build import Learnable, learnable
from fusion.nets.graph import Net

Home = tuple[nn.Parameter, int]  # the tensor that is updated, and where in it a blob starts
_SMALL = 1 << 17  # numbers in a group up to which flat tensors are quicker


@dataclass(frozen=True, eq=False)
class FlatParams:
    """The tensors of a net that are updated.

    groups  for an optimizer: {"params": [tensor, ...], "lr_mult", "decay_mult"}
    blobs   all blobs that have a history in Caffe, in its order
    homes   where each of them lies; None: gradients never change it
    flat    tensors that hold several parameters
    single  parameters that stand alone
    """

    groups: list[dict[str, Any]]
    blobs: tuple[Learnable, ...]
    homes: tuple[Home | None, ...]
    flat: tuple[nn.Parameter, ...]
    single: tuple[nn.Parameter, ...]

    @property
    def updated(self) -> list[nn.Parameter]:
        """Return the tensors that are updated, each once."""
        return [tensor for group in self.groups for tensor in group["params"]]

    def zero(self) -> None:
        """Clear the gradients."""
        for tensor in self.flat:
            if tensor.grad is not None:
                tensor.grad.zero_()
        for tensor in self.single:
            tensor.grad = None

    def view(self, values: Mapping[nn.Parameter, Tensor], index: int) -> Tensor:
        """Return the part of `values`, one per updated tensor, of blob `index`; zeros where it never changes."""
        tensor, home = self.blobs[index].tensor, self.homes[index]
        if home is None:
            return torch.zeros_like(tensor)
        whole, start = home
        if whole is tensor:
            return values[whole]
        return values[whole][start : start + tensor.numel()].view(tensor.shape)


def flatten_params(net: Net) -> FlatParams:
    """Move the net's learnable parameters into flat tensors, once the net is on its device.

    Raises: TrainingError when nothing is left to learn.
    """
    blobs = learnable(net)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for blob in blobs:
        if isinstance(blob.tensor, nn.Parameter) and blob.tensor.requires_grad:
            groups.setdefault((blob.lr_mult, blob.decay_mult), []).append(blob.tensor)
    if not groups:
        hint = "freeze fewer layers (lr_mult), or measure it with fusion-test"
        raise TrainingError(f"net '{net.plan.name}' has nothing to learn: every lr_mult is 0", hint=hint)
    homes: dict[Tensor, Home] = {}
    result = []
    flat: list[nn.Parameter] = []
    single: list[nn.Parameter] = []
    for (lr_mult, decay_mult), members in groups.items():
        together = [tensor for tensor in members if tensor.dim() <= 2]
        if not together or sum(tensor.numel() for tensor in together) > _SMALL:
            together = []
        alone = [tensor for tensor in members if not together or tensor.dim() > 2]
        joined = [_flatten(together, homes)] if together else []
        flat += joined
        single += alone
        homes.update((tensor, (tensor, 0)) for tensor in alone)
        result.append({"params": joined + alone, "lr_mult": lr_mult, "decay_mult": decay_mult})
    where = tuple(homes.get(blob.tensor) for blob in blobs)
    return FlatParams(result, tuple(blobs), where, tuple(flat), tuple(single))


def _flatten(members: Sequence[nn.Parameter], homes: dict[Tensor, Home]) -> nn.Parameter:
    flat = nn.Parameter(torch.cat([tensor.detach().reshape(-1) for tensor in members]))
    gradient = torch.zeros_like(flat)
    flat.grad = gradient
    start = 0
    for tensor in members:
        end = start + tensor.numel()
        homes[tensor] = (flat, start)
        tensor.data = flat.data[start:end].view(tensor.shape)
        tensor.grad = gradient[start:end].view(tensor.shape)
        start = end
    return flat
