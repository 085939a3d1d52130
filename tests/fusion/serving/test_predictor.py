"""Images to scores: inputs, outputs, classes and preparations that a net's text or the caller gives."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fusion.errors import DataError, FusionError
from fusion.serving.predictor import (
    OutputClasses,
    Predictor,
    PreprocessOverrides,
    class_scores,
    class_shares,
    open_predictor,
    output_classes,
    predict,
)
from prototxt.formats.weights import write_weights

INPUT = 'layer { name: "d" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 1 dim: 1 } } }\n'
LISTED = """layer { name: "d" type: "ImageData" top: "data" top: "label" image_data_param { source: "absent"
  batch_size: 4 } transform_param { scale: 0.5 } }
"""
DENSE = 'layer { name: "NAME" type: "InnerProduct" bottom: "data" top: "NAME" inner_product_param { num_output: N } }\n'
EQUAL = 'layer { name: "copy" type: "Power" bottom: "data" top: "copy" }\n'


def dense(**outputs: int) -> str:
    return "".join(DENSE.replace("NAME", name).replace(": N", f": {count}") for name, count in outputs.items())


def written(tmp_path: Path, text: str, weights: Mapping[str, Any] | None = None, **options: Any) -> Predictor:
    (tmp_path / "net.prototxt").write_text(text)
    write_weights(tmp_path / "net.caffemodel", dict(weights or {"not in this net": [np.zeros(1)]}))
    return open_predictor(tmp_path / "net.prototxt", tmp_path / "net.caffemodel", **options)


def ones(outputs: int, inputs: int) -> list[np.ndarray]:
    return [np.ones((outputs, inputs)), np.zeros(outputs)]


def picture(*pixels: tuple[int, int, int] | int, size: tuple[int, int] = (1, 1)) -> bytes:
    content = io.BytesIO()
    array = np.array(pixels, np.uint8).reshape(*size, -1)
    Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array).save(content, "PNG")
    return content.getvalue()


def fed(net: Predictor, content: bytes) -> list[float]:
    return class_scores(net, [content])["copy"].ravel().tolist()


def test_pixels_are_prepared_as_asked(tmp_path: Path) -> None:
    red = picture((10, 20, 30))
    plain = written(tmp_path, INPUT + EQUAL)
    assert fed(plain, red) == [30.0, 20.0, 10.0]
    (note,) = plain.notes
    assert "input 'data' takes pixels as they are, 0 to 255, blue first" in note
    for overrides, expected in (
        (PreprocessOverrides(rgb=True), [10.0, 20.0, 30.0]),
        (PreprocessOverrides(mean=[1, 2, 3]), [29.0, 18.0, 7.0]),
        (PreprocessOverrides(mean=[5], scale=0.5), [12.5, 7.5, 2.5]),
        (PreprocessOverrides(scale=0.0), [0.0, 0.0, 0.0]),
        (PreprocessOverrides(rgb=True, mean=[1, 2, 3], scale=2.0), [18.0, 36.0, 54.0]),
    ):
        net = written(tmp_path, INPUT + EQUAL, overrides=overrides)
        assert (fed(net, red), net.notes) == (expected, ())


def test_a_size_of_ones_own_replaces_that_of_the_net(tmp_path: Path) -> None:
    text = INPUT.replace("dim: 1 dim: 1 }", "dim: 2 dim: 3 }").replace("dim: 3", "dim: 1", 1)
    net = written(tmp_path, text + EQUAL)
    assert "gray" in net.notes[0]
    assert [how.size for how in net.inputs.values()] == [(2, 3)]
    assert class_scores_shape(net) == (1, 1, 2, 3)
    sized = written(tmp_path, text + EQUAL, overrides=PreprocessOverrides(size=(4, 5)))
    assert [how.size for how in sized.inputs.values()] == [(4, 5)]


def class_scores_shape(net: Predictor) -> tuple[int, ...]:
    (how,) = net.inputs.values()
    return tuple(how.tensor([picture(7)]).shape)


def test_settings_of_the_data_layer_stay_unless_replaced(tmp_path: Path) -> None:
    text = LISTED.replace("batch_size: 4", "batch_size: 4 new_height: 1 new_width: 1")
    assert fed(written(tmp_path, text + EQUAL), picture((10, 20, 30))) == [15.0, 10.0, 5.0]
    assert written(tmp_path, text + EQUAL).notes == ()
    assert written(tmp_path, text + EQUAL).shapes == {"data": (1, 3, 1, 1)}
    scaled = written(tmp_path, text + EQUAL, overrides=PreprocessOverrides(mean=[4]))
    assert fed(scaled, picture((10, 20, 30))) == [13.0, 8.0, 3.0]


def test_shapes_that_the_net_lacks_are_those_of_the_other_net_or_given(tmp_path: Path) -> None:
    fallback = {"data": (9, 3, 2, 1), "other": (1, 1)}
    weights = {"ip": ones(2, 6)}
    assert written(tmp_path, LISTED + dense(ip=2), weights, fallback=fallback).shapes == {"data": (1, 3, 2, 1)}
    given = {"data": (1, 3, 1, 2)}
    both = written(tmp_path, LISTED + dense(ip=2), weights, fallback=fallback, shapes=given)
    assert both.shapes == {"data": (1, 3, 1, 2)}
    known = written(tmp_path, INPUT + dense(ip=2), {"ip": ones(2, 3)}, fallback=fallback)
    assert known.shapes == {"data": (1, 3, 1, 1)}


def test_weights_that_are_missing_are_named(tmp_path: Path) -> None:
    with pytest.raises(FusionError, match=r"net\.caffemodel: no weights for b, c"):
        written(tmp_path, INPUT + dense(a=2, b=2, c=2), {"a": ones(2, 3)})


EUCLIDEAN = 'layer { name: "l" type: "EuclideanLoss" bottom: "b" bottom: "t" top: "l" }\n'
TARGET = 'layer { name: "t" type: "Input" top: "t" input_param { shape { dim: 1 dim: 2 } } include { phase: TRAIN } }\n'


def test_values_for_a_loss_are_left_out_and_refused_by_name(tmp_path: Path) -> None:
    text = INPUT + TARGET + dense(a=2, b=2) + EUCLIDEAN.replace('top: "l" }', 'top: "l" include { phase: TRAIN } }')
    weights = {"a": ones(2, 3), "b": ones(2, 3)}
    net = written(tmp_path, text, weights)
    assert net.outputs == ("a",)
    assert net.notes[0] == "'b' is left out: its loss takes values, not classes"
    assert written(tmp_path, text, weights, outputs=["a"]).outputs == ("a",)
    for outputs in (["b"], ["a", "b"]):
        with pytest.raises(FusionError, match="blob 'b' does not hold class scores"):
            written(tmp_path, text, weights, outputs=outputs)
    with pytest.raises(FusionError, match="blob 'b' does not hold class scores"):
        written(tmp_path, text.replace(dense(a=2), ""), weights)


REFERENCE = """layer { name: "l" type: "Input" top: "label" input_param { shape { dim: 1 } } include { phase: TRAIN } }
layer { name: "kd" type: "KDLoss" bottom: "new" bottom: "old" bottom: "label" top: "kd" include { phase: TRAIN }
  pct_param { classes: 2 classes: 0 } }
"""


def test_classes_come_from_the_text_before_the_losses(tmp_path: Path) -> None:
    weights = {"new": ones(3, 3), "old": ones(2, 3)}
    text = INPUT + dense(new=3, old=2) + REFERENCE
    assert written(tmp_path, text, weights).classes == {"old": (2, 0)}
    assert written(tmp_path, f'# class-numbers: {{"old": [0, 1]}}\n{text}', weights).classes == {"old": (0, 1)}
    wide = written(tmp_path, f'# class-numbers: {{"old": [0, 1, 2], "new": [2, 1, 0]}}\n{text}', weights)
    assert wide.classes == {"old": (2, 0), "new": (2, 1, 0)}
    assert written(tmp_path, INPUT + dense(new=3, old=2), weights).classes == {}


@pytest.fixture
def named(tmp_path: Path) -> Predictor:
    """Red gives class 2, green 1, and blue 0 of `a`, b's scores are equal; names of three classes."""
    weights = {"a": [np.eye(3), np.zeros(3)], "b": ones(2, 3)}
    return written(tmp_path, '# class-names: ["blue", "green", ""]\n' + INPUT + dense(a=3, b=2), weights)


def test_classes_of_scores(named: Predictor) -> None:
    assert output_classes(named, "a", 3) == OutputClasses((0, 1, 2), ("blue", "green", ""))
    assert output_classes(named, "a", 3, ["x", "y", "z"]) == OutputClasses((0, 1, 2), ("x", "y", "z"))
    own = output_classes(named, "b", 2)
    assert (own.numbers, own.labels, own.part) == ((0, 1), ("", ""), False)
    assert own.note.startswith("'b' has 2 scores, but 3 classes have names")
    foreign = output_classes(named, "a", 3, ["x", "y"])
    assert (foreign.labels, foreign.note[:43]) == (("blue", "green", ""), "'a' has 3 scores, but 2 classes have names:")
    given = output_classes(named, "b", 2, numbers=[1, 7])
    assert given == OutputClasses((1, 7), ("green", ""), part=True)
    for numbers in ([1], [1, 2, 3]):
        with pytest.raises(FusionError, match=f"{len(numbers)} classes are given for 'b', which has 2 scores"):
            output_classes(named, "b", 2, numbers=numbers)


def test_no_names_are_no_reason_for_a_note(tmp_path: Path) -> None:
    net = written(tmp_path, INPUT + dense(a=3), {"a": ones(3, 3)})
    assert output_classes(net, "a", 3) == OutputClasses((0, 1, 2), ("", "", ""))


def test_answers_of_pictures(named: Predictor, tmp_path: Path) -> None:
    Image.new("RGB", (1, 1), (0, 9, 0)).save(tmp_path / "green.png")
    path = str(tmp_path / "green.png")
    red, equal, green, _ = predict(named, [picture((5, 0, 1)), path], top=2)
    assert (red.picture, red.output, red.classes, red.scores) == ("picture 1", "a", (2, 0), (5.0, 1.0))
    assert (red.labels, red.note) == (("", "blue"), "")
    assert (equal.picture, equal.output, equal.classes, equal.scores) == ("picture 1", "b", (0, 1), (6.0, 6.0))
    assert equal.note.startswith("'b' has 2 scores")
    assert (green.picture, green.classes, green.labels) == (path, (1, 0), ("green", "blue"))
    told = predict(named, [path], names=["mine"], labels=["x", "y", "z"], classes={"b": (2, 1)})
    assert [(answer.picture, answer.labels) for answer in told] == [("mine", ("y", "x", "z")), ("mine", ("z", "y"))]
    assert told[1].classes == (2, 1)
    assert len(predict(named, [path])[0].classes) == 3


def test_every_picture_that_cannot_be_read_is_named(named: Predictor) -> None:
    with pytest.raises(DataError) as caught:
        class_scores(named, [b"", picture((1, 2, 3)), b"text"])
    assert [error.place for error in caught.value.errors] == ["image 1", "image 3"]


def test_shares_need_no_softmax_where_they_add_up_to_one() -> None:
    for row in ([0.25, 0.7505], [0.0, 1.0]):
        assert class_shares(np.array(row, np.float32))[1]
    for row in ([0.25, 0.752], [0.25, 0.748], [-0.5, 1.5]):
        shares, own = class_shares(np.array(row, np.float32))
        assert not own
        assert shares == pytest.approx(np.exp(row) / np.exp(row).sum())


@pytest.mark.parametrize(("shape", "refused"), [((3, 1, 1), False), ((3, 1, 2), True), ((3, 2, 1), True)])
def test_maps_of_one_pixel_are_rows(tmp_path: Path, shape: tuple[int, int, int], refused: bool) -> None:
    text = INPUT.replace("dim: 3 dim: 1 dim: 1", " ".join(f"dim: {size}" for size in shape))
    net = written(tmp_path, text + EQUAL)
    if refused:
        with pytest.raises(FusionError, match=f"blob 'copy' is 2x{'x'.join(map(str, shape))}, not one row of scores"):
            class_scores(net, [picture((1, 2, 3))] * 2)
    else:
        rows = class_scores(net, [picture((1, 2, 3)), picture((4, 5, 6))])["copy"]
        assert rows.tolist() == [[3, 2, 1], [6, 5, 4]]


def test_a_sum_over_the_batch_is_no_row_per_picture(tmp_path: Path) -> None:
    flat = 'layer { name: "f" type: "Reshape" bottom: "data" top: "f" reshape_param { shape { dim: 1 dim: -1 } } }\n'
    net = written(tmp_path, INPUT + flat)
    assert class_scores(net, [picture((1, 2, 3))])["f"].tolist() == [[3, 2, 1]]
    with pytest.raises(FusionError, match="blob 'f' is 1x6, not one row of scores per image"):
        class_scores(net, [picture((1, 2, 3))] * 2)
