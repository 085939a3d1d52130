"""Stages: a file with the layers of several states gives one fused net that needs none."""

from __future__ import annotations

from pathlib import Path

import pytest

import prototxt
from fusion import ComposeError
from fusion.composition import Source, compose
from fusion.composition.net_text import read_net
from fusion.composition.stages import stages_by_phase

DIGITS = """
layer {{ name: "train-data" type: "Data" top: "data" top: "label" include {{ stage: "train" }}
  data_param {{ batch_size: 8 source: "train_db" backend: LMDB }} transform_param {{ crop_size: 14 mirror: true }} }}
layer {{ name: "val-data" type: "Data" top: "data" top: "label" include {{ stage: "val" }}
  data_param {{ batch_size: 4 source: "val_db" backend: LMDB }} transform_param {{ crop_size: 14 }} }}
layer {{ name: "scale" type: "Power" bottom: "data" top: "scaled" power_param {{ scale: 0.0125 }} {rule} }}
layer {{ name: "conv1" type: "Convolution" bottom: "scaled" top: "conv1"
  convolution_param {{ num_output: 6 kernel_size: 3 }} }}
layer {{ name: "ip2" type: "InnerProduct" bottom: "conv1" top: "ip2" inner_product_param {{ num_output: 4 }} }}
layer {{ name: "accuracy" type: "Accuracy" bottom: "ip2" bottom: "label" top: "accuracy"
  include {{ stage: "val" }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss"
  exclude {{ stage: "deploy" }} }}
layer {{ name: "softmax" type: "Softmax" bottom: "ip2" top: "softmax" include {{ stage: "deploy" }} }}
"""


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    path = tmp_path / "digits.prototxt"
    path.write_text(DIGITS.format(rule=""))
    return path


@pytest.mark.parametrize("stages", [("train", "val"), ("TRAIN=train", "TEST=val")])
def test_the_layers_of_each_phase_are_those_of_its_stages(digits: Path, stages: tuple[str, ...]) -> None:
    sources = [Source(name, digits, stages=stages) for name in "ab"]
    composed = compose(sources, num_output=4, input_shape=(3, 14, 14))
    data = [(layer.name, layer.phases) for layer in read_net(composed.train_val).layers if layer.is_data]
    assert data == [("train-data", ("TRAIN",)), ("val-data", ("TEST",))]
    assert "stage" not in str(composed.train_val)
    assert "source 'a': stages train (TRAIN), val (TEST)" in composed.notes
    assert prototxt.infer_shapes(prototxt.load_net(composed.deploy))["prob"] == (1, 4)


def test_one_stage_may_serve_both_phases(digits: Path) -> None:
    composed = compose([Source("a", digits, stages=("TRAIN=train", "TEST=train"))], num_output=4)
    data = [(layer.name, layer.phases) for layer in read_net(composed.train_val).layers if layer.is_data]
    assert data == [("train-data", ("TRAIN", "TEST"))]


@pytest.mark.parametrize(
    ("stages", "phase"), [((), "TRAIN"), (("train",), "TEST"), (("val",), "TRAIN"), (("deploy",), "TRAIN")]
)
def test_without_its_stages_a_net_is_an_error_that_names_them(
    digits: Path, stages: tuple[str, ...], phase: str
) -> None:
    with pytest.raises(ComposeError, match=f"reads 'data', which in phase {phase} only layers of other") as caught:
        compose([Source("a", digits, stages=stages)], num_output=4)
    assert len(caught.value.errors) == 1  # the other phase has the same
    assert caught.value.errors[0].hint is not None
    assert "--stage train --stage val; it names train, val, deploy" in caught.value.errors[0].hint


def test_stages_of_ones_own_are_offered_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "own.prototxt"
    text = DIGITS.format(rule="").replace('stage: "train"', 'stage: "day"').replace('stage: "val"', 'stage: "night"')
    path.write_text(text.replace('stage: "deploy"', 'stage: "use"'))
    with pytest.raises(ComposeError, match="the stages that hold, such as --stage day; it names day, night, use"):
        compose([Source("a", path)], num_output=4)


def test_a_stage_that_no_source_names(digits: Path) -> None:
    with pytest.raises(ComposeError, match="names the stage trian"):
        compose([Source("a", digits, stages=("train", "val", "trian"))], num_output=4)
    with pytest.raises(ComposeError, match="there is no phase 'VAL'"):
        compose([Source("a", digits, stages=("VAL=val",))], num_output=4)


@pytest.mark.parametrize(
    ("rule", "there"),
    [
        ("include { not_stage: 'deploy' }", True),
        ("include { not_stage: 'train' not_stage: 'val' }", False),
        ("exclude { stage: 'train' } exclude { stage: 'val' }", False),
        ("exclude { stage: 'train' stage: 'val' }", True),  # both must hold in one phase
        ("include { min_level: 1 }", False),
        ("include { max_level: -1 }", False),
        ("include { min_level: -1 max_level: 0 }", True),
        ("include { phase: TRAIN stage: 'train' } include { phase: TEST }", True),
    ],
)
def test_every_rule_of_caffe(tmp_path: Path, rule: str, there: bool) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(DIGITS.format(rule=rule))
    layers = read_net(prototxt.parse_file(path), stages_by_phase(("train", "val"))).layers
    found = next(layer.phases for layer in layers if layer.name == "scale")
    assert found == (("TRAIN", "TEST") if there else ())
    net = prototxt.load_net(path)
    for phase, stage in (("TRAIN", "train"), ("TEST", "val")):
        names = [layer.name for layer in prototxt.filter_net(net, phase, stages=[stage]).layer]
        assert ("scale" in names) == there


def test_the_nets_own_state_counts() -> None:
    text = "state { level: 2 stage: 'x' } " + DIGITS.format(rule="include { min_level: 2 stage: 'x' }")
    layers = read_net(prototxt.parse(text)).layers
    assert next(layer.phases for layer in layers if layer.name == "scale") == ("TRAIN", "TEST")
