"""Shapes of the detection layers that forks of Caffe add: Fast and Faster R-CNN, R-FCN, SSD, YOLO.

How many boxes come out is known only when the net runs, so that dimension is None.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prototxt.errors import ShapeError
from prototxt.schema import forks
from prototxt.schema.messages import LayerParameter
from prototxt.shapes.data import batch_size
from prototxt.shapes.dimensions import UNKNOWN, Dim, Shape, agree, product, text
from prototxt.shapes.fork_layers import fork_param, image_axes
from prototxt.shapes.registry import shape_function


def _rows(shape: Shape) -> Dim:
    return shape[0] if shape else None


@shape_function("ROIPooling", "ROIAlign", bottoms=2, tops=(1, 2), unknown_rank="own")
def _roi_pooling(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Map [N, C, H, W] and boxes [R, 5] to [R, C, pooled_h, pooled_w] (Fast R-CNN)."""
    param = fork_param(layer, "roi_pooling_param")
    if layer.type == "ROIAlign" and not param.pooled_h:
        param = fork_param(layer, "roi_align_param")
    if param.pooled_h <= 0 or param.pooled_w <= 0:
        raise ShapeError("pooled_h and pooled_w must be at least 1")
    features, boxes = bottoms
    channels = None if features is UNKNOWN else image_axes(features)[1]
    _check_boxes(boxes)
    return [(_rows(boxes), channels, param.pooled_h, param.pooled_w)] * len(layer.top), []


@shape_function("PSROIPooling", bottoms=2, tops=(1, 2), unknown_rank="own")
def _psroi_pooling(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Map [N, output_dim * group^2, H, W] and boxes [R, 5] to [R, output_dim, group, group] (R-FCN)."""
    param, (features, boxes) = fork_param(layer, "psroi_pooling_param"), bottoms
    size, channels = param.group_size, param.output_dim * param.group_size**2
    if channels <= 0:
        raise ShapeError("output_dim and group_size must be at least 1")
    if features is not UNKNOWN and not agree(image_axes(features)[1], channels):
        raise ShapeError(f"{features[1]} channels instead of output_dim * group_size^2 = {channels}")
    _check_boxes(boxes)
    return [(_rows(boxes), param.output_dim, size, size)] * len(layer.top), []


def _check_boxes(boxes: Shape) -> None:
    if boxes is not UNKNOWN and (not boxes or not agree(product(boxes[1:]), 5)):
        raise ShapeError(f"boxes must be [R, 5] (image, x1, y1, x2, y2), not {text(boxes)}")


@shape_function("Proposal", bottoms=(3, 4), tops=(1, 2), unknown_rank="own")
def _proposal(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Return boxes [R, 5] and their scores [R, 1], made of scores, offsets and image size (Faster R-CNN)."""
    tops: list[Shape] = [(None, 5), (None, 1)]
    return tops[: len(layer.top)], []


@shape_function("BoxAnnotatorOHEM", bottoms=4, tops=2, unknown_rank="own")
def _box_annotator(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Return the shapes of labels and box weights with the easy boxes masked (R-FCN)."""
    return [bottoms[2], bottoms[3]], []


@shape_function("SoftmaxWithLossOHEM", "SmoothL1LossOHEM", bottoms=(2, 4), tops=(1, 3), loss=True, unknown_rank="own")
def _loss_per_box(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Return a scalar, and optional blobs with the loss of each box (R-FCN)."""
    return [(), UNKNOWN, UNKNOWN][: max(1, len(layer.top))], []


@shape_function("PriorBox", bottoms=2, tops=1, unknown_rank="image")
def _prior_box(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Return [1, 2, H * W * priors * 4]: corners and variances of the default boxes (SSD)."""
    param = fork_param(layer, "prior_box_param")
    if not param.min_size:
        raise ShapeError("min_size is missing", hint="give prior_box_param.min_size")
    if param.max_size and len(param.max_size) != len(param.min_size):
        raise ShapeError(
            f"{len(param.max_size)} max_size for {len(param.min_size)} min_size", hint="give none, or one each"
        )
    # As in SSD's PriorBoxLayer: 1 is implied, repeated ratios are dropped, and flip adds the reciprocals.
    ratios = [1.0]
    for ratio in param.aspect_ratio:
        if all(abs(ratio - known) >= 1e-6 for known in ratios):
            ratios += [ratio, 1 / ratio] if param.flip and ratio else [ratio]
    priors = len(ratios) * len(param.min_size) + len(param.max_size)
    _, _, height, width = image_axes(bottoms[0])
    return [(1, 2, product((height, width, priors, 4)))], []


@shape_function("DetectionOutput", bottoms=(3, 5), tops=1, unknown_rank="own")
def _detection_output(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Return [1, 1, detections, 7]: image, class, score, corners (SSD)."""
    return [(1, 1, None, 7)], []


@shape_function("YoloDetectionOutput", "Yolov3DetectionOutput", bottoms=(1, None), tops=1, unknown_rank="own")
def _yolo_detection_output(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Return [1, 1, detections, 7] (eric612/MobileNet-YOLO)."""
    return [(1, 1, None, 7)], []


@shape_function("DetectionEvaluate", bottoms=2, tops=1, unknown_rank="own")
def _detection_evaluate(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Return [1, 1, rows, 5]: image, class, score, true and false positive (SSD)."""
    return [(1, 1, None, 5)], []


@shape_function("MultiBoxLoss", bottoms=4, tops=1, loss=True, unknown_rank="own")
def _multi_box_loss(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Return a scalar; the bottoms are locations, confidences, priors and ground truth (SSD)."""
    return [()], []


@shape_function("RegionLoss", "Yolov3", "YoloLoss", bottoms=(2, None), tops=(1, None), loss=True, unknown_rank="own")
def _region_loss(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Return a scalar, and optional blobs (eric612/MobileNet-YOLO)."""
    return [(), *[UNKNOWN] * (len(layer.top) - 1)], []


@shape_function("Reorg", bottoms=1, tops=1, unknown_rank="image")
def _reorg(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Turn squares of stride x stride pixels into channels, or back with `reverse` (YOLO v2)."""
    param = fork_param(layer, "reorg_param")
    num, channels, height, width = image_axes(bottoms[0])
    stride = param.stride
    if stride < 1:
        raise ShapeError("stride must be at least 1", hint="set reorg_param.stride")
    if param.reverse:
        return [(num, _divided(channels, stride**2), product((height, stride)), product((width, stride)))], []
    return [(num, product((channels, stride**2)), _divided(height, stride), _divided(width, stride))], []


def _divided(size: Dim, by: int) -> Dim:
    if size is None:
        return None
    if size % by:
        raise ShapeError(f"{size} does not divide by {by}")
    return size // by


@shape_function("AnnotatedData", bottoms=0, tops=(1, 2), source=True)
def _annotated_data(layer: LayerParameter, bottoms: list[Shape]) -> tuple[list[Shape], list[Shape]]:
    """Return pictures of the resized or cropped size, and [1, 1, objects, 8] annotations (SSD)."""
    transform = layer.transform_param
    own: Any = forks.fields(transform)
    height = own.crop_h or transform.crop_size or _agreed(own.resize_param, "height")
    width = own.crop_w or transform.crop_size or _agreed(own.resize_param, "width")
    channels = 1 if transform.force_gray else 3
    tops: list[Shape] = [(batch_size(layer.data_param.batch_size), channels, height, width), (1, 1, None, 8)]
    return tops[: len(layer.top)], []


def _agreed(resizes: Sequence[Any], side: str) -> int | None:
    """Return the common size of all resize rules, of which forks pick one at random; None if they differ."""
    sizes = {getattr(resize, side) for resize in resizes}
    return (sizes.pop() or None) if len(sizes) == 1 else None
