"""BatchNorm, Scale and Bias folded into the convolution or dense layer before them: fewer layers, the same net.

    outcome = fold(parse_file("deploy.prototxt"), read_weights("net.caffemodel"))

For a layer y = W x + b followed by z = s y + t per channel, W becomes s W and b becomes s b + t, in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusion.surgery.result import SurgeryResult, Weights
from fusion.surgery.text_layers import NetLayer, deploy_net, net_layers
from prototxt.schema.messages import LayerParameter
from prototxt.schema.shared_memory import check_unshared
from prototxt.text.edits import Edits
from prototxt.text.tokens import quote
from prototxt.text.tree import Document

Array = NDArray[Any]
_DEPTHWISE = ("ConvolutionDepthwise", "DepthwiseConvolution", "ConvolutionDepthWise")
_LINEAR = ("Convolution", "Deconvolution", "InnerProduct", *_DEPTHWISE)
_AFFINE = ("BatchNorm", "Scale", "Bias")


@dataclass(frozen=True)
class _Layer:
    """A layer, and the indices of those that read its top before another layer replaces it in place."""

    text: NetLayer
    readers: list[int]

    @property
    def message(self) -> LayerParameter:
        return self.text.message

    @property
    def name(self) -> str:
        return str(self.message.name)


def fold(document: Document, weights: Weights) -> SurgeryResult:
    """Fold the layers that can be folded exactly; list the others with the reason.

    document  a deploy net (no phase rules) in today's syntax
    weights   layer name -> blobs in Caffe's order
    Raises: FusionError for a net with phase rules.
    """
    layers = _layers(document)
    edits = Edits(document)
    folded: dict[str, Sequence[Array]] = dict(weights)
    changed: dict[str, str] = {}
    dropped: list[str] = []
    for layer in layers:
        if layer.message.type not in _LINEAR or _obstacle(layer, weights):
            continue
        chain = _chain(layer, layers, weights)
        if not chain:
            continue
        folded[layer.name] = _folded(layer.message, weights[layer.name], [(c.message, weights[c.name]) for c in chain])
        _rewrite(edits, layer, chain)
        for absorbed in chain:
            folded.pop(absorbed.name, None)
            dropped.append(absorbed.name)
        changed[layer.name] = f"absorbed {', '.join(absorbed.name for absorbed in chain)}"
    skipped = {
        layer.name: _reason(layer, layers, weights)
        for layer in layers
        if layer.message.type in _AFFINE and layer.name not in dropped
    }
    kept = tuple(name for name in folded if name not in changed)
    return SurgeryResult(edits.apply(), folded, kept, changed, tuple(dropped), skipped)


def _layers(document: Document) -> list[_Layer]:
    net = deploy_net(document, "folded")
    check_unshared(net, "folding")
    layers = [_Layer(text, []) for text in net_layers(document, net)]
    writers: dict[str, _Layer] = {}
    for index, layer in enumerate(layers):
        for bottom in layer.message.bottom:
            if bottom in writers:
                writers[bottom].readers.append(index)
        writers.update(dict.fromkeys(layer.message.top, layer))
    return layers


def _obstacle(layer: _Layer, weights: Weights) -> str | None:
    """Return why the layer may not be folded, nor others into it; None if they may."""
    message = layer.message
    # Scale and Bias with two bottoms have no weights of their own; the reason is then the number of bottoms.
    if message.name not in weights and not (message.type != "BatchNorm" and len(message.bottom) > 1):
        return "it has no weights"
    if any(param.name for param in message.param):
        return "it shares its weights with other layers"
    if message.type == "InnerProduct" and message.inner_product_param.axis != 1:
        return "its axis is not 1"
    if message.type in _LINEAR and message.type != "InnerProduct" and message.convolution_param.axis != 1:
        return "its axis is not 1"
    if len(message.bottom) != 1 or len(message.top) != 1:
        return "it has several bottoms or tops"
    if message.type == "BatchNorm" and message.batch_norm_param.HasField("use_global_stats"):
        return None if message.batch_norm_param.use_global_stats else "it uses the statistics of each batch"
    if message.type in ("Scale", "Bias"):
        param = message.scale_param if message.type == "Scale" else message.bias_param
        if param.axis != 1 or param.num_axes != 1:
            return "it does not act per channel"
    return None


def _chain(layer: _Layer, layers: Sequence[_Layer], weights: Weights) -> list[_Layer]:
    """Return the following layers that act per channel and are the only readers of the layer before them."""
    found: list[_Layer] = []
    last = layer
    while len(last.readers) == 1:
        following = layers[last.readers[0]]
        if following.message.type not in _AFFINE or _obstacle(following, weights):
            break
        found.append(following)
        last = following
    return found


def _reason(layer: _Layer, layers: Sequence[_Layer], weights: Weights) -> str:
    obstacle = _obstacle(layer, weights)
    if obstacle:
        return obstacle
    index = layers.index(layer)
    before = next((item for item in layers if index in item.readers), None)
    if before is None or before.message.type not in (*_LINEAR, *_AFFINE):
        return "no convolution or dense layer is directly before it"
    if len(before.readers) > 1:
        return f"other layers read the output of '{before.name}', too"
    return f"'{before.name}' before it cannot absorb it: {_obstacle(before, weights) or 'it is not folded itself'}"


def _folded(
    message: LayerParameter, blobs: Sequence[Array], chain: Sequence[tuple[LayerParameter, Sequence[Array]]]
) -> list[Array]:
    """Return the layer's new weights, with a bias."""
    weight = np.asarray(blobs[0])
    channels = _channels(message)
    shift = np.asarray(blobs[1], np.float64).ravel() if len(blobs) > 1 else np.zeros(channels)
    # Scale and shift of the whole chain first: the weights are rounded to float32 once.
    total = np.ones(channels)
    for layer, own in chain:
        scale, add = _affine(layer, own, channels)
        total, shift = total * scale, shift * scale + add
    return [_scaled(message, weight, total).astype(np.float32), shift.astype(np.float32)]


def _channels(message: LayerParameter) -> int:
    dense = message.type == "InnerProduct"
    return int(message.inner_product_param.num_output if dense else message.convolution_param.num_output)


def _affine(layer: LayerParameter, blobs: Sequence[Array], channels: int) -> tuple[Array, Array]:
    """Return factor and summand per channel, float64."""
    values = [np.asarray(blob, np.float64).ravel() for blob in blobs]
    if layer.type == "BatchNorm":
        share = 0.0 if values[2][0] == 0 else 1 / values[2][0]  # Caffe stores sums with their factor
        scale = 1 / np.sqrt(values[1] * share + layer.batch_norm_param.eps)
        factor, add = values[3:] or (np.ones(channels), np.zeros(channels))
        return scale * factor, add - values[0] * share * scale * factor
    if layer.type == "Bias":
        return np.ones(channels), values[0]
    return values[0], values[1] if len(values) > 1 else np.zeros(channels)


def _scaled(message: LayerParameter, weight: Array, scale: Array) -> Array:
    if message.type == "InnerProduct":
        matrix = weight.reshape(weight.shape[-2:])
        return matrix * (scale[None] if message.inner_product_param.transpose else scale[:, None])
    ones = (1,) * (weight.ndim - 2)
    if message.type == "Deconvolution":  # [inputs, outputs / group, *kernel], group by group
        groups = message.convolution_param.group
        parts = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
        return (parts * scale.reshape(groups, 1, -1, *ones)).reshape(weight.shape)
    return weight * scale.reshape(-1, 1, *ones)


def _rewrite(edits: Edits, layer: _Layer, chain: Sequence[_Layer]) -> None:
    """Remove the chain from the text, and give the layer its top and a bias."""
    body = layer.text.body
    name = "inner_product_param" if layer.message.type == "InnerProduct" else "convolution_param"
    for param in body.messages(name):
        for bias_term in param.all("bias_term"):
            edits.remove(bias_term)
    top, last = body.scalars("top")[0], chain[-1].message.top[0]
    if top.value != last:
        edits.replace(top, quote(last))
    for absorbed in chain:
        edits.remove(absorbed.text.field)
