"""Caffe weights as the state dict of a PyTorch module.

A layer `layer1/0/conv1` has the tensors `layer1.0.conv1.weight` and `.bias`. BatchNorm has `running_mean`,
`running_var` (divided by its scale factor) and `num_batches_tracked`; a Scale layer `X/scale` has the `weight` and
`bias` of the BatchNorm layer X. Layers that share a parameter have it under the first one's name. An Onnx layer has the
names of its file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fusion.errors import WeightsMismatch
from fusion.onnx.graphs import graph_weights
from fusion.onnx.graphs.layer_graph import layer_graph
from fusion.onnx.graphs.read import read_graph
from fusion.onnx.sidecar import ONNX, read_pair
from fusion.onnx.to_caffe.net_writer import SCALE
from prototxt.files import atomic_write
from prototxt.schema.load import load_net
from prototxt.schema.messages import LayerParameter
from prototxt.text.tree import Document

PathLike = str | os.PathLike[str]
Arrays = Mapping[str, Sequence[NDArray[Any] | Tensor]]
_MEAN = ".running_mean"
_WEIGHTED = {
    **dict.fromkeys(("Convolution", "Deconvolution", "InnerProduct", "Scale", "Embed"), ("weight", "bias")),
    "PReLU": ("weight",),
    "Bias": ("bias",),
}


def to_state_dict(net: PathLike | Document, weights: PathLike | Arrays, *, prefix: str = "") -> dict[str, Tensor]:
    """Return Caffe weights by the names of a PyTorch module's parameters and buffers.

    net      the prototxt of the weights
    weights  a file, or layer name -> arrays, such as `fusion.params` gives them
    prefix   of the branch of a fused net to return, which the names then lack; "": all layers
    Raises: WeightsMismatch for a layer whose weights have no names in PyTorch, and where the branch has no weights.
    """
    layers = load_net(net, strict=False).layer
    weights = weights if isinstance(weights, Mapping) else read_pair(weights)
    found: dict[str, Tensor] = {}
    names = {layer.name for layer in layers}
    shared: set[str] = set()
    for layer in layers:
        if layer.name not in weights or (prefix and not layer.name.startswith(f"{prefix}/")):
            continue
        known = [param.name for param in layer.param if param.name]
        if known and shared.issuperset(known):
            continue
        shared.update(known)
        arrays = [_as_array(array) for array in weights[layer.name]]
        own = layer.name[len(prefix) + 1 :] if prefix else layer.name
        stem = own.removesuffix(SCALE) if layer.type == "Scale" and layer.name.removesuffix(SCALE) in names else own
        for key, array in _tensors(layer, stem.replace("/", "."), arrays).items():
            found[key] = torch.from_numpy(array.copy())
    if not found:
        hint = f"it has no layers '{prefix}/...' with weights" if prefix else "give the prototxt of these weights"
        raise WeightsMismatch("no layer of the net has weights here", hint=hint)
    return found


def _as_array(blob: NDArray[Any] | Tensor) -> NDArray[np.float32]:
    return np.asarray(blob.detach().cpu() if isinstance(blob, Tensor) else blob, np.float32)


def _tensors(layer: LayerParameter, stem: str, arrays: Sequence[NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return a layer's tensors by their names. Raises: WeightsMismatch."""
    if layer.type == ONNX:
        named = _stored_shapes(layer, dict(zip(graph_weights(layer_graph(layer)), arrays, strict=True)))
        means = [key.removesuffix(_MEAN) for key in named if key.endswith(_MEAN)]
        return {**named, **{f"{mean}.num_batches_tracked": np.zeros((), np.int64) for mean in means}}
    if layer.type == "BatchNorm":
        factor = float(arrays[2].item())
        scale = 1 / factor if factor else 0.0  # as Caffe reads it
        mean, variance = (array.ravel() * np.float32(scale) for array in arrays[:2])
        batches = np.zeros((), np.int64)
        return {f"{stem}.running_mean": mean, f"{stem}.running_var": variance, f"{stem}.num_batches_tracked": batches}
    names = _WEIGHTED.get(layer.type)
    if names is None or len(arrays) > len(names):
        hint = "read them with prototxt.read_weights, or convert to .safetensors, which holds them as <layer>/0, ..."
        raise WeightsMismatch(f"the weights of layer '{layer.name}' ({layer.type}) have no names in PyTorch", hint=hint)
    return {f"{stem}.{name}": _as_in_torch(layer, array) for name, array in zip(names, arrays, strict=False)}


def _stored_shapes(layer: LayerParameter, named: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return weights in the shapes that their file has them in, where these differ in sizes of 1 alone."""
    stored = read_graph(layer.onnx_param.file).constants
    shapes = {name: stored[name].shape if name in stored else array.shape for name, array in named.items()}
    return {
        name: array.reshape(shapes[name]) if _beyond_one(shapes[name]) == _beyond_one(array.shape) else array
        for name, array in named.items()
    }


def _beyond_one(shape: Sequence[int]) -> list[int]:
    return [size for size in shape if size != 1]


def _as_in_torch(layer: LayerParameter, array: NDArray[Any]) -> NDArray[Any]:
    transposed = layer.type == "InnerProduct" and layer.inner_product_param.transpose
    return np.atleast_1d(np.ascontiguousarray(array.T) if transposed else array)


def write_state_dict(path: str | os.PathLike[str], state: Mapping[str, Tensor]) -> None:
    """Write a .safetensors file, or else one as torch.save does, atomically. Raises: WeightsMismatch, OSError."""
    if os.fspath(path).lower().endswith(".safetensors"):
        try:
            from safetensors.torch import save
        except ImportError as error:
            hint = "pip install caffe-fusion[pytorch], or write .pth"
            raise WeightsMismatch(
                "writing it needs the package safetensors", place=os.fspath(path), hint=hint
            ) from error
        content = save(dict(state))
        with atomic_write(path) as file:
            file.write(content)
        return
    with atomic_write(path) as file:
        torch.save(dict(state), file)
