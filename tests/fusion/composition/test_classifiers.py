"""The fused net's classifiers: how many scores, which metrics, and whether each position of a map has its own."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fusion.composition import Loss
from fusion.composition.classifiers import (
    FusedClassifier,
    _check_bottoms,
    _check_matrix,
    _metrics,
    _scores_positions,
    _width,
    label_blobs,
)
from fusion.composition.net_text import read_net
from fusion.composition.source_losses import Metric
from fusion.composition.tasks import Goal
from fusion.errors import ComposeError
from prototxt.schema.messages import BlobProto
from prototxt.text.parser import parse


def goal(loss: Loss, num_output: int | None = None, **objectives: Any) -> Goal:
    return Goal("", loss, num_output, objectives)


def own(width: int | None, label: str | None = "y") -> Any:
    return SimpleNamespace(width=width, label=label)


EUCLID, NAMED = Loss("EuclideanLoss"), Loss("EuclideanLoss", label="y")


@pytest.mark.parametrize(
    ("asked", "shape", "positions", "found"),
    [
        (goal(Loss("SoftmaxWithLoss"), 2), None, False, 2),
        (goal(Loss("SoftmaxWithLoss"), 1), None, False, "over 1 class learns nothing"),
        (goal(Loss("SoftmaxWithLoss")), None, False, "the number of classes is not given"),
        (goal(EUCLID), (8, 3), False, 3),
        (goal(EUCLID), (8, 3, 4), False, 12),
        (goal(EUCLID), (8, 3, 4, 5), True, 3),
        (goal(EUCLID, 6), (8, 4, 5), True, 6),
        (goal(EUCLID, 3), (8, 3), False, 3),
        (goal(EUCLID, 4), (8, 3), False, "value of its label, 3, not 4: 'y' has the shape [^:]*3"),
        (goal(EUCLID, a=own(5), b=own(5)), None, False, 5),
        (goal(EUCLID, 4, a=own(5)), None, False, "value of its label, 5, not 4: the sources score as many"),
        (goal(EUCLID, 4, a=own(5), b=own(6)), None, False, 4),
        (goal(NAMED, a=own(5), b=own(6, "z")), None, False, 5),
        (goal(EUCLID, a=own(5, "z")), None, False, 5),
        (goal(EUCLID), None, False, 1),
    ],
)
def test_how_many_scores(asked: Goal, shape: Any, positions: bool, found: int | str) -> None:
    notes: list[str] = []
    shapes = {"y": shape} if shape else {}
    if isinstance(found, str):
        with pytest.raises(ComposeError, match=found):
            _width(asked, "y", shapes, positions, notes)
        return
    assert _width(asked, "y", shapes, positions, notes) == found
    assert notes == (["loss: the number of values of 'y' is not known here; num_output is 1"] if found == 1 else [])


def scored(metrics: str, classes: tuple[int, ...] = (), labels: str = "class") -> Any:
    raw = read_net(parse(metrics))
    source = SimpleNamespace(raw=raw, spec=SimpleNamespace(classes=classes))
    return SimpleNamespace(source=source, scores="s", labels=labels)


def accuracy(body: str = "") -> str:
    return f'layer {{ name: "a" type: "Accuracy" bottom: "s" bottom: "y" top: "a" accuracy_param {{ {body} }} }}\n'


@pytest.mark.parametrize(
    ("loss", "item", "found"),
    [
        ({}, scored(""), (Metric(),)),
        ({"softmax_param.axis": "2", "loss_param.ignore_label": "0xff"}, scored(""), (Metric(1, 2, 255),)),
        ({}, scored(accuracy("top_k: 3") + accuracy("top_k: 4") + accuracy("top_k: 3")), (Metric(3),)),
        ({}, scored(accuracy("top_k: 5")), (Metric(),)),
        ({"loss_param.ignore_label": "4"}, scored(accuracy()), (Metric(1, 1, 4),)),
        ({"loss_param.ignore_label": "-1"}, scored(accuracy()), (Metric(1, 1, -1),)),
        ({"loss_param.ignore_label": "3"}, scored(accuracy()), (Metric(),)),
        ({"loss_param.ignore_label": "0"}, scored(accuracy()), (Metric(),)),
        ({"loss_param.ignore_label": "9"}, scored(accuracy("ignore_label: 2")), (Metric(1, 1, 2),)),
        ({}, scored(accuracy("ignore_label: 1"), (4, 5)), "a metric without label 1, which is one of its own classes"),
        ({"loss_param.ignore_label": "1"}, scored(accuracy("ignore_label: 1"), (4, 5)), (Metric(1, 1, 1),)),
        ({}, scored(accuracy("ignore_label: 2"), (4, 5)), (Metric(1, 1, 2),)),
        ({}, scored(accuracy("top_k: 2"), labels="target"), (Metric(),)),
    ],
)
def test_which_metrics(loss: dict[str, str], item: Any, found: tuple[Metric, ...] | str) -> None:
    asked = goal(Loss("SoftmaxWithLoss", loss), 4, a=item)
    if isinstance(found, str):
        with pytest.raises(ComposeError, match=found):
            _metrics(asked, 4)
    else:
        assert _metrics(asked, 4) == found


@pytest.mark.parametrize(
    ("kind", "tail", "shape", "found"),
    [
        ("Convolution", "ReLU", None, True),
        ("Convolution", "Pooling", None, False),
        ("InnerProduct", "ReLU", None, False),
        (None, "ReLU", None, False),
        ("Convolution", "ReLU", (2, 4), False),
        ("Convolution", "ReLU", (2, 4, 1, 1), False),
        ("Convolution", "ReLU", (2, 4, 1, 2), True),
        ("Convolution", "ReLU", (2, 4, 2, 1), True),
    ],
)
def test_what_scores_positions(
    kind: str | None, tail: str, shape: tuple[int, ...] | None, found: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores: dict[str, Any] = {}
    monkeypatch.setattr("fusion.composition.classifiers.source_shapes", lambda *_: scores)
    item: Any = SimpleNamespace(
        classifier=SimpleNamespace(type=kind) if kind else None,
        tail=[SimpleNamespace(type=tail)],
        source=SimpleNamespace(cuts=["c"]),
        scores="s",
    )
    inputs: Any = None
    assert _scores_positions(item, inputs, {"c": shape} if shape else {}) is found
    if shape:
        scores["s"] = shape
        assert _scores_positions(item, inputs, {}) is (found and kind == "Convolution")


def test_the_gains_are_as_many_as_pairs_of_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("float").write_bytes(BlobProto(data=[1] * 9).SerializeToString())
    Path("double").write_bytes(BlobProto(double_data=[1] * 9).SerializeToString())
    for name in ("float", "double", "absent"):
        loss = Loss("InfogainLoss", {"infogain_loss_param.source": (f'"{name}"',)})
        _check_matrix(loss, 3)
        if name != "absent":
            with pytest.raises(ComposeError, match="has 9 gains, and 4 classes need 4 x 4"):
                _check_matrix(loss, 4)
    Path("text").write_bytes(b"\xff\xff")
    with pytest.raises(ComposeError, match="is not a BlobProto"):
        _check_matrix(Loss("InfogainLoss", {"infogain_loss_param.source": ("'text'",)}), 3)


def test_labels_and_further_bottoms_of_the_main_source() -> None:
    def error(message: str, hint: str = "", layer: Any = None) -> ComposeError:
        return ComposeError(message, hint=hint)

    def objective(label: str | None, labels: str) -> Any:
        return SimpleNamespace(label=label, labels=labels, layer=SimpleNamespace(type="EuclideanLoss"))

    main: Any = SimpleNamespace(
        prefix="a", raw=SimpleNamespace(input_blobs=("y", "H")), data_blobs=("data", "y"), error=error
    )
    gains = Loss("InfogainLoss", bottoms=("H", "G"))
    known = {"a": objective("y", "class"), "b": objective("z", "class")}
    assert label_blobs(main, [goal(gains, **known)]) == ["y", "H"]
    assert label_blobs(main, [goal(Loss("InfogainLoss", label="w", bottoms=("H",)), **known)]) == ["w", "H"]
    assert label_blobs(main, [goal(gains, b=known["b"])]) == []
    assert label_blobs(main, [goal(gains, a=objective(None, "class"))]) == []
    assert label_blobs(main, [goal(EUCLID, a=objective("y", "target"))] * 2) == ["y"]
    with pytest.raises(ComposeError, match="reads 'y' by EuclideanLoss, so it may be no label for InfogainLoss"):
        label_blobs(main, [goal(gains, a=objective("y", "target"))])
    inputs: Any = SimpleNamespace(labels=["y", "H"])
    _check_bottoms(Loss("InfogainLoss", bottoms=("H",)), inputs)
    for kind, hint in (
        ("InfogainLoss", "the matrix as a file: --loss InfogainLoss,source=FILE"),
        ("HingeLoss", "TYPE"),
    ):
        with pytest.raises(ComposeError, match=f"'{kind}' reads 'G' as a further bottom") as caught:
            _check_bottoms(Loss(kind, bottoms=("H", "G")), inputs)
        assert hint in str(caught.value.hint)


def test_a_classifier_by_itself() -> None:
    one, age = FusedClassifier("", EUCLID, 3), FusedClassifier("age", NAMED, 3)
    assert (one.positions, one.label, one.layer_name("loss")) == (False, "", "loss")
    assert (age.label, age.layer_name("loss")) == ("y", "loss_age")
