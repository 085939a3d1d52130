"""The command itself: what it says, exit codes, streams."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from caffe_fusion_tools import convert
from onnx import TensorProto, helper, numpy_helper, save_model

from fusion.onnx.to_caffe import CaffeNet, convert_graph
from prototxt.formats.weights import read_weights, write_weights
from prototxt.schema.load import load_net

V1 = 'layers { name: "r" type: RELU bottom: "d" top: "r" } # kept\n'
TRAIN = (
    'layer { name: "d" type: "ImageData" top: "d" top: "l" image_data_param { source: "none" batch_size: 3 } }\n'
    'layer { name: "r" type: "InnerProduct" bottom: "d" top: "r" inner_product_param { num_output: 2 } }\n'
    'layer { name: "s" type: "SoftmaxWithLoss" bottom: "r" bottom: "l" }\n'
)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "old.prototxt"
    path.write_text(V1)
    return path


def test_upgrade(old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert.main([str(old), str(tmp_path / "new.prototxt"), "--upgrade"]) == 0
    assert (tmp_path / "new.prototxt").read_text() == V1.replace("layers", "layer").replace("RELU", '"ReLU"')
    assert "a net's text, from a net's text" in capsys.readouterr().out


def test_stdout_holds_the_text_alone(old: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert convert.main([str(old), "-", "--upgrade"]) == 0
    out, err = capfd.readouterr()
    assert out == V1.replace("layers", "layer").replace("RELU", '"ReLU"')
    assert err.startswith("-: a net's text")
    assert convert.main([str(old), "-", "--upgrade", "-q"]) == 0
    assert capfd.readouterr().err == ""


def test_deploy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "t.prototxt", tmp_path / "d.prototxt"
    path.write_text(TRAIN)
    assert convert.main([str(path), str(out), "--deploy"]) == 1
    assert "--input-shape d=1,3,?,?" in capsys.readouterr().err
    assert not out.exists()
    assert convert.main([str(path), str(out), "--deploy", "--input-shape", "d=1,3,4,4"]) == 0
    assert "becomes Softmax on 'r'" in capsys.readouterr().out
    assert 'type: "Input"' in out.read_text()


@pytest.mark.parametrize(
    "wrong",
    [
        ["--only-bvlc"],
        ["w.caffemodel"],
        ["--input-shape", "d=1"],
        ["--deploy", "--input-shape", "1,3,4,4"],
        ["--deploy", "--input-shape", "d=1,x"],
    ],
)
def test_usage(old: Path, misused: Callable[..., object], wrong: list[str]) -> None:
    misused(convert.main, [str(old), "x.prototxt", *wrong])


def test_errors(old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert.main([str(old), str(tmp_path / "x.prototxt")]) == 1
    assert "give --upgrade" in capsys.readouterr().err
    assert convert.main([str(tmp_path / "none"), "x.h5"]) == 1


def test_weights_are_not_written_as_text_named_pt(
    tmp_path: Path, refused: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    write_weights(tmp_path / "x.caffemodel", {"ip": [np.ones((2, 2), np.float32)]})
    refused(convert.main, [str(tmp_path / "x.caffemodel"), str(tmp_path / "x.pt")], "or a PyTorch file")
    assert [path.name for path in tmp_path.iterdir()] == ["x.caffemodel"]


@pytest.fixture
def conv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray[Any, Any]]:
    """net.onnx: a convolution, turned; its weights."""
    monkeypatch.chdir(tmp_path)
    weights = {"c.weight": np.random.default_rng(0).random((2, 3, 3, 3), np.float32), "c.bias": np.ones(2, np.float32)}
    nodes = [
        helper.make_node("Conv", ["data", "c.weight", "c.bias"], ["h"]),
        helper.make_node("Transpose", ["h"], ["scores"], perm=[0, 2, 3, 1]),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, size)
        for name, size in (("data", ["N", 3, "h", "w"]), ("scores", None))
    ]
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "small", ends[:1], ends[1:], tensors)
    save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "net.onnx")
    return weights


@pytest.mark.filterwarnings("ignore::prototxt.schema.decode.UnknownFieldWarning")
def test_an_onnx_file(conv: dict[str, np.ndarray[Any, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    words = ["net.onnx", "net.prototxt", "net.caffemodel"]
    assert convert.main(words) == 1
    assert "--input-shape data=1,3,224,224" in capsys.readouterr().err
    sized = ["--input-shape", "data=1,3,5,6"]
    assert convert.main([*words, *sized, "--only-bvlc"]) == 1
    assert "only forks of Caffe have: Permute (SSD)" in capsys.readouterr().err
    assert not Path("net.prototxt").exists()
    assert convert.main([*words, *sized]) == 0
    out = capsys.readouterr().out
    assert re.match(r"net\.prototxt, net\.caffemodel: 3 layers, within \d\.\de-\d\d of ONNX Runtime's largest", out)
    assert "BVLC Caffe has no Permute" in out
    layers = [(layer.name, layer.type) for layer in load_net("net.prototxt").layer]
    assert layers == [("data", "Input"), ("c", "Convolution"), ("scores", "Permute")]
    stored = read_weights("net.caffemodel")
    assert list(stored) == ["c"]
    for blob, array in zip(stored["c"], conv.values(), strict=True):
        np.testing.assert_array_equal(blob, array)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["net.onnx", "net.prototxt"], "such a net becomes two files"),
        (["net.onnx", "net.prototxt", "net.caffemodel", "--deploy"], "without --deploy"),
        (["net.onnx", "net.prototxt", "net.caffemodel", "--output-blob", "h"], "go with --deploy"),
        (["nets.py:Net:w.pth", "net.prototxt"], "such a net becomes two files"),
        (["net.caffemodel", "net.pth"], "--model NET.prototxt"),
        (["net.caffemodel", "net.h5", "--prefix", "a"], "--prefix goes with"),
        (["net.caffemodel", "net.h5", "--state-dict", "--model", "net.prototxt"], "is a .pth or .safetensors file"),
        (["net.caffemodel", "net.h5", "--only-bvlc"], "go with an ONNX file or PyTorch net"),
    ],
)
def test_usage_with_nets_of_other_frameworks(words: list[str], says: str, misused: Callable[..., None]) -> None:
    misused(convert.main, words, says)


def test_a_net_that_differs_is_not_written(
    conv: dict[str, np.ndarray[Any, Any]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(*arguments: Any, **options: Any) -> CaffeNet:
        made = convert_graph(*arguments, **options)
        return replace(made, weights={"c": [1.01 * made.weights["c"][0], made.weights["c"][1]]})

    monkeypatch.setattr("fusion.conversion.caffe_nets.convert_graph", wrong)
    assert convert.main(["net.onnx", "net.prototxt", "net.caffemodel", "--input-shape", "data=1,3,5,6"]) == 1
    assert "of its largest output; nothing was written" in capsys.readouterr().err
    assert not Path("net.prototxt").exists()
    assert not Path("net.caffemodel").exists()
