"""The preprocessing of images in the weights of a converted net's first convolution, so that it takes raw pixels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fusion.composition.pixels import pixels_of
from fusion.errors import ComposeError
from fusion.onnx.to_caffe import CaffeNet
from prototxt.schema.messages import ConvolutionParameter, LayerParameter, NetParameter, ParamSpec

_NAME = "pixels"


def fold_pixels(made: CaffeNet, kind: str, place: str) -> CaffeNet:
    """Return the net for pixels from 0 to 255, blue first, with their scales and order in its first weights.

    Their shift goes into the convolution's bias, or, where the convolution pads, into a Bias layer before it: zeros of
    padding are not shifted.
    kind   a name of PIXELS, or custom pixels
    place  the net's file, for errors
    Raises: ComposeError for unknown pixels, and where a convolution without groups is not the only reader of one input.
    """
    known = pixels_of(kind, place)
    net = NetParameter.FromString(made.net.SerializeToString())
    layer = _first_convolution(net, place)
    weight, *bias = (array.astype(np.float64) for array in made.weights[layer.name])
    scale, shift = np.array(known.scale), np.array(known.shift)
    if weight.shape[1] == 1 and len(set(known.scale)) == len(set(known.shift)) == 1:
        scale, shift = scale[:1], shift[:1]
    if weight.shape[1] != len(scale):
        raise ComposeError(f"pixels '{kind}' have 3 channels, its input has {weight.shape[1]}", place=place)
    if known.blue_first:
        scale, shift = scale[::-1], shift[::-1]
    added = {}
    if shift.any():
        if _pads(layer.convolution_param):
            added = {_NAME: [_float32(_by_blue(shift / scale, blue_first=known.blue_first))]}
            _insert_bias(net, layer, place)
        else:
            layer.convolution_param.bias_term = True
            moved = np.einsum("ocij,c->o", weight, shift)
            bias = [bias[0] + moved if bias else moved]
    folded = _by_blue(weight * scale.reshape(1, -1, 1, 1), blue_first=known.blue_first, axis=1)
    weights = {**added, **made.weights, layer.name: [_float32(array) for array in (folded, *bias)]}
    return replace(made, net=net, weights=weights)


def _first_convolution(net: NetParameter, place: str) -> LayerParameter:
    inputs = [layer for layer in net.layer if layer.type == "Input"]
    readers = [layer for layer in net.layer if {top for one in inputs for top in one.top} & set(layer.bottom)]
    own = not any(param.name for layer in readers for param in layer.param)
    alone = len(inputs) == len(readers) == 1
    if alone and own and readers[0].type == "Convolution" and readers[0].convolution_param.group == 1:
        return readers[0]
    names = ", ".join(f"{layer.name} ({layer.type})" for layer in readers) or "none"
    message = f"pixels are folded into a convolution that alone reads the net's one input; here are {names}"
    raise ComposeError(message, place=place, hint="do not fold them: layers then prepare the pixels")


def _insert_bias(net: NetParameter, layer: LayerParameter, place: str) -> None:
    """Put a frozen Bias layer between the input and its reader."""
    if any(_NAME in (one.name, *one.top) for one in net.layer):
        raise ComposeError(f"a layer or blob has the name '{_NAME}'", place=place, hint="do not fold the pixels")
    layers = list(net.layer)
    after_input = next(index for index, one in enumerate(layers) if one.type == "Input") + 1
    shift = LayerParameter(name=_NAME, type="Bias", bottom=layer.bottom, top=[_NAME], param=[ParamSpec(lr_mult=0)])
    layers.insert(after_input, shift)
    layer.bottom[:] = [_NAME]
    del net.layer[:]
    net.layer.extend(layers)


def _pads(param: ConvolutionParameter) -> bool:
    return any(param.pad) or param.pad_h > 0 or param.pad_w > 0


def _by_blue(values: np.ndarray, *, blue_first: bool, axis: int = 0) -> np.ndarray:
    """Return values by channel in the order of Caffe's data layers."""
    return values if blue_first else np.flip(values, axis)


def _float32(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, np.float32)
