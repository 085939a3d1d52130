"""The texts of the fused net: to train and validate it, and to deploy it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fusion.composition.after_classifier import softmax
from fusion.composition.classifiers import Classifier
from fusion.composition.heads import Head
from fusion.composition.inputs import Inputs
from fusion.composition.losses import loss_layer, option
from fusion.composition.net_text import Layer, excerpt, layer_text, quoted, reparse
from fusion.composition.references import Pct, Reference, loss_layers
from fusion.composition.source_losses import Measure
from fusion.composition.sources import PreparedSource
from prototxt.text.tree import Document

Shape = tuple[int | None, ...]
_TEST = "include { phase: TEST }"


@dataclass(frozen=True)
class Plan:
    """All that is settled about a fused net.

    branches    per prefix: the text of each of its layers, by number
    classifiers what it scores, and by which losses it learns
    references  the sources' class scores that are kept
    deployed    whether these are needed without the losses too
    """

    title: str
    classifiers: Sequence[Classifier]
    parts: Sequence[PreparedSource]
    inputs: Inputs
    branches: Mapping[str, Mapping[int, str]]
    head: Head
    references: Sequence[Reference]
    losses: Sequence[Pct]
    deployed: bool


def branch_texts(part: PreparedSource, inputs: Inputs) -> dict[int, str]:
    """The text of each layer of the branch and its classifier, reading the fused net's data blobs."""
    from prototxt.text.edits import Edits

    feed = inputs.feeds[part.prefix]
    texts = {}
    for layer in part.net.layers:
        if layer.number not in part.branch.layers | part.classifier:
            continue
        text = excerpt(part.net, layer)
        changed = {blob: new for blob, new in feed.items() if blob != new and blob in layer.bottoms + layer.tops}
        if changed:
            document = reparse(text, part.net.document.name)
            edits = Edits(document)
            block = document.root.messages("layer")[0]
            for scalar in block.scalars("bottom") + block.scalars("top"):
                if scalar.value in changed:
                    edits.replace(scalar, quoted(changed[scalar.value]))
            text = str(edits.apply())
        texts[layer.number] = text
    return texts


def train_val_document(plan: Plan) -> Document:
    """The net with data layers, measures and losses."""
    pieces = [f"name: {quoted(plan.title)}\n", plan.inputs.text]
    pieces += [_branch(plan, part) for part in plan.parts]
    pieces.append(plan.head.text)
    for classifier, scores in zip(plan.classifiers, plan.head.scores, strict=True):
        pieces += _judged(classifier, scores)
    if plan.losses:
        only = plan.classifiers[0]
        pieces.append(loss_layers(plan.losses, plan.references, plan.head.scores[0], only.label, only.num_output))
    return reparse("\n".join(pieces), "train_val.prototxt")


def deploy_document(plan: Plan, shapes: Mapping[str, Shape], notes: list[str]) -> Document | None:
    """The net with an Input per picture blob and the classifiers' answers; None, with a note, if a shape is unknown."""
    pieces = [f"name: {quoted(plan.title)}\n"]
    for blob in dict.fromkeys(blob for part in plan.parts for blob in plan.inputs.blobs(part.prefix)):
        dims = shapes.get(blob, (None, None))[1:]
        if None in dims:
            notes.append(
                f"deploy: not written, because the shape of '{blob}' is not known; give it as --input-shape C,H,W, "
                "or compose where the first image of the lists can be read"
            )
            return None
        shape = " ".join(f"dim: {dim}" for dim in (1, *dims))
        pieces.append(layer_text(blob, "Input", [], [blob], f"input_param {{ shape {{ {shape} }} }}"))
    pieces += [_branch(plan, part, classifier=plan.deployed, phase="TEST") for part in plan.parts]
    pieces.append(plan.head.text)
    for classifier, scores in zip(plan.classifiers, plan.head.scores, strict=True):
        pieces += _answered(classifier, scores)
    return reparse("\n".join(pieces), "deploy.prototxt")


def _judged(classifier: Classifier, scores: str) -> list[str]:
    """The layers from a classifier's scores to its measures and its loss."""
    text, end = classifier.tail.on(scores)
    for number, measure in enumerate(classifier.measures):
        plain = measure == Measure(1, measure.axis, measure.ignore_label) and not number
        name = classifier.called("accuracy" if plain else f"accuracy_top{measure.top_k}")
        text.append(
            layer_text(name, "Accuracy", [end, classifier.label], [name], "\n".join([_TEST, *_params(measure)]))
        )
    if classifier.loss.type == "MultinomialLogisticLoss":
        text.append(softmax(classifier.called("prob"), end))
        end = classifier.called("prob")
    return [*text, loss_layer(classifier.loss, classifier.called("loss"), end, classifier.label)]


def _answered(classifier: Classifier, scores: str) -> list[str]:
    """The layers from a classifier's scores to what the deployed net answers."""
    text, end = classifier.tail.on(scores)
    output = classifier.loss.kind.output
    if output is not None:
        axis = option(classifier.loss, "axis")
        body = f"softmax_param {{ axis: {axis} }}" if output == "Softmax" and axis not in (None, "1") else ""
        name = classifier.called("prob")
        text.append(layer_text(name, output, [end], [name], body))
    return text


def _params(measure: Measure) -> list[str]:
    lines = [
        *([f"top_k: {measure.top_k}"] if measure.top_k != 1 else []),
        *([f"axis: {measure.axis}"] if measure.axis != 1 else []),
        *([f"ignore_label: {measure.ignore_label}"] if measure.ignore_label is not None else []),
    ]
    return [f"accuracy_param {{ {' '.join(lines)} }}"] if lines else []


def _branch(plan: Plan, part: PreparedSource, *, classifier: bool = True, phase: str | None = None) -> str:
    """The branch's layers in the order of the file, under a line that says where they are from."""
    texts, front = plan.branches[part.prefix], plan.inputs.front.get(part.prefix)

    def wanted(layer: Layer) -> bool:
        kept = layer.number in texts and (classifier or layer.number not in part.classifier)
        return kept and (phase is None or phase in layer.phases)

    file = os.path.basename(part.raw.document.name)
    head = f"# ---- {part.prefix}: {file}, cut at {', '.join(part.plain)}; frozen ----\n"
    return (
        head
        + (f"{front}\n" if front else "")
        + "\n".join(texts[layer.number] for layer in part.net.layers if wanted(layer))
    )
