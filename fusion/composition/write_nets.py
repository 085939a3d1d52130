"""The texts of the fused net: one to train and validate, one to deploy, with its class names as comments."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fusion.composition.classifiers import FusedClassifier
from fusion.composition.features import Shapes
from fusion.composition.heads import NEEDS_SCORES, Head
from fusion.composition.inputs import Inputs
from fusion.composition.losses import loss_layer, loss_option
from fusion.composition.net_text import excerpt, format_layer, quoted, rename_blobs, reparse
from fusion.composition.options import ComposeOptions
from fusion.composition.prepared_source import PreparedSource
from fusion.composition.references import Pct, ReferenceScores, loss_layers, resolve_classes
from fusion.composition.source import PathLike
from fusion.composition.source_losses import Metric
from fusion.errors import ComposeError, raise_all
from prototxt.text.class_names import ClassNames, class_comments
from prototxt.text.tree import Document

_TEST = "include { phase: TEST }"


@dataclass(frozen=True)
class FusionPlan:
    """Every decision about a fused net.

    branches     per prefix: the text of each of its layers, by number
    given        shapes of data blobs that the user gave
    shapes       the known shapes of all blobs of data and branches
    references   the sources' class scores that are kept
    losses       the positive-congruent losses against these
    """

    options: ComposeOptions
    classifiers: Sequence[FusedClassifier]
    sources: Sequence[PreparedSource]
    inputs: Inputs
    branches: Mapping[str, Mapping[int, str]]
    given: Shapes
    shapes: Shapes
    head: Head
    references: Sequence[ReferenceScores]
    losses: Sequence[Pct]
    classes: ClassNames

    @property
    def title(self) -> str:
        """Return the fused net's name: as given, else those of the sources."""
        names = dict.fromkeys(source.raw.name for source in self.sources if source.raw.name)
        return self.options.name or "+".join(names) or "fused"


def branch_texts(source: PreparedSource, inputs: Inputs) -> dict[int, str]:
    """Return the text of each layer of the branch and its classifier, reading the fused net's data blobs."""
    feed, kept = inputs.feeds[source.prefix], source.branch.layers | source.classifier
    layers = [layer for layer in source.net.layers if layer.number in kept]
    return {layer.number: rename_blobs(excerpt(source.net, layer), feed) for layer in layers}


def train_val_document(plan: FusionPlan) -> Document:
    """Return the net with data layers, metrics and losses, after comments that name its classes."""
    pieces = [f"name: {quoted(plan.title)}\n", plan.inputs.text]
    pieces += [_branch(plan, source) for source in plan.sources]
    pieces.append(plan.head.text)
    for classifier, scores in zip(plan.classifiers, plan.head.scores, strict=True):
        pieces += _training_end(classifier, scores)
    if plan.losses:
        only = plan.classifiers[0]
        pieces.append(loss_layers(plan.losses, plan.references, plan.head.scores[0], only.label, only.num_output))
    return reparse(class_comments(plan.classes) + "\n".join(pieces), "train_val.prototxt")


def deploy_document(plan: FusionPlan, notes: list[str]) -> Document | None:
    """Return the net with an Input per data blob and the outputs; None, with a note, if a shape is unknown."""
    pieces = [f"name: {quoted(plan.title)}\n"]
    for blob in dict.fromkeys(blob for source in plan.sources for blob in plan.inputs.blobs(source.prefix)):
        dims = plan.shapes.get(blob, (None, None))[1:]
        if None in dims:
            notes.append(
                f"deploy: not written, because the shape of '{blob}' is not known; give it as --input-shape C,H,W, "
                "or compose where the first image of the lists can be read"
            )
            return None
        shape = " ".join(f"dim: {dim}" for dim in (1, *dims))
        pieces.append(format_layer(blob, "Input", [], [blob], f"input_param {{ shape {{ {shape} }} }}"))
    scored = plan.options.head in NEEDS_SCORES  # else the sources' classifiers are only needed in training
    pieces += [_branch(plan, source, classifier=scored, phase="TEST") for source in plan.sources]
    pieces.append(plan.head.text)
    for classifier, scores in zip(plan.classifiers, plan.head.scores, strict=True):
        pieces += _deploy_end(classifier, scores)
    return reparse(class_comments(plan.classes) + "\n".join(pieces), "deploy.prototxt")


def _training_end(classifier: FusedClassifier, scores: str) -> list[str]:
    """Return the layers from a classifier's scores to its metrics and its loss."""
    text, end = classifier.tail.apply(scores)
    for number, metric in enumerate(classifier.metrics):
        plain = metric == Metric(1, metric.axis, metric.ignore_label) and not number  # the first top-1 accuracy
        name = classifier.layer_name("accuracy" if plain else f"accuracy_top{metric.top_k}")
        fields = "\n".join([_TEST, *_accuracy(metric)])
        text.append(format_layer(name, "Accuracy", [end, classifier.label], [name], fields))
    if classifier.loss.type == "MultinomialLogisticLoss":
        # This loss takes probabilities, where the others take scores.
        name = classifier.layer_name("prob")
        text.append(format_layer(name, "Softmax", [end], [name]))
        end = name
    return [*text, loss_layer(classifier.loss, classifier.layer_name("loss"), end, classifier.label)]


def _deploy_end(classifier: FusedClassifier, scores: str) -> list[str]:
    """Return the layers from a classifier's scores to the output of the deployed net."""
    text, end = classifier.tail.apply(scores)
    output = classifier.loss.kind.output
    if output is not None:
        axis = loss_option(classifier.loss, "axis")
        body = f"softmax_param {{ axis: {axis} }}" if output == "Softmax" and axis not in (None, "1") else ""
        name = classifier.layer_name("prob")
        text.append(format_layer(name, output, [end], [name], body))
    return text


def _accuracy(metric: Metric) -> list[str]:
    lines = [
        *([f"top_k: {metric.top_k}"] if metric.top_k != 1 else []),
        *([f"axis: {metric.axis}"] if metric.axis != 1 else []),
        *([f"ignore_label: {metric.ignore_label}"] if metric.ignore_label is not None else []),
    ]
    return [f"accuracy_param {{ {' '.join(lines)} }}"] if lines else []


def _branch(plan: FusionPlan, source: PreparedSource, *, classifier: bool = True, phase: str | None = None) -> str:
    """Return the branch's layers in the order of the file, under a comment with its origin."""
    texts, front = plan.branches[source.prefix], plan.inputs.front.get(source.prefix)

    numbers = texts.keys() if classifier else texts.keys() - source.classifier
    layers = [layer for layer in source.net.layers if layer.number in numbers]
    body = "\n".join(texts[layer.number] for layer in layers if phase is None or phase in layer.phases)
    file = os.path.basename(source.raw.file)
    head = f"# ---- {source.prefix}: {file}, cut at {', '.join(source.plain)}; frozen ----\n"
    return head + (f"{front}\n" if front else "") + body


def named_classes(
    names: Sequence[str],
    labels: PathLike | Sequence[str] | None,
    sources: Sequence[PreparedSource],
    classifiers: Sequence[FusedClassifier],
) -> ClassNames:
    """Return the names of the fused net's classes, and the class numbers of the sources.

    labels  the option that the names are from, for errors
    Raises: ComposeError where there are not as many names as classes, or a source's classes are not among them.
    """
    only = classifiers[0]
    if len(classifiers) > 1 or only.loss.kind.labels != "class":
        if labels:
            message = "several tasks" if len(classifiers) > 1 else f"{only.loss.type}, which takes no classes"
            raise ComposeError(f"names of classes are given, and the fused net has {message}", hint="omit them")
        return ClassNames()
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
