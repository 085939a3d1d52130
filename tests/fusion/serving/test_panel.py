"""Nets side by side: shares, the classes that each output knows, names, and what is said at the start."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusion.errors import DataError, FusionError
from fusion.prediction import open_predictor, shares
from fusion.serving import Panel
from prototxt.weights import write_weights

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
    return Panel([("net", open_predictor(tmp_path / "net.prototxt", tmp_path / "net.caffemodel"))], ["a", "b"], top=2)


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
    with pytest.raises(FusionError, match="3 classes are told for 'old' of net, which has 2 scores"):
        Panel(panel.nets, (), 2, {"old": (1, 0, 2)}).rehearse()


def test_a_picture_cut_off_is_an_error(panel: Panel) -> None:
    with pytest.raises(DataError, match="no picture that can be read"):
        panel.answer(picture(16, 8)[:-30])


def test_shares_of_any_scores() -> None:
    row, own = shares(np.array([0.25, 0.75], np.float32))
    assert (row.tolist(), own) == ([0.25, 0.75], True)
    row, own = shares(np.array([1000.0, 1000.0, -1000.0], np.float32))
    assert (row.tolist(), own) == ([0.5, 0.5, 0.0], False)
