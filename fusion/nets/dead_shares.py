"""A fastnorm sum that has gone silent: once all its v are 0 or less it gives 0 for good, whatever else is trained."""

from __future__ import annotations

import warnings

from fusion.layers.weighted import WeightedSum
from fusion.nets.graph import Net
from fusion.surgery.bake_weighted_sums import DeadShares


def warn_of_dead_shares(net: Net) -> None:
    """Warn of each such layer, by default once in a process. Warns: DeadShares."""
    for name in dead_sums(net):
        text = f"layer '{name}': all shares are 0, because every v is 0 or less, so its top is 0 for good"
        hint = "go back to an earlier snapshot, and train at a lower rate or with head softmax"
        warnings.warn(f"{text}; {hint}", DeadShares, stacklevel=1)  # one place, so that it is told once


def dead_sums(net: Net) -> list[str]:
    """The WeightedSum layers (fastnorm) whose shares are all 0."""
    found = []
    for param in net.plan.params:
        module = net.get_submodule(param.attribute.rpartition(".")[0])
        if isinstance(module, WeightedSum) and not module.softmax and not bool((module.weight > 0).any()):
            found.append(param.layer)
    return found
