"""SSD: default boxes and detections.

Source: Liu et al. 2016; weiliu89/caffe at branch ssd (prior_box_layer.cpp, detection_output_layer.cpp).
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fusion.errors import BuildError, IgnoredSetting
from fusion.layers.axes import full
from fusion.layers.forks.boxes import CODE_TYPES, corners, suppress
from fusion.layers.registry import Context, layer
from prototxt.shapes.fork_layers import fork_param

if TYPE_CHECKING:
    from prototxt.schema.messages import LayerParameter


class PriorBox(nn.Module):
    """Boxes of several sizes around the centre of every cell of a map, relative to the image size.

    sizes     [(width, height)] in pixels, the same at every cell
    variance  four numbers, the same for every box
    image     height and width in pixels; None: those of the second bottom
    step      pixels between cells, down and across; None: the image's size over the map's
    offset    of the centre from the cell's corner, in cells
    clip      clip boxes to the image
    """

    def __init__(
        self,
        sizes: list[tuple[float, float]],
        variance: list[float],
        image: tuple[int, int] | None,
        step: tuple[float, float] | None,
        offset: float,
        clip: bool,
    ) -> None:
        super().__init__()
        self.sizes, self.variance, self.image, self.step = sizes, variance, image, step
        self.offset, self.clip = offset, clip

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        """Map [N, C, H, W] and an image [N, C, height, width] to corners and variances [1, 2, H * W * boxes * 4]."""
        height, width = self.image or (image.shape[2], image.shape[3])
        down, across = self.step or (height / x.shape[2], width / x.shape[3])
        like = full(x)
        centre_y = (torch.arange(x.shape[2], device=like.device, dtype=like.dtype) + self.offset) * down
        centre_x = (torch.arange(x.shape[3], device=like.device, dtype=like.dtype) + self.offset) * across
        half = torch.tensor(self.sizes, device=like.device, dtype=like.dtype) / 2
        shape = (x.shape[2], x.shape[3], len(self.sizes))
        cx, cy = centre_x[None, :, None].expand(shape), centre_y[:, None, None].expand(shape)
        edges = [(cx - half[:, 0]) / width, (cy - half[:, 1]) / height]
        edges += [(cx + half[:, 0]) / width, (cy + half[:, 1]) / height]
        boxes = torch.stack(edges, -1).flatten()
        variance = torch.tensor(self.variance, device=like.device, dtype=like.dtype).repeat(boxes.shape[0] // 4)
        return torch.stack([boxes.clamp(0, 1) if self.clip else boxes, variance])[None]


@layer("PriorBox")
def _prior_box(layer: LayerParameter, context: Context) -> nn.Module:
    param = fork_param(layer, "prior_box_param")
    variance = list(param.variance) or [0.1]
    if len(variance) not in (1, 4):
        raise BuildError(f"layer '{layer.name}': {len(variance)} variances instead of 1 or 4")
    image = (param.img_h, param.img_w) if param.img_h and param.img_w else None
    if param.img_size:
        image = (param.img_size, param.img_size)
    step = (param.step_h, param.step_w) if param.step_h and param.step_w else None
    if param.step:
        step = (param.step, param.step)
    return PriorBox(_sizes(param), variance * (4 // len(variance)), image, step, param.offset, param.clip)


def _sizes(param: Any) -> list[tuple[float, float]]:
    """Return width and height of every box at one cell, in the fork's order."""
    ratios: list[float] = [1.0]
    for ratio in param.aspect_ratio:
        if all(abs(ratio - known) >= 1e-6 for known in ratios):
            ratios += [ratio, 1 / ratio] if param.flip else [ratio]
    sizes: list[tuple[float, float]] = []
    for index, least in enumerate(param.min_size):
        side = float(int(least))  # prior_box_layer.cpp stores min_size and max_size in int variables
        sizes.append((side, side))
        if param.max_size:
            between = math.sqrt(side * int(param.max_size[index]))
            sizes.append((between, between))
        others = [ratio for ratio in ratios if abs(ratio - 1) >= 1e-6]
        sizes += [(side * math.sqrt(ratio), side / math.sqrt(ratio)) for ratio in others]
    return sizes


@dataclass(frozen=True)
class Detection:
    """How detections are selected.

    background  the background class; -1: there is none
    kind        code of the offsets; `encoded`: they include the variance
    threshold   scores must be greater
    per_class   maximum number of candidates per class; negative: all
    in_all      maximum number of detections per image; negative: all
    """

    classes: int
    shared: bool
    background: int
    kind: str
    encoded: bool
    threshold: float
    nms: float
    eta: float
    per_class: int
    in_all: int


class DetectionOutput(nn.Module):
    """Decoded boxes with high scores, after suppression within each class."""

    def __init__(self, rule: Detection) -> None:
        super().__init__()
        self.rule = rule

    @torch.no_grad()
    def forward(self, location: Tensor, score: Tensor, prior: Tensor, *unused: Tensor) -> Tensor:
        """Map offsets [N, P * 4], scores [N, P * C] and priors [1, 2, P * 4] to [1, 1, detections, 7].

        Rows are image, class, score, corners. Without any detection there is one row per image: its index, then -1.
        """
        rule = self.rule
        prior, variance = full(prior).reshape(2, -1, 4)
        count = prior.shape[0]
        code = full(location).reshape(location.shape[0], count, 1 if rule.shared else rule.classes, 4).transpose(1, 2)
        boxes = corners(code, prior, torch.ones_like(variance) if rule.encoded else variance, rule.kind)
        scores = full(score).reshape(score.shape[0], count, rule.classes).transpose(1, 2)
        rows = [self._one(index, boxes[index], scores[index]) for index in range(location.shape[0])]
        detections = torch.cat(rows)
        if len(detections) == 0:
            detections = boxes.new_full((location.shape[0], 7), -1)
            detections[:, 0] = torch.arange(location.shape[0], device=detections.device)
        return detections[None, None]

    def _one(self, image: int, boxes: Tensor, scores: Tensor) -> Tensor:
        rule = self.rule
        rows = []
        for kind in range(rule.classes):
            if kind == rule.background:
                continue
            order = scores[kind].argsort(descending=True, stable=True)
            order = order[scores[kind][order] > rule.threshold]
            order = order if rule.per_class < 0 else order[: rule.per_class]
            candidates = boxes[0 if rule.shared else kind][order]
            retained = suppress(candidates, rule.nms, -1, rule.eta)
            head = boxes.new_tensor([image, kind]).expand(len(retained), 2)
            rows.append(torch.cat([head, scores[kind][order][retained, None], candidates[retained]], 1))
        detections = torch.cat(rows) if rows else boxes.new_zeros(0, 7)
        if 0 <= rule.in_all < len(detections):
            best = detections[:, 2].argsort(descending=True, stable=True)[: rule.in_all]
            # The best ones, in the fork's order: by class, then by score.
            detections = detections[best[detections[best, 1].argsort(stable=True)]]
        return detections


@layer("DetectionOutput")
def _detection_output(layer: LayerParameter, context: Context) -> nn.Module:
    param = fork_param(layer, "detection_output_param")
    if not param.num_classes:
        raise BuildError(f"layer '{layer.name}': detection_output_param.num_classes is missing")
    if param.save_output_param.output_directory or param.visualize:
        message = f"layer '{layer.name}': detections are returned as a blob, and neither saved to a directory nor shown"
        warnings.warn(message, IgnoredSetting, stacklevel=2)
    if len(layer.bottom) > 3:
        raise BuildError(f"layer '{layer.name}': three bottoms are supported: locations, scores, priors")
    nms = param.nms_param
    return DetectionOutput(
        Detection(
            classes=param.num_classes,
            shared=param.share_location,
            background=param.background_label_id,
            kind=CODE_TYPES[param.code_type],
            encoded=param.variance_encoded_in_target,
            threshold=param.confidence_threshold if param.HasField("confidence_threshold") else -math.inf,
            nms=nms.nms_threshold,
            eta=nms.eta,
            per_class=nms.top_k if nms.HasField("top_k") else -1,
            in_all=param.keep_top_k,
        )
    )
