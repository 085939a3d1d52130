"""The layers of a built net on its blobs, and the names of its blobs, inputs and outputs in Caffe's order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from fusion.layers.pycaffe import Blob, Blobs
from fusion.layers.python import PythonLayer
from fusion.nets.shared_params import tensor_by_path
from fusion.pycaffe.layer import ModuleLayer, NetLayer, PythonRun
from fusion.pycaffe.sources import DataLayer, MemoryDataLayer

if TYPE_CHECKING:
    from fusion.data import DataSource
    from fusion.nets.graph import Net as Module
    from fusion.pycaffe.connections import Ends
    from prototxt.schema.messages import NetParameter


def open_layers(
    message: NetParameter,
    connections: Sequence[Ends],
    module: Module,
    blobs: Mapping[str, Blob],
    sources: Sequence[DataSource],
) -> list[NetLayer]:
    """Return the layers of a net, which run on these blobs and on the parameters of the module."""
    trains = module.plan.phase == "TRAIN" or message.force_backward
    has_loss = bool(module.plan.loss_weights)

    def records(repeats: bool) -> bool:
        return trains or (has_loss and not repeats)

    owned: dict[Tensor, Blob] = {}
    layers: list[NetLayer] = []
    for ends in connections:
        if ends.call is None:
            layers.append(_data_layer(ends, blobs, sources))
            continue
        part = module.get_submodule(ends.call.path)
        user = part.instance.user if isinstance(part, PythonLayer) else None
        own = Blobs() if user is None else user.blobs
        tensors = [
            tensor_by_path(module, param.attribute) for param in module.plan.params if param.path == ends.call.path
        ]
        for index, tensor in enumerate(tensors):
            if message.force_backward and isinstance(tensor, nn.Parameter):
                tensor.requires_grad_()
            blob = owned.setdefault(tensor, own[index] if user else Blob())
            if blob.parameter is not tensor:
                blob.use_parameter(tensor)
            own[index : index + 1] = [blob]
        layers.append(ModuleLayer(ends, blobs, own, part, records) if user is None else PythonRun(ends, blobs, user))
    return layers


def _data_layer(ends: Ends, blobs: Mapping[str, Blob], sources: Sequence[DataSource]) -> NetLayer:
    if ends.layer.type == "MemoryData":
        return MemoryDataLayer(ends, blobs)
    if ends.layer.type == "Input":
        return NetLayer(ends, blobs, Blobs())
    source = next((source for source in sources if source.tops[0] == ends.tops[0]), None)
    return DataLayer(ends, blobs, source)


def blob_names(connections: Sequence[Ends]) -> list[str]:
    """Return the names of all blobs, those of data first, in the order in which layers make them."""
    return list(dict.fromkeys(name for ends in connections for name in ends.tops))


def net_inputs(connections: Sequence[Ends]) -> list[str]:
    """Return the names of the blobs that Input layers make."""
    return [name for ends in connections if ends.layer.type == "Input" for name in ends.tops]


def net_outputs(connections: Sequence[Ends]) -> list[str]:
    """Return the names of the blobs that no layer reads or that count in the loss, sorted, as Caffe does.

    The loss of a layer without a top is none of them.
    """
    unread: set[str] = set()
    losses: set[str] = set()
    for ends in connections:
        named = ends.layer.top
        unread = (unread - set(ends.bottoms)) | set(named)
        losses |= {name for name, weight in zip(named, ends.weights, strict=False) if weight}
    return sorted(unread | losses)
