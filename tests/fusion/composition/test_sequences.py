"""Sequences of recurrent nets: every step scored by the sources' own loss, or refused with the choices."""

from __future__ import annotations

from pathlib import Path

import pytest

import prototxt
from fusion import ComposeError
from fusion.composition import Source, compose
from fusion.composition.net_text import read_net

LRCN = """
layer { name: "data" type: "Python" top: "data" top: "label" top: "clip" python_param { module: "m" layer: "L" } }
layer { name: "fc6" type: "InnerProduct" bottom: "data" top: "fc6" inner_product_param { num_output: 8 } }
layer { name: "steps" type: "Reshape" bottom: "fc6" top: "steps" reshape_param { shape { dim: 16 dim: 2 dim: 8 } } }
layer { name: "cont" type: "Reshape" bottom: "clip" top: "cont" reshape_param { shape { dim: 16 dim: 2 } } }
layer { name: "target" type: "Reshape" bottom: "label" top: "target" reshape_param { shape { dim: 16 dim: 2 } } }
layer { name: "lstm" type: "LSTM" bottom: "steps" bottom: "cont" top: "lstm" recurrent_param { num_output: 6 } }
layer { name: "last" type: "InnerProduct" bottom: "lstm" top: "last" inner_product_param { num_output: 5 axis: 2 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "last" bottom: "target" top: "loss" softmax_param { axis: 2 } }
"""


@pytest.fixture
def lrcn(tmp_path: Path) -> Path:
    path = tmp_path / "lrcn.prototxt"
    path.write_text(LRCN)
    return path


@pytest.mark.parametrize(("head", "options"), [("concat-fc", {}), ("concat-mlp", {"hidden": 7})])
def test_each_step_is_scored(lrcn: Path, head: str, options: dict[str, int]) -> None:
    composed = compose([Source("a", lrcn), Source("b", lrcn, at="steps")], head, num_output=5, **options)
    net = prototxt.load_net(composed.train_val, strict=False)
    layers = {layer.name: layer for layer in net.layer}
    assert layers["concat"].concat_param.axis == layers["loss"].softmax_param.axis == 2
    assert layers["accuracy"].accuracy_param.axis == 2
    dense = [layer for layer in net.layer if layer.type == "InnerProduct" and "/" not in layer.name]
    assert [layer.inner_product_param.axis for layer in dense] == [2] * len(dense)
    shapes = prototxt.infer_shapes(prototxt.filter_net(net, "TRAIN"))
    assert shapes[dense[0].bottom[0]] == (16, 2, 14)
    assert shapes[net.layer[-1].bottom[0]] == (16, 2, 5)
    assert not {"Pooling", "Flatten"} & {layer.type for layer in net.layer}


@pytest.mark.parametrize(
    ("at", "options", "says"),
    [
        ("lstm", {"head": "sum"}, "head 'sum' works on a row per sample"),
        ("lstm", {"batch_norm": True}, "--batch-norm works on a row per sample"),
        ("lstm", {"project": 3}, "--project works on a row per sample"),
        ("lstm", {"references": True}, "--references works on a row per sample"),
        ("lstm", {"loss": "SoftmaxWithLoss,label=target"}, "'a/lstm' 16x2x6 is a sequence"),
        ("steps", {"loss": "SoftmaxWithLoss,label=target"}, "'a/steps' 16x2x8 is a sequence"),
        ("fc6", {}, "'b/lstm' 16x2x6 is a sequence"),
    ],
)
def test_what_cannot_be_done_by_step(lrcn: Path, at: str, options: dict[str, object], says: str) -> None:
    with pytest.raises(ComposeError, match=says):
        compose([Source("a", lrcn, at=at), Source("b", lrcn, at="lstm")], num_output=5, **options)  # type: ignore[arg-type]


def test_rows_have_no_steps(lrcn: Path) -> None:
    with pytest.raises(ComposeError, match=r"scores each step of a sequence \(axis 2\), and 'a/fc6' .* is none"):
        compose([Source("a", lrcn, at="fc6")], num_output=5)


def test_a_deploy_net_that_takes_no_single_sample_is_left_out(lrcn: Path) -> None:
    composed = compose([Source("a", lrcn)], num_output=5, input_shape=(3, 4, 4))
    assert composed.deploy is None
    assert any(note.startswith("deploy: not written, because it does not fit one sample") for note in composed.notes)


ROWS = """
layer { name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param { shape { dim: 4 dim: 3 dim: 6 dim: 6 }
  shape { dim: 4 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 2 kernel_size: 3 } }
layer { name: "flat" type: "Flatten" bottom: "conv" top: "flat" flatten_param { axis: 2 } }
layer { name: "ip" type: "InnerProduct" bottom: "flat" top: "ip" inner_product_param { num_output: 3 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""


def test_three_axes_with_samples_first_are_joined_but_never_pooled(tmp_path: Path) -> None:
    path = tmp_path / "rows.prototxt"
    path.write_text(ROWS)
    composed = compose([Source("a", path, at="flat"), Source("b", path, at="flat")], num_output=3)
    concat = next(layer for layer in read_net(composed.train_val).layers if layer.type == "Concat")
    assert concat.message.messages("concat_param")[0].string("axis") == "1"
    with pytest.raises(ComposeError, match="averaging takes maps of 4 axes"):
        compose([Source("a", path, at="flat"), Source("b", path, at="conv")], num_output=3)
