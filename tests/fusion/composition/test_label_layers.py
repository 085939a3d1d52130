"""Labels that layers make from the data, several classifiers in one net, and labels of pairs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fusion import ComposeError
from fusion.composition import Source, compose
from fusion.composition.labels import _label_name, _origin, _records
from fusion.composition.lists import DataLists, ListChoice
from fusion.composition.net_text import read_net
from prototxt.text.parser import parse

DATA = """
layer { name: "data" type: "HDF5Data" top: "data" top: "labels" include { phase: TRAIN }
  hdf5_data_param { source: "tr.txt" batch_size: 8 } }
layer { name: "data" type: "HDF5Data" top: "data" top: "labels" include { phase: TEST }
  hdf5_data_param { source: "te.txt" batch_size: 8 } }
"""
SLICE = """layer { name: "sl" type: "Slice" bottom: "labels" top: "shape_label" top: "colour_label"
  slice_param { axis: 1 slice_point: 1 } }
"""
BODY = """
layer { name: "fc1" type: "InnerProduct" bottom: "data" top: "fc1" inner_product_param { num_output: 6 } }
layer { name: "fc2" type: "InnerProduct" bottom: "fc1" top: "fc2" inner_product_param { num_output: 5 } }
layer { name: "shape" type: "InnerProduct" bottom: "fc2" top: "shape" inner_product_param { num_output: 4 } }
layer { name: "colour" type: "InnerProduct" bottom: "fc2" top: "colour" inner_product_param { num_output: 2 } }
"""
LOSSES = """layer { name: "ls" type: "SoftmaxWithLoss" bottom: "shape" bottom: "shape_label" top: "ls" }
layer { name: "lc" type: "SoftmaxWithLoss" bottom: "colour" bottom: "colour_label" top: "lc" }
"""
LABEL = "SoftmaxWithLoss,label=shape_label"


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "net.prototxt"
    path.write_text(text)
    return path


def test_the_layers_that_make_a_label_are_kept(tmp_path: Path) -> None:
    path = written(tmp_path, DATA + SLICE + BODY + LOSSES)
    composed = compose([Source("a", path), Source("b", path)], num_output=4, loss=LABEL)
    layers = {layer.name: layer for layer in read_net(composed.train_val).layers}
    assert (layers["sl"].bottoms, layers["sl"].tops) == (("labels",), ("shape_label", "colour_label"))
    assert layers["unread_labels"].bottoms == ("colour_label",)
    assert layers["loss"].bottoms[1] == layers["accuracy"].bottoms[1] == "shape_label"
    assert layers["a/fc1"].bottoms == layers["b/fc1"].bottoms == ("data",)
    assert "data: the label shape_label is computed by sl, as in source 'a'" in composed.notes


def test_a_label_through_layers_in_a_row(tmp_path: Path) -> None:
    rest = """layer { name: "flat" type: "Flatten" bottom: "shape_label" top: "flat" }
layer { name: "less" type: "Power" bottom: "flat" top: "flat" power_param { shift: -1 } }
layer { name: "ls" type: "SoftmaxWithLoss" bottom: "shape" bottom: "flat" top: "ls" }
"""
    composed = compose([Source("a", written(tmp_path, DATA + SLICE + BODY + rest))], num_output=4)
    names = [layer.name for layer in read_net(composed.train_val).layers]
    assert names[:6] == ["data", "data", "sl", "flat", "less", "unread_labels"]
    assert read_net(composed.train_val).layers[-1].bottoms[1] == "flat"


def test_a_task_per_label(tmp_path: Path) -> None:
    path = written(tmp_path, DATA + SLICE + BODY + LOSSES)
    tasks = ["shape=SoftmaxWithLoss:shape_label,num_output=4", "colour=SoftmaxWithLoss:colour_label,num_output=2"]
    layers = read_net(compose([Source("a", path)], tasks=tasks).train_val).layers
    assert [layer.bottoms[1] for layer in layers if layer.type == "SoftmaxWithLoss"] == ["shape_label", "colour_label"]
    assert "unread_labels" not in [layer.name for layer in layers]


def test_labels_that_are_no_data(tmp_path: Path) -> None:
    path = written(tmp_path, DATA + SLICE + BODY + LOSSES)
    with pytest.raises(ComposeError, match="no blob 'shap_label' to take labels from"):
        compose([Source("a", path)], num_output=4, loss="SoftmaxWithLoss,label=shap_label")
    with pytest.raises(ComposeError, match="the label 'colour' is computed by 'fc1', which has weights"):
        compose([Source("a", path)], num_output=4, loss="SoftmaxWithLoss,label=colour")
    once = written(
        tmp_path, DATA + SLICE.replace("slice_param", "include { phase: TRAIN } slice_param") + BODY + LOSSES
    )
    with pytest.raises(ComposeError, match="gives 'shape_label' in phase TEST"):
        compose([Source("a", once)], num_output=4, loss=LABEL)


def test_several_classifiers_are_asked_for(tmp_path: Path) -> None:
    path = written(tmp_path, DATA + SLICE + BODY + LOSSES)
    with pytest.raises(ComposeError, match="several classifiers: shape, colour"):
        compose([Source("a", path)], num_output=4, loss=LABEL, references=True)
    composed = compose([Source("a", path, logits="shape")], num_output=4, loss=LABEL, references=True)
    assert "reference: 'a/shape' scores classes 0,1,2,3" in " ".join(composed.notes).replace("0-3", "0,1,2,3")
    body = BODY.replace('"colour" type: "InnerProduct" bottom: "fc2"', '"colour" type: "InnerProduct" bottom: "fc1"')
    apart = written(tmp_path, DATA + SLICE + body + LOSSES)
    with pytest.raises(
        ComposeError, match=r"several classifiers: 'shape' \(reads 'fc2'\), 'colour' \(reads 'fc1'\)"
    ) as error:
        compose([Source("a", apart)], num_output=4, loss=LABEL)
    assert "a=...@fc2" in str(error.value)
    composed = compose([Source("a", apart, logits="colour")], num_output=4, loss=LABEL)
    assert "source 'a': cut at 'fc1', which its classifier reads" in composed.notes


def test_an_auxiliary_loss_is_no_second_classifier(tmp_path: Path) -> None:
    losses = LOSSES.replace("colour_label", "shape_label").replace('top: "lc"', 'top: "lc" loss_weight: 0.3')
    body = BODY.replace('"colour" type: "InnerProduct" bottom: "fc2"', '"colour" type: "InnerProduct" bottom: "fc1"')
    composed = compose([Source("a", written(tmp_path, DATA + SLICE + body + losses))], num_output=4)
    assert "source 'a': cut at 'fc2', which its classifier reads" in composed.notes


PAIRS = """
layer { name: "pair_data" type: "Data" top: "pair_data" top: "sim" data_param { source: "db" batch_size: 4 } }
layer { name: "slice_pair" type: "Slice" bottom: "pair_data" top: "data" top: "data_p" slice_param { slice_point: 1 } }
layer { name: "feat" type: "InnerProduct" bottom: "data" top: "feat" inner_product_param { num_output: 2 } }
layer { name: "feat_p" type: "InnerProduct" bottom: "data_p" top: "feat_p" inner_product_param { num_output: 2 } }
layer { name: "loss" type: "ContrastiveLoss" bottom: "feat" bottom: "feat_p" bottom: "sim" top: "loss" }
"""


@pytest.mark.parametrize("loss", [None, "SoftmaxWithLoss", "SoftmaxWithLoss,label=sim"])
def test_whether_a_pair_is_alike_is_no_class(tmp_path: Path, loss: str | None) -> None:
    with pytest.raises(ComposeError, match="'sim' says whether the two are alike, and is no class label") as error:
        compose([Source("a", written(tmp_path, PAIRS), at="feat")], num_output=2, loss=loss)
    assert "lists with class labels" in str(error.value)


ORIGINS = """
layer { name: "d" type: "ImageData" top: "data" top: "label" image_data_param { source: "l" } }
layer { name: "e" type: "HDF5Data" top: "other" include { phase: TEST } hdf5_data_param { source: "h" } }
layer { name: "f" type: "Flatten" bottom: "label" top: "flat" }
layer { name: "s" type: "Split" bottom: "label" top: "one" top: "two" }
layer { name: "p" type: "Power" bottom: "one" top: "power" power_param { shift: 1 } }
layer { name: "q" type: "Power" bottom: "flat" top: "same" power_param { shift: 1 } }
layer { name: "r" type: "Power" bottom: "flat" top: "third" power_param { shift: 2 } }
layer { name: "c" type: "Slice" bottom: "label" top: "left" top: "right" }
layer { name: "u" type: "Eltwise" bottom: "label" bottom: "other" top: "sum" }
layer { name: "w" type: "Eltwise" bottom: "label" bottom: "none" top: "unknown" }
"""


def test_where_labels_come_from() -> None:
    source: Any = SimpleNamespace(prefix="a", raw=read_net(parse(ORIGINS)))
    label, flat, one, two, power, same, third, left, right, whole = (
        _origin(source, blob, ListChoice(DataLists()))
        for blob in ("label", "flat", "one", "two", "power", "same", "third", "left", "right", "sum")
    )
    assert label is not None
    assert label[0] == "data"
    assert label == flat == one == two
    assert len({power, same, third, left, right, label}) == 5
    assert power == same
    assert [_origin(source, blob, ListChoice(DataLists())) for blob in ("unknown", "none")] == [None, None]
    assert power is not None
    assert whole is not None
    assert _records(power) == _records(label) == frozenset((label[1],))
    assert {str(records[0]) for records in _records(whole)} == {"ImageData", "HDF5Data"}  # type: ignore[index]
    assert [_label_name(source, blob) for blob in ("label", "power")] == ["'label'", "'power' as 'p' computes it"]
