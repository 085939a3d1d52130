"""The fused net's classifiers settled: how many scores, of what label, judged how, and what stands after them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from fusion.composition import losses
from fusion.composition.after_classifier import Tail, tail_of
from fusion.composition.features import Shape, shown
from fusion.composition.inputs import Inputs
from fusion.composition.label_layers import pairs_error
from fusion.composition.losses import CHOICES, Loss
from fusion.composition.shapes import source_shapes
from fusion.composition.source_losses import Judgement, Measure, measures_of, positions_kept
from fusion.composition.sources import PreparedSource
from fusion.composition.tasks import Aim
from fusion.errors import ComposeError


@dataclass(frozen=True)
class Classifier:
    """One row of scores of the fused net, for each sample or for each position of a map.

    name       its task, "" for the only one
    loss       with the blobs of the fused net as its label and further bottoms
    measures   for class scores
    positions  whether each position is scored
    tail       what stands between the scores and the loss
    """

    name: str
    loss: Loss
    num_output: int
    measures: tuple[Measure, ...] = ()
    positions: bool = False
    tail: Tail = field(default_factory=Tail)

    @property
    def label(self) -> str:
        """The blob with its labels."""
        return self.loss.label or ""

    def called(self, what: str) -> str:
        """The name of its layer of this kind: `loss`, or `loss_age` for a task."""
        return f"{what}_{self.name}" if self.name else what


def labels_of(main: PreparedSource, aims: Sequence[Aim]) -> list[str]:
    """The blobs of the main source's data that the losses read: as named, or what its own loss reads.

    Raises: ComposeError where that label means something else to the source than to the loss.
    """
    found: list[str] = []
    for aim in aims:
        further = [blob for blob in aim.loss.bottoms if blob in main.raw.input_blobs]
        if aim.loss.label is not None:
            found += [aim.loss.label, *further]
            continue
        own = aim.judges.get(main.prefix)
        if own is None or own.label is None:
            continue
        if own.labels == "pair" and (error := pairs_error(main)):
            raise error
        if own.labels != aim.loss.kind.labels:
            kind = own.layer.type if own.layer is not None else ""
            raise ComposeError(
                f"source '{main.prefix}' reads '{own.label}' by {kind}; whether it is a label for {aim.loss.type} is "
                "not known",
                place=main.raw.place(own.layer) if own.layer is not None else None,
                hint=f"name the label: --loss {aim.loss.type},label={own.label}; "
                f"the data has {', '.join(dict.fromkeys(top for layer in main.data_layers for top in layer.tops))}",
            )
        found += [own.label, *further]
    return list(dict.fromkeys(found))


def classifiers_of(
    parts: Sequence[PreparedSource], aims: Sequence[Aim], inputs: Inputs, shapes: Mapping[str, Shape], notes: list[str]
) -> list[Classifier]:
    """Every classifier with its numbers. Raises: ComposeError where these do not fit the loss or the labels."""
    found = []
    for aim in aims:
        label = aim.loss.label or inputs.labels[0]
        _check_bottoms(aim.loss, inputs)
        positions = _positions(parts, aim, inputs, shapes)
        if positions and len(aims) > 1:
            what = f"task '{aim.name}': its sources score every position of a map, and tasks score whole samples"
            raise ComposeError(what, hint="compose it by itself, with --loss")
        width = _width(aim, label, shapes, positions, notes)
        measures = _measures(aim, width) if aim.loss.kind.labels == "class" else ()
        tail = tail_of(aim, inputs, width, positions, notes)
        found.append(Classifier(aim.name, replace(aim.loss, label=label), width, measures, positions, tail))
    return found


def _check_bottoms(loss: Loss, inputs: Inputs) -> None:
    absent = [blob for blob in loss.bottoms if blob not in inputs.labels]
    if absent:
        what = f"loss '{loss.type}' reads '{absent[0]}' as a further bottom, which the data does not give"
        hint = "give the matrix as a file: --loss InfogainLoss,source=FILE" if loss.type == "InfogainLoss" else CHOICES
        raise ComposeError(what, hint=hint)


def _width(aim: Aim, label: str, shapes: Mapping[str, Shape], positions: bool, notes: list[str]) -> int:
    """How many scores there are. Raises: ComposeError where that is not known, or does not fit."""
    task = f"task '{aim.name}': " if aim.name else ""
    if aim.loss.kind.labels == "class":
        if aim.num_output is None:
            raise ComposeError(f"{task}how many classes there are is not said", hint="give num_output=N")
        if aim.num_output < 2:
            what = f"{task}{aim.loss.type} over {aim.num_output} class learns nothing: its loss is always the same"
            raise ComposeError(what, hint=f"give the number of classes, or another loss: {CHOICES}")
        _check_matrix(aim.loss, aim.num_output)
        return aim.num_output
    known = _label_width(shapes.get(label), positions)
    own = [item.width for item in aim.judges.values() if item.label == label or aim.loss.label is None]
    said = f"'{label}' has the shape {shown(shapes[label])}" if known is not None else "the sources score as many"
    if known is None and len(set(own)) == 1:
        known = own[0]
    if aim.num_output is not None:
        if known not in (None, aim.num_output):
            what = f"{task}{aim.loss.type} needs one output per value of its label, {known}, not {aim.num_output}: "
            raise ComposeError(what + said, hint=f"give num_output {known}, or another loss: {CHOICES}")
        return aim.num_output
    if known is None:
        notes.append(f"loss: {task}how many values '{label}' has is not known here; num_output is 1")
    return known or 1


def _label_width(shape: Shape | None, positions: bool) -> int | None:
    """Values of a label per sample, or per position; None if not known."""
    if shape is None:
        return None
    if positions:
        return shape[1] if len(shape) > 3 else None
    width: int | None = 1
    for dim in shape[1:]:
        width = None if dim is None or width is None else width * dim
    return width


def _check_matrix(loss: Loss, classes: int) -> None:
    """Raises: ComposeError for an infogain matrix of another size; a file that is not here is not looked at."""
    path = (losses.option(loss, "source") or "").strip("\"'")
    if loss.type != "InfogainLoss" or not os.path.isfile(path):
        return
    from google.protobuf.message import DecodeError

    from prototxt.schema.messages import BlobProto

    with open(path, "rb") as file:
        content = file.read()
    try:
        blob = BlobProto.FromString(content)
    except DecodeError:
        raise ComposeError("the infogain matrix is no BlobProto", place=path) from None
    size = len(blob.data) or len(blob.double_data)
    if size != classes * classes:
        what = f"the infogain matrix has {size} gains, and {classes} classes need {classes} x {classes}"
        raise ComposeError(what, place=path, hint="give the fused net's own: --loss InfogainLoss,source=FILE")


def _measures(aim: Aim, classes: int) -> tuple[Measure, ...]:
    """The sources' own, or one as the loss counts; a top_k of all classes measures nothing."""
    axis = int(losses.option(aim.loss, "axis") or 1)
    ignored = losses.option(aim.loss, "ignore_label")
    ignore = None if ignored is None else int(ignored, 0)
    found: list[Measure] = []
    for prefix, item in aim.judges.items():
        known = measures_of(item.part, item.scores or "") if item.labels == "class" else []
        mapped = bool(item.part.source.classes)
        for one in known:
            strange = one.ignore_label is not None and mapped and one.ignore_label < len(item.part.source.classes)
            if strange and one.ignore_label != ignore:
                what = f"source '{prefix}' measures without label {one.ignore_label}, which is one of its own classes"
                raise ComposeError(what, hint=f"name the loss with the fused ignore_label: {CHOICES}")
            found.append(one)
    outside = ignore is not None and not 0 <= ignore < classes
    every = [replace(one, ignore_label=ignore) if one.ignore_label is None and outside else one for one in found]
    kept = [one for one in dict.fromkeys(every) if one.top_k < classes]
    return tuple(kept) or (Measure(1, axis, ignore),)


def _positions(parts: Sequence[PreparedSource], aim: Aim, inputs: Inputs, shapes: Mapping[str, Shape]) -> bool:
    """Whether the sources score every position of a map. Raises: ComposeError where some do and others do not."""
    found = {prefix: _scores_positions(item, inputs, shapes) for prefix, item in aim.judges.items()}
    if len(set(found.values())) > 1:
        each = " and ".join(f"'{prefix}'" for prefix, one in found.items() if one)
        what = f"source {each} scores every position of a map, the others whole samples: no head does both"
        raise ComposeError(what, hint="fuse sources that answer alike")
    return any(found.values())


def _scores_positions(item: Judgement, inputs: Inputs, shapes: Mapping[str, Shape]) -> bool:
    if not positions_kept(item):
        return False
    for blob in item.part.cuts:
        shape = shapes.get(blob)
        if shape is not None and (len(shape) != 4 or shape[2:] == (1, 1)):
            return False
    scores = source_shapes(item.part, inputs, shapes).get(item.scores or "")
    return scores is None or (len(scores) == 4 and scores[2:] != (1, 1))
