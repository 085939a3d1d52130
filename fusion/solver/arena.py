"""Learnable parameters side by side in a few flat tensors, so that an update is a handful of operations.

Parameters with one pair of rates share a flat tensor; each becomes a view of it, and so does its gradient. The
parameters stay the same objects, hence nets that hold them see every update.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fusion.errors import TrainingError
from fusion.graph import Net
from fusion.nets import Learnable, learnable

Home = tuple[nn.Parameter, int]  # a flat tensor and where in it a blob starts


@dataclass(frozen=True, eq=False)
class Arena:
    """The flat tensors of a net.

    groups  for an optimizer: {"params": [flat], "lr_mult", "decay_mult"}
    blobs   all blobs that have a history in Caffe, in its order
    homes   where each of them lies; None: gradients never change it
    """

    groups: list[dict[str, Any]]
    blobs: tuple[Learnable, ...]
    homes: tuple[Home | None, ...]

    @property
    def flats(self) -> list[nn.Parameter]:
        """The flat tensors."""
        return [group["params"][0] for group in self.groups]

    def zero(self) -> None:
        """Set all gradients to zero."""
        for flat in self.flats:
            if flat.grad is not None:
                flat.grad.zero_()

    def view(self, flat: Mapping[nn.Parameter, Tensor], index: int) -> Tensor:
        """The part of flat tensors that belongs to blob `index`, in its shape; zeros where it has no home."""
        tensor, home = self.blobs[index].tensor, self.homes[index]
        if home is None:
            return torch.zeros_like(tensor)
        whole, start = home
        return flat[whole][start : start + tensor.numel()].view(tensor.shape)


def lay_out(net: Net) -> Arena:
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
    for (lr_mult, decay_mult), members in groups.items():
        flat = _flatten(members, homes)
        result.append({"params": [flat], "lr_mult": lr_mult, "decay_mult": decay_mult})
    return Arena(result, tuple(blobs), tuple(homes.get(blob.tensor) for blob in blobs))


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
