"""Shapes of the layer types that forks of Caffe add: normalisation, resizing, reordering, losses, data.

Each function names the fork whose source it follows. Detection and sequences have their own modules.
"""

from __future__ import annotations

from typing import Any

from prototxt.errors import ShapeError
from prototxt.schema import forks
from prototxt.schema.messages import LayerParameter
from prototxt.schema.params import param_count
from prototxt.shapes.activation import elementwise
from prototxt.shapes.convolution import convolution_shapes
from prototxt.shapes.data import batch_size
from prototxt.shapes.dimensions import (
    UNKNOWN,
    Dim,
    Shape,
    agree,
    canonical_axis,
    count,
    count_text,
    product,
    shapes_agree,
    text,
)
from prototxt.shapes.registry import shape_function


def fork_param(layer: LayerParameter, name: str) -> Any:
    """Return the layer's parameter message `name` of a fork, empty if the layer has none."""
    return getattr(forks.fields(layer), name)


def image_axes(bottom: Shape) -> tuple[Dim, Dim, Dim, Dim]:
    """Return num, channels, height and width.

    Raises: ShapeError for another number of axes.
    """
    if len(bottom) != 4:
        raise ShapeError(f"the bottom must have 4 axes (num, channels, height, width), not {text(bottom)}")
    return bottom[0], bottom[1], bottom[2], bottom[3]


shape_function(
    "ReLU6", "Mish", "HardSigmoid", "HardSwish", "L2Normalization", "L2Normalize", "L2Norm", "SpatialDropout",
    bottoms=1, tops=1, unknown_rank="own",
)(elementwise)  # fmt: skip


@shape_function("ConvolutionDepthwise", "DepthwiseConvolution", "ConvolutionDepthWise", bottoms=1, tops=1)
def _depthwise_convolution(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Use one group per channel, ignoring `group` (farmingyard/ShuffleNet, yonghenglh6/DepthwiseConvolution)."""
    channels = bottoms[0][canonical_axis(bottoms[0], layer.convolution_param.axis)]
    whole = LayerParameter()
    whole.CopyFrom(layer)
    whole.convolution_param.group = channels or 1
    tops, params = convolution_shapes(whole, bottoms)
    return tops, [(params[0][0], 1, *params[0][2:]), *params[1:]]


@shape_function("BN", bottoms=1, tops=(1, 3))
def _bn(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Return scale and shift (SegNet, DeconvNet), then mean and variance (PSPNet, TSN, ICNet), each [1, C, 1, 1].

    The two families share the type's name; the second has parameters of its own, or more than two param blocks.
    """
    (bottom,) = bottoms
    statistic: Shape = (1, bottom[canonical_axis(bottom, 1)], 1, 1)
    return [bottom, statistic, statistic][: len(layer.top)], [statistic] * (param_count("BN", layer) or 0)


@shape_function("Normalize", bottoms=1, tops=1)
def _normalize(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Keep the bottom's shape; one learned scale for all channels, or one for each (SSD)."""
    (bottom,) = bottoms
    shared = fork_param(layer, "norm_param").channel_shared
    return [bottom], [() if shared else (bottom[canonical_axis(bottom, 1)],)]


@shape_function("Upsample", bottoms=(1, 2), tops=1, unknown_rank="image")
def _upsample(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Resize to `upsample_h` x `upsample_w`, or by `scale`; bottom 1 is the pooling mask (SegNet; not YOLO)."""
    param = fork_param(layer, "upsample_param")
    num, channels, height, width = image_axes(bottoms[0])
    if len(bottoms) == 2 and not shapes_agree(bottoms[0], bottoms[1]):
        raise ShapeError(f"the mask must have the bottom's shape {text(bottoms[0])}, not {text(bottoms[1])}")
    if param.upsample_h and param.upsample_w:
        return [(num, channels, param.upsample_h, param.upsample_w)], []
    factor = param.scale if param.HasField("scale") or not param.HasField("stride") else param.stride
    scales = (param.scale_h or param.stride_h or factor, param.scale_w or param.stride_w or factor)
    if min(scales) < 1:
        raise ShapeError(f"the scale must be at least 1, not {min(scales)}")
    padded = (param.pad_out_h, param.pad_out_w)
    sizes = [
        None if size is None else size * scale - int(pad)
        for size, scale, pad in zip((height, width), scales, padded, strict=True)
    ]
    return [(num, channels, *sizes)], []


@shape_function("Unpooling", bottoms=(1, 2), tops=1, unknown_rank="image")
def _unpooling(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Resize to `unpool_size`, or to the largest size that pools to the bottom's (DeconvNet)."""
    param = fork_param(layer, "unpooling_param")
    num, channels, height, width = image_axes(bottoms[0])
    given = (param.unpool_h or param.unpool_size, param.unpool_w or param.unpool_size)
    if all(given):
        return [(num, channels, *given)], []
    kernels = (param.kernel_h or param.kernel_size, param.kernel_w or param.kernel_size)
    strides = (param.stride_h or param.stride, param.stride_w or param.stride)
    pads = (param.pad_h or param.pad, param.pad_w or param.pad)
    if min(kernels) < 1:
        raise ShapeError("the kernel must be at least 1", hint="set unpooling_param.kernel_size")
    sizes = [
        None if size is None else max((size - 1) * stride + kernel - 2 * pad, size * stride - pad + 1)
        for size, kernel, stride, pad in zip((height, width), kernels, strides, pads, strict=True)
    ]
    return [(num, channels, *sizes)], []


@shape_function("Interp", bottoms=(1, 2), tops=1, unknown_rank="image")
def _interp(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Resize to `height` x `width`, by factors that keep the corners, or to a second bottom's size (DeepLab)."""
    param = fork_param(layer, "interp_param")
    num, channels, *sizes = image_axes(bottoms[0])
    if len(bottoms) == 2:
        return [(num, channels, *image_axes(bottoms[1])[2:])], []
    if param.pad_beg > 0 or param.pad_end > 0:
        raise ShapeError("pad_beg and pad_end only crop, so they must be 0 or less")
    factors = [name for name in ("shrink_factor", "zoom_factor") if param.HasField(name)]
    if not factors:
        if param.height <= 0 or param.width <= 0:
            raise ShapeError("neither factors nor height and width are given")
        return [(num, channels, param.height, param.width)], []
    if min(getattr(param, name) for name in factors) < 1:
        raise ShapeError("zoom_factor and shrink_factor must be at least 1")
    return [(num, channels, *(_interpolated(size, param) for size in sizes))], []


def _interpolated(size: Dim, param: Any) -> Dim:
    if size is None:
        return None
    # Corners stay in place: n pixels have n - 1 gaps, each of which is divided or multiplied by the factor.
    cropped = size + param.pad_beg + param.pad_end
    shrunk: int = (cropped - 1) // param.shrink_factor + 1
    zoom: int = param.zoom_factor
    return shrunk + (shrunk - 1) * (zoom - 1)


@shape_function("Axpy", bottoms=3, tops=1, unknown_rank="own")
def _axpy(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Return the shape of a * x + y, with one factor a per sample and channel (SENet)."""
    scale, x, y = bottoms
    if not shapes_agree(x, y):
        raise ShapeError(f"x and y must have one shape, not {text(x)} and {text(y)}")
    if not agree(count(scale), None if x is UNKNOWN else count(x, 0, 2)):
        raise ShapeError(f"there must be one factor per sample and channel of {text(x)}, not {text(scale)}")
    return [y if x is UNKNOWN else x], []


@shape_function("ShuffleChannel", bottoms=1, tops=1)
def _shuffle_channel(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Keep the bottom's shape (ShuffleNet)."""
    (bottom,) = bottoms
    group, channels = fork_param(layer, "shuffle_channel_param").group, bottom[canonical_axis(bottom, 1)]
    if group < 1 or (channels is not None and channels % group):
        raise ShapeError(f"the {channels} channels do not divide into {group} groups")
    return [bottom], []


@shape_function("Permute", bottoms=1, tops=1)
def _permute(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Permute the axes to the given order, followed by the others (SSD)."""
    return [_reordered(bottoms[0], list(fork_param(layer, "permute_param").order), "order")], []


@shape_function("Transpose", bottoms=1, tops=1)
def _transpose(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Permute the axes to the given order (senlinuc/caffe_ocr)."""
    dims = list(fork_param(layer, "transpose_param").dim)
    if len(dims) != len(bottoms[0]):
        raise ShapeError(
            f"transpose_param has {count_text(len(dims), 'dim')} for {text(bottoms[0])}", hint="name every axis once"
        )
    return [_reordered(bottoms[0], dims, "dim")], []


def _reordered(bottom: Shape, order: list[int], field: str) -> Shape:
    axes = [canonical_axis(bottom, axis) for axis in order]
    if len(set(axes)) != len(axes):
        raise ShapeError(f"{field} names an axis twice: {order}")
    return tuple(bottom[axis] for axis in (*axes, *(axis for axis in range(len(bottom)) if axis not in axes)))


@shape_function("MarginInnerProduct", bottoms=2, tops=(1, 2))
def _margin_inner_product(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Infer as for InnerProduct without bias; the second top is the current lambda (SphereFace)."""
    param, (bottom, labels) = fork_param(layer, "margin_inner_product_param"), bottoms
    if param.num_output <= 0:
        raise ShapeError("num_output must be at least 1")
    axis = canonical_axis(bottom, param.axis)
    if not agree(bottom[0], labels[0] if labels else None):
        raise ShapeError(f"features {text(bottom)} and labels {text(labels)} must have the same first dimension")
    tops: list[Shape] = [(*bottom[:axis], param.num_output), (1,)]
    return tops[: len(layer.top)], [(param.num_output, count(bottom, axis))]


@shape_function("CenterLoss", bottoms=2, tops=1, loss=True)
def _center_loss(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Return a scalar; one learned centre per class (ydwen/caffe-face)."""
    param = fork_param(layer, "center_loss_param")
    return [()], [(param.num_output, count(bottoms[0], canonical_axis(bottoms[0], param.axis)))]


@shape_function("SmoothL1Loss", bottoms=(2, 4), tops=1, loss=True, unknown_rank="own")
def _smooth_l1_loss(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Return a scalar; bottoms: predictions, targets, weights inside and outside the norm (Fast R-CNN)."""
    for other in bottoms[1:]:
        if not agree(count(bottoms[0]), count(other)):
            raise ShapeError(f"predictions {text(bottoms[0])} and {text(other)} must have as many elements")
    return [()], []


@shape_function(
    "L1Loss", "CtcLoss", "CTCLoss", "WarpCTCLoss", "WarpCtcLoss", "TripletLoss", "FocalLoss", "SoftmaxWithFocalLoss",
    bottoms=(2, 4), tops=(1, 2), loss=True, unknown_rank="own",
)  # fmt: skip
def _scalar_loss(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Return a scalar, and an optional blob of the predictions' shape."""
    return [(), bottoms[0]][: max(1, len(layer.top))], []


@shape_function("DenseImageData", "ImageSegData", "ImageLabelmapData", bottoms=0, tops=(1, 3), source=True)
def _dense_image_data(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Return pictures and a label for each pixel, [N, 1, H, W] (SegNet, DeepLab, HED); a third top holds sizes."""
    own = layer.type == "DenseImageData"
    param = fork_param(layer, "dense_image_data_param") if own else layer.image_data_param
    crop = layer.transform_param.crop_size
    size: tuple[Dim, Dim] = (crop or param.new_height or None, crop or param.new_width or None)
    num, channels = batch_size(param.batch_size), 3 if param.is_color else 1
    tops: list[Shape] = [(num, channels, *size), (num, 1, *size), (num, 1, 1, 2)]
    return tops[: len(layer.top)], []


@shape_function("VideoData", bottoms=0, tops=(1, 2), source=True)
def _video_data(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Return stacked frames and labels (TSN, SSD), whose number depends on the fork."""
    param, crop = fork_param(layer, "video_data_param"), layer.transform_param.crop_size
    frames: Shape = (None, None, crop or param.new_height or None, crop or param.new_width or None)
    return [frames, (None,)][: len(layer.top)], []


@shape_function("CreateDeformation", bottoms=(0, 1), tops=1)
def _create_deformation(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Return a field of displacements (lmb-freiburg/orion)."""
    param = fork_param(layer, "create_deformation_param")
    return [tuple(size or None for size in (param.batch_size, param.nz, param.ny, param.nx, param.ncomponents))], []


@shape_function("ApplyDeformation", bottoms=(2, 3), tops=1)
def _apply_deformation(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Sample the volume [N, C, Z, Y, X] at the field's points (lmb-freiburg/orion)."""
    volume, field = bottoms[:2]
    if len(volume) != 5 or len(field) != 5:
        raise ShapeError(f"volume and field must have 5 axes, not {text(volume)} and {text(field)}")
    return [(volume[0], volume[1], *field[1:4])], []


@shape_function("BatchReduction", bottoms=(1, 2), tops=1)
def _batch_reduction(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Reduce the rows in runs of `level` each (TSN)."""
    levels = list(fork_param(layer, "batch_reduction_param").level)
    rows, run = bottoms[0][canonical_axis(bottoms[0], 0)], sum(levels)
    if not run or (rows is not None and rows % run):
        raise ShapeError(f"{rows} rows do not divide into runs of {run}")
    return [(product((None if rows is None else rows // run, len(levels))), *bottoms[0][1:])], []
