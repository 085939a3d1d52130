"""Another number of input channels for a trained net: colour to grey, or further channels beside the trained ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from fusion.errors import FusionError, WeightsMismatch
from fusion.merge.targets import target_layers
from fusion.surgery.result import SurgeryResult, Weights
from prototxt.edit.layer_view import TextLayer, text_layers
from prototxt.edit.upgrade_text import upgrade_text
from prototxt.schema.load import load_net
from prototxt.schema.messages import LayerParameter, NetParameter
from prototxt.schema.params import makes_data
from prototxt.shapes.dimensions import Shape
from prototxt.text.edits import Edits
from prototxt.text.tree import Document, Scalar

Fill = Literal["mean", "copy", "zero"]
_SCORING: Final = frozenset(("Convolution", "InnerProduct"))
# Layers that treat every channel alike, and have no values of their own.
_PER_CHANNEL: Final = frozenset(("Dropout", "Pooling", "Power", "ReLU", "Split"))
_VALUES_PER_CHANNEL: Final = frozenset(("BatchNorm", "Bias", "Scale"))


def edit_input_channels(
    document: Document, weights: Weights, channels: int, *, fill: Fill = "mean", blob: str | None = None
) -> SurgeryResult:
    """Let a trained net read images of another number of channels.

    For one channel the weights of all channels are added up, so that a grey image gives the scores that it gave as
    three equal channels. Of more channels than before the first are the trained ones.

    fill  weights of the further channels: "mean" of the trained ones, "copy" repeats the trained ones in turn and
          scales all by old / new, so that repeated channels give the same scores; "zero" ignores them at first
    blob  the input; None: the only one that convolutions or dense layers read
    Raises: FusionError for an input that is not known or has no channels, for layers that depend on its
            channels, and for fewer channels other than one; WeightsMismatch for weights of another net.
    """
    document = upgrade_text(document, strict=False)
    net = load_net(document)
    blob, first = _first_layers(net, document.name, blob)
    shapes = {item.layer.name: item.shapes for item in target_layers(net)}
    result, changed = dict(weights), {}
    for layer in first:
        kernel = _kernel(layer, weights, shapes[layer.name], document)
        result[layer.name] = [_spread(kernel, channels, fill, layer.name), *weights[layer.name][1:]]
        changed[layer.name] = f"{kernel.shape[1]} to {channels} input channels"
    edits, left = Edits(document), dict[str, str]()
    for text in text_layers(document.root):
        if text.is_data and any(top.value == blob for top in text.tops):
            left.update(_edit_data(edits, text, channels))
    kept = tuple(name for name in weights if name not in changed)
    return SurgeryResult(edits.apply(), result, kept, changed, (), left)


def _first_layers(net: NetParameter, place: str, blob: str | None) -> tuple[str, list[LayerParameter]]:
    """Return the input and the layers with weights that read it. Raises: FusionError."""
    inputs = [top for layer in net.layer if makes_data(layer.type, len(layer.bottom)) for top in layer.top]
    readers = {name: list(_readers(net, name)) for name in dict.fromkeys(inputs)}
    found = {name: each for name, each in readers.items() if any(layer.type in _SCORING for layer in each)}
    if blob is None and len(found) == 1:
        blob = next(iter(found))
    if blob not in found:
        message = f"no convolution reads '{blob}'" if blob else "it is not certain which input to change"
        hint = f"name it: --input BLOB, one of {', '.join(found) or 'none'}"
        raise FusionError(message, place=place, hint=hint)
    for layer in found[blob]:
        if layer.type not in _SCORING:
            message = f"layer '{layer.name}' ({layer.type}) reads the input, and depends on its channels"
            hint = "fold BatchNorm and Scale into the next layer (fusion-surgery fold), or remove it first"
            raise FusionError(message, place=place, hint=hint)
    return blob, found[blob]


def _readers(net: NetParameter, blob: str) -> Iterator[LayerParameter]:
    """Yield the layers that read an input, also through layers that treat every channel alike."""
    reached = {blob}
    for layer in net.layer:
        if reached.intersection(layer.bottom):
            if layer.type not in _PER_CHANNEL:
                yield layer
            if layer.type in _PER_CHANNEL | _VALUES_PER_CHANNEL:
                reached.update(layer.top)
            else:
                reached.difference_update(layer.top)


def _kernel(
    layer: LayerParameter, weights: Weights, shapes: Sequence[Shape] | None, document: Document
) -> NDArray[Any]:
    """Return the weights as [outputs, channels, rest]. Raises: FusionError, WeightsMismatch."""
    blobs = weights.get(layer.name, ())
    if layer.type != "Convolution" or layer.convolution_param.group != 1 or layer.convolution_param.axis != 1:
        message = f"layer '{layer.name}' reads the input, and is no convolution of one group along axis 1"
        hint = "make dense layers convolutions first: fusion-surgery convolve"
        raise FusionError(message, place=document.name, hint=hint)
    if not blobs or len(blobs[0].shape) < 3 or blobs[0].shape[0] != layer.convolution_param.num_output:
        given = [list(blob.shape) for blob in blobs]
        text = f"layer '{layer.name}' needs blobs of shape {[list(shape) for shape in shapes or ()]}, not {given}"
        raise WeightsMismatch(text, hint="these are the weights of another net")
    kernel: NDArray[Any] = np.asarray(blobs[0])
    return kernel


def _spread(kernel: NDArray[Any], channels: int, fill: Fill, name: str) -> NDArray[Any]:
    """Return the weights of other input channels, axis 1. Raises: FusionError."""
    old = kernel.shape[1]
    if channels == 1 < old:
        total: NDArray[Any] = kernel.sum(1, keepdims=True, dtype=np.float64).astype(kernel.dtype)
        return total
    if channels <= old:
        hint = "give 1, for grey images, or more than before"
        raise FusionError(f"layer '{name}' reads {old} channels, of which {channels} cannot be made", hint=hint)
    if fill == "copy":
        return np.ascontiguousarray(kernel[:, np.arange(channels) % old] * kernel.dtype.type(old / channels))
    added = kernel.mean(1, keepdims=True, dtype=np.float64).astype(kernel.dtype) * (fill == "mean")
    return np.concatenate([kernel, *[added] * (channels - old)], 1)


def _edit_data(edits: Edits, layer: TextLayer, channels: int) -> Iterator[tuple[str, str]]:
    """Set the channels that a data layer states; yield its name and the parts that the user must change."""
    for shape in (shape for block in layer.body.messages("input_param") for shape in block.messages("shape")):
        dims = shape.scalars("dim")
        if len(dims) == 4:
            edits.replace(dims[1], str(channels))
    if layer.type == "ImageData":
        if channels == 1:
            for block in layer.body.messages("image_data_param"):
                edits.set(block, "is_color", "false")
        else:
            yield layer.name, f"image files have no {channels} channels: give it another type, such as HDF5Data"
    for block in layer.body.messages("transform_param"):
        stated: list[Scalar] = block.scalars("mean_value")
        if block.get("mean_file") is not None or len(stated) > 1:
            yield layer.name, f"its mean is that of the old channels: give mean_value for {channels}"
