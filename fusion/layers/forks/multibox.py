"""SSD's loss.

Source: Liu et al. 2016; weiliu89/caffe at branch ssd (multibox_loss_layer.cpp, bbox_util.cpp).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusion.errors import BuildError
from fusion.layers.axes import full
from fusion.layers.forks.boxes import CODE_TYPES, corners, offsets, overlap
from fusion.layers.losses import Normalization, divide, normalization
from fusion.layers.registry import Context, layer
from prototxt.shapes.fork_layers import fork_param

if TYPE_CHECKING:
    from prototxt.schema.messages import LayerParameter

TOUCHING = 1e-6
"""Overlaps up to this count as 0."""


@dataclass(frozen=True)
class MultiBox:
    """How default boxes are matched to objects, and the weights of the loss.

    square, logistic  squared differences instead of smooth L1; one sigmoid per class instead of a softmax
    agnostic          all objects are one class, the one after the background
    per_prediction    every box whose best overlap reaches `threshold` is matched, not only each object's best
    by_prior          overlaps are those of the default boxes, not of the decoded ones
    within            boxes that cross the image's edge are ignored
    mining            only the hardest unmatched boxes count, `ratio` per matched one, of overlap below `negative`
    """

    classes: int
    background: int
    square: bool
    logistic: bool
    location_weight: float
    agnostic: bool
    per_prediction: bool
    threshold: float
    by_prior: bool
    within: bool
    difficult: bool
    mining: bool
    ratio: float
    negative: float
    kind: str
    encoded: bool
    mode: Normalization


def match_boxes(truth: Tensor, boxes: Tensor, rule: MultiBox) -> tuple[Tensor, Tensor]:
    """Match each box to an object.

    truth, boxes  float [G, 4], [P, 4]
    returns       int64 [P], -1 for none and -2 for an ignored box; float [P], its greatest overlap
    """
    overlaps = overlap(boxes, truth)
    matched = torch.full((len(boxes),), -1, device=boxes.device)
    if rule.within:
        outside = (boxes < 0).any(1) | (boxes > 1).any(1)
        matched[outside] = -2
        overlaps = overlaps.masked_fill(outside[:, None], 0.0)
    overlaps = torch.where(overlaps > TOUCHING, overlaps, 0.0)
    best = overlaps.max(1).values
    # Each object first gets its best box, the greatest overlap of all going first (bbox_util.cpp, MatchBBox).
    pool = overlaps.clone()
    for _ in range(len(truth)):
        box, thing = divmod(int(pool.argmax()), len(truth))
        if pool[box, thing] <= 0:
            break
        matched[box], best[box] = thing, overlaps[box, thing]
        pool[box], pool[:, thing] = 0.0, 0.0
    if rule.per_prediction:
        free = (matched == -1) & (best >= rule.threshold) & (best > 0)
        matched = torch.where(free, overlaps.max(1).indices, matched)
    return matched, best


class MultiBoxLoss(nn.Module):
    """The loss of the matched boxes' locations, plus that of the confidences of matched and hard unmatched boxes."""

    def __init__(self, rule: MultiBox) -> None:
        super().__init__()
        self.rule = rule

    def forward(self, location: Tensor, score: Tensor, prior: Tensor, truth: Tensor) -> Tensor:
        """Map offsets [N, P * 4], scores [N, P * C], priors [1, 2, P * 4] and objects [1, 1, G, 8] to a scalar.

        An object is image, class, instance, xmin, ymin, xmax, ymax, difficult; image -1 is padding.
        """
        rule = self.rule
        prior, variance = full(prior.detach()).reshape(2, -1, 4)
        code = full(location).reshape(location.shape[0], -1, 4)
        scores = full(score).reshape(score.shape[0], -1, rule.classes)
        things = full(truth.detach()).reshape(-1, 8)
        if not rule.difficult:
            things = things[things[:, 7] == 0]
        localization, confidence, matches = code.new_zeros(()), code.new_zeros(()), 0
        for image in range(code.shape[0]):
            own = things[things[:, 0].long() == image]
            boxes = prior
            if not rule.by_prior:
                boxes = corners(code[image].detach(), prior, self._unit(variance), rule.kind)
            if len(own):
                matched, best = match_boxes(own[:, 3:7], boxes, rule)
            else:  # overlap 2: none of an empty image's boxes counts as a hard negative
                matched, best = torch.full((len(prior),), -1, device=prior.device), prior.new_full((len(prior),), 2.0)
            positive = matched >= 0
            matches += int(positive.sum())
            localization = localization + self._localization(
                code[image][positive], own[matched[positive], 3:7], prior[positive], variance[positive]
            )
            confidence = confidence + self._confidence(scores[image], own, matched, best)
        total = torch.tensor(matches, device=code.device)
        every = code.shape[0] * len(prior)
        return rule.location_weight * divide(localization, rule.mode, code.shape[0], every, total) + divide(
            confidence, rule.mode, code.shape[0], every, total
        )

    def _unit(self, variance: Tensor) -> Tensor:
        return torch.ones_like(variance) if self.rule.encoded else variance

    def _localization(self, code: Tensor, boxes: Tensor, prior: Tensor, variance: Tensor) -> Tensor:
        """Return the summed loss of locations; the variance divides both sides where the offsets include it."""
        target = offsets(boxes, prior, self._unit(variance), self.rule.kind)
        if self.rule.encoded:
            code, target = code / variance, target / variance
        if self.rule.square:
            return (code - target).square().sum() / 2
        return F.smooth_l1_loss(code, target, reduction="sum")

    def _confidence(self, scores: Tensor, own: Tensor, matched: Tensor, best: Tensor) -> Tensor:
        """Return the summed loss of confidences."""
        rule, positive = self.rule, matched >= 0
        label = torch.full_like(matched, rule.background)
        label[positive] = rule.background + 1 if rule.agnostic else own[matched[positive], 1].long()
        if rule.logistic:
            target = F.one_hot(label.clamp(min=0), rule.classes).to(scores.dtype) * (label >= 0)[:, None]
            each = F.binary_cross_entropy_with_logits(scores, target, reduction="none").sum(1)
        else:
            each = F.cross_entropy(scores, label, reduction="none")
        if not rule.mining:
            return each.sum()
        # Online hard negative mining: the unmatched boxes of greatest loss, a fixed number per matched one.
        free = (matched == -1) & (best < rule.negative)
        count = min(int(int(positive.sum()) * rule.ratio), int(free.sum()))
        worst = each.detach().masked_fill(~free, -math.inf).argsort(descending=True, stable=True)[:count]
        return each[positive].sum() + each[worst].sum()


@layer("MultiBoxLoss")
def _multi_box_loss(layer: LayerParameter, context: Context) -> nn.Module:
    param = fork_param(layer, "multibox_loss_param")
    mining = param.mining_type != param.NONE
    problems = [
        (not param.num_classes, "num_classes is missing"),
        (not param.share_location, "share_location: false is not supported"),
        (param.mining_type == param.HARD_EXAMPLE, "mining_type: HARD_EXAMPLE is not supported"),
        (param.HasField("nms_param"), "nms_param is not supported in mining"),
        (param.bp_inside, "bp_inside is not supported"),
        (param.HasField("do_neg_mining") and param.do_neg_mining != mining, "do_neg_mining contradicts mining_type"),
    ]
    for wrong, message in problems:
        if wrong:
            raise BuildError(f"layer '{layer.name}': multibox_loss_param: {message}")
    return MultiBoxLoss(
        MultiBox(
            classes=param.num_classes,
            background=param.background_label_id,
            square=param.loc_loss_type == param.L2,
            logistic=param.conf_loss_type == param.LOGISTIC,
            location_weight=param.loc_weight,
            agnostic=param.map_object_to_agnostic,
            per_prediction=param.match_type == param.PER_PREDICTION,
            threshold=param.overlap_threshold,
            by_prior=param.use_prior_for_matching,
            within=param.ignore_cross_boundary_bbox,
            difficult=param.use_difficult_gt,
            mining=mining,
            ratio=param.neg_pos_ratio,
            negative=param.neg_overlap,
            kind=CODE_TYPES[param.code_type],
            encoded=param.encode_variance_in_target,
            mode=normalization(layer.loss_param, "VALID"),
        )
    )
