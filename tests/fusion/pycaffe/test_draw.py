"""Drawings of nets: labels, colours and phases in the language of Graphviz, and the files made of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format

from fusion.errors import FusionError
from fusion.pycaffe import draw
from fusion.pycaffe.proto import caffe_pb2

NET = """name: "a \\"b\\""
layer { name: "data" type: "Data" top: "data" top: "label" data_param { batch_size: 64 } include { phase: TRAIN } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" param { lr_mult: 3 }
  convolution_param { num_output: 20 kernel_size: 5 pad: 2 } }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { pool: AVE kernel_size: 3 stride: 2 } }
layer { name: "relu" type: "ReLU" bottom: "pool" top: "pool" exclude { phase: TEST } }
layer { name: "ip" type: "InnerProduct" bottom: "pool" top: "ip" inner_product_param { num_output: 10 } }
"""


@pytest.fixture
def net() -> Any:
    return text_format.Parse(NET, caffe_pb2.NetParameter())


@pytest.fixture
def no_graphviz(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)


def test_labels(net: Any) -> None:
    assert draw.get_pooling_types_dict() == {0: "MAX", 1: "AVE", 2: "STOCHASTIC"}
    assert [draw.get_edge_label(layer) for layer in net.layer] == ["Batch 64", "20", '""', '""', "10"]
    assert draw.get_layer_label(net.layer[1], "TB") == '"conv (Convolution) kernel size: 5 stride: 1 pad: 2"'
    conv = draw.get_layer_label(net.layer[1], "LR", display_lrm=True)
    assert conv == r'"conv\n(Convolution)\nkernel size: 5\nstride: 1\npad: 2\nlr mult: 3.0, 1.0"'
    assert draw.get_layer_label(net.layer[2], "LR") == r'"pool\n(Pooling AVE)\nkernel size: 3\nstride: 2\npad: 0"'
    assert draw.get_layer_lr_mult(net.layer[4]) == (1, 1)
    net.layer[4].param.extend([caffe_pb2.ParamSpec(lr_mult=rate) for rate in (0, 2)])
    assert draw.get_layer_label(net.layer[4], "LR", display_lrm=True) == r'"ip\n(InnerProduct)\nlr mult: 0.0, 2.0"'
    net.layer[4].param[1].lr_mult = 0
    assert draw.get_layer_label(net.layer[4], "LR", display_lrm=True) == r'"ip\n(InnerProduct)"'
    with pytest.raises(ValueError, match="ReLU layers do not have"):
        draw.get_layer_lr_mult(net.layer[3])
    net.layer[1].param.extend([caffe_pb2.ParamSpec(lr_mult=0), caffe_pb2.ParamSpec()])
    with pytest.raises(ValueError, match="Could not parse"):
        draw.get_layer_lr_mult(net.layer[1])
    assert [draw.choose_color_by_layertype(name) for name in ("Pooling", "ReLU")] == ["#FF9900", "#6495ED"]


def test_the_graph_in_dot(net: Any) -> None:
    lines = draw.draw_net(net, "LR", "dot").decode().splitlines()
    assert lines[:2] == [r'digraph "a \"b\"" {', "  rankdir=LR;"]
    assert r'  layer0 [label="data\n(Data)", shape=box, fillcolor="#6495ED", style=filled];' in lines
    assert r'  layer3 [label="relu\n(ReLU)", shape=box, fillcolor="#90EE90", style=filled];' in lines
    assert '  blob2 [label="conv", shape=octagon, fillcolor="#E0E0E0", style=filled];' in lines
    arrows = [line.strip() for line in lines if "->" in line]
    assert arrows == [
        'layer0 -> blob0 [label="Batch 64"];', 'layer0 -> blob1 [label="Batch 64"];',
        "blob0 -> layer1;", 'layer1 -> blob2 [label="20"];',
        "blob2 -> layer2;", 'layer2 -> blob3 [label=""];',
        "blob3 -> layer3;", 'layer3 -> blob3 [label=""];',
        "blob3 -> layer4;", 'layer4 -> blob4 [label="10"];',
    ]  # fmt: skip


def test_a_phase_has_its_layers(net: Any) -> None:
    def layers(phase: int | None) -> list[str]:
        text = draw.draw_net(net, "TB", "raw", phase).decode()
        return [name for name in ("data (", "conv (", "pool (", "relu (", "ip (") if name in text]

    assert layers(None) == ["data (", "conv (", "pool (", "relu (", "ip ("]
    assert layers(caffe_pb2.TRAIN) == layers(None)
    assert layers(caffe_pb2.TEST) == ["conv (", "pool (", "ip ("]
    net.layer[0].exclude.add(phase=caffe_pb2.TEST)
    with pytest.raises(ValueError, match="data has both include and exclude"):
        layers(None)


@pytest.mark.usefixtures("no_graphviz")
def test_without_graphviz_an_svg_is_the_toolkit_s(net: Any, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="the net of phase TEST is drawn from top to bottom"):
        draw.draw_net_to_file(net, str(tmp_path / "net.v2.svg"))
    text = (tmp_path / "net.v2.svg").read_text()
    assert text.startswith("<svg ")
    assert ("conv" in text, "relu" in text) == (True, False)
    with pytest.raises(FusionError, match=r"\.png needs Graphviz(.|\n)*or draw the net as \.svg or \.dot"):
        draw.draw_net(net, "LR")
    draw.draw_net_to_file(net, tmp_path / "net.gv", "BT")
    assert b"rankdir=BT" in (tmp_path / "net.gv").read_bytes()


def test_graphviz_is_run(net: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "dot"
    program.write_text('#!/bin/sh\n[ "$1" = -Tpng ] || { echo "no $1" >&2; exit 1; }\nprintf PNG; wc -l\n')
    program.chmod(0o755)
    monkeypatch.setattr("shutil.which", lambda name: str(program))
    lines = draw.draw_net(net, "LR", "dot").count(b"\n")
    assert draw.draw_net(net, "LR").split() == [b"PNG%d" % lines]
    with pytest.raises(FusionError, match=r"cannot draw the net as \.xyz: no -Txyz"):
        draw.draw_net(net, "LR", "xyz")


def test_pydot_is_optional(net: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydot", None)
    with pytest.raises(FusionError, match=r"get_pydot_graph needs pydot(.|\n)*pip install pydot"):
        draw.get_pydot_graph(net, "LR")
