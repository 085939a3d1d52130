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
from fusion.layers.forks.boxes import corners, offsets, overlap
from fusion.layers.losses import Normalization, divide, normalization
from fusion.layers.registry import Context, layer
from prototxt.shapes.fork_layers import fork_param

if TYPE_CHECKING:
    from prototxt.schema.messages import LayerParameter

TOUCHING = 1e-6
"""An overlap that counts as one."""


@dataclass(frozen=True)
class MultiBox:
    """How default boxes get their targets, and what counts how much.

    square, logistic  squared differences instead of smooth L1; one sigmoid per class instead of a softmax
    agnostic          all objects are one class, the one behind the background
    per_prediction    every box whose best overlap reaches `threshold` is matched, not only each object's best
    by_prior          overlaps are those of the default boxes, not of the decoded ones
    within            boxes that leave the image count neither way
    mining            only the worst of the unmatched boxes count, `ratio` per matched one, of overlap below `negative`
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


def match(truth: Tensor, boxes: Tensor, rule: MultiBox) -> tuple[Tensor, Tensor]:
    """Which object each box answers for.

    truth, boxes  float [G, 4], [P, 4]
    returns       int64 [P], -1 for none and -2 for a box that does not count; float [P], its greatest overlap
    """
    overlaps = overlap(boxes, truth)
    matched = torch.full((len(boxes),), -1, device=boxes.device)
    if rule.within:
        outside = (boxes < 0).any(1) | (boxes > 1).any(1)
        matched[outside] = -2
        overlaps = overlaps.masked_fill(outside[:, None], 0.0)
    overlaps = torch.where(overlaps > TOUCHING, overlaps, 0.0)
    best = overlaps.max(1).values
    pool = overlaps.clone()
    for _ in range(len(truth)):
        at = int(pool.argmax())
        box, thing = divmod(at, len(truth))
        if pool[box, thing] <= 0:
            break
        matched[box], best[box] = thing, overlaps[box, thing]
        pool[box], pool[:, thing] = 0.0, 0.0
    if rule.per_prediction:
        free = (matched == -1) & (best >= rule.threshold) & (best > 0)
        matched = torch.where(free, overlaps.max(1).indices, matched)
    return matched, best


class MultiBoxLoss(nn.Module):
    """The loss of matched boxes' locations, and that of the confidences of matched and of the worst other boxes."""

    def __init__(self, rule: MultiBox) -> None:
        super().__init__()
        self.rule = rule

    def forward(self, location: Tensor, score: Tensor, prior: Tensor, truth: Tensor) -> Tensor:
        """Offsets [N, P * 4], scores [N, P * C], priors [1, 2, P * 4] and objects [1, 1, G, 8] to a scalar.

        An object is image, class, instance, xmin, ymin, xmax, ymax, difficult; image -1 fills up.
        """
        rule = self.rule
        prior, variance = full(prior.detach()).reshape(2, -1, 4)
        code = full(location).reshape(location.shape[0], -1, 4)
        scores = full(score).reshape(score.shape[0], -1, rule.classes)
        things = full(truth.detach()).reshape(-1, 8)
        if not rule.difficult:
            things = things[things[:, 7] == 0]
        where, what, matches = code.new_zeros(()), code.new_zeros(()), 0
        for image in range(code.shape[0]):
            own = things[things[:, 0].long() == image]
            boxes = prior
            if not rule.by_prior:
                boxes = corners(code[image].detach(), prior, self._unit(variance), rule.kind)
            if len(own):
                matched, best = match(own[:, 3:7], boxes, rule)
            else:
                matched, best = torch.full((len(prior),), -1, device=prior.device), prior.new_full((len(prior),), 2.0)
            taken = matched >= 0
            matches += int(taken.sum())
            where = where + self._where(code[image][taken], own[matched[taken], 3:7], prior[taken], variance[taken])
            what = what + self._what(scores[image], own, matched, best)
        total = torch.tensor(matches, device=code.device)
        every = code.shape[0] * len(prior)
        return rule.location_weight * divide(where, rule.mode, code.shape[0], every, total) + divide(
            what, rule.mode, code.shape[0], every, total
        )

    def _unit(self, variance: Tensor) -> Tensor:
        return torch.ones_like(variance) if self.rule.encoded else variance

    def _where(self, code: Tensor, boxes: Tensor, prior: Tensor, variance: Tensor) -> Tensor:
        """The summed loss of locations; the variance divides both sides where the offsets have taken it in."""
        target = offsets(boxes, prior, self._unit(variance), self.rule.kind)
        if self.rule.encoded:
            code, target = code / variance, target / variance
        if self.rule.square:
            return (code - target).square().sum() / 2
        return F.smooth_l1_loss(code, target, reduction="sum")

    def _what(self, scores: Tensor, own: Tensor, matched: Tensor, best: Tensor) -> Tensor:
        """The summed loss of confidences."""
        rule, taken = self.rule, matched >= 0
        label = torch.full_like(matched, rule.background)
        label[taken] = rule.background + 1 if rule.agnostic else own[matched[taken], 1].long()
        if rule.logistic:
            target = F.one_hot(label.clamp(min=0), rule.classes).to(scores.dtype) * (label >= 0)[:, None]
            each = F.binary_cross_entropy_with_logits(scores, target, reduction="none").sum(1)
        else:
            each = F.cross_entropy(scores, label, reduction="none")
        if not rule.mining:
            return each.sum()
        free = (matched == -1) & (best < rule.negative)
        count = min(int(int(taken.sum()) * rule.ratio), int(free.sum()))
        worst = each.detach().masked_fill(~free, -math.inf).argsort(descending=True, stable=True)[:count]
        return each[taken].sum() + each[worst].sum()


@layer("MultiBoxLoss")
def multi_box_loss(layer: LayerParameter, context: Context) -> nn.Module:
    """The loss of SSD."""
    param = fork_param(layer, "multibox_loss_param")
    mining = param.mining_type != param.NONE
    problems = [
        (not param.num_classes, "num_classes is missing"),
        (not param.share_location, "share_location: false is not known"),
        (param.mining_type == param.HARD_EXAMPLE, "mining_type: HARD_EXAMPLE is not known"),
        (param.HasField("nms_param"), "nms_param is not known in mining"),
        (param.bp_inside, "bp_inside is not known"),
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
            kind={1: "CORNER", 2: "CENTER_SIZE", 3: "CORNER_SIZE"}[param.code_type],
            encoded=param.encode_variance_in_target,
            mode=normalization(layer.loss_param, "VALID"),
        )
    )
