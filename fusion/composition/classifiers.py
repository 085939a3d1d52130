"""Decide the fused net's classifiers: number of scores, label, metrics, and the layers between scores and loss."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from fusion.composition import losses
from fusion.composition.features import Shapes, format_shape, size_from
from fusion.composition.inputs import Inputs
from fusion.composition.labels import pairs_error
from fusion.composition.losses import CHOICES, Loss
from fusion.composition.output_layers import Tail, common_tail
from fusion.composition.prepared_source import PreparedSource
from fusion.composition.shapes import source_shapes
from fusion.composition.source_losses import Metric, SourceObjective, source_metrics
from fusion.composition.tasks import Goal
from fusion.errors import ComposeError

_POOLING = frozenset(("Pooling", "Flatten", "Reshape", "InnerProduct", "Reduction"))


@dataclass(frozen=True)
class FusedClassifier:
    """One row of scores of the fused net, for each sample or for each position of a map.

    name       its task, "" for the only one
    loss       with the blobs of the fused net as its label and further bottoms
    metrics    for class scores
    positions  whether each position is scored
    tail       the layers between the scores and the loss
    """

    name: str
    loss: Loss
    num_output: int
    metrics: tuple[Metric, ...] = ()
    positions: bool = False
    tail: Tail = field(default_factory=Tail)

    @property
    def label(self) -> str:
        """Return the blob with its labels."""
        return self.loss.label or ""

    def layer_name(self, kind: str) -> str:
        """Return the name of its layer of this kind: `loss`, or `loss_age` for a task."""
        return f"{kind}_{self.name}" if self.name else kind


def label_blobs(main: PreparedSource, goals: Sequence[Goal]) -> list[str]:
    """Return the blobs of the main source's data that the losses read: as named, or as in its own loss.

    Raises: ComposeError where the source's label is of another kind than the loss reads.
    """
    found: list[str] = []
    for goal in goals:
        further = [blob for blob in goal.loss.bottoms if blob in main.raw.input_blobs]
        if goal.loss.label is not None:
            found += [goal.loss.label, *further]
            continue
        own = goal.objectives.get(main.prefix)
        if own is None or own.label is None:
            continue
        if own.labels == "pair" and (error := pairs_error(main)):
            raise error
        if own.labels != goal.loss.kind.labels:
            raise main.error(
                f"{main} reads '{own.label}' by {own.layer.type}, so it may be no label for {goal.loss.type}",
                f"name the label: --loss {goal.loss.type},label={own.label}; the data has {', '.join(main.data_blobs)}",
                own.layer,
            )
        found += [own.label, *further]
    return list(dict.fromkeys(found))


def classifiers_of(goals: Sequence[Goal], inputs: Inputs, shapes: Shapes, notes: list[str]) -> list[FusedClassifier]:
    """Return every classifier. Raises: ComposeError if the numbers of scores do not fit the loss or the labels."""
    found = []
    for goal in goals:
        label = goal.loss.label or inputs.labels[0]
        _check_bottoms(goal.loss, inputs)
        positions = _positions(goal, inputs, shapes)
        if positions and len(goals) > 1:
            message = f"task '{goal.name}': its sources score every position of a map, and tasks score whole samples"
            raise ComposeError(message, hint="compose it by itself, with --loss")
        width = _width(goal, label, shapes, positions, notes)
        metrics = _metrics(goal, width) if goal.loss.kind.labels == "class" else ()
        tail = common_tail(goal, inputs, width, positions, notes)
        found.append(FusedClassifier(goal.name, replace(goal.loss, label=label), width, metrics, positions, tail))
    return found


def _check_bottoms(loss: Loss, inputs: Inputs) -> None:
    absent = [blob for blob in loss.bottoms if blob not in inputs.labels]
    if absent:
        message = f"loss '{loss.type}' reads '{absent[0]}' as a further bottom, which the data does not give"
        hint = "give the matrix as a file: --loss InfogainLoss,source=FILE" if loss.type == "InfogainLoss" else CHOICES
        raise ComposeError(message, hint=hint)


def _width(goal: Goal, label: str, shapes: Shapes, positions: bool, notes: list[str]) -> int:
    """Return the number of scores. Raises: ComposeError if it is not known, or does not fit."""
    task = f"task '{goal.name}': " if goal.name else ""
    if goal.loss.kind.labels == "class":
        if goal.num_output is None:
            raise ComposeError(
                f"{task}the number of classes is not given", hint="give num_output, or train on class folders"
            )
        if goal.num_output < 2:
            message = f"{task}{goal.loss.type} over {goal.num_output} class learns nothing: its loss is always the same"
            raise ComposeError(message, hint=f"give the number of classes, or another loss: {CHOICES}")
        _check_matrix(goal.loss, goal.num_output)
        return goal.num_output
    shape = shapes.get(label)
    known = size_from(shape, 1)
    if shape is not None and positions:  # a label per position has an axis of values only if it is a map of its own
        known = shape[1] if len(shape) > 3 else None
    own = [item.width for item in goal.objectives.values() if item.label == label or goal.loss.label is None]
    reason = "the sources score as many" if known is None else f"'{label}' has the shape {format_shape(shapes[label])}"
    if known is None and len(set(own)) == 1:
        known = own[0]
    if goal.num_output is not None:
        if known not in (None, goal.num_output):
            message = f"{task}{goal.loss.type} needs one output per value of its label, {known}, not {goal.num_output}"
            raise ComposeError(f"{message}: {reason}", hint=f"give num_output {known}, or another loss: {CHOICES}")
        return goal.num_output
    if known is None:
        notes.append(f"loss: {task}the number of values of '{label}' is not known here; num_output is 1")
    return known or 1


def _check_matrix(loss: Loss, classes: int) -> None:
    """Check the size of an infogain matrix, if its file exists. Raises: ComposeError."""
    path = (losses.loss_option(loss, "source") or "").strip("\"'")
    if loss.type != "InfogainLoss" or not os.path.isfile(path):
        return
    from google.protobuf.message import DecodeError

    from prototxt.schema.messages import BlobProto

    try:
        blob = BlobProto.FromString(Path(path).read_bytes())
    except DecodeError:
        raise ComposeError("the infogain matrix is not a BlobProto", place=path) from None
    size = len(blob.data) or len(blob.double_data)  # float and double blobs have fields of their own
    if size != classes * classes:
        message = f"the infogain matrix has {size} gains, and {classes} classes need {classes} x {classes}"
        raise ComposeError(message, place=path, hint="give the fused net's own: --loss InfogainLoss,source=FILE")


def _metrics(goal: Goal, classes: int) -> tuple[Metric, ...]:
    """Return the sources' own metrics, or one like the loss; a top_k of all classes would always be 1."""
    axis = int(losses.loss_option(goal.loss, "axis") or 1)
    ignored = losses.loss_option(goal.loss, "ignore_label")
    ignore = None if ignored is None else int(ignored, 0)
    found: list[Metric] = []
    for item in goal.objectives.values():
        known = source_metrics(item.source, item.scores) if item.labels == "class" else []
        own_classes = len(item.source.spec.classes)
        for one in known:
            label = one.ignore_label
            if label is not None and label < own_classes and label != ignore:
                message = f"{item.source} has a metric without label {label}, which is one of its own classes"
                raise ComposeError(message, hint=f"name the loss with the fused ignore_label: {CHOICES}")
        found += known
    # The accuracy must leave out a label that is no class, such as 255, which Caffe would take for an index.
    outside = ignore is not None and not 0 <= ignore < classes
    every = [replace(one, ignore_label=ignore) if one.ignore_label is None and outside else one for one in found]
    useful = [one for one in dict.fromkeys(every) if one.top_k < classes]
    return tuple(useful) or (Metric(1, axis, ignore),)


def _positions(goal: Goal, inputs: Inputs, shapes: Shapes) -> bool:
    """Return whether the sources score every position of a map. Raises: ComposeError if only some do."""
    found = {prefix: _scores_positions(item, inputs, shapes) for prefix, item in goal.objectives.items()}
    if len(set(found.values())) > 1:
        each = " and ".join(f"'{prefix}'" for prefix, one in found.items() if one)
        message = f"source {each} scores every position of a map, the others whole samples: no head does both"
        raise ComposeError(message, hint="fuse sources with outputs of one form")
    return any(found.values())


def _scores_positions(item: SourceObjective, inputs: Inputs, shapes: Shapes) -> bool:
    """Return whether every position of a map gets scores of its own, as far as layers and shapes show."""
    if item.classifier is None or item.classifier.type != "Convolution" or _POOLING & {one.type for one in item.tail}:
        return False
    for blob in item.source.cuts:
        shape = shapes.get(blob)
        if shape is not None and (len(shape) != 4 or shape[2:] == (1, 1)):
            return False
    scores = source_shapes(item.source, inputs, shapes).get(item.scores)
    return scores is None or (len(scores) == 4 and scores[2:] != (1, 1))
