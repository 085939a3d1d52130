"""Splitting a net after its frozen part, whose outputs can then be computed once and kept.

The trunk is the largest part that gives the same numbers for a sample at any time: nothing in it learns, draws random
numbers, updates statistics, carries state, or mixes samples, and all of its bottoms come from such layers or from the
net's inputs. Everything else is the head.
"""

from __future__ import annotations

from dataclasses import dataclass

from fusion.nets.graph import Call, Net, sub_net


@dataclass(frozen=True)
class TrunkAndHead:
    """A net in two; both halves use its submodules.

    trunk     computes the boundary and the net's outputs that need nothing but the trunk
    head      takes the boundary and those of the net's inputs that it still needs, computes the other outputs
    boundary  keys of the values that the trunk passes to the head
    """

    trunk: Net
    head: Net
    boundary: tuple[str, ...]


def split_trunk(net: Net) -> TrunkAndHead | None:
    """Return the net's frozen trunk and its head, or None when no layer with parameters is frozen up to the inputs.

    The trunk, then the head on the trunk's boundary and the rest of the inputs, compute the net's numbers.
    """
    constant = {value for _, value in net.plan.inputs}
    weighted = dict(net.plan.loss_weights)
    trunk: list[Call] = []
    head: list[Call] = []
    for call in net.plan.calls:
        # A loss stays in the head, whose outputs the solver sums.
        portable = call.portable and constant.issuperset(call.bottoms) and weighted.keys().isdisjoint(call.tops)
        (trunk if portable else head).append(call)
        if portable:
            constant.update(call.tops)
    with_params = {param.path for param in net.plan.params}
    if not head or not any(call.path in with_params for call in trunk):
        return None
    needed = {value for call in head for value in call.bottoms}
    computed = {top for call in trunk for top in call.tops}
    boundary = [(_key(net, value), value) for value in sorted(needed & computed)]
    inputs = [pair for pair in net.plan.inputs if pair[1] in needed]
    sides = [pair for pair in net.plan.outputs if pair[1] in computed and pair not in boundary]
    below = {value for call in trunk for value in call.bottoms}
    return TrunkAndHead(
        trunk=sub_net(net, trunk, [pair for pair in net.plan.inputs if pair[1] in below], boundary + sides),
        head=sub_net(net, head, boundary + inputs, [pair for pair in net.plan.outputs if pair[1] not in computed]),
        boundary=tuple(key for key, _ in boundary),
    )


def _key(net: Net, value: str) -> str:
    """Return the blob's name, unless another version or an input has it."""
    blob = value.rpartition("@")[0] or value
    versions = {top for call in net.plan.calls for top in call.tops}
    key = value if blob in versions else blob
    return f"{key}@trunk" if key in dict(net.plan.inputs) else key
