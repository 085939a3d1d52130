"""Loading trained weights into a net and saving them, by layer name as in Caffe, with a report of unmatched layers."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fusion.errors import DeadShares, FusionError, WeightsMismatch, raise_all
from fusion.layers.weighted import WeightedSum
from fusion.nets.build import params
from fusion.nets.graph import Net
from fusion.nets.shared_memory import SHARED_MEMORY
from fusion.nets.shared_params import set_tensor_by_path, tensor_by_path
from fusion.onnx.sidecar import ONNX, read_pair, write_pair
from prototxt.formats.index import shape_fits
from prototxt.schema.messages import LayerParameter, NetParameter

Weights = Mapping[str, Sequence[NDArray[np.float32]]]


@dataclass(frozen=True)
class LoadReport:
    """The outcome of loading weights, by layer name.

    loaded   layers of the net that got weights
    missing  layers of the net with parameters or statistics for which the source had none; they keep their values
    unused   layers in the file that the net does not have
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        parts = [f"{len(self.loaded)} layers loaded"]
        parts += [f"missing: {', '.join(self.missing)}"] if self.missing else []
        parts += [f"unused: {', '.join(self.unused)}"] if self.unused else []
        return "; ".join(parts)


def load_weights(net: Net, source: str | os.PathLike[str] | Weights, *, strict: bool = False) -> LoadReport:
    """Copy weights into the layers of the same names; nothing is copied unless everything fits.

    source  a .caffemodel, .h5 or .safetensors file, or layer name -> arrays in Caffe's order. Weights of Onnx layers
            are read from the file beside it; without one they stay those of their ONNX files, and are not missing
    strict  whether a layer of the net without weights is an error

    Raises: WeightsMismatch listing every blob that does not fit, or when no name fits at all.
    Warns: DeadShares.
    """
    weights = source if isinstance(source, Mapping) else read_pair(source)
    place = None if isinstance(source, Mapping) else os.fspath(source)
    own = params(net)
    fitting = [name for name in weights if name in own]
    onnx = {call.name for call in net.plan.calls if call.type == ONNX}
    missing = tuple(name for name in own if name not in weights and name not in onnx)
    errors = [error for name in fitting for error in _misfits(name, own[name], weights[name], place)]
    if strict:
        errors += [WeightsMismatch(f"layer '{name}': no weights for it", place=place) for name in missing]
    raise_all(errors)
    if own and not fitting:
        text = f"none of its {len(weights)} layers is one of net '{net.plan.name}'"
        hint = f"the net's are {', '.join(list(own)[:5])}, ...; the file's are {', '.join(list(weights)[:5])}, ..."
        raise WeightsMismatch(text, place=place, hint=hint)
    for name in fitting:  # after all checks: nothing is copied unless everything fits
        for tensor, array in zip(own[name], weights[name], strict=True):
            _copy(tensor, array)
    warn_of_dead_shares(net)
    return LoadReport(tuple(fitting), missing, tuple(name for name in weights if name not in own))


def save_weights(net: Net, path: str | os.PathLike[str], *, format: str | None = None) -> None:
    """Write the parameters and statistics of all layers.

    format  "caffemodel" or "hdf5"; None: that of the name's ending

    Those of Onnx layers go to a safetensors file beside it, see `fusion.onnx.sidecar`.
    Raises: prototxt.WeightsError for an unknown ending, or a layer that the format cannot hold.
    Warns: DeadShares.
    """
    warn_of_dead_shares(net)
    arrays = {name: [_array(tensor) for tensor in tensors] for name, tensors in params(net).items()}
    description = NetParameter(name=net.plan.name)
    for call in net.plan.calls:
        if call.type == SHARED_MEMORY:
            continue
        layer = LayerParameter(name=call.name, type=call.type)
        layer.bottom.extend(_blob(value) for value in call.bottoms)
        layer.top.extend(_blob(value) for value in call.tops)
        description.layer.append(layer)
    # A second layer of a name has its blobs under "name (2)", which is no call.
    call_names = {layer.name for layer in description.layer}
    description.layer.extend(LayerParameter(name=name) for name in arrays if name not in call_names)
    write_pair(path, arrays, net=description, format=format)


def share_weights(net: Net, owner: Net) -> None:
    """Make the layers of `net` use the tensors of the layers of the same names in `owner`, as a TEST net does.

    Raises: WeightsMismatch listing every blob whose shape differs.
    """
    # Reversed: of several layers of one name the first counts, as where weights are loaded.
    theirs = {
        (param.layer, param.index): tensor_by_path(owner, param.attribute) for param in reversed(owner.plan.params)
    }
    pairs = [(param, theirs.get((param.layer, param.index))) for param in net.plan.params]
    raise_all(
        [
            _misfit(param.layer, param.index, tensor_by_path(net, param.attribute).shape, tensor.shape, None)
            for param, tensor in pairs
            if tensor is not None and tensor.shape != tensor_by_path(net, param.attribute).shape
        ]
    )
    for param, tensor in pairs:
        if tensor is not None:
            set_tensor_by_path(net, param.attribute, tensor)


def _misfits(
    name: str, tensors: Sequence[Tensor], arrays: Sequence[NDArray[np.float32]], place: str | None
) -> list[FusionError]:
    if len(tensors) != len(arrays):
        hint = "the layer has bias_term or axes that its source had not, or is of another type"
        return [
            WeightsMismatch(f"layer '{name}': needs {len(tensors)} blobs, given {len(arrays)}", place=place, hint=hint)
        ]
    return [
        _misfit(name, index, tensor.shape, array.shape, place)
        for index, (tensor, array) in enumerate(zip(tensors, arrays, strict=True))
        if not shape_fits(array.shape, tuple(tensor.shape))
    ]


def _misfit(name: str, index: int, needed: Sequence[int], given: Sequence[int], place: str | None) -> WeightsMismatch:
    return WeightsMismatch(
        f"layer '{name}': blob {index} has the shape {tuple(needed)}, given {tuple(given)}",
        place=place,
        hint="rename the layer to start it afresh, or give it the size of its weights",
    )


def _copy(tensor: Tensor, array: NDArray[np.float32]) -> None:
    """Copy the array into the tensor; by NumPy, without a second copy, where the tensor is float32 on the CPU."""
    array = np.asarray(array).reshape(tuple(tensor.shape))
    if tensor.device.type == "cpu" and tensor.dtype == torch.float32:
        np.copyto(tensor.detach().numpy(), array)
    else:
        with torch.no_grad():
            tensor.copy_(torch.tensor(array))


def _array(tensor: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.detach().to("cpu", torch.float32).contiguous().numpy()
    return array


def _blob(value: str) -> str:
    return value.rpartition("@")[0] or value


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
