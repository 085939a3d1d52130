"""Nets side by side: shares, the classes that each output knows, names, and what is said at the start."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusion.errors import DataError, FusionError
from fusion.serving import Panel
from fusion.serving.predictor import Predictor, class_shares, open_predictor
from prototxt.formats.weights import write_weights

NET = """
layer { name: "d" type: "Input" top: "data" input_param { shape { dim: 1 dim: 1 dim: 1 dim: 2 } } }
layer { name: "new" type: "InnerProduct" bottom: "data" top: "new" inner_product_param { num_output: 3 } }
layer { name: "old" type: "InnerProduct" bottom: "data" top: "old" inner_product_param { num_output: 2 } }
layer { name: "l" type: "Input" top: "label" input_param { shape { dim: 1 } } include { phase: TRAIN } }
layer { name: "kd" type: "KDLoss" bottom: "new" bottom: "old" bottom: "label" top: "kd" include { phase: TRAIN }
  pct_param { classes: 2 classes: 0 } }
layer { name: "p" type: "Softmax" bottom: "new" top: "prob" }
"""


def picture(*values: int) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.array([values], np.uint8)).save(content, "PNG")
    return content.getvalue()


@pytest.fixture
def panel(tmp_path: Path) -> Panel:
    (tmp_path / "net.prototxt").write_text(NET)
    new, old = np.array([[1, 0], [0, 1], [0, 0]]) / 8, np.array([[0, 1], [1, 0]]) / 8
    write_weights(tmp_path / "net.caffemodel", {"new": [new, np.zeros(3)], "old": [old, np.array([0, 1])]})
    return Panel(
        [("net", open_predictor(tmp_path / "net.prototxt", tmp_path / "net.caffemodel"))], ["a", "b", ""], top=2
    )


def test_answers_stand_side_by_side(panel: Panel) -> None:
    old, new = panel.answer(picture(16, 8))["answers"]
    assert (old["net"], old["output"], old["softmax"], old["knows"]) == ("net", "old", True, [2, "a"])
    assert [(item["class"], item["label"], item["score"]) for item in old["top"]] == [(0, "a", 3.0), (2, "", 1.0)]
    assert old["top"][0]["share"] == pytest.approx(1 / (1 + np.exp(-2)))
    assert (new["output"], new["softmax"], new["knows"]) == ("prob", False, None)
    assert [item["label"] for item in new["top"]] == ["a", "b"]
    assert new["top"][0]["share"] == new["top"][0]["score"]


def test_what_is_said_at_the_start(panel: Panel) -> None:
    panel.rehearse()
    (net,) = panel.about()["nets"]
    assert net == {"name": "net", "outputs": ["old", "prob"], "inputs": ["gray, 1 x 2"]}
    assert "takes pixels as they are" in panel.about()["notes"][0]


def test_classes_may_be_told_anew(panel: Panel) -> None:
    told = Panel(panel.nets, panel.labels, 2, {"old": (1, 0)})
    assert told.answer(picture(16, 8))["answers"][0]["knows"] == ["b", "a"]
    with pytest.raises(FusionError, match="3 classes are given for 'old', which has 2 scores"):
        Panel(panel.nets, (), 2, {"old": (1, 0, 2)}).rehearse()


def test_a_picture_cut_off_is_an_error(panel: Panel) -> None:
    with pytest.raises(DataError, match="no image that can be read"):
        panel.answer(picture(16, 8)[:-30])


def test_shares_of_any_scores() -> None:
    row, own = class_shares(np.array([0.25, 0.75], np.float32))
    assert (row.tolist(), own) == ([0.25, 0.75], True)
    row, own = class_shares(np.array([1000.0, 1000.0, -1000.0], np.float32))
    assert (row.tolist(), own) == ([0.5, 0.5, 0.0], False)


ODD = """# class-names: ["zero", "one", "two"]
# class-numbers: {"old": [2, 1], "alone": [1, 2]}
layer { name: "d" type: "Input" top: "data" input_param { shape { dim: 1 dim: 1 dim: 1 dim: 2 } } }
layer { name: "new" type: "InnerProduct" bottom: "data" top: "new" inner_product_param { num_output: 3 } }
layer { name: "old/ip" type: "InnerProduct" bottom: "data" top: "old/ip" inner_product_param { num_output: 2 } }
"""
ALONE = ODD[ODD.index("layer") :].replace("num_output: 3", "num_output: 2")


@pytest.fixture
def named(tmp_path: Path) -> list[tuple[str, Predictor]]:
    (tmp_path / "net.prototxt").write_text(ODD)
    (tmp_path / "one.prototxt").write_text(ALONE.split("\n")[0] + "\n" + ALONE.split("\n")[1])
    new, old = np.array([[1, 0], [0, 1], [0, 0]]), np.array([[0, 1], [1, 0]])
    write_weights(tmp_path / "net.caffemodel", {"new": [new, np.zeros(3)], "old/ip": [old, np.zeros(2)]})
    write_weights(tmp_path / "one.caffemodel", {"new": [old, np.zeros(2)]})
    return [
        ("net", open_predictor(tmp_path / "net.prototxt", tmp_path / "net.caffemodel")),
        ("alone", open_predictor(tmp_path / "one.prototxt", tmp_path / "one.caffemodel")),
    ]


def test_a_source_answers_in_the_classes_of_the_fused_net(named: list[tuple[str, Predictor]]) -> None:
    panel = Panel(named, top=1)
    panel.rehearse()
    whole, old, alone = panel.answer(picture(9, 5))["answers"]
    assert [(item["output"], item["top"][0]["class"], item["top"][0]["label"]) for item in (whole, old, alone)] == [
        ("new", 0, "zero"), ("old/ip", 1, "one"), ("new", 2, "two")]  # fmt: skip
    assert [item["knows"] for item in (whole, old, alone)] == [None, ["two", "one"], ["one", "two"]]
    assert not any("its own" in note for note in panel.about()["notes"])


def test_classes_that_nobody_told_have_no_name_and_no_vote(named: list[tuple[str, Predictor]]) -> None:
    panel = Panel([named[0], ("stranger", named[1][1])], top=1)
    panel.rehearse()
    answers = panel.answer(picture(9, 5))["answers"]
    assert [item["foreign"] for item in answers] == [False, False, True]
    assert (answers[2]["top"][0]["class"], answers[2]["top"][0]["label"]) == (1, "")
    assert any(note.startswith("stranger: 'new' has 2 scores, but 3 classes") for note in panel.about()["notes"])
