"""Layer types of forks, against the sizes that their sources compute."""

from __future__ import annotations

import pytest

import prototxt
from prototxt.shapes import UNKNOWN, Shape, infer

pytestmark = pytest.mark.filterwarnings("ignore::prototxt.UnknownFieldWarning")

X = "x: 2x12x8x6"


def run(bottoms: str, layer: str, tops: int = 1) -> tuple[list[Shape], list[Shape]]:
    """Tops and parameters of the layer; `bottoms` is `name: 2x3x?` lines, `?` all alone for an unknown shape."""
    text, given = "", {}
    names = []
    for line in filter(None, bottoms.split(", ")):
        name, _, shape = line.partition(": ")
        names.append(name)
        text += f'layer {{ name: "in_{name}" type: "Input" top: "{name}" }}\n'
        if shape != "?":
            given[name] = tuple(None if dim == "?" else int(dim) for dim in shape.split("x"))
    text += 'layer { name: "l" ' + "".join(f'bottom: "{name}" ' for name in names)
    text += "".join(f'top: "t{i}" ' for i in range(tops)) + layer + " }"
    shapes = infer(prototxt.load_net(prototxt.parse(text, name="net.prototxt")), given)
    return shapes.tops[-1], shapes.params[-1]


@pytest.mark.parametrize(
    ("bottoms", "layer", "top"),
    [
        (X, 'type: "ReLU6"', (2, 12, 8, 6)),
        (X, 'type: "Pooling" pooling_param { kernel_size: 3 stride: 2 ceil_mode: false }', (2, 12, 3, 2)),
        (X, 'type: "Pooling" pooling_param { kernel_size: 3 stride: 2 torch_pooling: true }', (2, 12, 3, 2)),
        (X, 'type: "Pooling" pooling_param { kernel_size: 3 stride: 2 }', (2, 12, 4, 3)),
        (X, 'type: "Convolution" convolution_param { num_output: 1 kernel_size: 3 hole: 2 }', (2, 1, 4, 2)),
        (X, 'type: "Upsample" upsample_param { scale: 3 }', (2, 12, 24, 18)),
        (X, 'type: "Upsample" upsample_param { stride: 4 }', (2, 12, 32, 24)),
        (f"{X}, m: 2x12x8x6", 'type: "Upsample" upsample_param { scale: 2 pad_out_h: true }', (2, 12, 15, 12)),
        (f"{X}, m: 2x12x8x6", 'type: "Upsample" upsample_param { upsample_h: 45 upsample_w: 60 }', (2, 12, 45, 60)),
        (
            f"{X}, m: ?",
            'type: "Unpooling" unpooling_param { kernel_size: 2 stride: 2 unpool_size: 14 }',
            (2, 12, 14, 14),
        ),
        (X, 'type: "Unpooling" unpooling_param { kernel_size: 2 stride: 2 }', (2, 12, 17, 13)),
        (X, 'type: "Unpooling" unpooling_param { kernel_size: 5 stride: 2 pad: 1 }', (2, 12, 17, 13)),
        (X, 'type: "Unpooling" unpooling_param { kernel_h: 5 kernel_w: 3 }', (2, 12, 12, 8)),
        (X, 'type: "Unpooling" unpooling_param { kernel_size: 3 stride_h: 4 stride_w: 2 }', (2, 12, 33, 13)),
        (X, 'type: "Unpooling" unpooling_param { kernel_size: 4 pad_h: 1 pad_w: 2 }', (2, 12, 9, 5)),
        (X, 'type: "Unpooling" unpooling_param { kernel_size: 2 unpool_h: 9 unpool_w: 10 }', (2, 12, 9, 10)),
        ("x: 2x12x?x6", 'type: "Unpooling" unpooling_param { kernel_size: 2 stride: 2 }', (2, 12, None, 13)),
        (X, 'type: "Upsample" upsample_param { scale_h: 2 scale_w: 3 }', (2, 12, 16, 18)),
        (X, 'type: "Upsample" upsample_param { scale: 2 pad_out_w: true }', (2, 12, 16, 11)),
        (X, 'type: "Upsample" upsample_param { scale: 2 upsample_h: 45 }', (2, 12, 16, 12)),
        (X, 'type: "Interp" interp_param { pad_end: -2 zoom_factor: 1 }', (2, 12, 6, 4)),
        (X, 'type: "Permute" permute_param { order: 1 order: 0 }', (12, 2, 8, 6)),
        ("s: 2x12x1x1, x: 2x12x8x?, y: 2x12x8x6", 'type: "Axpy"', (2, 12, 8, None)),
        ("r: 12x10", 'type: "BatchReduction" batch_reduction_param { level: 1 level: 2 }', (8, 10)),
        ("v: 2x1x9x9x9, d: 2x4x5x6x3, e: 1", 'type: "ApplyDeformation"', (2, 1, 4, 5, 6)),
        (
            "",
            'type: "CreateDeformation" create_deformation_param { batch_size: 2 nz: 3 ny: 4 nx: 5 ncomponents: 3 }',
            (2, 3, 4, 5, 3),
        ),
        (X, 'type: "Interp" interp_param { height: 5 width: 7 }', (2, 12, 5, 7)),
        (X, 'type: "Interp" interp_param { zoom_factor: 8 }', (2, 12, 57, 41)),
        (X, 'type: "Interp" interp_param { shrink_factor: 2 pad_beg: -1 }', (2, 12, 4, 3)),
        (X, 'type: "Interp" interp_param { shrink_factor: 2 zoom_factor: 3 }', (2, 12, 10, 7)),
        (f"{X}, r: 1x1x20x30", 'type: "Interp"', (2, 12, 20, 30)),
        (f"s: 2x12, {X}, y: 2x12x8x6", 'type: "Axpy"', (2, 12, 8, 6)),
        (X, 'type: "ShuffleChannel" shuffle_channel_param { group: 3 }', (2, 12, 8, 6)),
        (X, 'type: "Permute" permute_param { order: 0 order: 2 order: 3 order: 1 }', (2, 8, 6, 12)),
        (X, 'type: "Permute" permute_param { order: 3 }', (6, 2, 12, 8)),
        (X, 'type: "Transpose" transpose_param { dim: 3 dim: 2 dim: 0 dim: 1 }', (6, 8, 2, 12)),
        (X, 'type: "Reverse" reverse_param { axis: 0 }', (2, 12, 8, 6)),
        (X, 'type: "Reorg" reorg_param { stride: 2 }', (2, 48, 4, 3)),
        (X, 'type: "Reorg" reorg_param { stride: 2 reverse: true }', (2, 3, 16, 12)),
        (f"{X}, r: 7x5", 'type: "ROIPooling" roi_pooling_param { pooled_h: 3 pooled_w: 4 }', (7, 12, 3, 4)),
        (f"{X}, r: ?", 'type: "ROIAlign" roi_align_param { pooled_h: 3 pooled_w: 4 }', (None, 12, 3, 4)),
        (f"{X}, r: 7x5", 'type: "PSROIPooling" psroi_pooling_param { output_dim: 3 group_size: 2 }', (7, 3, 2, 2)),
        (
            f"{X}, i: 2x3x300x300",
            'type: "PriorBox" prior_box_param { min_size: 60 max_size: 111 aspect_ratio: 2 aspect_ratio: 3 }',
            (1, 2, 8 * 6 * 6 * 4),
        ),
        (
            f"{X}, i: 2x3x300x300",
            'type: "PriorBox" prior_box_param { min_size: 60 aspect_ratio: 1 aspect_ratio: 2 flip: false }',
            (1, 2, 8 * 6 * 2 * 4),
        ),
        (
            "a: 1x8, b: 1x8, c: 1x2x8",
            'type: "DetectionOutput" detection_output_param { num_classes: 2 }',
            (1, 1, None, 7),
        ),
        ("a: 1x8, b: 1x8, c: 1x2x8, d: 1x1x3x8", 'type: "MultiBoxLoss"', ()),
        ("a: 1x18x4x4, b: 1x36x4x4, c: 1x3", 'type: "Proposal"', (None, 5)),
        ("p: 4x8, t: 4x8, i: 4x8", 'type: "SmoothL1Loss"', ()),
        ("p: 5x4x9, t: 4x3", 'type: "WarpCTCLoss"', ()),
        ("p: 5x4x9, t: 4x3", 'type: "LabelsequenceAccuracy"', ()),
        ("p: 5x4x9, t: 4x3", 'type: "CTCGreedyDecoder"', UNKNOWN),
        ("", 'type: "ContinuationIndicator" continuation_indicator_param { time_step: 13 batch_size: 5 }', (13, 5)),
        ("v: 2x1x9x9x9, d: 2x4x5x6x3", 'type: "ApplyDeformation"', (2, 1, 4, 5, 6)),
        ("r: 12x10", 'type: "BatchReduction" batch_reduction_param { level: 3 }', (4, 10)),
    ],
)
def test_tops(bottoms: str, layer: str, top: Shape) -> None:
    (made,), params = run(bottoms, layer)
    assert made == top
    assert "Convolution" in layer or not params


@pytest.mark.parametrize(
    ("bottoms", "layer", "tops", "params"),
    [
        (X, 'type: "BN" bn_param { scale_filler { value: 1 } shift_filler { } }', [(2, 12, 8, 6)], [(1, 12, 1, 1)] * 2),
        (X, 'type: "BN" bn_param { slope_filler { value: 1 } frozen: true }', [(2, 12, 8, 6)], [(1, 12, 1, 1)] * 4),
        (X, 'type: "BN" param { } param { } param { } param { }', [(2, 12, 8, 6)], [(1, 12, 1, 1)] * 4),
        (X, 'type: "BN"', [(2, 12, 8, 6), (1, 12, 1, 1), (1, 12, 1, 1)], [(1, 12, 1, 1)] * 2),
        (
            X,
            'type: "BatchNorm" batch_norm_param { scale_bias: true }',
            [(2, 12, 8, 6)],
            [(12,), (12,), (1,), (12,), (12,)],
        ),
        (X, 'type: "Normalize" norm_param { channel_shared: false }', [(2, 12, 8, 6)], [(12,)]),
        (X, 'type: "Normalize"', [(2, 12, 8, 6)], [()]),
        (
            X,
            'type: "DepthwiseConvolution" convolution_param { num_output: 12 kernel_size: 3 pad: 1 stride: 2 }',
            [(2, 12, 4, 3)],
            [(12, 1, 3, 3), (12,)],
        ),
        (
            "x: 2x?x8x6",
            'type: "ConvolutionDepthwise" convolution_param { num_output: 12 kernel_size: 3 bias_term: false }',
            [(2, 12, 6, 4)],
            [(12, 1, 3, 3)],
        ),
        (
            "x: 2x7, l: 2",
            'type: "MarginInnerProduct" margin_inner_product_param { num_output: 5 }',
            [(2, 5), (1,)],
            [(5, 7)],
        ),
        ("x: 9x4x7", 'type: "Lstm" lstm_param { num_output: 3 }', [(9, 4, 3)], [(12, 7), (12, 3), (12,)]),
        ("x: 36x7", 'type: "Lstm" lstm_param { num_output: 3 batch_size: 4 }', [(9, 4, 3)], [(12, 7), (12, 3), (12,)]),
        ("x: 2x7, l: 2", 'type: "CenterLoss" center_loss_param { num_output: 5 }', [()], [(5, 7)]),
    ],
)
def test_tops_and_params(bottoms: str, layer: str, tops: list[Shape], params: list[Shape]) -> None:
    assert run(bottoms, layer, len(tops)) == (tops, params)


@pytest.mark.parametrize(
    ("layer", "tops"),
    [
        ('type: "DenseImageData" dense_image_data_param { batch_size: 4 }', [(4, 3, None, None), (4, 1, None, None)]),
        (
            'type: "ImageSegData" image_data_param { batch_size: 4 } transform_param { crop_size: 321 }',
            [(4, 3, 321, 321), (4, 1, 321, 321), (4, 1, 1, 2)],
        ),
        (
            'type: "VideoData" video_data_param { batch_size: 4 } transform_param { crop_size: 224 }',
            [(None, None, 224, 224), (None,)],
        ),
        (
            'type: "AnnotatedData" data_param { batch_size: 8 } transform_param { resize_param { height: 9 width: 9 }}',
            [(8, 3, 9, 9), (1, 1, None, 8)],
        ),
    ],
)
def test_data(layer: str, tops: list[Shape]) -> None:
    assert run("", layer, len(tops)) == (tops, [])


@pytest.mark.parametrize(
    ("bottoms", "layer", "message"),
    [
        (X, 'type: "ShuffleChannel" shuffle_channel_param { group: 5 }', "the 12 channels do not divide into 5 groups"),
        (X, 'type: "Permute" permute_param { order: 1 order: 1 }', "order names an axis twice"),
        (X, 'type: "Transpose" transpose_param { dim: 1 }', "has 1 dim for 2x12x8x6"),
        (X, 'type: "Reorg" reorg_param { stride: 5 }', "8 does not divide by 5"),
        (X, 'type: "Interp" interp_param { pad_beg: 1 }', "must be 0 or less"),
        (X, 'type: "Interp"', "neither factors nor height and width"),
        (X, 'type: "Interp" interp_param { height: 5 }', "neither factors nor height and width"),
        (X, 'type: "Interp" interp_param { zoom_factor: 0 }', "must be at least 1"),
        (X, 'type: "Interp" interp_param { pad_end: 1 height: 5 width: 5 }', "must be 0 or less"),
        (X, 'type: "Upsample" upsample_param { scale: 0 }', "the scale must be at least 1, not 0"),
        (X, 'type: "Unpooling" unpooling_param { kernel_h: 2 }', "the kernel must be at least 1"),
        (X, 'type: "Unpooling"', "the kernel must be at least 1"),
        (X, 'type: "ShuffleChannel" shuffle_channel_param { group: 0 }', "do not divide into 0 groups"),
        (X, 'type: "Permute" permute_param { order: 4 }', "axis 4 is out of range"),
        (f"s: 2x12, {X}, y: 2x12x8x5", 'type: "Axpy"', "x and y must have one shape, not 2x12x8x6 and 2x12x8x5"),
        (
            "r: 12x10",
            'type: "BatchReduction" batch_reduction_param { level: 5 }',
            "12 rows do not divide into runs of 5",
        ),
        ("r: 12x10", 'type: "BatchReduction"', "12 rows do not divide into runs of 0"),
        ("v: 2x1x9x9, d: 2x4x5x6x3", 'type: "ApplyDeformation"', "must have 5 axes, not 2x1x9x9 and 2x4x5x6x3"),
        (
            "x: 2x7, l: 3",
            'type: "MarginInnerProduct" margin_inner_product_param { num_output: 5 }',
            "must have the same first dimension",
        ),
        ("x: 2x7, l: 2", 'type: "MarginInnerProduct"', "num_output must be at least 1"),
        (f"{X}, m: 2x12x8x5", 'type: "Upsample"', "the mask must have the bottom's shape 2x12x8x6, not 2x12x8x5"),
        (f"{X}, r: 7x4", 'type: "ROIPooling" roi_pooling_param { pooled_h: 3 pooled_w: 4 }', "boxes must be [R, 5]"),
        (
            f"{X}, r: 7x5",
            'type: "PSROIPooling" psroi_pooling_param { output_dim: 5 group_size: 2 }',
            "12 channels instead of",
        ),
        (f"{X}, i: 1x3x9x9", 'type: "PriorBox"', "min_size is missing"),
        (f"s: 2x11, {X}, y: 2x12x8x6", 'type: "Axpy"', "one factor per sample and channel"),
        ("p: 4x8, t: 4x7", 'type: "SmoothL1Loss"', "must have as many elements"),
    ],
)
def test_refused(bottoms: str, layer: str, message: str) -> None:
    with pytest.raises(prototxt.ShapeError, match=r"net\.prototxt:\d+:1: layer 'l' \(") as caught:
        run(bottoms, layer)
    assert message in caught.value.message
