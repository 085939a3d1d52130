"""Which losses judge a blob as class scores, against which labels, and which class number they ignore."""

# ruff: noqa: E501 - a table

from __future__ import annotations

import pytest

from prototxt.schema.load import load_net
from prototxt.shapes.loss_kinds import LOSS_KINDS, class_label, compares_classes, ignored_label, non_class_loss
from prototxt.text.parser import parse


def layer(kind: str, bottoms: str, more: str = "", top: str = "") -> str:
    ends = " ".join(f'bottom: "{name}"' for name in bottoms.split()) + (f' top: "{top}"' if top else "")
    return f'layer {{ name: "{kind}{top}" type: "{kind}" {ends} {more} }}\n'


@pytest.mark.parametrize(
    ("text", "label", "other", "ignored"),
    [
        (layer("SoftmaxWithLoss", "s y"), "y", None, None),
        (layer("SoftmaxWithLoss", "t y"), None, None, None),
        (layer("SoftmaxWithLoss", "s y", "loss_param { ignore_label: 255 }"), "y", None, 255),
        (layer("SoftmaxWithLoss", "s y", "loss_param { ignore_label: 0 }"), "y", None, 0),
        (layer("EuclideanLoss", "s y"), None, "EuclideanLoss", None),
        (layer("EuclideanLoss", "s y") + layer("SmoothL1Loss", "s z"), None, "SmoothL1Loss", None),
        (layer("EuclideanLoss", "s y") + layer("HingeLoss", "s z"), "z", None, None),
        (layer("SigmoidCrossEntropyLoss", "s y", "loss_param { ignore_label: 9 }"), None, "SigmoidCrossEntropyLoss", None),
        (layer("Accuracy", "s y"), "y", None, None),
        (layer("Accuracy", "s y", "accuracy_param { ignore_label: 3 }"), "y", None, 3),
        (layer("SoftmaxWithLoss", "s y", "loss_param { ignore_label: 255 }") + layer("Accuracy", "s z"), "y", None, None),
        (layer("Softmax", "s", top="p") + layer("MultinomialLogisticLoss", "p y"), "y", None, None),
        (layer("InnerProduct", "s", top="p") + layer("SoftmaxWithLoss", "p y"), None, None, None),
        (layer("Flatten", "s", top="p") + layer("Crop", "p q", top="r") + layer("EuclideanLoss", "r y"), None,
         "EuclideanLoss", None),
        (layer("HingeLoss", "s"), None, None, None),
        (layer("ReLU", "s", top="s"), None, None, None),
    ],
)  # fmt: skip
def test_what_judges_a_blob(text: str, label: str | None, other: str | None, ignored: int | None) -> None:
    net = load_net(parse(text))
    found = non_class_loss(net, "s")
    assert (class_label(net, "s"), found and found.type, ignored_label(net, "s")) == (label, other, ignored)


def test_kinds() -> None:
    classes = {name for name, kind in LOSS_KINDS.items() if kind.labels == "class"}
    assert classes == {"SoftmaxWithLoss", "InfogainLoss", "MultinomialLogisticLoss", "HingeLoss"}
    kinds = [*LOSS_KINDS, "Accuracy", "ReLU"]
    layers = load_net(parse("".join(layer(kind, "a b") for kind in kinds))).layer
    assert {one.type for one in layers if compares_classes(one)} == classes | {"Accuracy"}
    assert {name: kind.output for name, kind in LOSS_KINDS.items() if kind.output} == {
        "SoftmaxWithLoss": "Softmax", "InfogainLoss": "Softmax", "MultinomialLogisticLoss": "Softmax",
        "SigmoidCrossEntropyLoss": "Sigmoid",
    }  # fmt: skip
