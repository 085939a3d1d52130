"""Losses towards references, as prototxt layers on top of `fusion.pct.losses`.

    layer {
      name: "keep_odd" type: "FocalDistillationLoss"
      bottom: "ip2" bottom: "odd/ip2" bottom: "label" top: "keep_odd"
      loss_weight: 1
      pct_param { classes: [1, 3, 5, 7, 9] alpha: 1 beta: 5 }
    }

Bottoms are the new logits, one or more references' logits, and the labels; `loss_weight` is the paper's lambda.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fusion.errors import BuildError, TrainingError
from fusion.layers.registry import Context, layer
from fusion.pct import contrastive, losses
from prototxt.schema.messages import LayerParameter, NetParameter, PCTParameter
from prototxt.text.source_places import place_of

FILTERS = {number: name.lower() for name, number in PCTParameter.Filter.items()}
# The fields of pct_param are named as the options of the loss functions; Caffe's loss layers always take the mean.
WEIGHTING = (*(name for name in losses.Weighting._fields if name != "reduction"), "reference_weight")
NOT_ARGUMENTS = ("reference_weight", "distance")


class ReferenceLoss(nn.Module):
    """The sum of a loss over the references, times their shares (default: equal ones that sum to 1)."""

    def __init__(self, loss: Callable[..., Tensor], shares: Sequence[float], labelled: bool = True) -> None:
        super().__init__()
        self.loss = loss
        self.shares = tuple(shares)
        self.labelled = labelled

    def forward(self, new: Tensor, *others: Tensor) -> Tensor:
        """Return the loss, float []. Bottoms: new logits [N, C], references' [N, K], labels [N] of any number type."""
        references, target = (others[:-1], indices(others[-1])) if self.labelled else (others, None)
        shares = self.shares or (1 / len(references),) * len(references)
        rows = new.flatten(1)
        parts = [
            share * self.loss(new=rows, old=old.flatten(1), target=target)
            for share, old in zip(shares, references, strict=True)
            if share  # 0 times an infinite loss would be NaN
        ]
        return torch.stack(parts).sum()


class EnsembleLoss(nn.Module):
    """A loss towards the mean of all references."""

    def __init__(self, loss: Callable[..., Tensor], shares: Sequence[float]) -> None:
        super().__init__()
        self.loss = loss
        self.shares = tuple(shares) or None

    def forward(self, new: Tensor, *others: Tensor) -> Tensor:
        """Return the loss, float []; bottoms as in ReferenceLoss."""
        *references, label = others
        old = [reference.flatten(1) for reference in references]
        return self.loss(new=new.flatten(1), old=old, target=indices(label), reference_weights=self.shares)


class TrainableFeatures(nn.Module):
    """A feature loss that is an error where nothing below it learns, since it would have no effect.

    blob   the bottom with the new net's features, for the message
    """

    def __init__(self, loss: nn.Module, name: str, blob: str) -> None:
        super().__init__()
        self.loss = loss
        self.name = name
        self.blob = blob

    def forward(self, new: Tensor, *others: Tensor) -> Tensor:
        """Return the loss, float []. Raises: TrainingError where gradients are enabled but the features need none."""
        if torch.is_grad_enabled() and not new.requires_grad:
            raise TrainingError(
                f"layer '{self.name}': no learnable parameter lies below '{self.blob}', where the frozen part ends",
                hint="thaw layers below it (lr_mult above 0), or leave this loss out",
            )
        value: Tensor = self.loss(new, *others)
        return value


class CompatibilityLoss(nn.Module):
    """The cross-entropy of the old classifier, frozen in the graph, on the new features."""

    def __init__(self, classes: Sequence[int]) -> None:
        super().__init__()
        self.classes = tuple(classes) or None

    def forward(self, scores: Tensor, label: Tensor) -> Tensor:
        """Return the loss, float []. Bottoms: the old classifier's scores [N, K] of the new features, labels [N]."""
        return losses.cross_entropy(scores.flatten(1), indices(label), self.classes, "mean")


def indices(label: Tensor) -> Tensor:
    """Convert Caffe's labels (float32, [N] or [N, 1, 1, 1]) to int64 [N]."""
    return label.reshape(-1).to(torch.int64)


@layer("KDLoss")
def _kd(layer: LayerParameter, context: Context) -> nn.Module:
    return _reference_loss(layer, losses.kd, ("temperature",))


@layer("FocalDistillationLoss")
def _focal_distillation(layer: LayerParameter, context: Context) -> nn.Module:
    distance = layer.pct_param.distance
    choices: Mapping[int, tuple[Callable[..., Tensor], tuple[str, ...]]] = {
        PCTParameter.KL: (losses.kd, ("temperature",)),
        PCTParameter.L2: (losses.logit_matching, ()),
        PCTParameter.LI: (losses.ldi, losses.DIFFERENCE_OPTIONS),
    }
    loss, names = choices[distance]
    # The defaults of `focal_distillation`, whose `distance` is chosen here, when the net is built.
    preset: dict[str, Any] = {"filter": "old_correct"}
    if distance == PCTParameter.KL:
        preset["temperature"] = 100.0
    return _reference_loss(layer, loss, (*names, "distance"), preset)


@layer("LogitMatchingLoss")
def _logit_matching(layer: LayerParameter, context: Context) -> nn.Module:
    return _reference_loss(layer, losses.logit_matching, ())


@layer("LDILoss")
def _ldi(layer: LayerParameter, context: Context) -> nn.Module:
    return _reference_loss(layer, losses.ldi, losses.DIFFERENCE_OPTIONS)


@layer("NaivePCTLoss")
def _naive(layer: LayerParameter, context: Context) -> nn.Module:
    settings = _settings(layer, ("classes", "reference_weight"))
    return ReferenceLoss(_bound(losses.naive, settings), _shares(layer))


@layer("ELODILoss")
def _elodi(layer: LayerParameter, context: Context) -> nn.Module:
    settings = _settings(layer, (*WEIGHTING, *losses.DIFFERENCE_OPTIONS))
    return EnsembleLoss(_bound(losses.elodi, settings), _shares(layer))


@layer("CNALoss")
def _cna(layer: LayerParameter, context: Context) -> nn.Module:
    settings = _settings(layer, ("classes", "reference_weight", *contrastive.OPTIONS))
    # Labels are needed only with `classes`; without it a last bottom with one axis is taken for labels.
    last = context.bottoms[-1]
    labelled = "classes" in settings or len(last) == 1
    if labelled and len(layer.bottom) < 3:
        message = "there are no reference features" if len(last) == 1 else "pct_param.classes needs the labels"
        raise _refused(layer, message, "give new features, reference features and labels")
    shares = _shares(layer, len(layer.bottom) - 1 - labelled)
    return _check_trainable(ReferenceLoss(_bound(contrastive.cna, settings), shares, labelled), layer, context)


@layer("BCTLoss")
def _bct(layer: LayerParameter, context: Context) -> nn.Module:
    settings = _settings(layer, ("classes", "classifier"))
    return _check_trainable(CompatibilityLoss(settings.get("classes", ())), layer, context)


def check_classifiers(net: NetParameter) -> list[BuildError]:
    """Return every BCTLoss of a filtered net whose bottom does not come from an old classifier that is frozen."""
    errors = []
    makers: dict[str, LayerParameter] = {}
    for each in net.layer:
        maker = makers.get(each.bottom[0]) if each.type == "BCTLoss" and each.bottom else None
        classifier = each.pct_param.classifier
        if maker is not None and classifier and maker.name != classifier:
            message = f"'{each.bottom[0]}' is not a top of the classifier '{classifier}'"
            errors.append(_refused(each, message, "its bottom must be the scores of the old net's last layer"))
        elif maker is not None and maker.type == "InnerProduct" and _learns(maker):
            message = f"its old classifier '{maker.name}' is not frozen"
            errors.append(_refused(each, message, "freeze it, with weights and bias: param { lr_mult: 0 }"))
        makers.update((top, each) for top in each.top)
    return errors


def _learns(layer: LayerParameter) -> bool:
    blobs = 2 if layer.inner_product_param.bias_term else 1
    return len(layer.param) < blobs or any(param.lr_mult for param in layer.param)


def _check_trainable(loss: nn.Module, layer: LayerParameter, context: Context) -> nn.Module:
    return TrainableFeatures(loss, layer.name, layer.bottom[0]) if context.phase == "TRAIN" else loss


def _reference_loss(
    layer: LayerParameter, loss: Callable[..., Tensor], names: Sequence[str], preset: Mapping[str, Any] | None = None
) -> nn.Module:
    settings = {**(preset or {}), **_settings(layer, (*WEIGHTING, *names))}
    return ReferenceLoss(_bound(loss, settings), _shares(layer))


def _settings(layer: LayerParameter, known: Sequence[str]) -> dict[str, Any]:
    """Return the set fields of pct_param by the loss function's argument names.

    Raises: BuildError for fields that this type does not use.
    """
    present = {field.name: value for field, value in layer.pct_param.ListFields()}
    foreign = [name for name in present if name not in known]
    if foreign:
        raise _refused(
            layer,
            f"{layer.type} does not use pct_param.{', pct_param.'.join(foreign)}",
            f"it reads {', '.join(known)}",
        )
    if "filter" in present:
        present["filter"] = FILTERS[present["filter"]]
    if "classes" in present:
        present["classes"] = [int(index) for index in present["classes"]]
    return present


def _bound(loss: Callable[..., Tensor], settings: Mapping[str, Any]) -> Callable[..., Tensor]:
    """Return the loss with its settings; a partial, so that a net can be pickled and copied."""
    return partial(loss, **{name: value for name, value in settings.items() if name not in NOT_ARGUMENTS})


def _shares(layer: LayerParameter, references: int | None = None) -> tuple[float, ...]:
    """Return the references' weights, or (). Raises: BuildError unless there is one per reference."""
    shares = tuple(layer.pct_param.reference_weight)
    count = len(layer.bottom) - 2 if references is None else references
    if shares and len(shares) != count:
        raise _refused(layer, f"{len(shares)} reference weights for {count} references", "one per reference")
    if shares and not (all(0 <= share < math.inf for share in shares) and any(shares)):
        raise _refused(layer, f"reference weights {list(shares)}", "each is 0 or more, and one of them above 0")
    return shares


def _refused(layer: LayerParameter, message: str, hint: str) -> BuildError:
    return BuildError(f"layer '{layer.name}': {message}", place=place_of(layer), hint=hint)
