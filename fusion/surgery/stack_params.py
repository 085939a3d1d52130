"""One layer in the place of several of one kind: over the channels of all, with their weights concatenated.

Each function takes the first of the layers and returns the layer that replaces all, or None where that is not exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from prototxt.schema.messages import LayerParameter

Array = NDArray[Any]
Blobs = Sequence[Sequence[Array]]
Stacked = tuple[LayerParameter, list[Array]]

# Layers that treat each value, or each channel, separately and learn nothing.
PLAIN: Final = frozenset(
    ("ReLU", "Sigmoid", "TanH", "ELU", "Power", "Exp", "Log", "AbsVal", "BNLL", "Dropout", "Threshold", "Eltwise",
     "Pooling", "Flatten", "Swish", "Clip", "ReLU6")
)  # fmt: skip


def stack(layer: LayerParameter, blobs: Blobs, *, shared: bool) -> Stacked | None:
    """Return the layer for all branches, without names of layers and blobs, and its weights.

    blobs   per branch its weights
    shared  whether all branches read the same blob, instead of each its own channels of one
    """
    if any(param.name for param in layer.param) or len(layer.top) != 1:
        return None
    copy = deepcopy(layer)
    if layer.type in PLAIN:
        return None if shared or not _per_channel(layer) else (copy, [])
    if layer.type == "LRN":
        return (copy, []) if not shared and layer.lrn_param.norm_region == layer.lrn_param.WITHIN_CHANNEL else None
    builder = _WITH_WEIGHTS.get(layer.type)
    if builder is None or len(layer.bottom) != 1 or not blobs[0]:
        return None
    return builder(copy, blobs, shared)


def _per_channel(layer: LayerParameter) -> bool:
    if layer.type == "Flatten":
        return bool(layer.flatten_param.axis == 1)
    if layer.type == "Eltwise":
        return len(layer.bottom) > 1 or not layer.eltwise_param.coeff
    # Stochastic pooling draws numbers, so one layer for all would draw others.
    return len(layer.bottom) == 1 and not (layer.type == "Pooling" and layer.pooling_param.pool == 2)


def _convolution(layer: LayerParameter, blobs: Blobs, shared: bool) -> Stacked | None:
    param = layer.convolution_param
    if param.axis != 1 or (shared and param.group != 1):
        return None
    param.num_output *= len(blobs)
    if not shared:  # on one blob, the kernels of all read the same channels and no groups are needed
        param.group *= len(blobs)
    return layer, _concatenated(blobs, kernels=1)


def _dense(layer: LayerParameter, blobs: Blobs, shared: bool) -> Stacked | None:
    """Concatenate the outputs of layers that read one blob."""
    param = layer.inner_product_param
    if not shared or param.axis != 1:
        return None
    param.num_output *= len(blobs)
    matrices = [_matrix(layer, own) for own in blobs]
    param.ClearField("transpose")
    return layer, [np.concatenate(matrices), *_concatenated([own[1:] for own in blobs])]


def dense_as_convolution(layer: LayerParameter, blobs: Blobs, shape: Sequence[int | None]) -> Stacked | None:
    """Return InnerProduct layers, each on its own channels, as a grouped convolution whose kernel covers the bottom.

    shape  of one layer's bottom
    """
    param = layer.inner_product_param
    sizes = [int(dim or 0) for dim in shape[1:]]
    if param.axis != 1 or len(sizes) not in (1, 3) or 0 in sizes or any(one.name for one in layer.param):
        return None
    channels, height, width = sizes if len(sizes) == 3 else (*sizes, 1, 1)
    convolution = LayerParameter(type="Convolution")
    for one in layer.param:
        convolution.param.add().CopyFrom(one)
    for rule in layer.include:
        convolution.include.add().CopyFrom(rule)
    convolution.convolution_param.num_output = param.num_output * len(blobs)
    convolution.convolution_param.group = len(blobs)
    convolution.convolution_param.bias_term = param.bias_term
    convolution.convolution_param.kernel_h, convolution.convolution_param.kernel_w = height, width
    kernels = np.concatenate([_matrix(layer, own) for own in blobs]).reshape(-1, channels, height, width)
    return convolution, [kernels, *_concatenated([own[1:] for own in blobs])]


def _matrix(layer: LayerParameter, own: Sequence[Array]) -> Array:
    matrix = np.asarray(own[0])
    matrix = matrix.reshape(matrix.shape[-2:])
    return np.ascontiguousarray(matrix.T) if layer.inner_product_param.transpose else matrix


def _channels(layer: LayerParameter, blobs: Blobs, shared: bool) -> Stacked | None:
    """Stack Scale, Bias or PReLU, which have one number per channel."""
    if shared:
        return None
    if layer.type == "PReLU":
        return None if layer.prelu_param.channel_shared else (layer, _concatenated(blobs))
    param = layer.scale_param if layer.type == "Scale" else layer.bias_param
    return (layer, _concatenated(blobs)) if param.axis == 1 and param.num_axes == 1 else None


def _batch_norm(layer: LayerParameter, blobs: Blobs, shared: bool) -> Stacked | None:
    """Stack statistics divided by their factors, which differ between the nets, and NVCaffe's scale and bias if any."""
    if shared:
        return None
    factors = [float(np.asarray(own[2]).ravel()[0]) for own in blobs]
    scaled = [
        [np.asarray(blob, np.float64).ravel() / (factor or 1.0) for blob in own[:2]]
        for own, factor in zip(blobs, factors, strict=True)
    ]
    if not all(factors):  # statistics of no batch cannot be divided by their factor
        return None
    weights = _concatenated([own[3:] for own in blobs])
    return layer, [*(blob.astype(np.float32) for blob in _concatenated(scaled)), np.ones(1, np.float32), *weights]


def _concatenated(blobs: Blobs, kernels: int = 0) -> list[Array]:
    """Concatenate the first blobs of all layers, the second ones, ...; all but the kernels are flattened."""
    return [
        np.concatenate([np.asarray(part) if index < kernels else np.asarray(part).ravel() for part in parts])
        for index, parts in enumerate(zip(*blobs, strict=True))
    ]


_WITH_WEIGHTS: Final[dict[str, Callable[[LayerParameter, Blobs, bool], Stacked | None]]] = {
    "Convolution": _convolution,
    "Deconvolution": lambda layer, blobs, shared: None if shared else _convolution(layer, blobs, shared),
    "InnerProduct": _dense,
    "Scale": _channels,
    "Bias": _channels,
    "PReLU": _channels,
    "BatchNorm": _batch_norm,
}
