"""The initial value of each blob of a layer: Caffe's filler, or the constant that is built into Caffe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from fusion.errors import BuildError
from fusion.fillers import fill
from prototxt.schema import forks
from prototxt.schema.messages import FillerParameter

if TYPE_CHECKING:
    from prototxt.schema.messages import LayerParameter

InitialFiller: TypeAlias = "FillerParameter | float"

_WEIGHT_AND_BIAS = {
    "Convolution": "convolution_param",
    "Deconvolution": "convolution_param",
    "ConvolutionDepthwise": "convolution_param",
    "DepthwiseConvolution": "convolution_param",
    "InnerProduct": "inner_product_param",
    "Embed": "embed_param",
}


def initial_filler(layer: LayerParameter, index: int, axes: int) -> InitialFiller:
    """Return the filler of the layer's blob `index`, which has `axes` axes.

    Raises: BuildError for a layer type whose initial values are not known.
    """
    if layer.type in _WEIGHT_AND_BIAS:
        param: Any = getattr(layer, _WEIGHT_AND_BIAS[layer.type])
        filler: FillerParameter = param.bias_filler if index else param.weight_filler
        return filler
    if layer.type not in _STARTS:
        hint = "give weights for it, or use one of Caffe's layer types"
        raise BuildError(f"layer '{layer.name}': how a new '{layer.type}' layer starts is not known", hint=hint)
    return _STARTS[layer.type](layer, index, axes)


def initial_value(layer: LayerParameter, index: int, shape: Sequence[int], seed: int) -> NDArray[np.float32]:
    """Return the layer's initial blob, float32 [*shape]: the same for one seed, layer name and index, on any machine.

    Raises: BuildError when the filler is unknown or does not suit the shape.
    """
    filler = initial_filler(layer, index, len(shape))
    if isinstance(filler, (int, float)):
        return np.full(tuple(shape), filler, np.float32)
    # The name is part of the seed: a layer's values do not depend on the other layers of the net.
    rng = np.random.default_rng([seed, crc32(layer.name.encode("utf-8", "surrogateescape")), index])
    return fill(filler, shape, rng)


def initial_text(layer: LayerParameter, index: int, axes: int) -> str:
    """Return a short name of the filler: "xavier", "constant 0"."""
    filler = initial_filler(layer, index, axes)
    if isinstance(filler, (int, float)):
        return f"constant {filler:g}"
    return f"constant {filler.value:g}" if filler.type == "constant" else str(filler.type)


def _scale(layer: LayerParameter, index: int, axes: int) -> InitialFiller:
    """Return the filler of a factor or bias; with two bottoms the second is the factor, and the only blob a bias."""
    param = layer.scale_param
    if index + (len(layer.bottom) > 1):
        return param.bias_filler
    return param.filler if param.HasField("filler") else 1.0


def _recurrent(layer: LayerParameter, index: int, axes: int) -> InitialFiller:
    param = layer.recurrent_param
    return param.bias_filler if axes == 1 else param.weight_filler


def _prelu(layer: LayerParameter, index: int, axes: int) -> InitialFiller:
    return layer.prelu_param.filler if layer.prelu_param.HasField("filler") else 0.25


def _bias(layer: LayerParameter, index: int, axes: int) -> InitialFiller:
    return layer.bias_param.filler


def _weighted_sum(layer: LayerParameter, index: int, axes: int) -> InitialFiller:
    param = layer.weighted_sum_param
    return param.filler if param.HasField("filler") else 1.0


def _gate(layer: LayerParameter, index: int, axes: int) -> InitialFiller:
    return layer.gate_param.bias_filler if index else layer.gate_param.filler


def _zero(layer: LayerParameter, index: int, axes: int) -> InitialFiller:
    return 0.0


def _batch_norm(layer: LayerParameter, index: int, axes: int) -> InitialFiller:
    """Return 0 for statistics, as before the first batch; NVCaffe's scale and bias have fillers."""
    own = forks.fields(layer.batch_norm_param)
    if index < 3:
        return 0.0
    name, default = ("scale_filler", 1.0) if index == 3 else ("bias_filler", 0.0)
    return getattr(own, name) if own.HasField(name) else default


_STARTS: dict[str, Callable[[LayerParameter, int, int], InitialFiller]] = {
    "BatchNorm": _batch_norm,
    "Bias": _bias,
    "Gate": _gate,
    "LSTM": _recurrent,
    "PReLU": _prelu,
    "Parameter": _zero,
    "RNN": _recurrent,
    "Scale": _scale,
    "WeightedSum": _weighted_sum,
}
