"""The messages of scripts: Caffe's and the forks' fields side by side, with protobuf's own text and binary forms."""

from __future__ import annotations

import pytest
from google.protobuf import text_format

from fusion.pycaffe.proto import caffe_pb2
from prototxt.schema import fork_messages, messages

NET = """name: "n"
layer { name: "c" type: "Convolution" convolution_param { num_output: 2 kernel_size: 3 } }
layer { name: "p" type: "Permute" permute_param { order: 0 order: 2 }
  transform_param { crop_size: 5 resize_param { height: 7 resize_mode: FIT_SMALL_SIZE } } }
"""


def test_text_and_bytes_keep_all_fields() -> None:
    net = caffe_pb2.NetParameter()
    text_format.Merge(NET, net)
    assert net.layer[0].convolution_param.kernel_size[0] == 3
    assert list(net.layer[1].permute_param.order) == [0, 2]
    assert net.layer[1].transform_param.resize_param[0].resize_mode == caffe_pb2.ResizeParameter.FIT_SMALL_SIZE
    again = caffe_pb2.NetParameter()
    again.ParseFromString(net.SerializeToString())
    assert text_format.MessageToString(again) == text_format.MessageToString(net) == str(net)
    assert text_format.Parse(str(net), caffe_pb2.NetParameter()) == net


def test_caffe_s_fields_have_caffe_s_numbers() -> None:
    layer = messages.LayerParameter(name="ip", type="InnerProduct", loss_weight=[2], phase=messages.TEST)
    layer.inner_product_param.num_output = 4
    layer.blobs.add(data=[1, 2], shape={"dim": [2]})
    read = caffe_pb2.LayerParameter.FromString(layer.SerializeToString())
    assert str(read) == str(layer)
    assert messages.LayerParameter.FromString(read.SerializeToString()) == layer


def test_every_message_and_field_of_both_files_is_there() -> None:
    for file in (messages.DESCRIPTOR, fork_messages.DESCRIPTOR):
        for name, message in file.message_types_by_name.items():
            fields = getattr(caffe_pb2, name).DESCRIPTOR.fields_by_name
            assert set(message.fields_by_name) <= set(fields), name


def test_a_field_that_a_fork_widens_is_caffe_s() -> None:
    solver = caffe_pb2.SolverParameter(device_id=1)
    assert solver.device_id == 1
    assert solver.DESCRIPTOR.fields_by_name["min_lr"].number > 20_000


def test_enums_are_constants() -> None:
    assert (caffe_pb2.TRAIN, caffe_pb2.TEST, caffe_pb2.Phase.Name(1)) == (0, 1, "TEST")
    assert caffe_pb2.PoolingParameter.AVE == 1
    assert caffe_pb2.PoolingParameter.PoolMethod.Value("STOCHASTIC") == 2
    assert caffe_pb2.V1LayerParameter.LayerType.Name(4) == "CONVOLUTION"
    assert caffe_pb2.PriorBoxParameter.CENTER_SIZE == 2


def test_an_unknown_field_is_refused_as_by_protobuf() -> None:
    with pytest.raises(text_format.ParseError, match='no field named "nam"'):
        text_format.Merge('nam: "x"', caffe_pb2.NetParameter())
