"""The layout of the blobs that filters make: channels first, as in Caffe, or last, which suits some nets on a CPU."""

from __future__ import annotations

import torch

from fusion.layers.convolution import Convolution
from fusion.nets.graph import Net
from fusion.nets.shared_params import tensor_by_path

_FOREIGN = ("Python", "Onnx")


def has_foreign(net: Net) -> bool:
    """Return whether the net has layers of users' code, which may rely on the usual layout and on one thread."""
    return any(call.type in _FOREIGN for call in net.plan.calls)


def has_filters(net: Net) -> bool:
    """Return whether the layout makes a difference to the net."""
    return not has_foreign(net) and bool(_planar(net))


def set_layout(net: Net, channels_last: bool, whole: Net | None = None) -> None:
    """Set the layout of all convolutions over two axes; blobs between layers follow it.

    The same numbers come out but for rounding. Filters are laid out once, which saves 2 % of a LeNet's step, except for
    those that several layers share: these are laid out in each call. A net with layers of other people's code is left
    as it is.

    whole  the net that this one is a part of, with which it may share filters
    """
    if has_foreign(net):
        return
    form = torch.channels_last if channels_last else torch.contiguous_format
    owner = whole or net
    shared = {id(tensor_by_path(owner, param.attribute)) for param in owner.plan.params if param.shared}
    for module in _planar(net):
        module.channels_last = channels_last
        if id(module.weight) not in shared:
            module.weight.data = module.weight.data.to(memory_format=form)


def _planar(net: Net) -> list[Convolution]:
    """Return the convolutions over two axes."""
    return [part for part in net.modules() if isinstance(part, Convolution) and part.weight.dim() == 4]
