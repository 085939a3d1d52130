"""A classifier with other classes: the trained rows of those that stay, names, ignored labels, refusals."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

from fusion.errors import FusionError, WeightsMismatch
from fusion.nets.build import build
from fusion.nets.weights import load_weights
from fusion.surgery import edit_classes
from fusion.surgery.result import SurgeryResult
from prototxt.text.class_names import class_names_of
from prototxt.text.parser import parse

NAMES = '# class-names: ["ant", "bee", "cat", "dog"]\n# class-numbers: {"a": [0, 3], "b": [1, 2]}\n'
DATA = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 4 dim: 4 } } }\n'
LABEL = 'layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 2 } } }\n'
SCORE = """layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 4
    weight_filler { type: "constant" value: 0.5 } bias_filler { type: "constant" value: 9 } } }
"""
LOSS = 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" %s }\n'
BEST = 'layer { name: "best" type: "Accuracy" bottom: "ip" bottom: "label" top: "best" accuracy_param { %s } }\n'
RELU = 'layer { name: "relu" type: "ReLU" bottom: "ip" top: "ip" }\n'
NET = DATA + LABEL + SCORE + LOSS % ""
Arrays = dict[str, Any]


def weights(transpose: bool = False) -> Arrays:
    matrix = np.random.default_rng(0).normal(size=(4, 48)).astype(np.float32)
    return {"ip": [matrix.T if transpose else matrix, np.arange(4, dtype=np.float32)]}


def scores(text: str, blobs: Arrays) -> Any:
    net = build(parse(text.replace(LABEL, "").replace(LOSS % "", "")), seed=0)
    load_weights(net, blobs, strict=True)
    image = torch.linspace(-1, 1, 96).reshape(2, 3, 4, 4)
    with torch.no_grad():
        return net({"data": image})["ip"].numpy()


def changed_scores(outcome: SurgeryResult) -> Any:
    return scores(str(outcome.document), dict(outcome.weights))


@pytest.mark.parametrize("transpose", [False, True])
def test_trained_rows_follow_their_classes(transpose: bool) -> None:
    text = NAMES + NET.replace("num_output: 4", "num_output: 4 transpose: true" if transpose else "num_output: 4")
    before = scores(text, weights(transpose))
    outcome = edit_classes(parse(text), weights(transpose), keep=[2, 0], add=["fox"])
    after = changed_scores(outcome)
    np.testing.assert_allclose(after[:, :2], before[:, [2, 0]], rtol=1e-6)
    image = np.linspace(-1, 1, 96, dtype=np.float32).reshape(2, 48)
    np.testing.assert_allclose(after[:, 2], 0.5 * image.sum(1) + 9, rtol=1e-4)
    assert outcome.changed == {"ip": "2 of 4 classes kept, 2 dropped, 1 added, in another order"}
    assert class_names_of(parse(str(outcome.document))).names == ("cat", "ant", "fox")
    assert outcome.mismatched == {
        "labels of the data": "they have the old numbers: fusion-convert list OLD -o NEW --label-map 0=1,2=0",
        "class-numbers": "not written for a, b, which had a class that is gone",
    }


def test_dropped_classes_close_the_gap() -> None:
    outcome = edit_classes(parse(NAMES + NET), weights(), drop=[1], rename={3: "wolf"})
    assert np.array_equal(outcome.weights["ip"][0], weights()["ip"][0][[0, 2, 3]])
    assert outcome.weights["ip"][1].tolist() == [0, 2, 3]
    classes = class_names_of(parse(str(outcome.document)))
    assert classes.names == ("ant", "cat", "wolf")
    assert classes.numbers == {"a": (0, 2)}


def test_added_classes_need_no_other_labels() -> None:
    outcome = edit_classes(parse(NET), weights(), add=["", ""])
    assert "num_output: 6" in str(outcome.document)
    assert outcome.mismatched == {}
    assert "#" not in str(outcome.document)
    assert outcome.weights["ip"][1].tolist() == [0, 1, 2, 3, 9, 9]


def test_old_files_have_blobs_of_four_axes() -> None:
    old = {"ip": [blob.reshape(1, 1, *(blob.shape if blob.ndim == 2 else (1, -1))) for blob in weights()["ip"]]}
    outcome = edit_classes(parse(NET), old, keep=[3, 1])
    assert [blob.shape for blob in outcome.weights["ip"]] == [(2, 48), (2,)]
    assert outcome.weights["ip"][1].tolist() == [3, 1]


def test_every_head_of_the_classes_changes() -> None:
    second = SCORE.replace('"ip"', '"aux"') + (LOSS % "").replace('"ip"', '"aux"').replace('"loss"', '"loss2"')
    blobs = {**weights(), "aux": [blob + 1 for blob in weights()["ip"]]}
    outcome = edit_classes(parse(NET + second), blobs, keep=[1, 2])
    assert str(outcome.document).count("num_output: 2") == 2
    assert outcome.weights["aux"][1].tolist() == [2, 3]
    with pytest.raises(FusionError, match=r"different numbers of classes: 'ip' 4, 'aux' 5"):
        edit_classes(parse(NET + second.replace("num_output: 4", "num_output: 5")), blobs, keep=[1, 2])
    one = edit_classes(parse(NET + second.replace("num_output: 4", "num_output: 5")), blobs, keep=[1, 2], layers="ip")
    assert (one.kept, list(one.changed)) == (("aux",), ["ip"])


def test_a_convolution_scores_classes_through_layers_between() -> None:
    text = NET.replace("InnerProduct", "Convolution").replace(
        "inner_product_param {", "convolution_param { kernel_size: 4"
    )
    middle = RELU + 'layer { name: "drop" type: "Dropout" bottom: "ip" top: "dropped" }\n' + LOSS % ""
    text = text.replace(LOSS % "", middle.replace('bottom: "ip" bottom: "label"', 'bottom: "dropped" bottom: "label"'))
    blobs = {"ip": [weights()["ip"][0].reshape(4, 3, 4, 4), weights()["ip"][1]]}
    outcome = edit_classes(parse(text), blobs, keep=[3, 0])
    assert np.array_equal(outcome.weights["ip"][0], blobs["ip"][0][[3, 0]])
    deploy = DATA + SCORE + 'layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" }'
    assert edit_classes(parse(deploy), weights(), keep=[0, 1]).weights["ip"][1].tolist() == [0, 1]


def test_ignored_labels_follow_their_class() -> None:
    text = NET.replace(LOSS % "", LOSS % "loss_param { ignore_label: 3 }" + BEST % "ignore_label: 255")
    outcome = str(edit_classes(parse(text), weights(), keep=[3, 0]).document)
    assert "loss_param { ignore_label: 0 }" in outcome
    assert "ignore_label: 255" in outcome


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        (NET, {"keep": [0, 4]}, "there is no class 4"),
        (NET, {"drop": [7]}, "there is no class 7"),
        (NET, {"rename": {5: "x"}}, "there is no class 5"),
        (NET, {"keep": [0, 1, 0]}, "class '0' is there twice"),
        (NAMES + NET, {"add": ["bee"]}, "class 'bee' is there twice"),
        (NET, {"keep": [1]}, "needs at least 2 classes, not 1"),
        (NET, {"layers": "ip2"}, "no layer's name matches 'ip2'"),
        (NET, {"layers": "loss"}, "layer 'loss' has no num_output"),
        (DATA + SCORE, {"keep": [0, 1]}, "no loss, measure or Softmax shows which layer"),
        (NET.replace(LOSS % "", LOSS % "" + BEST % "top_k: 4"), {"drop": [0]}, "counts the best 4 of 3 classes"),
        (NET.replace("SoftmaxWithLoss", "InfogainLoss"), {"drop": [0]}, "has a matrix for its classes"),
        (NET.replace(LOSS % "", LOSS % "loss_param { ignore_label: 0 }"), {"drop": [0]}, "ignores label 0, which"),
        (NET.replace(LOSS % "", LOSS % "loss_param { ignore_label: 4 }"), {"add": [""]}, "label 4, which would be"),
        (NET + RELU.replace("ReLU", "BatchNorm").replace('top: "ip"', 'top: "b"'), {"drop": [0]}, "layer 'relu' (Bat"),
    ],
)  # fmt: skip
def test_other_classes_are_refused(text: str, options: Arrays, says: str) -> None:
    with pytest.raises(FusionError, match=re.escape(says)):
        edit_classes(parse(text), weights(), **options)


def test_weights_of_another_net() -> None:
    with pytest.raises(WeightsMismatch, match=r"layer 'ip' needs blobs of shape \[\[4, 48\], \[4\]\], not \[\[3, 48\]"):
        edit_classes(parse(NET), {"ip": [np.zeros((3, 48)), np.zeros(3)]}, drop=[0])
    with pytest.raises(WeightsMismatch, match="layer 'ip'"):
        edit_classes(parse(NET), {}, drop=[0])


def test_names_of_some_classes_only() -> None:
    outcome = edit_classes(parse(NET), weights(), drop=[0], add=["fox", ""], rename={1: "wasp"})
    assert class_names_of(parse(str(outcome.document))).names == ("wasp", "", "", "fox", "")
    plain = edit_classes(parse(NAMES.splitlines()[0] + "\n" + NET), weights(), keep=[1, 0], rename={0: "", 1: ""})
    assert "class-names" not in str(plain.document)
