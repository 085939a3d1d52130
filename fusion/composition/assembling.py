"""The texts of the fused net: to train and validate it, and to deploy it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fusion.composition.heads import Head
from fusion.composition.inputs import Inputs
from fusion.composition.pieces import Layer, excerpt, layer_text, quoted, reparse
from fusion.composition.references import Pct, Reference, loss_layers
from fusion.composition.sources import Part
from prototxt.tree import Document

Shape = tuple[int | None, ...]
_TEST = "include { phase: TEST }"


@dataclass(frozen=True)
class Plan:
    """All that is settled about a fused net.

    branches    per prefix: the text of each of its layers, by number
    references  the sources' class scores that are kept
    deployed    whether these are needed without the losses too
    """

    title: str
    num_output: int
    parts: Sequence[Part]
    inputs: Inputs
    branches: Mapping[str, Mapping[int, str]]
    head: Head
    references: Sequence[Reference]
    losses: Sequence[Pct]
    deployed: bool


def branch_texts(part: Part, inputs: Inputs) -> dict[int, str]:
    """The text of each layer of the branch and its classifier, reading the fused net's data blobs."""
    from prototxt.editing import Edits

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
    """The net with data layers, accuracy and losses."""
    scores, label = plan.head.logits, plan.inputs.label
    pieces = [f"name: {quoted(plan.title)}\n", plan.inputs.text]
    pieces += [_branch(part, plan.branches[part.prefix]) for part in plan.parts]
    pieces += [
        plan.head.text,
        layer_text("accuracy", "Accuracy", [scores, label], ["accuracy"], _TEST),
        layer_text("loss", "SoftmaxWithLoss", [scores, label], ["loss"]),
    ]
    if plan.losses:
        pieces.append(loss_layers(plan.losses, plan.references, scores, label, plan.num_output))
    return reparse("\n".join(pieces), "train_val.prototxt")


def deploy_document(plan: Plan, shapes: Mapping[str, Shape], notes: list[str]) -> Document | None:
    """The net with an Input per picture blob and probabilities at the end; None, with a note, if a shape is unknown."""
    pieces = [f"name: {quoted(plan.title)}\n"]
    for blob in dict.fromkeys(blob for feed in plan.inputs.feeds.values() for blob in feed.values()):
        dims = shapes.get(blob, (None, None))[1:]
        if None in dims:
            notes.append(
                f"deploy: not written, because the shape of '{blob}' is not known; give it as --input-shape C,H,W, "
                "or compose where the first image of the lists can be read"
            )
            return None
        shape = " ".join(f"dim: {dim}" for dim in (1, *dims))
        pieces.append(layer_text(blob, "Input", [], [blob], f"input_param {{ shape {{ {shape} }} }}"))
    pieces += [_branch(part, plan.branches[part.prefix], classifier=plan.deployed, phase="TEST") for part in plan.parts]
    pieces += [plan.head.text, layer_text("prob", "Softmax", [plan.head.logits], ["prob"])]
    return reparse("\n".join(pieces), "deploy.prototxt")


def _branch(part: Part, texts: Mapping[int, str], *, classifier: bool = True, phase: str | None = None) -> str:
    """The branch's layers in the order of the file, under a line that says where they are from."""

    def wanted(layer: Layer) -> bool:
        kept = layer.number in texts and (classifier or layer.number not in part.classifier)
        return kept and (phase is None or phase in layer.phases)

    file = os.path.basename(part.raw.document.name)
    head = f"# ---- {part.prefix}: {file}, cut at {', '.join(part.plain)}; frozen ----\n"
    return head + "\n".join(texts[layer.number] for layer in part.net.layers if wanted(layer))
