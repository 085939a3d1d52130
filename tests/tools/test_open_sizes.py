"""ONNX files that leave height and width open, beside data of a known size: computed sizes become constants."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from caffe_fusion_tools import compose, evaluate, export, merge, show, verify
from PIL import Image

from fusion.errors import OnnxError
from fusion.nets.build import build
from fusion.nets.weights import save_weights
from fusion.onnx.graphs import graph_weights, load_graph
from fusion.onnx.graphs.layer_graph import layer_graph
from fusion.onnx.runtime import run_file
from fusion.onnx.to_torch import OnnxNet
from prototxt.schema.load import load_net
from prototxt.text.parser import parse

sys.path.insert(0, str(Path(__file__).parents[1] / "fusion" / "onnx" / "graphs"))  # the other room's helper
from graphs import draw, model, node

pytest.importorskip("onnxruntime")
Check = Callable[..., object]
NET = """name: "net"
layer {{ name: "data" type: "ImageData" top: "data" top: "label" transform_param {{ scale: 0.00390625 }}
  image_data_param {{ source: "train.txt" batch_size: 4 {size} }} }}
layer {{ name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param {{ num_output: 2 kernel_size: 3 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"
  inner_product_param {{ num_output: 3 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }}
"""
SIZED = "new_height: 8 new_width: 12"
LAYER = 'layer { name: "b" type: "Onnx" bottom: "d" top: "t" onnx_param { file: "%s" %s } }'


def write_pyramid(path: str) -> None:
    """Write a net that resizes its lower map to the size of the upper one, whatever that is."""
    nodes = [
        node("Conv", "x k", "c"),
        node("Relu", "c", "a"),
        node("MaxPool", "a", "p", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", "p l", "d"),
        node("Shape", "a", "s", start=2),
        node("Shape", "d", "f", end=2),
        node("Concat", "f s", "z", axis=0),
        node("Resize", "d - - z", "u", mode="linear"),
        node("Concat", "a u", "j", axis=1),
        node("GlobalAveragePool", "j", "g"),
        node("Flatten", "g", "v"),
        node("Gemm", "v w", "y", transB=1),
    ]
    constants = {"k": draw(4, 3, 3, 3), "l": draw(5, 4, 1, 1), "w": draw(3, 9)}
    onnx.save(model(nodes, constants, shape=("N", 3, "h", "w")), path)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for number in range(4):
        Image.fromarray(rng.integers(0, 255, (9, 10, 3)).astype(np.uint8)).save(f"{number}.png")
    Path("train.txt").write_text("".join(f"{number}.png {number % 3}\n" for number in range(4)))
    Path("net.prototxt").write_text(NET.format(size=SIZED))
    save_weights(build("net.prototxt", seed=1), "net.caffemodel")
    write_pyramid("b.onnx")


SOURCES = ["--source", "n=net.prototxt@conv", "--source", "b=b.onnx", "--pixels", "b=torchvision", "--num-output", "3"]


def test_the_size_is_that_of_the_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert show.main(["b.onnx"]) == 0
    assert "operators: 1 cannot be run, sizes are open: try --input-shape x=N,...\n" in capsys.readouterr().out
    assert show.main(["b.onnx", "--input-shape", "x=1,3,8,12"]) == 0
    assert "operators: all can be run\n" in capsys.readouterr().out
    assert compose.main([*SOURCES, "--references", "-o", "fused"]) == 0
    assert "reference: 'b/y' scores classes 0-2" in capsys.readouterr().out
    weights = ["n=net.prototxt:net.caffemodel", "b=b.onnx"]
    assert merge.main(["fused/train_val.prototxt", *weights, "-o", "i.caffemodel", "-q"]) == 0
    assert verify.main(["fused/train_val.prototxt", "i.caffemodel", "b=b.onnx"]) == 0
    assert "all 2 blobs agree within" in capsys.readouterr().out
    assert evaluate.main(["--model", "fused/train_val.prototxt", "--weights", "i.caffemodel", "-q"]) == 0
    assert export.main(["fused/deploy.prototxt", "i.caffemodel", "-o", "o.onnx", "--check"]) == 0


@pytest.mark.parametrize("shape", [(2, 3, 8, 12), (1, 3, 9, 7)])
@pytest.mark.parametrize("named", ["", 'input: "x" output: "y"'])
def test_a_layer_for_the_size_of_its_bottom(shape: tuple[int, ...], named: str) -> None:
    """Also where the layer names the file's own input."""
    layer = load_net(parse(LAYER % ("b.onnx", named))).layer[0]
    graph, x = layer_graph(layer, [shape]), draw(*shape)
    assert list(graph_weights(graph)) == list(graph_weights(layer_graph(layer))) == ["k", "l", "w"]
    with torch.no_grad():
        found = OnnxNet(graph, frozen=True)(torch.from_numpy(x))
    assert isinstance(found, torch.Tensor)
    np.testing.assert_allclose(found.numpy(), run_file("b.onnx", ["y"], {"x": x})["y"], atol=1e-5)


def test_what_sizes_compute_is_no_weight() -> None:
    """A ramp over the rows is a constant of several values once the height is known, and does not learn."""
    nodes = [node("Shape", "x", "s"), node("Gather", "s two", "h"), node("Range", "zero h one", "r"),
             node("Cast", "r", "f", to=1), node("Unsqueeze", "f axis", "g"), node("Add", "x g", "a"),
             node("Conv", "a k", "y")]  # fmt: skip
    ints = {name: np.array(value) for name, value in {"zero": 0, "one": 1, "two": 2, "axis": [1]}.items()}
    onnx.save(model(nodes, {**ints, "k": draw(4, 3, 3, 3)}, shape=("N", 3, "h", "w")), "ramp.onnx")
    layer = load_net(parse(LAYER % ("ramp.onnx", ""))).layer[0]
    graph = layer_graph(layer, [(1, 3, 6, 5)])
    assert (list(graph_weights(graph)), graph.constants["g"].size) == (["k"], 6)
    net, x = OnnxNet(graph), draw(1, 3, 6, 5)
    assert [tuple(parameter.shape) for parameter in net.parameters()] == [(4, 3, 3, 3)]
    found = net(torch.from_numpy(x))
    assert isinstance(found, torch.Tensor)
    np.testing.assert_allclose(found.detach().numpy(), run_file("ramp.onnx", ["y"], {"x": x})["y"], atol=1e-4)


def test_weights_that_sizes_change_are_refused() -> None:
    nodes = [node("Shape", "x", "s", start=2), node("Slice", "e c s axes", "r"), node("Add", "x r", "y")]
    constants = {"c": np.array([0, 0]), "axes": np.array([2, 3]), "e": draw(1, 3, 16, 16)}
    file = model(nodes, constants, shape=("N", 3, "h", "w"))
    onnx.save(file, "position.onnx")
    layer = load_net(parse(LAYER % ("position.onnx", ""))).layer[0]
    with pytest.raises(OnnxError, match="its weight 'e' depends on sizes that it leaves open"):
        layer_graph(layer, [(1, 3, 6, 5)])


def test_data_of_unknown_size(refused: Check) -> None:
    Path("net.prototxt").write_text(NET.format(size=""))
    assert compose.main([*SOURCES, "-o", "fused", "-q"]) == 0  # the size of the first image
    Path("train.txt").unlink()
    says = "give the size of the images: new_height and new_width of the data layer, or --input-shape 3,224,224"
    refused(compose.main, [*SOURCES, "-o", "other"], says)
    assert compose.main([*SOURCES, "-o", "other", "-q", "--input-shape", "3,8,12"]) == 0


@pytest.mark.parametrize("dynamo", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["torchscript", "dynamo"])
@pytest.mark.parametrize("name", ["squeezenet1_1", pytest.param("resnet18", marks=pytest.mark.slow)])
def test_nets_of_torchvision_with_open_sizes(name: str, dynamo: bool, capsys: pytest.CaptureFixture[str]) -> None:
    models = pytest.importorskip("torchvision").models
    if dynamo:
        pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    net = getattr(models, name)(weights=None, num_classes=3).eval()
    axes = {0: "n", 2: "h", 3: "w"}
    sizes = {axis: torch.export.Dim(size, min=2, max=512) for axis, size in axes.items()}
    options = {"dynamic_shapes": (sizes,)} if dynamo else {"dynamic_axes": {"x": axes}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, (torch.zeros(2, 3, 64, 96),), "b.onnx", input_names=["x"], dynamo=dynamo, verbose=False,
                          **options)  # fmt: skip
    assert load_graph("b.onnx").inputs == {"x": (None, 3, None, None)}
    Path("net.prototxt").write_text(NET.format(size="new_height: 40 new_width: 56"))
    save_weights(build("net.prototxt", seed=1), "net.caffemodel")
    assert compose.main([*SOURCES, "--references", "-o", "fused", "-q"]) == 0
    weights = ["n=net.prototxt:net.caffemodel", "b=b.onnx"]
    assert merge.main(["fused/train_val.prototxt", *weights, "-o", "i.caffemodel", "-q"]) == 0
    assert verify.main(["fused/train_val.prototxt", "i.caffemodel", "b=b.onnx"]) == 0
    assert evaluate.main(["--model", "fused/train_val.prototxt", "--weights", "i.caffemodel", "-q"]) == 0
    assert export.main(["fused/deploy.prototxt", "i.caffemodel", "-o", "o.onnx", "--check"]) == 0
