"""Each layer's shapes as a table: settings one by one, unknown sizes, the edges of what is refused, and the costs."""

# ruff: noqa: E501 - tables of texts

from __future__ import annotations

import re
import warnings

import pytest

import prototxt
from prototxt.errors import ShapeError
from prototxt.shapes import UNKNOWN, Shape, infer
from prototxt.shapes.costs import Cost, layer_costs, net_cost, peak_activations
from prototxt.shapes.dimensions import (
    agree,
    canonical_axis,
    count,
    count_text,
    is_known,
    known_of,
    merge_shapes,
    product,
    shapes_agree,
    text,
)
from prototxt.shapes.pooling import pooled_size


def run(bottoms: str, layer: str, tops: int) -> tuple[list[Shape], list[Shape]]:
    """Return the shapes of tops and parameters of a layer, given as its type and settings, over such as `2x3 2x?`."""
    given = {}
    lines = []
    for index, shape in enumerate(bottoms.split()):
        lines.append(f'layer {{ name: "in{index}" type: "Input" top: "b{index}" }}')
        if shape != "?":
            given[f"b{index}"] = tuple(None if dim == "?" else int(dim) for dim in shape.split("x"))
    kind, _, settings = layer.partition(" ")
    ends = "".join(f'bottom: "b{index}" ' for index in range(len(lines)))
    ends += "".join(f'top: "t{index}" ' for index in range(tops))
    lines.append(f'layer {{ name: "l" type: "{kind}" {ends} {settings} }}')
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fields of forks
        found = infer(prototxt.load_net(prototxt.parse("\n".join(lines))), given)
    return found.tops[-1], found.params[-1]


def written(shapes: list[Shape]) -> list[str]:
    return ["?" if shape is UNKNOWN else "" if not shape else text(shape) for shape in shapes]


@pytest.mark.parametrize(("bottoms", "layer", "tops", "params"), [
    ("2x3x5x5", "Pooling pooling_param { kernel_size: 2 stride: 2 }", ["2x3x3x3"], []),
    ("2x3x5x5", "Pooling pooling_param { kernel_size: 2 stride: 2 round_mode: FLOOR }", ["2x3x2x2"], []),
    ("2x3x5x5", "Pooling pooling_param { kernel_size: 2 stride: 2 ceil_mode: false }", ["2x3x2x2"], []),
    ("2x3x5x5", "Pooling pooling_param { kernel_size: 2 stride: 2 torch_pooling: true }", ["2x3x2x2"], []),
    ("2x3x5x5", "Pooling pooling_param { kernel_size: 2 stride: 2 pad: 1 }", ["2x3x3x3"], []),
    ("2x3x4x4", "Pooling pooling_param { kernel_size: 2 stride: 2 pad: 1 }", ["2x3x3x3"], []),
    ("2x3x4x5", "Pooling pooling_param { kernel_size: 2 stride: 3 pad_h: 1 pad_w: 0 }", ["2x3x2x2"], []),
    ("2x3x5x5", "Pooling pooling_param { kernel_size: 2 stride: 3 pad: 1 }", ["2x3x2x2"], []),
    ("2x3x4x4", "Pooling pooling_param { kernel_size: 3 stride: 4 pad: 1 }", ["2x3x2x2"], []),
    ("2x3x3x7", "Pooling pooling_param { kernel_h: 2 kernel_w: 3 stride_h: 1 stride_w: 2 pad_h: 0 pad_w: 1 }", ["2x3x2x4"], []),
    ("2x3x?x7", "Pooling pooling_param { kernel_size: 3 }", ["2x3x?x5"], []),
    ("2x3x5x5", "Pooling pooling_param { global_pooling: true }", ["2x3x1x1"], []),
    ("2x3x5x5", "Pooling pooling_param { kernel_size: 5 }", ["2x3x1x1", "2x3x1x1"], []),
    ("2x3x5x5", "Pooling pooling_param { kernel_size: 3 pad: 2 }", ["2x3x7x7"], []),
    ("2x3x8x8", "SPP spp_param { pyramid_height: 3 }", ["2x63"], []),
    ("2x3x8x8", "SPP spp_param { pyramid_height: 1 }", ["2x3x1x1"], []),
    ("2x?x8x8", "SPP spp_param { pyramid_height: 2 }", ["2x?"], []),
    ("2x3x4x8", "SPP spp_param { pyramid_height: 3 }", ["2x63"], []),
    ("2x3x4x5", "Reshape reshape_param { shape { dim: 0 dim: -1 } }", ["2x60"], []),
    ("2x12", "Reshape reshape_param { shape { dim: 3 dim: -1 } axis: 1 }", ["2x3x4"], []),
    ("2x12", "Reshape reshape_param { shape { dim: 1 dim: 1 } axis: -1 num_axes: 0 }", ["2x12x1x1"], []),
    ("2x12", "Reshape reshape_param { shape { dim: 4 dim: 6 } }", ["4x6"], []),
    ("?x12", "Reshape reshape_param { shape { dim: 0 dim: 3 dim: -1 } }", ["?x3x4"], []),
    ("?x12", "Reshape reshape_param { shape { dim: -1 dim: 6 } }", ["?x6"], []),
    ("?", "Reshape reshape_param { shape { dim: 0 dim: 3 dim: -1 } }", ["?x3x?"], []),
    ("2x3x4x5", "Flatten", ["2x60"], []),
    ("2x3x4x5", "Flatten flatten_param { axis: 2 }", ["2x3x20"], []),
    ("2x3x4x5", "Flatten flatten_param { axis: 1 end_axis: 2 }", ["2x12x5"], []),
    ("2x3x4x5", "Flatten flatten_param { axis: 1 end_axis: 1 }", ["2x3x4x5"], []),
    ("2x3 2x4", "Concat", ["2x7"], []),
    ("2x3 4x3", "Concat concat_param { axis: 0 }", ["6x3"], []),
    ("2x3 4x3", "Concat concat_param { concat_dim: 0 }", ["6x3"], []),
    ("2x3x? ?x4x5", "Concat", ["2x7x5"], []),
    ("2x3 2x?", "Concat", ["2x?"], []),
    ("2x3", "Concat", ["2x3"], []),
    ("2x6", "Slice", ["2x2", "2x2", "2x2"], []),
    ("2x6", "Slice slice_param { slice_point: 1 slice_point: 4 }", ["2x1", "2x3", "2x2"], []),
    ("6x2", "Slice slice_param { slice_dim: 0 }", ["3x2", "3x2"], []),
    ("2x?", "Slice slice_param { slice_point: 1 slice_point: 4 }", ["2x1", "2x3", "2x?"], []),
    ("2x?", "Slice", ["2x?", "2x?"], []),
    ("2x6", "Slice slice_param { slice_point: 5 }", ["2x5", "2x1"], []),
    ("2x6", "Split", ["2x6", "2x6", "2x6"], []),
    ("2x3x8x8 1x1x4x5", "Crop", ["2x3x4x5"], []),
    ("2x3x8x8 1x1x4x5", "Crop crop_param { axis: 1 offset: 2 }", ["2x1x4x5"], []),
    ("2x3x8x8 1x1x4x5", "Crop crop_param { offset: 4 offset: 3 }", ["2x3x4x5"], []),
    ("2x3", "Tile tile_param { tiles: 4 }", ["2x12"], []),
    ("2x3", "Tile tile_param { tiles: 4 axis: 0 }", ["8x3"], []),
    ("2x3 5", "BatchReindex", ["5x3"], []),
    ("2x3 2x4 2x1", "Filter", ["?x3", "?x4"], []),
    ("2x3x4", "Reduction", [""], []),
    ("2x3x4", "Reduction reduction_param { axis: 2 }", ["2x3"], []),
    ("2x3x4", "Reduction reduction_param { axis: -1 }", ["2x3"], []),
    ("2x3x4", "ArgMax", ["2x1x1"], []),
    ("2x5", "ArgMax argmax_param { top_k: 5 }", ["2x1x5"], []),
    ("2x3x4x5", "ArgMax argmax_param { out_max_val: true top_k: 3 }", ["2x2x3x1"], []),
    ("2x3x4", "ArgMax argmax_param { axis: 1 top_k: 2 }", ["2x2x4"], []),
    ("2x3 ?x3 2x3", "Eltwise eltwise_param { coeff: 1 coeff: 2 coeff: 2 }", ["2x3"], []),
    ("2x3x9x9", "Convolution convolution_param { num_output: 4 kernel_size: 3 stride: 2 pad: 1 dilation: 2 }", ["2x4x4x4"], ["4x3x3x3", "4"]),
    ("2x3x9x9", "Convolution convolution_param { num_output: 6 kernel_size: 3 kernel_size: 2 stride: 1 stride: 3 group: 3 bias_term: false }", ["2x6x7x3"], ["6x1x3x2"]),
    ("2x3x9x9", "Convolution convolution_param { num_output: 6 kernel_h: 1 kernel_w: 5 pad_h: 0 pad_w: 2 }", ["2x6x9x9"], ["6x3x1x5", "6"]),
    ("2x3x9x9 2x3x9x9", "Convolution convolution_param { num_output: 1 kernel_size: 9 }", ["2x1x1x1", "2x1x1x1"], ["1x3x9x9", "1"]),
    ("2x3x9x9", "Convolution convolution_param { num_output: 1 kernel_size: 3 hole: 4 }", ["2x1x1x1"], ["1x3x3x3", "1"]),
    ("2x3x9x9", "Convolution convolution_param { num_output: 1 kernel_size: 3 hole_h: 2 hole_w: 3 }", ["2x1x5x3"], ["1x3x3x3", "1"]),
    ("2x3x9x9", "Convolution convolution_param { num_output: 1 kernel_size: 3 hole_w: 3 }", ["2x1x7x3"], ["1x3x3x3", "1"]),
    ("2x3x9", "Convolution convolution_param { num_output: 1 kernel_size: 3 }", ["2x1x7"], ["1x3x3", "1"]),
    ("2x3x9x9", "Convolution convolution_param { num_output: 1 kernel_size: 3 axis: 2 }", ["2x3x1x7"], ["1x9x3", "1"]),
    ("?x?x9x9", "Convolution convolution_param { num_output: 4 kernel_size: 3 group: 2 }", ["?x4x7x7"], ["4x?x3x3", "4"]),
    ("?", "Convolution convolution_param { num_output: 4 kernel_size: 3 }", ["?x4x?x?"], ["4x?x3x3", "4"]),
    ("?", "Convolution convolution_param { num_output: 4 kernel_size: [1, 2, 3] }", ["?x4x?x?x?"], ["4x?x1x2x3", "4"]),
    ("2x4x5x5", "Deconvolution convolution_param { num_output: 6 kernel_size: 3 stride: 2 pad: 1 group: 2 }", ["2x6x9x9"], ["4x3x3x3", "6"]),
    ("2x4x5x5", "Deconvolution convolution_param { num_output: 6 kernel_size: 3 dilation: 2 bias_term: false }", ["2x6x9x9"], ["4x6x3x3"]),
    ("2x3x9x9", "Im2col convolution_param { kernel_size: 3 stride: 2 }", ["2x27x4x4"], []),
    ("2x3x4", "InnerProduct inner_product_param { num_output: 5 }", ["2x5"], ["5x12", "5"]),
    ("2x3x4", "InnerProduct inner_product_param { num_output: 5 axis: 2 }", ["2x3x5"], ["5x4", "5"]),
    ("2x3x4", "InnerProduct inner_product_param { num_output: 5 transpose: true bias_term: false }", ["2x5"], ["12x5"]),
    ("?", "InnerProduct inner_product_param { num_output: 5 axis: 2 }", ["?x?x5"], ["5x?", "5"]),
    ("?", "InnerProduct inner_product_param { num_output: 5 axis: 0 }", ["5"], ["5x?", "5"]),
    ("?", "InnerProduct inner_product_param { num_output: 5 axis: 32 }", ["?"], ["5x?", "5"]),
    ("2x3", "Embed embed_param { num_output: 5 input_dim: 7 }", ["2x3x5"], ["7x5", "5"]),
    ("2x3", "Embed embed_param { num_output: 5 input_dim: 7 bias_term: false }", ["2x3x5"], ["7x5"]),
    ("2x3x4", "BatchNorm", ["2x3x4"], ["3", "3", "1"]),
    ("2x3x4", "BatchNorm batch_norm_param { scale_bias: true }", ["2x3x4"], ["3", "3", "1", "3", "3"]),
    ("2x3x4", "Scale scale_param { bias_term: true }", ["2x3x4"], ["3", "3"]),
    ("2x3x4", "Scale scale_param { num_axes: 2 }", ["2x3x4"], ["3x4"]),
    ("2x3x4", "Scale scale_param { num_axes: -1 }", ["2x3x4"], ["3x4"]),
    ("2x3x4", "Scale scale_param { num_axes: 0 }", ["2x3x4"], [""]),
    ("2x3x4", "Scale scale_param { axis: -1 }", ["2x3x4"], ["4"]),
    ("2x3x4 3x4", "Scale scale_param { bias_term: true }", ["2x3x4"], ["3x4"]),
    ("2x3x4 2", "Scale scale_param { axis: 0 }", ["2x3x4"], []),
    ("2x3x4", "Bias", ["2x3x4"], ["3"]),
    ("2x3x4 3", "Bias", ["2x3x4"], []),
    ("2x3x4x4", "LRN lrn_param { local_size: 3 }", ["2x3x4x4"], []),
    ("2x3x4x4", "MVN", ["2x3x4x4"], []),
    ("4x2x3 4x2", "LSTM recurrent_param { num_output: 5 }", ["4x2x5"], ["20x3", "20", "20x5"]),
    ("4x2x3 4x2", "RNN recurrent_param { num_output: 5 }", ["4x2x5"], ["5x3", "5", "5x5", "5x5", "5"]),
    ("4x2x3 4x2 2x7", "LSTM recurrent_param { num_output: 5 }", ["4x2x5"], ["20x3", "20", "20x7", "20x5"]),
    ("4x2x3 4x2 2x7", "RNN recurrent_param { num_output: 5 }", ["4x2x5"], ["5x3", "5", "5x7", "5x5", "5x5", "5"]),
    ("4x2x3 4x2 1x2x5 1x2x5", "LSTM recurrent_param { num_output: 5 expose_hidden: true }", ["4x2x5", "1x2x5", "1x2x5"], ["20x3", "20", "20x5"]),
    ("4x2x3 4x2 1x2x5", "RNN recurrent_param { num_output: 5 expose_hidden: true }", ["4x2x5", "1x2x5"], ["5x3", "5", "5x5", "5x5", "5"]),
    ("4x5 4", "SoftmaxWithLoss", [""], []),
    ("4x5 4", "SoftmaxWithLoss", ["", "4x5"], []),
    ("4x5x2x2 4x2x2", "SoftmaxWithLoss", [""], []),
    ("4x5x2x2 4x1x2x2", "SoftmaxWithLoss", [""], []),
    ("4x5 4 5x5", "InfogainLoss", [""], []),
    ("4x5 4 5x5", "InfogainLoss", ["", "4x5"], []),
    ("4x5 4 1x1x5x5", "InfogainLoss", [""], []),
    ("", "DummyData dummy_data_param { num: 2 channels: 3 height: 4 width: 5 }", ["2x3x4x5"], []),
    ("", "DummyData dummy_data_param { num: [2, 3] channels: [3, 1] height: [4, 1] width: [5, 1] }", ["2x3x4x5", "3x1x1x1"], []),
    ("", "DummyData dummy_data_param { shape { dim: 2 dim: 3 } data_filler { } }", ["2x3", "2x3"], []),
    ("", "MemoryData memory_data_param { batch_size: 2 channels: 3 height: 4 width: 5 }", ["2x3x4x5", "2"], []),
    ("", "Input input_param { shape { dim: 2 } shape { dim: 3 } }", ["2", "3"], []),
    ("", "ImageData image_data_param { batch_size: 2 new_height: 9 new_width: 8 } transform_param { crop_size: 8 }", ["2x3x8x8", "2"], []),
    ("", "Data data_param { batch_size: 2 } transform_param { force_color: true }", ["2x3x?x?", "2"], []),
    ("", "WindowData window_data_param { batch_size: 2 crop_size: 9 } transform_param { crop_size: 7 }", ["2x?x7x7", "2"], []),
    ("", "AnnotatedData data_param { batch_size: 2 } transform_param { crop_size: 7 force_gray: true }", ["2x1x7x7", "1x1x?x8"], []),
    ("2x8x4x6", "Reorg reorg_param { stride: 2 }", ["2x32x2x3"], []),
    ("2x8x4x6", "Reorg reorg_param { stride: 2 reverse: true }", ["2x2x8x12"], []),
    ("2x8 2", "RegionLoss", ["", "?", "?"], []),
    # settings of the least value that is allowed
    ("2x1x3x2 7x5", "PSROIPooling psroi_pooling_param { output_dim: 1 group_size: 1 }", ["7x1x1x1"], []),
    ("2x8x3x2 7x5", "ROIPooling roi_pooling_param { pooled_h: 1 pooled_w: 1 }", ["7x8x1x1"], []),
    ("2x8x3x2", "Unpooling unpooling_param { kernel_size: 1 }", ["2x8x4x3"], []),
    ("2x8x3x2", "Upsample upsample_param { scale: 1 }", ["2x8x3x2"], []),
    ("2x8x3x2", "Interp interp_param { zoom_factor: 1 shrink_factor: 1 }", ["2x8x3x2"], []),
    ("2x8x3x2", "Interp interp_param { height: 1 width: 1 }", ["2x8x1x1"], []),
    ("2x8x3x2", "ShuffleChannel shuffle_channel_param { group: 1 }", ["2x8x3x2"], []),
    ("2x7 2", "CenterLoss center_loss_param { num_output: 1 }", [""], ["1x7"]),
    ("4x7", "Lstm lstm_param { num_output: 1 batch_size: 1 }", ["4x1x1"], ["4x7", "4x1", "4"]),
    ("4x2x3 4x2", "LSTM recurrent_param { num_output: 1 }", ["4x2x1"], ["4x3", "4", "4x1"]),
    ("4x2 4x2", "LSTM recurrent_param { num_output: 1 }", ["4x2x1"], ["4x1", "4", "4x1"]),
    ("2x3", "Tile tile_param { tiles: 1 }", ["2x3"], []),
    ("2x3x1x1", "Pooling pooling_param { kernel_size: 1 stride: 1 }", ["2x3x1x1"], []),
    ("2x3x1x1", "Convolution convolution_param { num_output: 1 kernel_size: 1 group: 1 }", ["2x1x1x1"], ["1x3x1x1", "1"]),
    ("2x3", "ArgMax argmax_param { top_k: 1 }", ["2x1x1"], []),
    ("2x8 2", "DetectionEvaluate", ["1x1x?x5"], []),
    ("2x8 2", "YoloDetectionOutput", ["1x1x?x7"], []),
    ("2x8", "Yolov3DetectionOutput", ["1x1x?x7"], []),
    ("2x8 2x4 1x3", "DetectionOutput", ["1x1x?x7"], []),
    ("1x18x4x4 1x36x4x4 1x3", "Proposal", ["?x5", "?x1"], []),
    ("9x2 9x8 1x9 1x8", "BoxAnnotatorOHEM", ["1x9", "1x8"], []),
    ("9x2 9", "SoftmaxWithLossOHEM", [""], []),
    ("9x2 9", "SmoothL1LossOHEM", ["", "?", "?"], []),
    ("2x8 2", "Yolov3", [""], []),
    ("2x?x4x6", "Reorg reorg_param { stride: 2 reverse: true }", ["2x?x8x12"], []),
    ("2x8x?x6", "Reorg reorg_param { stride: 2 }", ["2x32x?x3"], []),
    ("2x9x4x6", "Reorg reorg_param { stride: 3 reverse: true }", ["2x1x12x18"], []),
    ("2x8x4x6", "Reorg reorg_param { stride: 1 }", ["2x8x4x6"], []),
    ("2x8x3x2 1x3x9x9", "PriorBox prior_box_param { min_size: 6 min_size: 9 aspect_ratio: 2 aspect_ratio: 2.0000001 aspect_ratio: 0.5 }", ["1x2x144"], []),
    ("2x8x3x2 1x3x9x9", "PriorBox prior_box_param { min_size: 6 max_size: 9 aspect_ratio: 2 flip: false }", ["1x2x72"], []),
    ("2x8x3x2 1x3x9x9", "PriorBox prior_box_param { min_size: 6 aspect_ratio: 0 }", ["1x2x48"], []),
    ("", "AnnotatedData data_param { batch_size: 2 } transform_param { crop_h: 5 crop_w: 6 crop_size: 7 resize_param { height: 8 width: 9 } }", ["2x3x5x6"], []),
    ("", "AnnotatedData data_param { batch_size: 2 } transform_param { resize_param { height: 8 width: 9 } resize_param { height: 8 width: 7 } }", ["2x3x8x?"], []),
    ("", "AnnotatedData data_param { batch_size: 2 }", ["2x3x?x?", "1x1x?x8"], []),
    ("", "ImageData image_data_param { batch_size: 1 new_height: 8 new_width: 8 is_color: false } transform_param { crop_size: 8 }", ["1x1x8x8", "1"], []),
    ("", "ImageData image_data_param { batch_size: 1 new_height: 1 new_width: 1 }", ["1x3x1x1", "1"], []),
    ("", "MemoryData memory_data_param { batch_size: 1 channels: 1 height: 1 width: 1 }", ["1x1x1x1", "1"], []),
    ("", "Data data_param { batch_size: 1 } transform_param { force_gray: true crop_size: 5 }", ["1x1x5x5"], []),
    ("", "WindowData window_data_param { batch_size: 1 crop_size: 1 }", ["1x?x1x1", "1"], []),
    ("2x3", "InnerProduct inner_product_param { num_output: 1 }", ["2x1"], ["1x3", "1"]),
    ("2", "Embed embed_param { num_output: 1 input_dim: 1 }", ["2x1"], ["1x1", "1"]),
    ("?", "InnerProduct inner_product_param { num_output: 5 axis: 31 }", ["x".join("?" * 31 + "5")], ["5x?", "5"]),
    ("4x3 ?", "SoftmaxWithLoss", [""], []),
    ("? 4", "SoftmaxWithLoss", ["", "?"], []),
    ("? 4 5x5", "InfogainLoss", ["", "?"], []),
    ("4x5 4", 'InfogainLoss infogain_loss_param { source: "h" }', [""], []),
    ("? 4", "Accuracy", ["", "?"], []),
    ("4x? 4", "Accuracy accuracy_param { top_k: 9 }", ["", "?"], []),
    ("? 4x5", "HingeLoss", [""], []),
    ("? 4x5 4", "ContrastiveLoss", [""], []),
    ("2x3", "PReLU", ["2x3"], ["3"]),
    ("2x3x4", "PReLU prelu_param { channel_shared: true }", ["2x3x4"], [""]),
    ("2x3x4x5x6", "ArgMax", ["2x1x1x1x1"], []),
    ("4x5 4", "SoftmaxWithFocalLoss", ["", "4x5"], []),
    ("4x5 4x5", "L1Loss", [""], []),
    ("4x5 4x5", "SigmoidCrossEntropyLoss", [""], []),
    ("4x5 4x1x5", "SigmoidCrossEntropyLoss", [""], []),
    ("4x5 4x5x1", "EuclideanLoss", [""], []),
    ("4x5 4", "HingeLoss", [""], []),
    ("4x5 4", "MultinomialLogisticLoss", [""], []),
    ("4x5 4x5 4", "ContrastiveLoss", [""], []),
    ("4x5x1x1 4x5 4", "ContrastiveLoss", [""], []),
    ("4x5 4", "Accuracy", [""], []),
    ("4x5 4", "Accuracy", ["", "5"], []),
    ("4x5 4", "Accuracy accuracy_param { top_k: 5 }", [""], []),
    ("4x5x3 4x3", "Accuracy accuracy_param { axis: 1 }", ["", "5"], []),
    ("4x5x3 4x5", "Accuracy accuracy_param { axis: 2 }", ["", "3"], []),
])  # fmt: skip
def test_shapes(bottoms: str, layer: str, tops: list[str], params: list[str]) -> None:
    found = run(bottoms, layer, len(tops))
    assert (written(found[0]), written(found[1])) == (tops, params)


@pytest.mark.parametrize(("bottoms", "layer", "tops", "message"), [
    ("2x3x5x5", "Pooling pooling_param { kernel_size: 6 }", 1, "the kernel 6x6 does not fit the input 5x5"),
    ("2x3x5x5", "Pooling pooling_param { kernel_size: 2 pool: AVE }", 2, "only MAX pooling has a second top, the mask"),
    ("2x3x5x5", "Pooling pooling_param { kernel_size: 2 kernel_h: 2 kernel_w: 2 }", 1, "the kernel must be kernel_size, or kernel_h and kernel_w"),
    ("2x3x5x5", "Pooling pooling_param { kernel_h: 2 }", 1, "the kernel must be kernel_size, or kernel_h and kernel_w"),
    ("2x3x5x5", "Pooling pooling_param { kernel_size: 2 kernel_h: 2 }", 1, "the kernel must be kernel_size, or kernel_h and kernel_w"),
    ("2x3x5x5", "Pooling pooling_param { global_pooling: true kernel_size: 2 }", 1, "global_pooling takes its kernel from the input"),
    ("2x3x5x5", "Pooling pooling_param { global_pooling: true kernel_w: 2 }", 1, "global_pooling takes its kernel from the input"),
    ("2x3x5x5", "Pooling pooling_param { global_pooling: true pad: 1 }", 1, "global_pooling takes pad 0 and stride 1 only"),
    ("2x3x5x5", "Pooling pooling_param { global_pooling: true stride: 2 }", 1, "global_pooling takes pad 0 and stride 1 only"),
    ("2x3x5x5", "Pooling pooling_param { kernel_size: 2 pad_h: 1 }", 1, "give either pad, or both pad_h and pad_w"),
    ("2x3x5x5", "Pooling pooling_param { kernel_size: 2 stride: 2 stride_h: 1 stride_w: 1 }", 1, "give either stride, or both stride_h and stride_w"),
    ("", "DummyData dummy_data_param { shape { dim: 2 } num: 1 }", 1, "shape and num/channels/height/width are both given"),
    ("", "DummyData dummy_data_param { shape { dim: 2 } data_filler { } data_filler { } }", 3, "2 fillers for 3 tops"),
    ("", "DummyData dummy_data_param { num: 2 channels: 3 height: 4 }", 1, "must be given equally often"),
    ("", "DummyData", 1, "must be given equally often, at least once"),
    ("", "DummyData dummy_data_param { shape { dim: 2 } shape { dim: 2 } }", 3, "shape is given 2 times for 3 tops"),
    ("", "MemoryData memory_data_param { batch_size: 2 channels: 3 height: 4 width: 0 }", 2, "must all be at least 1"),
    ("", "ImageData image_data_param { new_height: 9 new_width: 7 } transform_param { crop_size: 8 }", 2, "crop_size 8 is larger than the pictures (9x7)"),
    ("", "ImageData image_data_param { new_height: 7 new_width: 9 } transform_param { crop_size: 8 }", 2, "crop_size 8 is larger than the pictures (7x9)"),
    ("", "ImageData image_data_param { new_width: 9 }", 2, "new_height and new_width must be given together"),
    ("", "Data data_param { batch_size: 2 } transform_param { force_color: true force_gray: true }", 1, "exclude each other"),
    ("", "Data data_param { batch_size: 0 }", 1, "batch_size must be at least 1"),
    ("2x8x4x6", "Reorg reorg_param { stride: 0 }", 1, "stride must be at least 1"),
    ("2x8x4x6", "Reorg reorg_param { stride: 3 reverse: true }", 1, "8 does not divide by 9"),
    ("2x8x4x6", "Reorg reorg_param { stride: 4 }", 1, "6 does not divide by 4"),
    ("2x8x3x2 1x3x9x9", "PriorBox prior_box_param { min_size: 6 max_size: 9 max_size: 12 }", 1, "2 max_size for 1 min_size"),
    ("2x8x3x2 7x5", "ROIPooling roi_pooling_param { pooled_h: 3 }", 1, "must be at least 1"),
    ("2x8x3x2 7x5", "ROIPooling roi_pooling_param { pooled_w: 3 }", 1, "must be at least 1"),
    ("2x8x3x2 7x5", "PSROIPooling psroi_pooling_param { output_dim: 3 }", 1, "must be at least 1"),
    ("", "ImageData image_data_param { new_height: 9 }", 2, "new_height and new_width must be given together"),
    ("", "WindowData window_data_param { batch_size: 1 }", 2, "crop_size must be at least 1"),
    ("", 'HDF5Data hdf5_data_param { source: "h" batch_size: 2 } transform_param { }', 1, "does not transform data"),
    ("", "MemoryData memory_data_param { batch_size: 0 channels: 3 height: 4 width: 5 }", 2, "must all be at least 1"),
    ("", "Input input_param { shape { dim: 2 dim: -1 } }", 1, "-1"),
    ("2x3", "InnerProduct inner_product_param { num_output: 0 }", 1, "num_output must be at least 1"),
    ("2", "PReLU", 1, "2 axes"),
    ("4x5 4", "InfogainLoss", 1, "the infogain matrix is missing"),
    ("4x6 4x5 4", "ContrastiveLoss", 1, "both feature bottoms must have as many channels"),
    ("4x5 4x5x2 4", "ContrastiveLoss", 1, "features must be vectors, not 4x5x2"),
    ("2x3 2x3", "Eltwise eltwise_param { coeff: 1 }", 1, "coefficient"),
    ("2x3 2x4", "Eltwise", 1, "2x4"),
    ("2x3x5x5", "Pooling pooling_param { kernel_h: 0 kernel_w: 2 }", 1, "kernel and stride must be at least 1"),
    ("2x3x5x5", "Pooling pooling_param { kernel_size: 2 stride_h: 1 stride_w: 0 }", 1, "kernel and stride must be at least 1"),
    ("2x3x5x5", "Pooling pooling_param { kernel_h: 2 kernel_w: 3 pad_h: 1 pad_w: 0 pool: STOCHASTIC }", 1, "STOCHASTIC pooling takes no pad"),
    ("2x3x5x5", "Pooling pooling_param { kernel_h: 6 kernel_w: 2 }", 1, "the kernel 6x2 does not fit the input 5x5"),
    ("2x3x5x5", "Pooling pooling_param { global_pooling: true pad_h: 1 pad_w: 0 }", 1, "global_pooling takes pad 0"),
    ("2x3x5x5", "Pooling pooling_param { kernel_size: 0 }", 1, "kernel and stride must be at least 1"),
    ("2x3x5x5", "Pooling pooling_param { kernel_size: 2 stride: 0 }", 1, "kernel and stride must be at least 1"),
    ("2x3x5x5", "Pooling pooling_param { kernel_size: 3 pad: 1 pool: STOCHASTIC }", 1, "STOCHASTIC pooling takes no pad"),
    ("2x3x5x5", "Pooling pooling_param { kernel_size: 3 pad: 3 }", 1, "the pad 3x3 must be smaller than the kernel 3x3"),
    ("2x3x5x5", "Pooling pooling_param { kernel_h: 3 kernel_w: 2 pad_h: 2 pad_w: 2 }", 1, "the pad 2x2 must be smaller than the kernel 3x2"),
    ("2x3x3x8", "SPP spp_param { pyramid_height: 3 }", 1, "the input 3x8 is smaller than the pyramid's finest level (4x4)"),
    ("2x3x8x8", "SPP spp_param { pyramid_height: 0 }", 1, "pyramid_height must be at least 1"),
    ("2x3x?x?", "SPP spp_param { pyramid_height: 16 }", 1, "a blob of 2x4294967295 has 8589934590 elements, more than Caffe's 2147483647"),
    ("2x3x?x?", "SPP spp_param { pyramid_height: 17 }", 1, "pyramid_height must be at most 16, not 17"),
    ("2x3x8x8", "SPP spp_param { pyramid_height: 2 pool: STOCHASTIC }", 1, "SPP pools by MAX or AVE only"),
    ("2x3x8", "SPP spp_param { pyramid_height: 2 }", 1, "the bottom must have 4 axes (num, channels, height, width), not 2x3x8"),
    ("2x3x4x5", "Reshape reshape_param { shape { dim: -1 dim: 5 } axis: 1 num_axes: 2 }", 1, "the bottom 2x3x4x5 does not divide into 2x?x5x5"),
    ("2x12", "Reshape reshape_param { shape { dim: 5 dim: -1 } }", 1, "the bottom 2x12 does not divide into 5x?"),
    ("2x12", "Reshape reshape_param { shape { dim: 5 dim: 5 } }", 1, "the new shape 5x5 has 25 elements, the bottom 2x12 has 24"),
    ("2x12", "Reshape reshape_param { shape { dim: -2 } }", 1, "the new shape has a dimension below -1: [-2]"),
    ("2x12", "Reshape reshape_param { shape { dim: 2 } num_axes: -2 }", 1, "num_axes must be -1 or more, not -2"),
    ("2x12", "Reshape reshape_param { shape { dim: 2 } axis: 3 }", 1, "axis 3 is out of range for a blob of 2 axes (2x12)"),
    ("2x12", "Reshape reshape_param { shape { dim: 2 dim: 12 dim: 1 } axis: 0 num_axes: 3 }", 1, "axis 0 and 3 axes more go beyond the bottom 2x12"),
    ("2x12", "Reshape reshape_param { shape { dim: 2 dim: 12 dim: 0 } }", 1, "a dimension 0 copies axis 2, which the bottom 2x12 does not have"),
    ("2x3x4x5", "Flatten flatten_param { axis: 2 end_axis: 1 }", 1, "end_axis 1 comes before axis 2"),
    ("2x3 2x3x1", "Concat", 1, "bottoms 2x3 and 2x3x1 differ outside axis 1"),
    ("2x3 2x3", "Concat concat_param { axis: 1 concat_dim: 1 }", 1, "axis and concat_dim are both given"),
    ("2x6", "Slice slice_param { slice_point: 6 }", 2, "the slice points [6] must rise, between 0 and the axis' size 6"),
    ("2x6", "Slice slice_param { slice_point: 0 }", 2, "the slice points [0] must rise, between 0 and the axis' size 6"),
    ("2x6", "Slice slice_param { slice_point: 3 slice_point: 3 }", 3, "the slice points [3, 3] must rise, between 0 and the axis' size 6"),
    ("2x6", "Slice slice_param { axis: 1 slice_dim: 1 }", 2, "axis and slice_dim are both given"),
    ("2x3x8x8 1x1x4x5", "Crop crop_param { offset: 3 offset: 4 }", 1, "axis 3: 5 elements from 4 on go beyond the bottom's 8"),
    ("2x3x8x8 1x1x4x5", "Crop crop_param { offset: 3 offset: 3 offset: 3 }", 1, "3 offsets for 2 cropped axes"),
    ("2x3x8x8 4x5", "Crop", 1, "bottoms must have as many axes as each other, not 2x3x8x8 and 4x5"),
    ("2x3 5x1", "BatchReindex", 1, "the indices must have 1 axis, not 5x1"),
    ("2x3 2x4 2x1", "Filter", 1, "2 bottoms before the selector need as many tops, not 1"),
    ("2x3 2x2", "Filter", 1, "the selector must hold one number per row, not 2x2"),
    ("2x3 3", "Filter", 1, "bottoms must have as many rows as the selector: 2x3 and 3"),
    ("2x3x4", "ArgMax argmax_param { axis: 1 top_k: 4 }", 1, "top_k is 4, but there are only 3 values to choose from"),
    ("2x3x4", "ArgMax argmax_param { top_k: 0 }", 1, "top_k must be at least 1"),
    ("2x3 2x3", "Eltwise eltwise_param { coeff: 1 coeff: 2 operation: PROD }", 1, "a product takes no coefficients"),
    ("2x3x9x9", "Convolution convolution_param { num_output: 1 kernel_size: 10 }", 1, "the kernel, 10x10 with its dilation, does not fit the input, 9x9 without pad"),
    ("2x3x9", "Convolution convolution_param { num_output: 1 kernel_h: 3 kernel_w: 3 }", 1, "kernel_h and kernel_w need 2 spatial axes, but the bottom has 1"),
    ("?", "Convolution convolution_param { num_output: 4 kernel_size: 3 axis: 32 }", 1, "axis 32 is out of range: Caffe's blobs have 32 axes at most"),
    ("2x3x9x9", "Convolution convolution_param { num_output: 4 kernel_size: 3 group: 2 }", 1, "the 3 input channels do not divide into 2 groups"),
    ("2x4x9x9", "Convolution convolution_param { num_output: 3 kernel_size: 3 group: 2 }", 1, "num_output 3 does not divide into 2 groups"),
    ("2x4x9x9", "Convolution convolution_param { num_output: 4 kernel_size: 3 group: 0 }", 1, "group must be at least 1"),
    ("2x4x9x9", "Convolution convolution_param { num_output: 4 kernel_size: 3 stride: 0 }", 1, "stride sizes must be at least 1, not 0x0"),
    ("2x4x9x9", "Convolution convolution_param { num_output: 4 kernel_size: 3 dilation: 0 }", 1, "dilation sizes must be at least 1, not 0x0"),
    ("2x4x9x9 2x4x9x8", "Convolution convolution_param { num_output: 4 kernel_size: 3 }", 2, "all bottoms must have one shape, not 2x4x9x9 and 2x4x9x8"),
    ("2x4x1x1", "Deconvolution convolution_param { num_output: 6 kernel_size: 2 pad: 1 }", 1, "the kernel, 2x2 with its dilation, does not fit the input, 1x1 without pad"),
    ("2x3", "Embed embed_param { num_output: 5 }", 1, "input_dim must be at least 1"),
    ("2x3", "Embed embed_param { input_dim: 5 }", 1, "num_output must be at least 1"),
    ("2x3x4", "Scale scale_param { num_axes: -2 }", 1, "num_axes must be -1 or more, not -2"),
    ("2x3x4", "Scale scale_param { axis: 2 num_axes: 2 }", 1, "axis 2 and 2 axes more go beyond the bottom 2x3x4"),
    ("2x3x4 4", "Scale", 1, "the second bottom 4 does not fit the first 2x3x4 from axis 1 on"),
    ("2x3x4 3x4x1", "Scale", 1, "the second bottom 3x4x1 does not fit the first 2x3x4 from axis 1 on"),
    ("2x3x4", "LRN", 1, "the bottom must have 4 axes (num, channels, height, width), not 2x3x4"),
    ("2x3x4x4x4", "MVN", 1, "the bottom must have at most 4 axes, not 2x3x4x4x4"),
    ("4x2x3 4x2", "LSTM recurrent_param { num_output: 5 expose_hidden: true }", 3, "it takes 4 bottoms (or one more, the static input) and 3 tops, but has 2 and 3"),
    ("4x2x3 4x2", "LSTM recurrent_param { num_output: 0 }", 1, "num_output must be at least 1"),
    ("4x2x3 2x4", "LSTM recurrent_param { num_output: 5 }", 1, "the markers must be [T, N] like the input's first axes, not 2x4 for 4x2x3"),
    ("4 4x2", "LSTM recurrent_param { num_output: 5 }", 1, "the input must be [T, N, ...] and the markers [T, N], not 4 and 4x2"),
    ("4x5 5", "SoftmaxWithLoss", 1, "predictions 4x5 need 4 labels, but 5 holds 5"),
    ("4x5 4x5", "SoftmaxWithLoss", 1, "predictions 4x5 need 4 labels, but 4x5 holds 20"),
    ("4x5 4", "SoftmaxWithLoss softmax_param { axis: 0 }", 1, "predictions 4x5 need 5 labels, but 4 holds 4"),
    ("4x5 4 4x5", "InfogainLoss", 1, "the infogain matrix must be 5x5, not 4x5"),
    ("4x5 5x4", "SigmoidCrossEntropyLoss", 1, "predictions 4x5 and labels 5x4 must have the same first dimension"),
    ("4x5 4x6", "SigmoidCrossEntropyLoss", 1, "both bottoms must have as many elements, not 4x5 and 4x6"),
    ("4x5 4x6", "EuclideanLoss", 1, "both bottoms must have as many elements, not 4x5 and 4x6"),
    ("4x5 3x5", "EuclideanLoss", 1, "predictions 4x5 and labels 3x5 must have the same first dimension"),
    ("4x5 5", "HingeLoss", 1, "predictions 4x5 and labels 5 must have the same first dimension"),
    ("4x5 4x2", "MultinomialLogisticLoss", 1, "labels must be one per row, not 4x2"),
    ("4x5x2 4x5 4", "ContrastiveLoss", 1, "features must be vectors, not 4x5x2"),
    ("4x5 4x6 4", "ContrastiveLoss", 1, "both feature bottoms must have as many channels, not 4x5 and 4x6"),
    ("4x5 4x5 4x2", "ContrastiveLoss", 1, "labels must be one per pair, not 4x2"),
    ("4x5 4", "Accuracy accuracy_param { top_k: 6 }", 1, "top_k is 6, but there are only 5 classes"),
])  # fmt: skip
def test_refusals(bottoms: str, layer: str, tops: int, message: str) -> None:
    with pytest.raises(ShapeError, match=re.escape(message)):
        run(bottoms, layer, tops)


@pytest.mark.parametrize(("size", "kernel", "stride", "pad", "up", "clipped", "down"), [
    (5, 2, 2, 0, 3, 3, 2), (5, 2, 3, 1, 3, 2, 2), (4, 2, 2, 0, 2, 2, 2), (4, 2, 2, 1, 3, 3, 3), (None, 2, 2, 0, None, None, None),
])  # fmt: skip
def test_pooled_sizes(
    size: int | None, kernel: int, stride: int, pad: int, up: int | None, clipped: int | None, down: int | None
) -> None:
    assert pooled_size(size, kernel, stride, pad, clip=False) == up
    assert pooled_size(size, kernel, stride, pad, clip=True) == clipped
    assert pooled_size(size, kernel, stride, pad, clip=False, floor=True) == down


def test_dimensions() -> None:
    assert (product([]), product([2, 3]), product([2, None])) == (1, 6, None)
    assert (count((2, 3, 4)), count((2, 3, 4), 1), count((2, 3, 4), 1, 2), count(UNKNOWN)) == (24, 12, 3, None)
    assert (agree(1, 1), agree(1, 2), agree(None, 2), agree(1, None)) == (True, False, True, True)
    assert (known_of(None, 2), known_of(1, None), known_of(None, None)) == (2, 1, None)
    assert [is_known(shape) for shape in ((), (1,), (1, None), UNKNOWN)] == [True, True, False, False]
    assert shapes_agree((1, None), (1, 2))
    assert not shapes_agree((1, None), (2, 2))
    assert not shapes_agree((1,), (1, 1))
    assert shapes_agree(UNKNOWN, (1,))
    assert shapes_agree((1,), UNKNOWN)
    assert merge_shapes([(1, None), (None, 2)]) == (1, 2)
    assert merge_shapes([UNKNOWN, (None, 2), UNKNOWN, (3, None)]) == (3, 2)
    assert merge_shapes([UNKNOWN, UNKNOWN]) is UNKNOWN
    assert [canonical_axis((5, 6, 7), axis) for axis in (-3, -1, 0, 2)] == [0, 2, 0, 2]
    assert (count_text(0, "top"), count_text(1, "top"), count_text(2, "top")) == ("0 tops", "1 top", "2 tops")
    assert (text(()), text((1, None, 3)), text(UNKNOWN)) == ("scalar", "1x?x3", "unknown shape")


@pytest.mark.parametrize(("shape", "axis", "hint"), [
    ((5, 6), 2, "use an axis from -2 to 1"), ((5, 6), -3, "use an axis from -2 to 1"), ((), 0, None),
])  # fmt: skip
def test_axes_that_are_not_there(shape: Shape, axis: int, hint: str | None) -> None:
    with pytest.raises(ShapeError, match=f"axis {axis} is out of range for a blob of {len(shape)} axes") as caught:
        canonical_axis(shape, axis)
    assert caught.value.hint == hint


def cost(layers: str, shape: str = "2x3x8x8") -> tuple[list[Cost], Cost, int | None]:
    given = {"x": tuple(None if dim == "?" else int(dim) for dim in shape.split("x"))}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = prototxt.load_net(prototxt.parse('layer { name: "x" type: "Input" top: "x" }\n' + layers))
    shapes = infer(net, given)
    return layer_costs(net, shapes), net_cost(net, shapes), peak_activations(net, shapes)


def one(kind: str, settings: str = "", name: str = "l", bottom: str = "x") -> str:
    return f'layer {{ name: "{name}" type: "{kind}" bottom: "{bottom}" top: "{name}" {settings} }}\n'


@pytest.mark.parametrize(("layer", "expected"), [
    (one("Convolution", "convolution_param { num_output: 4 kernel_size: 3 pad: 1 }"), (2 * 4 * 64 * 27, 4 * 27 + 4, 0, 512)),
    (one("Convolution", "convolution_param { num_output: 6 kernel_size: 3 pad: 1 group: 3 }"), (2 * 6 * 64 * 9, 6 * 9 + 6, 0, 768)),
    (one("Deconvolution", "convolution_param { num_output: 4 kernel_size: 2 stride: 2 bias_term: false }"), (2 * 3 * 64 * 16, 48, 0, 2048)),
    (one("InnerProduct", "inner_product_param { num_output: 5 }"), (2 * 192 * 5, 192 * 5 + 5, 0, 10)),
    (one("InnerProduct", "inner_product_param { num_output: 5 axis: 3 bias_term: false }"), (48 * 8 * 5, 40, 0, 240)),
    (one("BatchNorm"), (0, 0, 7, 384)),
    (one("BatchNorm", "batch_norm_param { scale_bias: true }"), (0, 6, 7, 384)),
    (one("Scale", "scale_param { bias_term: true }"), (0, 6, 0, 384)),
    ('layer { name: "l" type: "ReLU" bottom: "x" top: "x" }', (0, 0, 0, 0)),
    (one("Pooling", "pooling_param { kernel_size: 2 stride: 2 }"), (0, 0, 0, 96)),
])  # fmt: skip
def test_the_cost_of_a_layer(layer: str, expected: tuple[int, int, int, int]) -> None:
    layers, whole, _ = cost(layer)
    assert layers[-1] == Cost(*expected)
    assert layers[0] == Cost(0, 0, 0, 384)
    assert whole == Cost(*expected[:3], expected[3] + 384)


def test_the_cost_of_a_recurrent_layer_is_its_matrices_at_each_step() -> None:
    text = 'layer { name: "c" type: "Input" top: "c" input_param { shape { dim: 4 dim: 2 } } }\n'
    text += one("LSTM", 'bottom: "c" recurrent_param { num_output: 5 }')
    layers, *_ = cost(text, "4x2x3")
    assert layers[-1] == Cost(8 * (60 + 100), 60 + 20 + 100, 0, 40)


def test_unknown_sizes_give_unknown_costs() -> None:
    layers, whole, peak = cost(one("Convolution", "convolution_param { num_output: 4 kernel_size: 3 }"), "?x3x8x8")
    assert layers[-1] == Cost(None, 112, 0, None)
    assert whole == Cost(None, 112, 0, None)
    assert peak is None


def test_shared_parameters_count_once_in_the_net() -> None:
    shared = 'param { name: "w" } param { name: "%s" } inner_product_param { num_output: 192 axis: 1 }'
    text = one("InnerProduct", shared % "b", "a") + one("InnerProduct", shared % "", "c", "a")
    layers, whole, _ = cost(text)
    assert [layer.params for layer in layers] == [0, 192 * 193, 192 * 193]
    assert whole.params == 192 * 193 + 192


def test_the_peak_is_where_most_blobs_are_needed_at_once() -> None:
    half = "pooling_param { kernel_size: 2 stride: 2 }"
    chain = one("Pooling", half, "a") + one("Pooling", half, "b", "a")
    assert cost(chain)[2] == 384 + 96
    kept = chain + 'layer { name: "c" type: "Concat" bottom: "b" bottom: "b2" top: "c" }'
    kept = one("Pooling", "pooling_param { kernel_size: 4 stride: 4 }", "b2") + kept
    assert cost(kept)[2] == 384 + 24 + 96
    unread = one("Pooling", half, "a") + one("Pooling", half, "b")
    assert cost(unread)[2] == 384 + 96 + 96
