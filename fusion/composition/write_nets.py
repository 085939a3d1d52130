"""The texts of the fused net: one to train and validate, one to deploy, with its class names as comments."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fusion.composition.classifiers import FusedClassifier
from fusion.composition.heads import Head
from fusion.composition.inputs import Inputs
from fusion.composition.losses import loss_layer, loss_option
from fusion.composition.net_text import LayerText, excerpt, format_layer, quoted, reparse
from fusion.composition.output_layers import softmax_layer
from fusion.composition.prepared_source import PreparedSource
from fusion.composition.references import Pct, ReferenceScores, loss_layers, resolve_classes
from fusion.composition.source import Source
from fusion.composition.source_losses import Metric
from fusion.errors import ComposeError, raise_all
from prototxt.text.class_names import ClassNames, class_comments, read_names
from prototxt.text.tree import Document

Shape = tuple[int | None, ...]
_TEST = "include { phase: TEST }"


@dataclass(frozen=True)
class FusionPlan:
    """All that is settled about a fused net.

    branches    per prefix: the text of each of its layers, by number
    classifiers what it scores, and by which losses it learns
    references  the sources' class scores that are kept
    deployed    whether these are needed without the losses too
    """

    title: str
    classifiers: Sequence[FusedClassifier]
    sources: Sequence[PreparedSource]
    inputs: Inputs
    branches: Mapping[str, Mapping[int, str]]
    head: Head
    references: Sequence[ReferenceScores]
    losses: Sequence[Pct]
    deployed: bool


def branch_texts(source: PreparedSource, inputs: Inputs) -> dict[int, str]:
    """The text of each layer of the branch and its classifier, reading the fused net's data blobs."""
    from prototxt.text.edits import Edits

    feed = inputs.feeds[source.prefix]
    texts = {}
    for layer in source.net.layers:
        if layer.number not in source.branch.layers | source.classifier:
            continue
        text = excerpt(source.net, layer)
        changed = {blob: new for blob, new in feed.items() if blob != new and blob in layer.bottoms + layer.tops}
        if changed:
            document = reparse(text, source.net.document.name)
            edits = Edits(document)
            block = document.root.messages("layer")[0]
            for scalar in block.scalars("bottom") + block.scalars("top"):
                if scalar.value in changed:
                    edits.replace(scalar, quoted(changed[scalar.value]))
            text = str(edits.apply())
        texts[layer.number] = text
    return texts


def train_val_document(plan: FusionPlan) -> Document:
    """The net with data layers, measures and losses."""
    pieces = [f"name: {quoted(plan.title)}\n", plan.inputs.text]
    pieces += [_branch(plan, source) for source in plan.sources]
    pieces.append(plan.head.text)
    for classifier, scores in zip(plan.classifiers, plan.head.scores, strict=True):
        pieces += _judged(classifier, scores)
    if plan.losses:
        only = plan.classifiers[0]
        pieces.append(loss_layers(plan.losses, plan.references, plan.head.scores[0], only.label, only.num_output))
    return reparse("\n".join(pieces), "train_val.prototxt")


def deploy_document(plan: FusionPlan, shapes: Mapping[str, Shape], notes: list[str]) -> Document | None:
    """The net with an Input per picture blob and the classifiers' answers; None, with a note, if a shape is unknown."""
    pieces = [f"name: {quoted(plan.title)}\n"]
    for blob in dict.fromkeys(blob for source in plan.sources for blob in plan.inputs.blobs(source.prefix)):
        dims = shapes.get(blob, (None, None))[1:]
        if None in dims:
            notes.append(
                f"deploy: not written, because the shape of '{blob}' is not known; give it as --input-shape C,H,W, "
                "or compose where the first image of the lists can be read"
            )
            return None
        shape = " ".join(f"dim: {dim}" for dim in (1, *dims))
        pieces.append(format_layer(blob, "Input", [], [blob], f"input_param {{ shape {{ {shape} }} }}"))
    pieces += [_branch(plan, source, classifier=plan.deployed, phase="TEST") for source in plan.sources]
    pieces.append(plan.head.text)
    for classifier, scores in zip(plan.classifiers, plan.head.scores, strict=True):
        pieces += _answered(classifier, scores)
    return reparse("\n".join(pieces), "deploy.prototxt")


def _judged(classifier: FusedClassifier, scores: str) -> list[str]:
    """The layers from a classifier's scores to its measures and its loss."""
    text, end = classifier.tail.on(scores)
    for number, measure in enumerate(classifier.metrics):
        plain = measure == Metric(1, measure.axis, measure.ignore_label) and not number
        name = classifier.called("accuracy" if plain else f"accuracy_top{measure.top_k}")
        text.append(
            format_layer(name, "Accuracy", [end, classifier.label], [name], "\n".join([_TEST, *_params(measure)]))
        )
    if classifier.loss.type == "MultinomialLogisticLoss":
        text.append(softmax_layer(classifier.called("prob"), end))
        end = classifier.called("prob")
    return [*text, loss_layer(classifier.loss, classifier.called("loss"), end, classifier.label)]


def _answered(classifier: FusedClassifier, scores: str) -> list[str]:
    """The layers from a classifier's scores to what the deployed net answers."""
    text, end = classifier.tail.on(scores)
    output = classifier.loss.kind.output
    if output is not None:
        axis = loss_option(classifier.loss, "axis")
        body = f"softmax_param {{ axis: {axis} }}" if output == "Softmax" and axis not in (None, "1") else ""
        name = classifier.called("prob")
        text.append(format_layer(name, output, [end], [name], body))
    return text


def _params(measure: Metric) -> list[str]:
    lines = [
        *([f"top_k: {measure.top_k}"] if measure.top_k != 1 else []),
        *([f"axis: {measure.axis}"] if measure.axis != 1 else []),
        *([f"ignore_label: {measure.ignore_label}"] if measure.ignore_label is not None else []),
    ]
    return [f"accuracy_param {{ {' '.join(lines)} }}"] if lines else []


def _branch(plan: FusionPlan, source: PreparedSource, *, classifier: bool = True, phase: str | None = None) -> str:
    """The branch's layers in the order of the file, under a line that says where they are from."""
    texts, front = plan.branches[source.prefix], plan.inputs.front.get(source.prefix)

    def wanted(layer: LayerText) -> bool:
        kept = layer.number in texts and (classifier or layer.number not in source.classifier)
        return kept and (phase is None or phase in layer.phases)

    file = os.path.basename(source.raw.document.name)
    head = f"# ---- {source.prefix}: {file}, cut at {', '.join(source.plain)}; frozen ----\n"
    return (
        head
        + (f"{front}\n" if front else "")
        + "\n".join(texts[layer.number] for layer in source.net.layers if wanted(layer))
    )


Labels = str | os.PathLike[str] | Sequence[str]


def class_names(labels: Labels | None, sources: Sequence[Source], classifiers: Sequence[FusedClassifier]) -> ClassNames:
    """Return the names of the fused net's classes, and the classes of each source that says them.

    labels  a file with a name per line, or the names
    Raises: ComposeError where there are not as many names as classes, or a source's classes are not among them;
            PrototxtError, OSError for the file.
    """
    only = classifiers[0]
    if len(classifiers) > 1 or only.loss.kind.labels != "class":
        if labels:
            message = "several tasks" if len(classifiers) > 1 else f"{only.loss.type}, which takes no classes"
            raise ComposeError(f"names of classes are given, and the fused net has {message}", hint="leave them away")
        return ClassNames()
    names: Sequence[str] = read_names(labels) if isinstance(labels, (str, os.PathLike)) else labels or ()
    num_output = only.num_output
    errors = []
    if names and len(names) != num_output:
        place = os.fspath(labels) if isinstance(labels, (str, os.PathLike)) else None
        message = f"there are {len(names)} names for the fused net's {num_output} classes"
        errors.append(ComposeError(message, place=place, hint="give a name per class, that of class 0 first"))
    numbers = {source.prefix: tuple(source.classes) for source in sources if source.classes}
    for prefix, classes in numbers.items():
        errors += resolve_classes(prefix, "", classes, None, num_output)[1]
    raise_all(errors)
    return ClassNames(tuple(names), numbers)


def add_class_comments(document: Document, classes: ClassNames) -> Document:
    """Return the net with the comments that tell its classes at its head."""
    comments = class_comments(classes)
    return reparse(f"{comments}{document}", document.name) if comments else document
