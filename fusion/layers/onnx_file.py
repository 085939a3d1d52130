"""Onnx: a part of a net that is stored in an ONNX file, frozen or trained."""

from __future__ import annotations

from torch import nn

from fusion.layers.registry import Context, layer
from prototxt.schema.messages import LayerParameter
from prototxt.shapes.dimensions import UNKNOWN


def _per_sample(layer: LayerParameter, context: Context) -> bool:
    # A trained part may contain BatchNorm, which mixes the samples of its batch in TRAIN.
    return bool(layer.onnx_param.frozen) or context.phase == "TEST"


@layer("Onnx", per_sample=_per_sample)
def _onnx(layer: LayerParameter, context: Context) -> nn.Module:
    from fusion.onnx.graphs.layer_graph import layer_graph
    from fusion.onnx.to_torch import OnnxNet

    bottoms = [() if shape is UNKNOWN else tuple(shape) for shape in context.bottoms]
    return OnnxNet(layer_graph(layer, [shape for shape in bottoms if shape]), frozen=layer.onnx_param.frozen)
