"""Pixels in the first weights give the values of the layers that prepare pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
import torch
from caffe_fusion_tools import convert
from onnx import numpy_helper

from fusion.composition.fold_pixels import fold_pixels
from fusion.composition.pixels import with_pixels
from fusion.errors import ComposeError
from fusion.nets.build import build
from fusion.nets.weights import load_weights
from fusion.onnx.to_caffe import CaffeNet
from prototxt.formats.weights import read_weights
from prototxt.schema.encode import to_text
from prototxt.schema.load import load_net
from prototxt.text.parser import parse

CONV = 'layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" %sconvolution_param { num_output: 2 %s } }'


def made(text: str, channels: int = 3, *, size: int = 3, bias: bool = True) -> CaffeNet:
    """Return a net of one convolution of random weights, size x 3."""
    entry = (
        f'layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ dim: [1, {channels}, 6, 6] }} }} }}'
    )
    draw = np.random.default_rng(0)
    arrays = [draw.normal(size=(2, channels, size, 3)), *([draw.normal(size=2)] if bias else [])]
    weights = {"conv": [array.astype(np.float32) for array in arrays]}
    return CaffeNet(load_net(parse(f"{entry}\n{text}\n")), weights, ("a note",))


def run(net: CaffeNet, text: str, images: torch.Tensor) -> torch.Tensor:
    built = build(load_net(parse(text)), "TEST", shapes={"data": tuple(images.shape)})
    load_weights(built, net.weights)
    with torch.no_grad():
        return next(iter(built({"data": images}).values()))


@pytest.mark.parametrize(
    ("kind", "param", "options", "added"),
    [
        ("torchvision", "kernel_size: 3 pad: 1", {}, ["Bias"]),
        (
            "torchvision",
            "kernel_h: 1 kernel_w: 3 pad_w: 1 bias_term: false",
            {"size": 1, "bias": False},
            ["Bias"],
        ),
        ("torchvision", "kernel_h: 1 kernel_w: 3 pad_h: 1", {"size": 1}, ["Bias"]),
        ("torchvision", "kernel_size: 3 stride: 2 pad: 0", {}, []),
        ("mean:104,117,123,std:60,50,40,order:bgr", "kernel_size: 3 pad: 1", {}, ["Bias"]),
        ("mean:104,117,123,std:60,50,40,order:bgr", "kernel_size: 3 bias_term: false", {"bias": False}, []),
        ("unit", "kernel_size: 3 pad: 1", {}, []),
        ("rgb", "kernel_size: 3", {}, []),
        ("centered", "kernel_size: 3 pad: 2", {"channels": 1}, ["Bias"]),
        ("centered", "kernel_size: 3", {"channels": 1}, []),
    ],
)
def test_folded_pixels_are_the_prepared_ones(kind: str, param: str, options: dict[str, int], added: list[str]) -> None:
    net = made(CONV % ("", param), **options)
    folded = fold_pixels(net, kind, "n.onnx")
    images = torch.rand(2, options.get("channels", 3), 6, 6, generator=torch.Generator().manual_seed(1)) * 255
    expected = run(net, str(with_pixels(parse(to_text(net.net)), kind, "n")), images)
    torch.testing.assert_close(run(folded, to_text(folded.net), images), expected, rtol=1e-5, atol=1e-3)
    assert [layer.type for layer in folded.net.layer] == ["Input", *added, "Convolution"]
    frozen = [layer.name for layer in folded.net.layer if [param.lr_mult for param in layer.param] == [0]]
    assert frozen == ["pixels"] * len(added)
    assert folded.notes == net.notes


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('layer { name: "p" type: "Pooling" bottom: "data" top: "p" }', r"the net's one input; here are p \(Pooling\)"),
        (CONV % ("", "kernel_size: 3 group: 3"), r"\(Convolution\)[\s\S]*hint: do not fold them"),
        (CONV % ('param { name: "shared" } ', "kernel_size: 3"), r"here are conv \(Convolution\)"),
        (CONV % ("", "kernel_size: 3") + 'layer { name: "s" type: "Silence" bottom: "data" }', r"\), s \(Silence\)"),
        (
            'layer { name: "pixels" type: "ReLU" bottom: "conv" top: "r" }\n' + CONV % ("", "pad: 1"),
            "the name 'pixels'",
        ),
    ],
)
def test_pixels_that_cannot_be_folded(text: str, says: str) -> None:
    with pytest.raises(ComposeError, match=r"^n\.onnx: [\s\S]*" + says):
        fold_pixels(made(text), "torchvision", "n.onnx")


def test_pixels_of_three_colours_for_a_gray_net() -> None:
    with pytest.raises(ComposeError, match=r"n\.onnx: pixels 'torchvision' have 3 channels, its input has 1"):
        fold_pixels(made(CONV % ("", "kernel_size: 3"), 1), "torchvision", "n.onnx")


def test_the_command_folds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    weight = numpy_helper.from_array(np.random.default_rng(0).normal(size=(2, 3, 1, 1)).astype(np.float32), "w")
    net = onnx.parser.parse_graph("net (float[1,3,4,4] data) => (float[1,2,4,4] y) { y = Conv (data, w) }")
    net.initializer.append(weight)
    onnx.save(onnx.helper.make_model(net, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), "n.onnx")
    words = ["n.onnx", "n.prototxt", "n.caffemodel"]
    with pytest.raises(SystemExit):
        convert.main([*words, "--fold-pixels"])
    assert "--fold-pixels goes with --pixels" in capsys.readouterr().err
    assert convert.main(words) == 0
    (plain,) = [layer[0] for layer in read_weights("n.caffemodel").values()]
    assert convert.main([*words, "--pixels", "unit", "--fold-pixels"]) == 0
    (folded,) = [layer[0] for layer in read_weights("n.caffemodel").values()]
    assert "pixels" not in Path("n.prototxt").read_text()
    torch.testing.assert_close(torch.tensor(folded), torch.tensor(plain[:, ::-1] / 255), rtol=1e-5, atol=0)
