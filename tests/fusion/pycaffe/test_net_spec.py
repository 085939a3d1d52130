"""Nets written in Python, compared as messages with the prototxts that they stand for."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from google.protobuf import text_format

from fusion.pycaffe import NetSpec, layers as L, net_spec, params as P, to_proto
from fusion.pycaffe.proto import caffe_pb2

LENET = """
layer { name: "data" type: "Data" top: "data" top: "label"
  transform_param { scale: 0.5 } data_param { source: "db" backend: LMDB batch_size: 8 } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1" param { lr_mult: 1 } param { lr_mult: 2 }
  convolution_param { num_output: 20 kernel_size: 5 weight_filler { type: "xavier" } } }
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1"
  pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
layer { name: "ip1" type: "InnerProduct" bottom: "pool1" top: "ip1" inner_product_param { num_output: 500 } }
layer { name: "relu1" type: "ReLU" bottom: "ip1" top: "ip1" }
layer { name: "score" type: "InnerProduct" bottom: "ip1" top: "score" inner_product_param { num_output: 10 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "score" bottom: "label" top: "loss" loss_weight: 3 }
"""


def parsed(text: str) -> Any:
    return text_format.Parse(text, caffe_pb2.NetParameter())


def lenet() -> NetSpec:
    n = NetSpec()
    n.data, n.label = L.Data(batch_size=8, backend=P.Data.LMDB, source="db", transform_param={"scale": 0.5}, ntop=2)
    rates = [{"lr_mult": 1}, {"lr_mult": 2}]
    n.conv1 = L.Convolution(n.data, kernel_size=5, num_output=20, param=rates, weight_filler={"type": "xavier"})
    n.pool1 = L.Pooling(n.conv1, kernel_size=2, stride=2, pool=P.Pooling.MAX)
    n.ip1 = L.InnerProduct(n.pool1, num_output=500)
    n.relu1 = L.ReLU(n.ip1, in_place=True)
    n.score = L.InnerProduct(n.relu1, num_output=10)
    n.loss = L.SoftmaxWithLoss(n.score, n.label, loss_weight=3)
    return n


def test_a_net_with_names() -> None:
    assert lenet().to_proto() == parsed(LENET)


def test_a_net_without_names_counts_types_and_has_only_the_layers_needed() -> None:
    data, label = L.DummyData(shape=[{"dim": [2, 3]}, {"dim": 2}], ntop=2)
    L.ReLU(data)  # nothing needs it
    score = L.InnerProduct(L.InnerProduct(data, num_output=5), inner_product_param={"num_output": 2})
    assert to_proto(L.SoftmaxWithLoss(score, label), L.Accuracy(score, label)) == parsed("""
    layer { name: "DummyData1" type: "DummyData" top: "DummyData1" top: "DummyData2"
      dummy_data_param { shape { dim: 2 dim: 3 } shape { dim: 2 } } }
    layer { name: "InnerProduct1" type: "InnerProduct" bottom: "DummyData1" top: "InnerProduct1"
      inner_product_param { num_output: 5 } }
    layer { name: "InnerProduct2" type: "InnerProduct" bottom: "InnerProduct1" top: "InnerProduct2"
      inner_product_param { num_output: 2 } }
    layer { name: "SoftmaxWithLoss1" type: "SoftmaxWithLoss" bottom: "InnerProduct2" bottom: "DummyData2"
      top: "SoftmaxWithLoss1" }
    layer { name: "Accuracy1" type: "Accuracy" bottom: "InnerProduct2" bottom: "DummyData2" top: "Accuracy1" }
    """)
    assert [layer.name for layer in score.to_proto().layer] == ["DummyData1", "InnerProduct1", "InnerProduct2"]
    three = L.Concat(L.ReLU(data), L.TanH(data), L.BNLL(data)).to_proto()
    assert [layer.type for layer in three.layer] == ["DummyData", "ReLU", "TanH", "BNLL", "Concat"]


def test_unnamed_layers_inside_a_named_net_and_layers_without_tops() -> None:
    n = NetSpec()
    n["a/b"] = L.Input(shape={"dim": [1]})
    n.out = L.TanH(L.ReLU(n["a/b"]))
    n.end = L.Silence(n.out, ntop=0)
    n.nothing = L.Silence(n.out, ntop=0)
    names = [(layer.name, list(layer.bottom), list(layer.top)) for layer in n.to_proto().layer]
    assert names == [
        ("a/b", [], ["a/b"]),
        ("ReLU1", ["a/b"], ["ReLU1"]),
        ("out", ["ReLU1"], ["out"]),
        ("end", ["out"], []),
        ("nothing", ["out"], []),
    ]
    assert to_proto(L.Silence(L.Input(), ntop=0)).layer[1].name == "Silence1"


def test_fields_of_forks_and_of_the_layer() -> None:
    boxes = L.PriorBox(L.Input(), min_size=30, aspect_ratio=[2, 3], code_type=P.PriorBox.CORNER, include={"phase": 1})
    with pytest.raises(AttributeError, match="no field 'code_type'"):
        to_proto(boxes)
    boxes.fn.params.pop("code_type")
    expected = parsed("""layer { name: "PriorBox1" type: "PriorBox" bottom: "Input1" top: "PriorBox1"
      include { phase: TEST } prior_box_param { min_size: 30 aspect_ratio: 2 aspect_ratio: 3 } }""")
    assert boxes.to_proto().layer[1] == expected.layer[0]
    names = net_spec.param_name_dict()
    assert (names["Convolution"], names["ROIPooling"], names["Permute"]) == ("convolution", "roi_pooling", "permute")


def test_values_of_all_kinds() -> None:
    layer = caffe_pb2.LayerParameter()
    net_spec.assign_proto(layer, "loss_weight", 2.5)
    net_spec.assign_proto(layer, "loss_weight", (1, 0.5))
    net_spec.assign_proto(layer, "bottom", [])
    net_spec.assign_proto(layer, "relu_param", {})
    net_spec.assign_proto(layer, "param", {"name": "w"})
    assert layer == parsed('layer { loss_weight: 2.5 loss_weight: 1 loss_weight: 0.5 param { name: "w" } }').layer[0]


def test_mistakes() -> None:
    data = L.DummyData(ntop=2)
    with pytest.raises(TypeError, match=r"^Silence input 0 is not a Top \(type is <class 'tuple'>\)$"):
        L.Silence(data, ntop=0)
    n = NetSpec()
    with pytest.raises(TypeError, match=r"'data' takes the result of a layer.*n\.data, n\.label = L\.Data"):
        n.data = data
    n.conv1 = data[0]
    with pytest.raises(AttributeError, match="no blob 'conv2'; did you mean 'conv1'"):
        _ = n.conv2
    with pytest.raises(KeyError):
        n["conv2"]
    n.ip = L.InnerProduct(n.conv1, num_outputs=3)
    with pytest.raises(AttributeError, match=r"LayerParameter has no field 'num_outputs'$"):
        n.to_proto()
    with pytest.raises(AttributeError, match="PoolParameter"):
        _ = P.Pool.MAX


def test_a_copied_net_is_the_same() -> None:
    assert copy.deepcopy(lenet()).to_proto() == lenet().to_proto()


def test_a_net_deeper_than_python_s_stack() -> None:
    top = L.Input()
    for _ in range(3000):
        top = L.ReLU(top)
    layers = top.to_proto().layer
    assert (len(layers), layers[3000].bottom[0]) == (3001, "ReLU2999")


def test_a_net_is_changed_as_in_the_ssd_fork() -> None:
    n = lenet()
    n.update("ip1", {"num_output": 7})
    n.update("relu1", {"negative_slope": 0.5})
    del n["loss"]
    layers = n.to_proto().layer
    assert n.keys() == ["data", "label", "conv1", "pool1", "ip1", "relu1", "score"]
    assert n.vals()[2] is n.conv1
    assert (layers[3].inner_product_param.num_output, layers[4].relu_param.negative_slope, len(layers)) == (7, 0.5, 6)


def test_a_value_of_the_wrong_type_names_its_field() -> None:
    top = L.Convolution(L.Input(), kernel_size=[3, 1.5], weight_filler={"type": "xavier"})
    with pytest.raises(TypeError, match=r"^ConvolutionParameter\.kernel_size: .*float"):
        top.to_proto()
    top.fn.params.update(kernel_size=3, weight_filler={"type": 1})
    with pytest.raises(TypeError, match=r"^ConvolutionParameter\.weight_filler: FillerParameter\.type: "):
        top.to_proto()
