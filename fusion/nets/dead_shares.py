"""A warning of dead fastnorm sums: once all v of one are 0 or less, its top is 0, and no gradient changes that."""

from __future__ import annotations

import warnings

from fusion.layers.weighted import WeightedSum
from fusion.nets.graph import Net
from fusion.surgery.bake_weighted_sums import DeadShares


def warn_of_dead_shares(net: Net) -> None:
    """Warn of each such layer, by default once in a process. Warns: DeadShares."""
    for name in dead_sums(net):
        text = f"layer '{name}': all shares are 0, because every v is 0 or less, so its top stays 0"
        hint = "return to an earlier snapshot, and train at a lower rate or with head softmax"
        warnings.warn(f"{text}; {hint}", DeadShares, stacklevel=1)  # stacklevel 1: one place, so it is shown once


def dead_sums(net: Net) -> list[str]:
    """Return the names of the WeightedSum layers (fastnorm) whose shares are all 0."""
    found = []
    for param in net.plan.params:
        module = net.get_submodule(param.attribute.rpartition(".")[0])
        if isinstance(module, WeightedSum) and not module.softmax and not bool((module.weight > 0).any()):
            found.append(param.layer)
    return found
