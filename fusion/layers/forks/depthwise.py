"""Depthwise convolutions.

Sources: farmingyard/ShuffleNet (ConvolutionDepthwise), yonghenglh6/DepthwiseConvolution, Howard et al. 2017.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from fusion.layers.convolution import Convolution
from fusion.layers.registry import Context, layer
from prototxt.shapes.convolution import kernel_windows

if TYPE_CHECKING:
    from prototxt.schema.messages import LayerParameter


@layer("ConvolutionDepthwise", "DepthwiseConvolution", "ConvolutionDepthWise", per_sample=True)
def _depthwise(layer: LayerParameter, context: Context) -> nn.Module:
    # One group per channel whatever `group` says; weights [num_output, 1, *kernel].
    param = layer.convolution_param
    weight = context.parameter(0, param.weight_filler)
    bias = context.parameter(1, param.bias_filler) if param.bias_term else None
    channels = context.bottoms[0][1] or weight.shape[0]
    return Convolution(weight, bias, kernel_windows(param, weight.dim() - 2), channels, 1, transposed=False)
