"""Losses towards references, added to a net's description as if they were in its prototxt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fusion.composition import Pct
from fusion.composition.references import ReferenceScores, check_pct, loss_layers
from fusion.errors import TrainingError, raise_all
from fusion.pct import contrastive
from fusion.references.classifiers import OldClassifier, classifier_of
from fusion.references.models import Model, class_scores_blob
from fusion.references.parse import Objective, Reference
from prototxt.schema.decode import decode
from prototxt.schema.messages import LayerParameter, NetParameter
from prototxt.shapes.loss_kinds import class_label
from prototxt.shapes.registry import layer_type
from prototxt.text.parser import parse

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from prototxt.shapes.dimensions import Shape

_FEATURES = {"cna": contrastive.OPTIONS, "bct": ()}  # losses that compare features, and their options
_EXAMPLES = {
    "cna": "e.g. cna,on=ip1,tau=0.1 with --reference NET:WEIGHTS@ip1",
    "bct": "e.g. bct,on=ip1 with --reference NET:WEIGHTS",
}


@dataclass(frozen=True)
class ClassificationTask:
    """The classifier in training: the blob with its class scores, the one with labels, and the number of classes."""

    logits: str
    label: str
    classes: int


@dataclass(frozen=True)
class NetWithLosses:
    """The net's description with the losses.

    weights    of the layers that belong to an old net
    schedules  losses with a warmup: layer -> start, iterations to the full weight
    layers     the names of each objective's layers
    """

    net: NetParameter
    schedules: Mapping[str, tuple[int, int]]
    layers: tuple[tuple[str, ...], ...]
    weights: Mapping[str, list[NDArray[np.float32]]]


def find_task(net: NetParameter, shapes: Mapping[str, Shape]) -> ClassificationTask:
    """Return the blobs that the net's own loss compares. Raises: TrainingError unless they are unique."""
    logits = class_scores_blob(net)
    label = class_label(net, logits)
    width = shapes[logits][1] if len(shapes.get(logits, ())) > 1 else None
    if label is None or width is None:
        raise TrainingError(
            f"no loss compares '{logits}' with labels",
            hint="references need a loss on classes, such as SoftmaxWithLoss",
        )
    return ClassificationTask(logits, label, width)


def add_losses(
    net: NetParameter,
    task: ClassificationTask,
    models: Sequence[Model],
    objectives: Sequence[Objective],
    kd_alpha: float | None = None,
    shapes: Mapping[str, Shape] | None = None,
) -> NetWithLosses:
    """Return the net with an input per external reference and a loss per objective and reference.

    kd_alpha  a: the net's own losses count (1 - a) and the new ones a times their weight; None: both count fully
    shapes    of the net's blobs, where they are known
    Raises: TrainingError naming every objective that does not fit; ComposeError for unknown losses and options.
    """
    raise_all(check_pct([o.pct for o in objectives if o.pct.kind not in _FEATURES]))
    raise_all(_errors(models, objectives, kd_alpha))
    shapes = shapes or {}
    result = NetParameter()
    result.CopyFrom(net)
    if kd_alpha is not None:
        _scale(result, 1 - kd_alpha)
    names = {layer.name for layer in net.layer}
    outside = [model.blob for model in models_with_logits(models, objectives) if not model.members[0].in_graph]
    inputs = [LayerParameter(name=blob, type="Input", top=[blob]) for blob in outside]
    schedules = {}
    names_by_objective: list[tuple[str, ...]] = []
    old: dict[str, OldClassifier] = {}
    for objective in objectives:
        chosen = [model for model in models if _applies(objective, model)]
        if objective.pct.kind == "bct":  # the old classifier becomes a frozen layer of this net
            features = str(objective.on)
            width = shapes[features][1] if len(shapes.get(features, ())) == 2 else None
            heads = [classifier_of(model, features, width) for model in chosen]
            result.layer.extend(head.layer for head in heads if head.scores not in old)
            old.update((head.scores, head) for head in heads)
        before = len(result.layer)
        for layer, spec in _losses(objective, chosen, task):
            layer.name = _fresh(layer.name, names)
            layer.top[0] = layer.name
            layer.loss_weight[0] *= 1.0 if kd_alpha is None else kd_alpha
            if spec.start or spec.warmup:
                schedules[layer.name] = (spec.start, spec.warmup)
            result.layer.append(layer)
        names_by_objective.append(tuple(layer.name for layer in result.layer[before:]))
    # Inputs come first: a layer can only read the tops of earlier layers.
    layers = list(result.layer)
    del result.layer[:]
    result.layer.extend([*inputs, *layers])
    weights = {head.layer.name: head.weights for head in old.values()}
    return NetWithLosses(result, schedules, tuple(names_by_objective), weights)


def models_with_logits(models: Sequence[Model], objectives: Sequence[Objective]) -> list[Model]:
    """Return the models whose logits are needed: not those that only provide their classifier; all without losses."""
    on_logits = [objective for objective in objectives if objective.pct.kind != "bct"]
    return [m for m in models if not objectives or any(_applies(objective, m) for objective in on_logits)]


def _applies(objective: Objective, model: Model) -> bool:
    return not objective.of or model.name in objective.of


def _losses(
    objective: Objective, models: Sequence[Model], task: ClassificationTask
) -> list[tuple[LayerParameter, Reference]]:
    """Return the layers of one objective, each with the reference that gives its start and warmup."""
    pct, on = objective.pct, objective.on or task.logits
    if pct.kind == "elodi":
        layer = _layer(pct, [_scores(model, task) for model in models], on, task)
        layer.pct_param.reference_weight.extend(_weight(model) for model in models)
        return [(layer, models[0].spec)]
    layers = []
    for model in models:
        weighted = Pct(pct.kind, pct.weight * _weight(model), pct.options)
        if pct.kind == "cna":
            layers.append((_feature_loss("CNALoss", weighted, model, [on, model.blob, task.label]), model.spec))
        elif pct.kind == "bct":
            layers.append(
                (_feature_loss("BCTLoss", weighted, model, [f"{on}/as/{model.name}", task.label]), model.spec)
            )
        else:
            layers.append((_layer(weighted, [_scores(model, task)], on, task), model.spec))
    return layers


def _weight(model: Model) -> float:
    """Return a model's factor; the weights of an ensemble's members are shares instead."""
    return 1.0 if len(model.members) > 1 else model.spec.weight


def _scores(model: Model, task: ClassificationTask) -> ReferenceScores:
    return ReferenceScores(model.name, model.blob, model.classes or tuple(range(task.classes)))


def _layer(pct: Pct, scores: Sequence[ReferenceScores], on: str, task: ClassificationTask) -> LayerParameter:
    return _decoded(loss_layers([pct], scores, on, task.label, task.classes))


def _feature_loss(kind: str, pct: Pct, model: Model, blobs: Sequence[str]) -> LayerParameter:
    lines = [f"{name}: {value}" for name, value in pct.options.items()]
    lines += [f"classes: {number}" for number in model.classes]
    bottoms = " ".join(f'bottom: "{blob}"' for blob in blobs)
    name = f"{pct.kind}_{model.name}"
    body = f"loss_weight: {pct.weight:.9g} pct_param {{ {' '.join(lines)} }}"
    return _decoded(f'layer {{ name: "{name}" type: "{kind}" {bottoms} top: "{name}" {body} }}')


def _decoded(text: str) -> LayerParameter:
    layer: LayerParameter = decode(parse(text), "NetParameter").layer[0]
    layer.ClearField("include")
    return layer


def _fresh(name: str, used: set[str]) -> str:
    unique, number = name, 1
    while unique in used:
        number += 1
        unique = f"{name}{number}"
    used.add(unique)
    return unique


def _scale(net: NetParameter, factor: float) -> None:
    """Multiply the weight of every loss that the net has."""
    for layer in net.layer:
        weights = list(layer.loss_weight) or ([1.0] if layer_type(layer.type).loss else [])
        if weights:
            del layer.loss_weight[:]
            layer.loss_weight.extend(weight * factor for weight in weights)


def _errors(models: Sequence[Model], objectives: Sequence[Objective], kd_alpha: float | None) -> list[TrainingError]:
    errors = []
    names = {model.name for model in models}
    if kd_alpha is not None and not 0 <= kd_alpha <= 1:
        errors.append(TrainingError(f"kd_alpha must lie in [0, 1], not {kd_alpha:g}"))
    if objectives and not models:
        errors.append(TrainingError("a loss towards references without a reference", hint="add --reference"))
    for objective in objectives:
        absent = [name for name in objective.of if name not in names]
        if absent:
            message = f"--pct {objective.pct.kind}: no reference is called {', '.join(absent)}"
            errors.append(TrainingError(message, hint=f"there are {', '.join(sorted(names)) or 'none'}"))
        kind = objective.pct.kind
        known = _FEATURES.get(kind)
        if known is not None and (objective.on is None or not set(objective.pct.options) <= set(known)):
            message = f"--pct {kind} compares features: it needs on=BLOB and takes {', '.join(('weight', *known))}"
            errors.append(TrainingError(message, hint=_EXAMPLES[kind]))
    return errors
